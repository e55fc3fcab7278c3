"""What the demo shows and leaves behind: live table, overlay pictures and summary.json."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.table import Table
from rosbags.highlevel import AnyReader

from fassst_ros.bag import COMPRESSED, BagImage, ImageBag, typestore
from fassst_ros.card import ModelCard
from fassst_ros.decode import decode
from fassst_ros.overlay import draw
from fassst_ros.ros.convert import compressed_to_frame, image_to_frame
from fassst_ros.types import Frame, InputError

JPEG_QUALITY = 90


@dataclass(slots=True)
class Tally:
    """Everything that the children have reported.

    published: stamp -> place of the frame in the bag. results: stamp -> number of instances.
    latencies: ms from the stamp, set at publishing, to the arrival of the InstanceArray in the receiver.
    facts: what the node says of itself (model, runtime, ...). camera: its counters and stage times.
    """

    expected: int
    published: dict[int, int] = field(default_factory=dict)
    skipped: int = 0
    results: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    camera: dict[str, str] = field(default_factory=dict)

    def add(self, event: dict[str, Any]) -> None:
        """Take one event of a child into account."""
        kind = event["event"]
        if kind == "published":
            self.published[event["stamp"]] = event["index"]
        elif kind == "skipped":
            self.skipped += 1
        elif kind == "instances":
            self.results[event["stamp"]] = event["count"]
            self.latencies.append((event["received"] - event["stamp"]) / 1e6)
        elif kind == "diagnostics" and event["values"]:
            if event["part"] == "node":
                self.facts = event["values"]
            else:
                self.camera = event["values"]

    @property
    def instances(self) -> int:
        """Instances received so far."""
        return sum(self.results.values())

    @property
    def dropped(self) -> int:
        """Frames that will get no result: older than the newest result, and without one."""
        newest = max(self.results, default=0)
        return sum(stamp <= newest and stamp not in self.results for stamp in self.published)

    @property
    def complete(self) -> bool:
        """Whether the last published frame has its result."""
        return bool(self.published) and max(self.published) in self.results

    def counted_by_node(self) -> bool:
        """Whether the node's own counters are from after the last result."""
        return self.camera.get("segmented") == str(len(self.results))

    def percentiles(self) -> tuple[float, float]:
        """Latency p50 and p99 in ms; zeros before the first result."""
        if not self.latencies:
            return 0.0, 0.0
        p50, p99 = np.percentile(self.latencies, (50, 99))
        return float(p50), float(p99)

    def columns(self) -> dict[str, str]:
        """What is shown of it: name -> value."""
        p50, p99 = (f"{value:.1f} ms" if self.latencies else "-" for value in self.percentiles())
        return {
            "frames in": f"{len(self.published)} of {self.expected}",
            "segmented": str(len(self.results)),
            "dropped": str(self.dropped),
            "instances": str(self.instances),
            "latency p50": p50,
            "latency p99": p99,
        }

    def table(self) -> Table:
        """The live table."""
        table = Table(title=" · ".join(self.facts.get(k, "") for k in ("model", "runtime", "device")))
        for name in self.columns():
            table.add_column(name, justify="right")
        table.add_row(*self.columns().values())
        return table

    def line(self) -> str:
        """The same as one line, for logs."""
        return ", ".join(f"{name} {value}" for name, value in self.columns().items())


def read_results(bag: Path) -> dict[int, Any]:
    """Stamp -> InstanceArray of the receiver's bag. Raises InputError if there is a stamp twice."""
    messages: dict[int, Any] = {}
    with AnyReader([bag], default_typestore=typestore()) as reader:
        for connection, _, raw in reader.messages():
            message: Any = reader.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            if stamp in messages:
                raise InputError(f"{bag}: two results for the frame of stamp {stamp}")
            messages[stamp] = message
    return messages


def write_overlays(
    bag: Path,
    topic: str,
    published: dict[int, int],
    results: dict[int, Any],
    card: ModelCard,
    out: Path,
    count: int,
) -> list[Path]:
    """Draw the results on their frames, `count` of them spread evenly; returns the files."""
    by_frame = {published[stamp]: message for stamp, message in results.items()}
    frames = sorted(by_frame)
    places = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    chosen = {frames[i] for i in places}
    files = []
    with ImageBag(bag, topic) as images:
        for image in images:
            if image.index not in chosen:
                continue
            frame = _frame(image, images.msgtype)
            drawn: Any = draw(frame.image, decode(by_frame[image.index]), card, color=frame.color)
            if frame.color == "rgb":
                drawn = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
            file = out / f"overlay_{image.index:03d}.jpg"
            if not cv2.imwrite(str(file), drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                raise InputError(f"cannot write {file}")
            files.append(file)
    return files


def _frame(image: BagImage, kind: str) -> Frame:
    return compressed_to_frame(image.message) if kind == COMPRESSED else image_to_frame(image.message)


def summary(
    tally: Tally, results: dict[int, Any], card: ModelCard, runtime: str, bag: Path
) -> dict[str, Any]:
    """The content of summary.json; frames_published = frames_segmented + frames_dropped."""
    names = {c.id: c.name for c in card.classes}
    found = Counter(names[i.class_id] for message in results.values() for i in message.instances)
    p50, p99 = tally.percentiles()
    sizes = sorted({(message.width, message.height) for message in results.values()})
    stages = {k: float(v) for k, v in tally.camera.items() if "_ms_" in k}
    counters = {k: int(v) for k, v in tally.camera.items() if v.isdecimal()}
    return {
        "frames_published": len(tally.published),
        "frames_segmented": len(results),
        "frames_dropped": len(tally.published) - len(results),
        "frames_skipped": tally.skipped,
        "instances_total": sum(found.values()),
        "instances_by_class": dict(found.most_common()),
        "latency_ms": {"p50": round(p50, 2), "p99": round(p99, 2)},
        "latency_from_to": "stamp, set when the frame is published -> InstanceArray in the receiving process",
        "runtime": tally.facts.get("runtime", runtime),
        "device": tally.facts.get("device", ""),
        "precision": tally.facts.get("precision", ""),
        "model": tally.facts.get("model", card.name),
        "input_size": [card.input_width, card.input_height],
        "image_size": [list(size) for size in sizes],
        "thresholds": {"score": card.score_threshold, "mask": card.masks.threshold},
        "node_counters": counters,
        "node_stages_ms": stages,
        "bag": bag.name,
        "ros_distro": ros_distro(),
        "machine": machine(),
    }


def ros_distro() -> str:
    """The distribution that is sourced, or the one that the installed rclpy is of."""
    if "ROS_DISTRO" in os.environ:
        return os.environ["ROS_DISTRO"]
    version = metadata.version("rclpy")
    names = {"3": "humble", "7": "jazzy", "9": "kilted"}
    return f"{names.get(version.split('.')[0], '')} (rclpy {version})".strip()


def machine() -> dict[str, Any]:
    """What the demo ran on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0] if models else cpu
    cores = len(os.sched_getaffinity(0))
    return {"cpu": cpu, "cores": cores, "system": platform.platform(), "python": platform.python_version()}


def write_summary(values: dict[str, Any], file: Path) -> None:
    """Write summary.json."""
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
