"""Two runs over the same bag compared, frame by frame: what appeared, vanished and changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fassst_ros.decode import decode
from fassst_ros.replay.difference import SAME_OBJECT, difference
from fassst_ros.replay.pictures import Painter, apart, title
from fassst_ros.replay.record import FrameRecord, PictureRow, ReplayRecord, Worst, load_record
from fassst_ros.replay.results import ResultReader
from fassst_ros.types import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

#: A mask that overlaps that of the other run by less has changed.
SAME_MASK = 0.8
MEANINGS = {
    "same": f"in both runs, of one class, masks with an IoU of at least {SAME_MASK:g}",
    "appeared": f"in this run only: no mask of the other has an IoU of {SAME_OBJECT:g} with it",
    "vanished": "in the other run only",
    "class changed": "in both runs, of different classes",
    "mask changed": f"in both runs, of one class, masks with an IoU of {SAME_OBJECT:g} to {SAME_MASK:g}",
}
#: Pictures at most.
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Other:
    """The run that is compared with. name: for people."""

    name: str
    record: ReplayRecord
    results: ResultReader

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.results.close()


def open_other(path: Path) -> Other:
    """An earlier run, from its folder or its JSON file. Raises InputError if it cannot be compared with."""
    record, file = load_record(path)
    if not record.results:
        raise InputError(f"{file} names no bag of results, so there is nothing to compare with")
    topics = {c.topic: c.results for c in record.cameras}
    return Other(str(path), record, ResultReader(file.parent / record.results, topics))


@dataclass(slots=True)
class Comparison:
    """Counts while frames are compared. frames: those that differ, as they stand in replay.json."""

    instances: Counter[str] = field(default_factory=Counter)
    per_class: dict[str, Counter[str]] = field(default_factory=dict)
    frames: list[dict[str, Any]] = field(default_factory=list)
    compared: int = 0

    def add(self, topic: str, stamp: int, before: Any, after: Any) -> None:
        """One frame: the InstanceArray of the other run and of this one."""
        self.compared += 1
        changed: dict[str, list[str]] = {}
        names, other_names = ([i.class_name for i in m.instances] for m in (after, before))
        found = difference(decode(before), decode(after))
        events = [("appeared", names[j], names[j]) for j in found.appeared]
        events += [("vanished", other_names[i], other_names[i]) for i in found.vanished]
        for i, j, iou in found.pairs:
            if names[j] != other_names[i]:
                events.append(("class changed", names[j], f"{other_names[i]} to {names[j]}"))
            else:
                kind = "same" if iou >= SAME_MASK else "mask changed"
                events.append((kind, names[j], f"{names[j]} (IoU {iou:.2f})"))
        for kind, name, text in events:
            self.instances[kind] += 1
            self.per_class.setdefault(name, Counter())[kind] += 1
            if kind != "same":
                changed.setdefault(kind, []).append(text)
        if changed:
            self.frames.append({"topic": topic, "stamp": stamp, **changed})


def compare(record: ReplayRecord, results: ResultReader, other: Other) -> dict[str, Any]:
    """The content of `against` in replay.json: this run compared with another.

    Frames belong together by camera topic and stamp. Raises InputError if no frame is in both.
    """
    here, there = set(results.frames), set(other.results.frames)
    common = sorted(here & there, key=lambda key: (key[1], key[0]))
    if not common:
        raise InputError(f"{other.name} has no frame with the topic and stamp of one in this run")
    found = Comparison()
    for topic, stamp in common:
        found.add(topic, stamp, other.results.message(topic, stamp), results.message(topic, stamp))
    return {
        "other": other.name,
        "frames": found.compared,
        "frames_changed": len(found.frames),
        "only_here": len(here - there),
        "only_there": len(there - here),
        "instances": {kind: found.instances[kind] for kind in MEANINGS},
        "per_class": {
            name: {kind: found.per_class[name][kind] for kind in MEANINGS} for name in sorted(found.per_class)
        },
        "meanings": MEANINGS,
        "numbers": _numbers(other.record, record),
        "changed": found.frames,
    }


def _numbers(other: ReplayRecord, this: ReplayRecord) -> dict[str, tuple[float | None, float | None]]:
    """Name -> the number of the other run and of this one."""
    found: dict[str, tuple[float | None, float | None]] = {}
    latencies = other.latency(), this.latency()
    for point in ("p50", "p99"):
        found[f"latency {point} [ms]"] = (latencies[0][point], latencies[1][point])
    for kind in ("mask", "box"):
        shares = [None if r.accuracy is None else r.accuracy[kind]["AP"] for r in (other, this)]
        if any(share is not None for share in shares):
            first, second = (None if share is None else 100 * share for share in shares)
            found[f"{kind} AP [%]"] = (first, second)
    return found


def most_different(
    painter: Painter, record: ReplayRecord, found: Mapping[str, Any], other: Other
) -> Worst | None:
    """The frames that differ most, both runs side by side; None if none differs."""
    by_key: dict[tuple[str, int], FrameRecord] = {(f.topic, f.stamp): f for f in record.frames}

    def weight(entry: Mapping[str, Any]) -> float:
        counts = {kind: len(entry.get(kind, ())) for kind in MEANINGS}
        return sum(counts.values()) - 0.5 * counts["mask changed"]

    ranked = sorted(found["changed"], key=lambda e: -weight(e))
    chosen = apart(ranked, lambda e: by_key[e["topic"], e["stamp"]], _SHOWN)
    rows = []
    for k, entry in enumerate(chosen, 1):
        frame = by_key[entry["topic"], entry["stamp"]]
        pictures = (
            painter.overlay(frame, f"against_{k:02}_other", "other run", other.results, tracks=False),
            painter.overlay(frame, f"against_{k:02}_this", "this run", tracks=False),
        )
        notes = tuple(f"{kind}: {_counted(entry[kind])}" for kind in MEANINGS if kind in entry)
        rows.append(PictureRow(title(frame), pictures, notes))
    if not rows:
        return None
    note = f"Compared with {other.name}; most instances that appeared, vanished or changed first."
    return Worst("Frames that differ most", note, tuple(rows))


def _counted(texts: Sequence[str]) -> str:
    """Equal texts once, with their number."""
    return ", ".join(f"{count} {text}" for text, count in Counter(texts).most_common())
