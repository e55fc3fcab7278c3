"""`fassst eval-tracks`: how well ids hold over time on annotated videos; the node's Segmenter and Tracker."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fassst_ros.bench.measure import machine_facts
from fassst_ros.card import ClassInfo
from fassst_ros.cli import add_settings, read_settings
from fassst_ros.config import RuntimeOptions, SegmentOptions, TrackOptions
from fassst_ros.evaluation.command import POINTS, check_writable, segment_images
from fassst_ros.evaluation.dataset import open_coco
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.evaluation.latency import percentiles
from fassst_ros.evaluation.tracking_metrics import TrackScores, track_scores
from fassst_ros.evaluation.tracking_videos import ClassedMatch, Video, VideoTruth, read_videos
from fassst_ros.pipeline import Segmenter
from fassst_ros.predict import write_text
from fassst_ros.tracking import DEFAULT_METHOD, Method, Tracker
from fassst_ros.types import ConfigError, Instances

#: What `--variants` compares: changed options and method of the tracker.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "without low scores": ({"track_low_threshold": 1.0}, {}),
    "without motion": ({}, {"motion": False}),
    "boxes only": ({}, {"overlap": "box"}),
    "masks only": ({}, {"overlap": "mask"}),
    "across classes": ({}, {"per_class": False}),
    "plain box IoU": ({"track_low_threshold": 1.0}, {"motion": False, "overlap": "box"}),
}
_COLUMNS = ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "switches", "missed", "false")


@dataclass(frozen=True, slots=True)
class Outcome:
    """scores: of all classes, of each class; None where there is no object. milliseconds: of each update."""

    scores: TrackScores | None
    per_class: dict[str, TrackScores | None]
    milliseconds: list[float]

    def to_json(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "all": _as_dict(self.scores),
            "per_class": {name: _as_dict(scores) for name, scores in self.per_class.items()},
            "track_ms": percentiles(self.milliseconds, POINTS),
        }


def _as_dict(scores: TrackScores | None) -> dict[str, Any] | None:
    return None if scores is None else dataclasses.asdict(scores)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst eval-tracks`."""
    model = next(f for f in dataclasses.fields(RuntimeOptions) if f.name == "model")
    parser.add_argument("model", nargs="?", default="", help=model.metadata["doc"])
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        help="COCO annotations (.json) with video_id and frame_index of images and track_id of objects",
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="of N frames take one, as from a slower camera (1)"
    )
    parser.add_argument("--variants", action="store_true", help="also measure the tracker without its parts")
    parser.add_argument("--json", type=Path, dest="json_file", help="write the results to this file")
    add_settings(parser, TrackOptions, "tracking", skip=("track",))
    add_settings(parser, SegmentOptions, "what is kept")
    add_settings(parser, RuntimeOptions, "runtime", skip=("model",))


def run(args: argparse.Namespace) -> int:
    """Evaluate and report. Returns 0, or 1 if an image could not be segmented.

    Raises FassstError for arguments, annotations or a model that cannot be used.
    """
    console = Console(highlight=False)
    if args.every < 1:
        raise ConfigError(f"--every is {args.every}; expected 1 or more")
    if args.json_file is not None:
        check_writable(args.json_file, "--json")
    track = dataclasses.replace(read_settings(args, TrackOptions, skip=("track",)), track=True)
    Tracker(track)  # wrong options show before the long part
    segment = read_settings(args, SegmentOptions)
    runtime = dataclasses.replace(read_settings(args, RuntimeOptions, skip=("model",)), model=args.model)
    dataset = open_coco(args.annotations, args.images)
    videos = read_videos(dataset.content, args.every)
    used = {image for video in videos for image in video.images}
    content = {**dataset.content, "images": [e for e in dataset.entries if e["id"] in used]}
    dataset = dataclasses.replace(dataset, content=content)
    machine = machine_facts()
    with Segmenter.open(runtime, segment, console.log) as segmenter:
        card = segmenter.card
        threshold = card.score_threshold if segment.score_threshold < 0 else segment.score_threshold
        least = min(threshold, track.least_score)
        segmenter.options = dataclasses.replace(segment, score_threshold=least)
        truth = VideoTruth(GroundTruth.read(content, card.classes).with_objects(), videos)
        segmenter.warm_up()
        answers = segment_images(segmenter, dataset, console)
        report = {
            "model": card.name,
            "files": card.files,
            "runtime": segmenter.runtime.name,
            "precision": segmenter.runtime.precision,
            "annotations": dataset.name,
            "videos": len(videos),
            "frames": len(used),
            "every": args.every,
            "score_threshold": threshold,
            "options": dataclasses.asdict(track),
            "machine": machine,
            "command": shlex.join(["fassst", *sys.argv[1:]]),
            "date": datetime.now().astimezone().isoformat(" ", "seconds"),
            "failed": answers.failed,
        }
    trial = Trial(videos, truth, answers.instances, card.classes, threshold)
    outcomes = {"as set": trial.run(track)}
    if args.variants:
        for name, (options, method) in VARIANTS.items():
            outcomes[name] = trial.run(dataclasses.replace(track, **options), Method(**method))
    print_report(report, outcomes, console)
    if args.json_file is not None:
        report |= {"results": {name: outcome.to_json() for name, outcome in outcomes.items()}}
        write_text(args.json_file, json.dumps(report, indent=2) + "\n")
    return 1 if answers.failed else 0


@dataclass(frozen=True, slots=True)
class Trial:
    """Segmented videos on which trackers are tried. instances: by image, down to the low threshold."""

    videos: Sequence[Video]
    truth: VideoTruth
    instances: Mapping[int, Instances]
    classes: Sequence[ClassInfo]
    score_threshold: float

    def run(self, options: TrackOptions, method: Method = DEFAULT_METHOD) -> Outcome:
        """Track all videos and compare."""
        frames: list[ClassedMatch] = []
        milliseconds = []
        for number, video in enumerate(self.videos):
            tracker = Tracker(options, method)
            for image, stamp in zip(video.images, video.stamps, strict=True):
                if image not in self.instances:  # it could not be segmented
                    continue
                start = time.perf_counter()
                found = tracker.update(self.instances[image], stamp, self.score_threshold)
                milliseconds.append((time.perf_counter() - start) * 1e3)
                frames.append(self.truth.compare(image, number, found))
        return Outcome(
            track_scores([frame.match for frame in frames]),
            {c.name: track_scores([frame.of(c.id) for frame in frames]) for c in self.classes},
            milliseconds,
        )


def print_report(report: Mapping[str, Any], outcomes: Mapping[str, Outcome], console: Console) -> None:
    """The results as a table, ratios in percent."""
    title = (
        f"{report['model']} on {report['annotations']}: {report['videos']} videos, {report['frames']} frames"
    )
    table = Table(title=escape(f"{title}, masks at IoU 0.5, ratios in %"))
    for column in ("", *_COLUMNS):
        table.add_column(column, justify="right" if column else "left")
    first = next(iter(outcomes.values()))
    for name, outcome in outcomes.items():
        table.add_row(escape(name), *_cells(outcome.scores), style="bold" if outcome is first else None)
    for name, scores in first.per_class.items():
        table.add_row(escape(f"{name}, as set"), *_cells(scores))
    console.print(table)
    times = percentiles(first.milliseconds)
    console.print(f"tracker: {times['p50']:.2f} ms a frame (p50), {times['p99']:.2f} ms (p99)")
    if report["failed"]:
        console.print(f"{len(report['failed'])} images could not be segmented and are not in these numbers")


def _cells(scores: TrackScores | None) -> list[str]:
    if scores is None:
        return ["-"] * len(_COLUMNS)
    ratios = (scores.hota, scores.deta, scores.assa, scores.mota, scores.idf1)
    counts = (scores.switches, scores.missed, scores.false_alarms)
    return [*(f"{100 * ratio:.1f}" for ratio in ratios), *(str(count) for count in counts)]
