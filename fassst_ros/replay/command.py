"""`fassst replay`: a bag through the Segmenter of the node, without ROS, and a report about it.

Exit status: 0 done; 1 a frame failed, the bag is damaged, the run ended early, or nothing was done; 2 wrong
usage; 3 all was done, but --min-ap or --max-p99 is missed; 130 ended by Ctrl-C, with a report on what was
done until then.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fassst_ros.bag import Bag, BagTopic
from fassst_ros.bench.measure import machine_facts
from fassst_ros.cli import add_settings, read_settings
from fassst_ros.config import RuntimeOptions, SegmentOptions, TrackOptions
from fassst_ros.pipeline import Segmenter
from fassst_ros.predict import write_text
from fassst_ros.replay.against import open_other
from fassst_ros.replay.assemble import finish
from fassst_ros.replay.drops import parse_rate
from fassst_ros.replay.folder import RunFolder
from fassst_ros.replay.job import CameraJob, Job
from fassst_ros.replay.record import FILE_NAME, ReplayRecord
from fassst_ros.replay.report import check_figures, summary_lines, write_report
from fassst_ros.replay.results import ResultBag, result_topics
from fassst_ros.replay.topics import choose_topics, frame_rate
from fassst_ros.replay.truth import Accuracy, Truth, usable_truth
from fassst_ros.sources import VideoWriter
from fassst_ros.tracking import Tracker, check_track
from fassst_ros.types import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

#: Exit status when a limit that was asked for is missed.
MISSED = 3
_SETTINGS = (RuntimeOptions, SegmentOptions, TrackOptions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst replay`."""
    parser.epilog = "Exit status: 0 done; 1 not all could be done; 3 --min-ap or --max-p99 is missed."
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
        help="COCO file with stamps, InstanceArray topic of the bag, or none (BAG/ground_truth.json)",
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
    runtime, options = read_settings(args, RuntimeOptions), read_settings(args, SegmentOptions)
    with Bag(args.bag) as bag, ExitStack() as stack:
        notes = [bag.damage] if bag.damage else []
        topics = choose_topics(bag, args.topic, notes)
        truth = _find_truth(args, bag, topics, notes)
        other = None if args.against is None else stack.enter_context(open_other(args.against))
        segmenter = stack.enter_context(Segmenter.open(runtime, options, say))
        accuracy = None if truth is None else Accuracy(truth, segmenter.card.classes)
        folder = RunFolder(args.out)
        record = ReplayRecord("offline", f"{segmenter.card.name} on {bag.path.name}")
        record.facts = _facts(args, bag, segmenter)
        try:
            segmenter.warm_up()
            job = _make_job(args, bag, topics, folder, segmenter)
            job.accuracy, job.notes, job.stopped = accuracy, notes, bool(bag.damage)
            record.interrupted = _work(job, topics, console)
        finally:
            folder.release()
        job.close()
        finish(record, job, folder, other, args.rate)
    page = _save(record, folder, args.json)
    for line in [*record.notes, *summary_lines(record), f"report: {page}"]:
        say(line)
    if record.interrupted:
        raise KeyboardInterrupt
    return _status(args, record, job, say)


def _find_truth(
    args: argparse.Namespace, bag: Bag, topics: Sequence[BagTopic], notes: list[str]
) -> Truth | None:
    """The ground truth, None without; notes: told if what lies beside the bag cannot be used here."""
    needed = args.min_ap is not None
    truth = usable_truth(bag, args.ground_truth, [t.name for t in topics], notes, needed)
    if truth is None and needed:
        raise ConfigError("--min-ap needs ground truth; see docs/replay.md. Give it with --ground-truth")
    return truth


def _make_job(
    args: argparse.Namespace, bag: Bag, topics: Sequence[BagTopic], folder: RunFolder, segmenter: Segmenter
) -> Job:
    results = result_topics([t.name for t in topics])
    track = check_track(read_settings(args, TrackOptions))
    cameras = {}
    for place, (topic, result) in enumerate(zip(topics, results, strict=True)):
        file = folder.video(place, len(topics))
        video = None if args.no_video else VideoWriter(file, frame_rate(topic, bag))
        cameras[topic.name] = CameraJob(topic, result, Tracker(track), video)
    writer = ResultBag(folder.bag, results, args.storage)
    return Job(bag, segmenter, cameras, writer, args.limit)


def _check(args: argparse.Namespace) -> None:
    """Fail before anything is done. Raises ConfigError."""
    check_figures()
    check_track(read_settings(args, TrackOptions))
    if args.rate:
        parse_rate(args.rate)
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


def _work(job: Job, topics: Sequence[BagTopic], console: Console) -> bool:
    """Do all frames, with a progress bar on a terminal; True if Ctrl-C ended it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = sum(t.count for t in topics)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("segmenting", total=min(total, job.limit or total))

        def advance() -> None:
            progress.advance(bar)
            if interrupt.is_set():
                raise KeyboardInterrupt

        try:
            with interrupted_between_frames() as interrupt:
                job.run(advance)
        except KeyboardInterrupt:
            frames = len(job.frames)
            job.notes.append(f"ended by Ctrl-C after {frames} frames: this is what was done until then")
            return True
    return False


@contextmanager
def interrupted_between_frames() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that no frame is left half written; a second one interrupts at once."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


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
