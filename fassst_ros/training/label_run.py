"""What all kinds of `fassst label` share: progress, remembered detections, where a file comes from."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fassst_ros.card import sha256
from fassst_ros.training.teacher import Teacher
from fassst_ros.types import ConfigError, UInt8Array
from fassst_ros.yolox import Boxes

T = TypeVar("T")


class Detections:
    """A teacher whose boxes are written down while it works, so that an interrupted run can go on.

    They are taken up only by a run of the same teacher, threshold and tiles.
    """

    def __init__(self, teacher: Teacher, args: argparse.Namespace) -> None:
        """Reads what an interrupted run left beside `args.out`; ConfigError if nothing can be written."""
        self._teacher = teacher
        self._threshold = args.threshold
        self.path: Path = args.out.with_name(args.out.name + ".boxes")
        head = {key: value for key, value in provenance(args).items() if key != "command"}
        self._known = _read_boxes(self.path, head)
        if self._known:
            say(f"goes on: {len(self._known)} images are done, by {self.path}")
        try:
            self._file = self.path.open("w", encoding="utf-8")
        except OSError as err:
            raise ConfigError(f"cannot write {self.path}: {err.strerror or err}") from err
        self._write(head)
        for name, rows in self._known.items():
            self._write({"image": name, "boxes": rows})

    def detect(self, name: str, image_rgb: UInt8Array) -> Boxes:
        """The teacher's boxes in an image; `name`: what tells it from the others."""
        rows = self._known.get(name)
        if rows is not None:
            table = np.array(rows, np.float32).reshape(-1, 6)
            return Boxes(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))
        found = self._teacher.detect(image_rgb, self._threshold)
        rows = np.column_stack([found.boxes, found.scores, found.category_ids]).tolist()
        self._known[name] = rows
        self._write({"image": name, "boxes": rows})
        return found

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as err:
            raise ConfigError(f"cannot write {self.path}: {err.strerror or err}") from err

    def close(self, done: bool) -> None:
        """done: the run has written its own file, so that these boxes are no longer needed."""
        self._file.close()
        if done or not self._known:
            self.path.unlink(missing_ok=True)


def _read_boxes(path: Path, head: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Boxes by image name; nothing if the file is missing or of another run. A line cut short is left out."""
    known: dict[str, list[list[float]]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if not lines or json.loads(lines[0]) != head:
            return {}
        for line in lines[1:]:
            if line.endswith("\n"):
                entry = json.loads(line)
                known[entry["image"]] = entry["boxes"]
    except (OSError, ValueError, KeyError):
        return {}
    return known


def provenance(args: argparse.Namespace) -> dict[str, Any]:
    """How a file came about, for its `info`. Raises ConfigError if the teacher cannot be read."""
    return {
        "command": shlex.join(["fassst", *sys.argv[1:]]),
        "teacher": args.teacher.name,
        "teacher_sha256": sha256(args.teacher),
        "score_threshold": args.threshold,
        "tiles": list(args.tiles),
    }


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def report(failures: Sequence[str]) -> int:
    """Name what was left out; the exit status."""
    for failure in failures:
        say(f"left out: {failure}")
    return 1 if failures else 0


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a bar and the time left on a terminal, else with a line every tenth of them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for done, item in enumerate(progress.track(items, description=what)):
            yield item
            tenth = (done + 1) * 10 // len(items)
            if not console.is_terminal and tenth > done * 10 // len(items):
                left = (time.monotonic() - started) / (done + 1) * (len(items) - done - 1)
                say(f"{what}: {done + 1} of {len(items)} images, {left:.0f} s left")
