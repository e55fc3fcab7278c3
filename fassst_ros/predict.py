"""`fassst predict`: drawn pictures, and predictions.json in COCO's result format.

A list with one object an instance, as `COCO.loadRes` of pycocotools reads it, and a few keys more:
    image_id      the number that is the file's name where all names are numbers (000000000139.jpg),
                  else the number of the frame in this run, from 1
    category_id   class id of the model card; COCO's ids for the shipped models
    segmentation  {"size": [height, width], "counts": compressed run lengths} over the whole image
    bbox          [x, y, width, height] in pixels of the image, score: 0..1
    file_name     the file, or the camera's index; frame: of a video or camera, from 0
    track_id      with --track: the same for one object through a video; 0: not tracked (yet)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fassst_ros.cli import add_settings, read_settings
from fassst_ros.config import RuntimeOptions, SegmentOptions, TrackOptions
from fassst_ros.overlay import draw
from fassst_ros.pipeline import Segmenter
from fassst_ros.rle import coco_results
from fassst_ros.sources import PictureWriter, Source, find_sources, frame_count, frames, image_ids
from fassst_ros.tracking import Tracker, check_track, segment_tracked
from fassst_ros.types import ConfigError, InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst predict`."""
    parser.epilog = "Exit status 1 if a file could not be read; the others are done nevertheless."
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="images, videos, folders of them (sub-folders too), or the index of a camera (0, 1, ...)",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="output folder (out)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results file (OUT/predictions.json)")
    parser.add_argument("--no-pictures", action="store_true", help="write the results file only")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="stop after N frames (0: all)")
    add_settings(parser, RuntimeOptions, "model and runtime")
    add_settings(parser, SegmentOptions, "what is kept")
    add_settings(parser, TrackOptions, "tracking, in videos and of cameras")


def run(args: argparse.Namespace) -> int:
    """Segment everything; returns 1 if anything could not be read. Without a frame no results are written."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if args.limit < 0:
        raise ConfigError(f"--limit is {args.limit}; expected 0 (all) or more")
    sources = find_sources(args.sources, args.out)
    results_file = args.json or args.out / "predictions.json"
    prepare_output(args.out, results_file)
    runtime, options = read_settings(args, RuntimeOptions), read_settings(args, SegmentOptions)
    track = check_track(read_settings(args, TrackOptions))
    interrupted = False
    with Segmenter.open(runtime, options, say) as segmenter:
        segmenter.warm_up()
        job = Job(segmenter, track, pictures=not args.no_pictures, limit=args.limit)
        try:
            _work(job, sources, console)
        except KeyboardInterrupt:
            interrupted = any(s.kind != "camera" for s in sources)  # it is how a camera's run ends
        finally:
            if job.frames:  # else results of an earlier run would be lost for nothing
                write_text(results_file, json.dumps(job.results))
    for failure in job.failures:
        say(f"failed: {failure}")
    mean = job.milliseconds / max(1, job.frames)
    outcome = f"results in {results_file}" if job.frames else f"{results_file} was not written"
    if job.frames and job.pictures:
        outcome += f", pictures in {args.out}"
    say(
        f"{job.frames} frames, {len(job.results)} instances, segmented in {mean:.1f} ms a frame; "
        f"{len(job.failures)} failed; {outcome}"
    )
    if interrupted:
        raise KeyboardInterrupt
    return 1 if job.failures or not job.frames else 0


@dataclass
class Job:
    """What is to be done with each frame, and what was done so far.

    limit: frames to stop after, 0 = none. milliseconds: spent in segmenting, all frames together.
    """

    segmenter: Segmenter
    track: TrackOptions
    pictures: bool
    limit: int
    frames: int = 0
    milliseconds: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """True once the limit is reached."""
        return 0 < self.limit <= self.frames

    def segment(self, source: Source, image_id: int | None, advance: Callable[[], None]) -> None:
        """All frames of one source; one that cannot be read is noted in `failures`.

        image_id: of the results; None: the number of the frame in this run, from 1.
        """
        writer = PictureWriter(source)
        tracker = Tracker(self.track if source.kind != "image" else TrackOptions())  # images have no time
        try:
            for number, (frame, stamp) in enumerate(frames(source)):
                found = segment_tracked(self.segmenter, tracker, frame, stamp)
                self.frames += 1
                self.milliseconds += sum(found.stages.values())
                where: dict[str, Any] = {"file_name": source.path}
                if source.kind != "image":
                    where["frame"] = number
                used = self.frames + len(self.failures) if image_id is None else image_id
                results = [result | where for result in coco_results(found.instances, used)]
                if found.instances.track_ids is not None:
                    for result, track_id in zip(results, found.instances.track_ids.tolist(), strict=True):
                        result["track_id"] = track_id
                self.results += results
                if self.pictures:
                    writer.write(draw(frame.image, found.instances, self.segmenter.card, frame.color), stamp)
                advance()
                if self.done:
                    break
        except InputError as err:
            self.failures.append(str(err))
            advance()
        finally:
            writer.close()


def _work(job: Job, sources: list[Source], console: Any) -> None:
    """Do all sources, with a progress bar on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    ids = image_ids(sources)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("segmenting", total=frame_count(sources, job.limit))
        for place, source in enumerate(sources):
            job.segment(source, ids[place] if ids else None, lambda: progress.advance(bar))
            if job.done:
                break


def prepare_output(out: Path, results_file: Path) -> None:
    """Make the folders and try to write there, before any work is done. Raises ConfigError."""
    for folder in (out, results_file.parent):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".fassst_write_test"
            probe.touch()
            probe.unlink()
        except OSError as err:
            raise ConfigError(
                f"cannot write to {folder}: {err.strerror or err}. Choose another folder with --out"
            ) from err


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none. Raises ConfigError."""
    try:
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror or err}") from err
