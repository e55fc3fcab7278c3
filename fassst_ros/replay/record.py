"""What a replay found, frame by frame: the content of replay.json, made by `fassst replay` or by a live run.

`fassst_ros/replay/report.py` makes the page from it, and `--against` compares two of them. Times in the bag
are nanoseconds since 1970 as recorded; durations are milliseconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from fassst_ros.evaluation.latency import percentiles
from fassst_ros.replay.rates import HighestRate, RateRecord
from fassst_ros.types import InputError

Outcome = Literal["segmented", "dropped", "failed"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
#: Percentiles of times that are reported.
POINTS = (50, 90, 99)
#: Name of the file in the folder of a run, and the version of its content.
FILE_NAME, FORMAT = "replay.json", 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What became of one image message.

    topic, index: of the image in the bag; index counts the images of its topic from 0. stamp: header.stamp,
    received: when the recorder got it, both as recorded [ns].
    outcome: segmented; dropped (a newer frame took its place); failed (reason says why).
    stages: name -> milliseconds, in the order of work: decode, resize, infer, postprocess, track, ...; they
    follow each other, so none is a sum of others.
    latency_ms: offline the sum of the stages, with a simulated rate the wait before them too; live from the
    stamp, set at publishing, to the arrival of the result. None where there is no result in time.
    classes: class name -> instances; None where no result is known. A frame that is dropped in a simulation
    was segmented nevertheless, so it has stages and classes, but no latency.
    tracks: the ids above 0. quality: agreement with the ground truth of this frame, 0..1 (image PQ); None
    without ground truth, or where it holds nothing and nothing was found. truth: whether the frame has some.
    """

    topic: str
    index: int
    stamp: int
    received: int
    outcome: Outcome
    reason: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    latency_ms: float | None = None
    classes: dict[str, int] | None = None
    tracks: tuple[int, ...] = ()
    truth: bool = False
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class CameraRecord:
    """One image topic. messages: in the bag. results: its InstanceArray topic. video: file, "" if none."""

    topic: str
    msgtype: str
    messages: int
    results: str = ""
    video: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file, relative to the folder of the report, and what stands below it."""

    file: str
    caption: str


@dataclass(frozen=True, slots=True)
class PictureRow:
    """Pictures that belong together, side by side. All texts are plain, not HTML."""

    title: str
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Worst:
    """Frames worth a look. title: of the section; note: by what they were chosen."""

    title: str
    note: str
    rows: tuple[PictureRow, ...]


@dataclass(slots=True)
class ReplayRecord:
    """One run over a bag.

    kind: offline (no ROS) or live (the node). title: of the page. facts: name -> text for people, in order:
    bag, model, runtime, machine, command, date. rate: at which frames came, in words ("as recorded",
    "at 10 Hz"); "" if every frame was waited for. colors: class name -> RGB of the model card. frames: in the
    order of the bag. notes: what a reader must know; interrupted: ended by a signal, the rest is whole.
    results: the bag of InstanceArrays, relative to the folder of this file; "" if there is none.
    accuracy: as in the results of `fassst eval`, with source and frames; None without ground truth.
    rates, highest: passes at fixed rates of a live run. against: the comparison with another run
    (fassst_ros/replay/against.py), None if there was none.
    """

    kind: Literal["offline", "live"]
    title: str
    facts: dict[str, str] = field(default_factory=dict)
    rate: str = ""
    colors: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    cameras: list[CameraRecord] = field(default_factory=list)
    frames: list[FrameRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    results: str = ""
    accuracy: dict[str, Any] | None = None
    worst: list[Worst] = field(default_factory=list)
    rates: list[RateRecord] = field(default_factory=list)
    highest: HighestRate | None = None
    against: dict[str, Any] | None = None

    def count(self, outcome: Outcome) -> int:
        """Frames with that outcome."""
        return sum(frame.outcome == outcome for frame in self.frames)

    def latency(self) -> dict[str, float | None]:
        """p50, p90, p99 of the frames' latency."""
        return percentiles([f.latency_ms for f in self.frames if f.latency_ms is not None], POINTS)

    def stages(self) -> dict[str, dict[str, float | None]]:
        """Stage -> p50, p90, p99, in the order of work."""
        return {name: percentiles(times, POINTS) for name, times in stage_times(self.frames).items()}

    def instances(self) -> dict[str, int]:
        """Class name -> instances in all frames together, most first."""
        total: Counter[str] = Counter()
        for frame in self.frames:
            total.update(frame.classes or {})
        return dict(total.most_common())

    def summary(self) -> dict[str, Any]:
        """The numbers of the whole run, which scripts read; made from the rest."""
        latency, stages = self.latency(), self.stages()
        tracks = {(frame.topic, track) for frame in self.frames for track in frame.tracks}
        return {
            "frames": len(self.frames),
            **{outcome: self.count(outcome) for outcome in OUTCOMES},
            "latency_ms": latency,
            "stages_ms": stages,
            "instances": self.instances(),
            "tracks": len(tracks),
        }

    def to_json(self) -> str:
        """The content of replay.json."""
        content = {"format": FORMAT, "summary": self.summary(), **dataclasses.asdict(self)}
        lines = [f"{json.dumps(name)}: {_lines(value)}" for name, value in content.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> ReplayRecord:
        """The inverse of `to_json`. source: named in errors. Raises InputError for other content."""
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}; this version reads {FORMAT}")
            del content["format"], content["summary"]
            content["cameras"] = _all(CameraRecord, content["cameras"])
            content["frames"] = _all(FrameRecord, content["frames"])
            content["rates"] = _all(RateRecord, content["rates"])
            content["colors"] = {name: tuple(color) for name, color in content["colors"].items()}
            content["highest"] = content["highest"] and HighestRate(**content["highest"])
            content["worst"] = [_worst(**item) for item in content["worst"]]
            return cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise InputError(
                f"{source} is not the {FILE_NAME} of a replay ({type(err).__name__}: {err})"
            ) from err


def stage_times(frames: Iterable[FrameRecord]) -> dict[str, list[float]]:
    """Stage -> milliseconds of the frames that have it, in the order of work."""
    times: dict[str, list[float]] = {}
    for frame in frames:
        for name, value in frame.stages.items():
            times.setdefault(name, []).append(value)
    return times


def load_record(path: Path) -> tuple[ReplayRecord, Path]:
    """The record of a run, from its folder or its JSON file, and the file. Raises InputError."""
    file = path / FILE_NAME if path.is_dir() else path
    try:
        return ReplayRecord.from_json(file.read_text(encoding="utf-8"), str(file)), file
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(
            f"cannot read {file}: {err}. Expected the folder of an earlier replay, or its {FILE_NAME}"
        ) from err


def _lines(value: Any) -> str:
    """JSON with one line an item of a list, so that a long run can be read and searched."""
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in value) + "\n]"
    return json.dumps(value, allow_nan=False)


def _all(cls: type[T], items: Iterable[dict[str, Any]]) -> list[T]:
    """One object an item; lists become tuples, as the frozen classes have them."""
    return [cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in item.items()}) for item in items]


def _worst(title: str, note: str, rows: Iterable[dict[str, Any]]) -> Worst:
    return Worst(
        title,
        note,
        tuple(
            PictureRow(row["title"], tuple(_all(Picture, row["pictures"])), tuple(row["notes"]))
            for row in rows
        ),
    )
