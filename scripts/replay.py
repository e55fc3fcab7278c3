#!/usr/bin/env python3
"""Live replay of a bag through the real node (`make replay BAG=...`), without launch.

The node and a measuring process, which starts a player, talk over DDS: `ros2 launch fassst_ros
replay.launch.py` runs the same. Report, numbers, results as a bag and logs are in out/live/ afterwards.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from screen import Screen

from fassst_ros.bag import ImageBag
from fassst_ros.card import load_card
from fassst_ros.models import resolve_model
from fassst_ros.processes import (
    Family,
    environment,
    free_domain,
    leave_at_signals,
    prepare_folder,
)
from fassst_ros.ros import live
from fassst_ros.types import FassstError

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "test/data/street_sample"
CONFIG = ROOT / "config"
NAMESPACE, NODE = "/replay", "segment_node"


class Results:
    """What the measuring process has said so far."""

    def __init__(self) -> None:
        self._rows: list[dict[str, str]] = []
        self._lines: list[str] = []

    def add(self, event: dict[str, Any]) -> bool:
        """Keep what is to be shown at the end; True if it is not to be shown now, too."""
        if "columns" in event:
            self._rows.append(event["columns"])
        if event["event"] == "result":
            self._lines.append(event["text"])
        return event["event"] == "result"

    def show(self) -> None:
        """Print the passes at fixed rates and the outcome."""
        if self._rows:
            title = "times in ms, from publishing to the result in another process"
            table = Table(title=title, box=SIMPLE_HEAD)
            for name in self._rows[0]:
                table.add_column(name, justify="right")
            for row in self._rows:
                table.add_row(*row.values())
            Console().print(table)
        for line in self._lines:
            print(line)


def run(options: argparse.Namespace, model: Path, logs: Path) -> None:
    """Start the node and the measuring process, and show what the latter says until it has ended."""
    domain = options.domain or free_domain()
    print(f"ROS_DOMAIN_ID={domain} (to listen from another terminal), logs in {logs}", flush=True)
    cameras = [f"{NAMESPACE}/camera_{number + 1}" for number in range(options.cameras)]
    results = Results()
    family = Family(environment(CONFIG / "fastdds_large_images.xml", logs, domain), logs)
    try:
        with Screen() as screen, family:
            family.start(
                *("node", "fassst_ros.ros.node", "--ros-args", "-r", f"__ns:={NAMESPACE}"),
                *("-r", f"__node:={NODE}", "--params-file", str(options.params_file)),
                *("-p", f"model:={model}", "-p", f"runtime:={options.runtime}", "-p", "autostart:=false"),
                *("-p", f"image_topics:=[{', '.join(cameras)}]"),
            )
            topics = [item for camera in cameras for item in ("--topic", camera)]
            measuring = family.start(
                *("measure", "fassst_ros.ros.live", str(options.bag), "--node", f"{NAMESPACE}/{NODE}"),
                *(*topics, "--events", *live.forwarded(options)),
            )
            while (item := family.next_event(0.1)) is not None or measuring.process.poll() is None:
                if item is not None and not results.add(item[1]):
                    screen.progress(item[1]["text"])
            family.check()
    finally:  # also after Ctrl-C: the measuring process writes what it has
        for event in family.rest():
            results.add(event)
        results.show()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    live.add_arguments(parser)
    parser.set_defaults(out=ROOT / "out/live")
    parser.add_argument(
        "--model", default="", help="model file, or name of a shipped model (the default one)"
    )
    parser.add_argument(
        "--runtime", default="auto", help="auto, openvino, onnxruntime, tensorrt (%(default)s)"
    )
    parser.add_argument(
        "--params-file",
        type=Path,
        default=CONFIG / "segment.yaml",
        help="parameters of the node (%(default)s)",
    )
    parser.add_argument("--cameras", type=int, default=1, help="cameras that get the frames (%(default)s)")
    parser.add_argument("--domain", type=int, default=0, help="ROS_DOMAIN_ID (a free one)")
    options = parser.parse_args()
    if options.cameras < 1:
        parser.error(f"--cameras is {options.cameras}; expected 1 or more")
    if not 0 <= options.domain <= 232:
        parser.error(f"--domain is {options.domain}; expected 1 to 232, or 0 for a free one")
    if not options.params_file.is_file():
        parser.error(f"--params-file {options.params_file} does not exist")
    return options


def main() -> int:
    """Returns the exit status."""
    options = parse()
    leave_at_signals()
    try:
        model = resolve_model(options.model)
        load_card(model)
        with ImageBag(options.bag, options.bag_topic):
            pass
        run(options, model, prepare_folder(options.out, ()))
        return 0
    except FassstError as err:
        print(f"replay: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("replay: interrupted; all processes have ended", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
