"""`fassst eval`: accuracy and latency of a model on annotated images, through the Segmenter of the node."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from fassst_ros.bench.measure import machine_facts
from fassst_ros.card import ModelCard, card_path
from fassst_ros.cli import add_settings, read_settings
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.evaluation.analysis import analyse
from fassst_ros.evaluation.cityscapes import open_cityscapes
from fassst_ros.evaluation.coco import evaluate_in_full
from fassst_ros.evaluation.dataset import EvaluationSet, open_coco
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.evaluation.latency import percentiles
from fassst_ros.evaluation.matching import match_images
from fassst_ros.evaluation.report import COLUMNS, Evaluation, check_report_folder, percent, write_report
from fassst_ros.models import resolve_model
from fassst_ros.pipeline import Segmenter
from fassst_ros.predict import write_text
from fassst_ros.types import ConfigError, InputError, Instances

#: AP is the area under a curve over all scores: keep what a user of the node would drop.
OPTIONS = SegmentOptions(score_threshold=0.001, max_instances=100)
#: Percentiles of times that are reported.
POINTS = (50, 90, 99)


@dataclass(slots=True)
class Answers:
    """What the segmenter said. failed: file name -> why it could not be segmented."""

    instances: dict[int, Instances] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    latency_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst eval`."""
    model = next(f for f in dataclasses.fields(RuntimeOptions) if f.name == "model")
    parser.add_argument("model", nargs="?", default="", help=model.metadata["doc"])
    add_data_arguments(parser)
    parser.add_argument("--json", type=Path, dest="json_file", help="write the results to this file")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page with curves and images there"
    )
    parser.add_argument("--update-card", action="store_true", help="keep the results in the model's card")
    add_settings(parser, RuntimeOptions, "runtime", skip=("model",))


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say which images and which ground truth."""
    parser.add_argument("--annotations", type=Path, help="COCO instance annotations (.json)")
    parser.add_argument("--images", type=Path, help="folder of the images")
    parser.add_argument("--cityscapes", type=Path, metavar="ROOT", help="folder of leftImg8bit and gtFine")
    parser.add_argument("--split", default="val", help="of Cityscapes (default: val)")
    parser.add_argument("--limit", type=int, default=0, help="only the first images of the set; 0: all")


def open_set(args: argparse.Namespace) -> EvaluationSet:
    """What the options of `add_data_arguments` name. Raises FassstError if it cannot be used."""
    if args.cityscapes is not None and args.annotations is None and args.images is None:
        return open_cityscapes(args.cityscapes, args.split, args.limit)
    if args.cityscapes is not None or args.annotations is None or args.images is None:
        raise ConfigError("expected either --annotations FILE.json with --images DIR, or --cityscapes ROOT")
    return open_coco(args.annotations, args.images).first(args.limit)


def run(args: argparse.Namespace) -> int:
    """Evaluate and report. Returns 0, or 1 if an image could not be segmented.

    Raises FassstError for arguments, annotations or a model that cannot be used.
    """
    console = Console()
    dataset = open_set(args)
    if args.json_file is not None:
        check_writable(args.json_file, "--json")
    if args.report is not None:
        check_report_folder(args.report)
    options = dataclasses.replace(read_settings(args, RuntimeOptions, skip=("model",)), model=args.model)
    machine = machine_facts()
    with Segmenter.open(options, OPTIONS, console.log) as segmenter:
        card, runtime = segmenter.card, segmenter.runtime
        truth = GroundTruth.read(
            dataset.content, card.classes
        ).with_objects()  # a defect shows before the long part
        segmenter.warm_up()
        answers = segment_images(segmenter, dataset, console)
        report = {
            "model": card.name,
            "files": card.files,
            "runtime": runtime.name,
            "device": runtime.device,
            "precision": runtime.precision,
            "annotations": dataset.name,
            "machine": machine,
            "command": shlex.join(["fassst", *sys.argv[1:]]),
            "date": datetime.now().astimezone().isoformat(" ", "seconds"),
        }
    result = evaluate_in_full(truth, answers.instances)
    report |= result.summary
    for metric in dataset.metrics:
        report |= metric(answers.instances, card.classes)
    matches = match_images(result)
    report |= analyse(matches, card.score_threshold, card.classes)
    report |= {
        "latency_ms": percentiles(answers.latency_ms, POINTS),
        "stages_ms": {stage: percentiles(times, POINTS) for stage, times in answers.stages_ms.items()},
        "failed": answers.failed,
    }
    print_report(report, console)
    if args.json_file is not None:
        write_text(args.json_file, json.dumps(report, indent=2) + "\n")
    if args.report is not None:
        done = Evaluation(report, card, dataset, answers.instances, result, matches)
        console.print(f"report: {write_report(args.report, done)}", markup=False, soft_wrap=True)
    if args.update_card:
        update_card(card, resolve_model(args.model), report, dataset.arguments)
    return 1 if answers.failed else 0


def update_card(card: ModelCard, model: Path, report: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Write accuracy, and how it was measured, into the card beside the model.

    arguments: options that name the set that it was measured on.
    """
    command = shlex.join(["fassst", "eval", card.name, *arguments, "--runtime", report["runtime"]])
    names = ("annotations", "images", "runtime", "precision", "mask", "box", "cityscapes")
    metrics = {"command": command, **{name: report[name] for name in names if name in report}}
    card_path(model).write_text(dataclasses.replace(card, metrics=metrics).to_json(), encoding="utf-8")


def check_writable(path: Path, option: str) -> None:
    """Fail before the long run, not after it. Raises ConfigError."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(
            f"{option} {path} cannot be written; expected a file in an existing, writable folder"
        )


def segment_images(segmenter: Segmenter, dataset: EvaluationSet, console: Console) -> Answers:
    """Segment every image; a broken one is named and left out. Raises InputError if all are broken."""
    answers = Answers()
    for entry in track(dataset.entries, "segmenting", console=console, transient=True):
        try:
            frame = dataset.load(entry)
            start = time.perf_counter()
            segmentation = segmenter.segment(frame)
            answers.latency_ms.append((time.perf_counter() - start) * 1e3)
            for stage, milliseconds in segmentation.stages.items():
                answers.stages_ms[stage].append(milliseconds)
            answers.instances[entry["id"]] = segmentation.instances
        except InputError as err:
            name = str(entry.get("file_name"))
            answers.failed[name] = str(err)
            console.log(f"left out {name}: {err}", markup=False)
    if not answers.instances:
        raise InputError(f"none of {len(dataset.entries)} images could be segmented; the reasons are above")
    return answers


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """The results as a table, in percent."""

    title = f"{report['model']} on {report['annotations']}: {report['images']} images, AP in %"
    table = Table(title=escape(title))
    for column in ("", *COLUMNS):
        table.add_column(column, justify="right" if column else "left")
    for kind in ("mask", "box"):
        table.add_row(kind, *(percent(report[kind][c]) for c in COLUMNS), style="bold")
    for name, mask in report["mask"]["per_class"].items():
        table.add_row(escape(f"{name}, mask"), percent(mask["AP"]), percent(mask["AP50"]))
    console.print(table)
    if "cityscapes" in report:
        _print_cityscapes(report["cityscapes"], console)
    p50, p99 = report["latency_ms"]["p50"], report["latency_ms"]["p99"]
    where = f"{report['runtime']} {report['precision']} on {report['device']}"
    console.print(f"{where}: {p50:.1f} ms an image (p50), {p99:.1f} ms (p99)")
    if report["failed"]:
        console.print(f"{len(report['failed'])} images could not be segmented and are not in these numbers")


def _print_cityscapes(result: Mapping[str, Any], console: Console) -> None:
    """AP by the rules of Cityscapes, in percent."""
    table = Table(title="AP by the rules of Cityscapes, masks, in %")
    for column in ("", "AP", "AP50"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("mean", percent(result["AP"]), percent(result["AP50"]), style="bold")
    for name, row in result["per_class"].items():
        table.add_row(name, percent(row["AP"]), percent(row["AP50"]))
    console.print(table)
    if result["unknown_classes"]:
        names = ", ".join(result["unknown_classes"])
        console.print(f"The model does not know {names}: AP 0 in the mean, where there are some")
