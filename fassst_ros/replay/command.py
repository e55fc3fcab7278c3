"""`fassst replay`: a bag through the Segmenter of the node, without ROS, and a report about it.

Exit status: 0 done; 1 a frame failed, the run ended early, or nothing was done; 2 wrong usage; 3 all was
done, but --min-ap or --max-p99 is missed; 130 ended by Ctrl-C, with a report on the part that was done.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fassst_ros.bag import Bag, BagTopic, image_topics
from fassst_ros.bench.measure import machine_facts
from fassst_ros.cli import add_settings, read_settings
from fassst_ros.config import RuntimeOptions, SegmentOptions, TrackOptions
from fassst_ros.evaluation.matching import ImageMatch
from fassst_ros.image_messages import ENCODINGS
from fassst_ros.pipeline import Segmenter
from fassst_ros.replay.against import Other, compare, most_different, open_other
from fassst_ros.replay.drops import RECORDED, parse_rate, simulate
from fassst_ros.replay.folder import RESULTS, RunFolder
from fassst_ros.replay.job import Job, make_cameras
from fassst_ros.replay.pictures import Painter, most_changed, slowest, worst_by_truth
from fassst_ros.replay.record import FILE_NAME, CameraRecord, FrameRecord, ReplayRecord
from fassst_ros.replay.report import check_figures, summary_lines, write_report
from fassst_ros.replay.results import ResultBag, ResultReader, result_topics
from fassst_ros.replay.truth import Accuracy, find_truth
from fassst_ros.tracking import check_track
from fassst_ros.types import ConfigError, FassstError, InputError

if TYPE_CHECKING:
    from rich.console import Console

#: Exit status when a limit that was asked for is missed.
MISSED = 3
_SETTINGS = (RuntimeOptions, SegmentOptions, TrackOptions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst replay`."""
    parser.epilog = (
        "Exit status: 0 done; 1 a frame failed or the run ended early; 3 --min-ap or --max-p99 is missed."
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="folder or file of a ROS 2 or ROS 1 bag")
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        help="image topic; may be repeated (default: all that there are)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/replay"), metavar="DIR", help="folder of the run (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"a copy of {FILE_NAME} with the numbers")
    parser.add_argument(
        "--rate", metavar="HZ", default="", help="simulate dropped frames at this rate, or as 'recorded'"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="stop after N frames (0: all)")
    parser.add_argument(
        "--ground-truth",
        default="",
        metavar="FILE",
        help="COCO file with stamps, or InstanceArray topic of the bag (BAG/ground_truth.json)",
    )
    parser.add_argument(
        "--against", type=Path, metavar="RUN", help="folder or JSON file of another run to compare with"
    )
    parser.add_argument(
        "--min-ap", type=float, metavar="X", help="least mask AP, 0 to 1; exit status 3 below"
    )
    parser.add_argument(
        "--max-p99", type=float, metavar="MS", help="highest p99 of the latency; exit status 3 above"
    )
    parser.add_argument(
        "--storage", choices=("sqlite3", "mcap"), default="sqlite3", help="of the new bag (%(default)s)"
    )
    parser.add_argument("--no-video", action="store_true", help="write no videos")
    for settings, title in zip(_SETTINGS, ("model and runtime", "what is kept", "tracking"), strict=True):
        add_settings(parser, settings, title)


def run(args: argparse.Namespace) -> int:
    """Replay a bag; returns the exit status. Raises FassstError for what cannot be begun."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    _check(args)
    rate = parse_rate(args.rate) if args.rate else None
    with Bag(args.bag) as bag:
        notes = [bag.damage] if bag.damage else []
        topics = choose_topics(bag, args.topic, notes)
        truth = find_truth(bag, args.ground_truth, [t.name for t in topics])
        if truth is None and args.min_ap is not None:
            raise ConfigError("--min-ap needs ground truth; see docs/replay.md. Give it with --ground-truth")
        other = open_other(args.against) if args.against is not None else None
        runtime, options = read_settings(args, RuntimeOptions), read_settings(args, SegmentOptions)
        track = check_track(read_settings(args, TrackOptions))
        with Segmenter.open(runtime, options, say) as segmenter:
            accuracy = None if truth is None else Accuracy(truth, segmenter.card.classes)
            folder = RunFolder(args.out)
            try:
                segmenter.warm_up()
                results = result_topics([t.name for t in topics])
                videos = (
                    {}
                    if args.no_video
                    else {t.name: folder.video(k, len(topics)) for k, t in enumerate(topics)}
                )
                rates = {t.name: frame_rate(t, bag) for t in topics}
                cameras = make_cameras(topics, results, track, videos, rates)
                writer = ResultBag(folder.bag, results, args.storage)
                job = Job(bag, segmenter, cameras, writer, accuracy, args.limit, notes=notes)
                interrupted = _work(job, topics, console)
            finally:
                folder.release()
            record = ReplayRecord("offline", f"{segmenter.card.name} on {bag.path.name}")
            record.interrupted = interrupted
            record.facts = _facts(args, bag, segmenter)
            finish(record, job, folder, other, (args.rate, rate))
    page = _save(record, folder, args.json)
    for line in [*record.notes, *summary_lines(record), f"report: {page}"]:
        say(line)
    if interrupted:
        raise KeyboardInterrupt
    return _status(args, record, job, say)


def _check(args: argparse.Namespace) -> None:
    """Fail before anything is done. Raises ConfigError."""
    check_figures()
    if args.limit < 0:
        raise ConfigError(f"--limit is {args.limit}; expected 0 (all) or more")
    if args.min_ap is not None and not 0 <= args.min_ap <= 1:
        raise ConfigError(f"--min-ap is {args.min_ap:g}; expected 0 to 1, such as 0.25 for 25 %")
    if args.max_p99 is not None and not args.max_p99 > 0:
        raise ConfigError(f"--max-p99 is {args.max_p99:g}; expected milliseconds above 0")
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise ConfigError(f"--json {args.json} cannot be written; expected a file in an existing folder")
    against = args.against
    if against is not None and args.out.resolve() in (against.resolve(), against.resolve().parent):
        raise ConfigError(f"--against {against} lies in the folder of this run; give another one with --out")


def choose_topics(bag: Bag, wanted: Sequence[str], notes: list[str]) -> list[BagTopic]:
    """The image topics: those wanted, else all whose images can be decoded. notes: told what is left out.

    Raises InputError if there is none.
    """
    topics = image_topics(bag, wanted)
    if wanted:
        return topics
    by_name = {t.name: t for t in topics}
    kept, reasons = [], {}
    for topic in topics:
        if topic.name.endswith("/compressed") and topic.name.removesuffix("/compressed") in by_name:
            reasons[topic.name] = "the same images are there uncompressed"
        elif reason := _unusable(bag, topic):
            reasons[topic.name] = reason
        else:
            kept.append(topic)
    if not kept:
        raise InputError(f"{bag.path}: no topic with images that can be segmented: " + _listed(reasons))
    if reasons:
        notes.append(f"left out (name them with --topic if they are wanted): {_listed(reasons)}")
    return kept


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _unusable(bag: Bag, topic: BagTopic) -> str:
    """Why images of a topic cannot be segmented, judged by the first one; "" if they can."""
    try:
        message = bag.read(next(bag.messages([topic.name])))
    except (InputError, StopIteration):
        return ""  # the run will tell, frame by frame
    if hasattr(message, "encoding"):
        if message.encoding in ENCODINGS:
            return ""
        return f"encoding {message.encoding!r} is not supported; expected one of {', '.join(ENCODINGS)}"
    return "a depth image" if "compressedDepth" in message.format else ""


def frame_rate(topic: BagTopic, bag: Bag) -> float:
    """Frames a second of a camera's video, so that it plays about as fast as it was recorded."""
    return min(max(topic.count / bag.duration, 1.0), 60.0) if bag.duration > 0 else 10.0


def _work(job: Job, topics: Sequence[BagTopic], console: Console) -> bool:
    """Do all frames, with a progress bar on a terminal; True if Ctrl-C ended it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = sum(t.count for t in topics)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("segmenting", total=min(total, job.limit or total))
        try:
            job.run(lambda: progress.advance(bar))
        except KeyboardInterrupt:
            job.notes.append(
                f"ended by Ctrl-C after {len(job.frames)} frames: this is what was done until then"
            )
            return True
    return False


def finish(
    record: ReplayRecord, job: Job, folder: RunFolder, other: Other | None, rate: tuple[str, float | None]
) -> None:
    """Fill the record with what the job gave. rate: as given, "" for none, and in Hz."""
    card = job.segmenter.card
    threshold = job.segmenter.options.score_threshold
    threshold = card.score_threshold if threshold < 0 else threshold
    record.colors = {c.name: c.color for c in card.classes}
    record.notes, record.frames = job.notes, list(job.frames)
    record.cameras = [
        CameraRecord(
            camera.topic.name,
            camera.topic.msgtype,
            camera.topic.count,
            camera.results,
            camera.video.path.name if camera.video is not None and camera.video.path.is_file() else "",
        )
        for camera in job.cameras.values()
    ]
    matches: list[ImageMatch] = []
    if job.accuracy is not None:
        if job.accuracy.predictions:
            record.accuracy, matches = job.accuracy.result(threshold)
            qualities = {m.image_id: m.quality(threshold) for m in matches}
            for index, image_id in job.truth_ids.items():
                record.frames[index] = dataclasses.replace(record.frames[index], quality=qualities[image_id])
        record.notes += _truth_notes(job)
    if rate[0]:
        record.rate = "as recorded" if rate[0] == RECORDED else f"at {rate[1]:g} Hz"
        record.frames = drop(record.frames, rate[1])
    else:
        record.frames = [
            dataclasses.replace(f, latency_ms=round(sum(f.stages.values()), 3))
            if f.outcome == "segmented"
            else f
            for f in record.frames
        ]
    try:
        with ResultReader(folder.bag, {c.topic: c.results for c in record.cameras}) as results:
            record.results = RESULTS
            painter = Painter(job.bag, results, card, folder.path)
            if other is not None:
                record.against = compare(record, results, other)
            _pictures(record, job, painter, matches, threshold, other)
    except FassstError as err:
        record.notes.append(f"pictures or comparison: {err}")


def drop(frames: Sequence[FrameRecord], rate: float | None) -> list[FrameRecord]:
    """The frames with their fate at a rate [Hz], None: as recorded."""
    changed = []
    for frame, fate in zip(frames, simulate(frames, rate), strict=True):
        if frame.outcome == "segmented" and fate.latency_ms is None:
            reason = "a newer frame took its place (simulated)"
            changed.append(dataclasses.replace(frame, outcome="dropped", reason=reason))
        elif frame.outcome == "segmented":
            changed.append(dataclasses.replace(frame, latency_ms=round(fate.latency_ms or 0.0, 3)))
        else:
            changed.append(frame)
    return changed


def _truth_notes(job: Job) -> list[str]:
    """Which frames and which ground truth have no partner."""
    assert job.accuracy is not None
    truth, met = job.accuracy.truth, job.accuracy.predictions
    notes = []
    if not met and job.frames:
        stamps = [stamp for _, stamp in truth.ids]
        notes.append(
            f"no frame has ground truth: the stamps of {truth.name} begin with {min(stamps)}, those of the "
            f"bag with {min(f.stamp for f in job.frames)}"
        )
    elif len(met) < len(truth.ids) and not job.limit:
        notes.append(f"{len(truth.ids) - len(met)} of {len(truth.ids)} annotated frames are not in the bag")
    return notes


def _pictures(
    record: ReplayRecord,
    job: Job,
    painter: Painter,
    matches: list[ImageMatch],
    threshold: float,
    other: Other | None,
) -> None:
    if other is not None and record.against is not None:
        different = most_different(painter, record, record.against, other)
        record.worst += [different] if different else []
    if matches:
        assert job.accuracy is not None
        frames = {image_id: record.frames[index] for index, image_id in job.truth_ids.items()}
        record.worst.append(worst_by_truth(painter, frames, matches, job.accuracy.predictions, threshold))
    if any(f.stages for f in record.frames):
        record.worst.append(slowest(painter, record.frames))
    changed = most_changed(painter, record.frames, job.changes)
    record.worst += [changed] if changed else []


def _facts(args: argparse.Namespace, bag: Bag, segmenter: Segmenter) -> dict[str, str]:
    card, runtime, machine = segmenter.card, segmenter.runtime, machine_facts()
    given = [
        f"{field.name} = {getattr(args, field.name)}"
        for settings in _SETTINGS[1:]
        for field in dataclasses.fields(settings)
        if hasattr(args, field.name)
    ]
    size = f"{card.input_width}x{card.input_height}"
    return {
        "bag": f"{bag.path}, {bag.duration:.1f} s",
        "model": f"{card.name} {card.version}, network {card.network}, input {size}",
        "runtime": f"{runtime.name}, {runtime.precision}, {runtime.device}",
        "settings": ", ".join(given) or "defaults",
        **{name: machine[name] for name in ("cpu", "cores", "load before")},
        "date": datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": shlex.join(["fassst", *sys.argv[1:]]),
    }


def _save(record: ReplayRecord, folder: RunFolder, copy: Path | None) -> Path:
    """Write the record and the page; returns the page. Raises ConfigError if that fails."""
    from fassst_ros.predict import write_text

    write_text(folder.path / FILE_NAME, record.to_json())
    if copy is not None:
        results = os.path.relpath(folder.bag, copy.resolve().parent) if record.results else ""
        write_text(copy, dataclasses.replace(record, results=results).to_json())
    return write_report(record, folder.path)


def _status(args: argparse.Namespace, record: ReplayRecord, job: Job, say: Callable[[str], None]) -> int:
    """The exit status; tells which limit is missed."""
    status = 1 if job.failed or job.stopped else 0
    p99 = record.latency()["p99"]
    if args.max_p99 is not None and (p99 is None or p99 > args.max_p99):
        say(
            f"missed: p99 of the latency is {'unknown' if p99 is None else f'{p99:.1f} ms'}; "
            f"--max-p99 is {args.max_p99:g} ms"
        )
        status = status or MISSED
    ap = None if record.accuracy is None else record.accuracy["mask"]["AP"]
    if args.min_ap is not None and (ap is None or ap < args.min_ap):
        say(f"missed: mask AP is {'unknown' if ap is None else f'{ap:.3f}'}; --min-ap is {args.min_ap:g}")
        status = status or MISSED
    return status
