"""`fassst compare`: several models on the same images in one run, accuracy and time in one table."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from fassst_ros.bench.measure import machine_facts
from fassst_ros.bench.plots import check_plot, write_plot
from fassst_ros.card import ClassInfo, ModelCard
from fassst_ros.cli import add_settings, read_settings
from fassst_ros.config import RuntimeOptions
from fassst_ros.evaluation.coco import evaluate_in_full
from fassst_ros.evaluation.command import OPTIONS, add_data_arguments, check_writable, open_set
from fassst_ros.evaluation.compare_plot import front_plot
from fassst_ros.evaluation.compare_table import check_markdown, print_comparison, write_markdown
from fassst_ros.evaluation.dataset import EvaluationSet
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.evaluation.latency import percentiles
from fassst_ros.evaluation.references import SHAPES, BoxReference
from fassst_ros.models import resolve_model
from fassst_ros.pipeline import Segmentation, Segmenter
from fassst_ros.predict import write_text
from fassst_ros.types import Frame, InputError, Instances
from fassst_ros.yolox import YoloxDetector

#: Seconds before each image: ONNX Runtime's and OpenBLAS's threads spin on for a while after their work,
#: and would take the cores from whoever comes next. A camera leaves such a pause, too.
PAUSE = 0.1
#: What may follow MODEL@.
PRECISIONS = next(f for f in dataclasses.fields(RuntimeOptions) if f.name == "precision").metadata["choices"]


@dataclass(slots=True)
class Contender:
    """One line of the table. facts: what is known before the run; the rest is filled by it."""

    facts: dict[str, Any]
    classes: tuple[ClassInfo, ...]
    segment: Callable[[Frame], Segmentation]
    instances: dict[int, Instances] = field(default_factory=dict)
    network_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst compare`."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="model file (.onnx) or name of a shipped one; MODEL@f32: in f32, whatever --precision says",
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--boxes",
        type=Path,
        metavar="YOLOX",
        help="raw YOLOX detector (.onnx): adds two references, its boxes filled and ellipses in them",
    )
    parser.add_argument("--json", type=Path, dest="json_file", metavar="FILE", help="write the numbers there")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table there, between its marker comments"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw mask AP against latency there, as SVG"
    )
    add_settings(parser, RuntimeOptions, "runtime", skip=("model",))


def run(args: argparse.Namespace) -> int:
    """Measure, print and write; returns 1 if an image could not be read.

    Raises FassstError for arguments, annotations or a model that cannot be used.
    """
    console = Console()
    dataset = open_set(args)
    if args.json_file is not None:
        check_writable(args.json_file, "--json")
    if args.markdown is not None:
        check_markdown(args.markdown)
    if args.plot is not None:
        check_plot(args.plot)
    options = read_settings(args, RuntimeOptions, skip=("model",))
    report: dict[str, Any] = {
        "data": dataset.name,
        "machine": machine_facts(),
        "command": _command(args, dataset, options),
        "date": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    with contextlib.ExitStack() as stack:
        contenders = [_open_model(name, options, stack, console) for name in args.models]
        if args.boxes is not None:
            contenders += _open_references(args.boxes, options, contenders[0].classes, stack)
        truths = {c.classes: GroundTruth.read(dataset.content, c.classes).with_objects() for c in contenders}
        failed = measure(contenders, dataset, console)
    report |= {
        "images": len(contenders[0].instances),
        "failed": failed,
        "models": [_row(c, contenders[0], truths[c.classes], dataset) for c in contenders],
    }
    print_comparison(report, console)
    if args.json_file is not None:
        write_text(args.json_file, json.dumps(report, indent=2) + "\n")
    if args.markdown is not None:
        write_markdown(args.markdown, report)
    if args.plot is not None:
        write_plot(front_plot(report), args.plot)
    return 1 if failed else 0


def measure(contenders: Sequence[Contender], dataset: EvaluationSet, console: Console) -> dict[str, str]:
    """Segment every image with every contender, image by image, so that the machine's moods hit all alike.

    Who begins changes with every image. Returns the images that could not be read, with the reason.
    Raises InputError if there is no other.
    """
    failed: dict[str, str] = {}
    grey = Frame(np.full((480, 640, 3), 114, np.uint8))
    for contender in contenders:
        for _ in range(2):
            contender.segment(grey)
    for number, entry in enumerate(track(dataset.entries, "comparing", console=console, transient=True)):
        try:
            frame = dataset.load(entry)
        except InputError as err:
            failed[str(entry.get("file_name"))] = str(err)
            console.log(f"left out {entry.get('file_name')}: {err}", markup=False)
            continue
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            time.sleep(PAUSE)
            start = time.perf_counter()
            segmentation = contender.segment(frame)
            contender.total_ms.append((time.perf_counter() - start) * 1e3)
            contender.network_ms.append(segmentation.stages["infer"])
            contender.instances[entry["id"]] = segmentation.instances
    if not contenders[0].instances:
        raise InputError(f"none of {len(dataset.entries)} images could be read; the reasons are above")
    return failed


def _command(args: argparse.Namespace, dataset: EvaluationSet, options: RuntimeOptions) -> str:
    """The command without this machine's folders, for a table that others read."""
    words = ["fassst", "compare", *(Path(name).name for name in args.models)]
    words += dataset.arguments
    if args.limit:
        words += ["--limit", str(args.limit)]
    if args.boxes is not None:
        words += ["--boxes", args.boxes.name]
    for option in ("runtime", "precision", "threads"):
        if (value := getattr(options, option)) != getattr(RuntimeOptions(), option):
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def _open_model(
    name: str, options: RuntimeOptions, stack: contextlib.ExitStack, console: Console
) -> Contender:
    name, precision = split_precision(name)
    chosen = dataclasses.replace(options, model=name, precision=precision or options.precision)
    segmenter = stack.enter_context(Segmenter.open(chosen, OPTIONS, console.log))
    card, runtime = segmenter.card, segmenter.runtime
    facts = {
        "name": card.name,
        "reference": False,
        "runtime": f"{runtime.name} {runtime.precision}",
        "device": runtime.device,
        "input": f"{card.input_width}x{card.input_height}",
        "training_steps": _steps(card),
        **_size(resolve_model(name)),
    }
    return Contender(facts, card.classes, segmenter.segment)


def _open_references(
    path: Path, options: RuntimeOptions, classes: tuple[ClassInfo, ...], stack: contextlib.ExitStack
) -> list[Contender]:
    """Both references; one detector serves them in turn."""
    detector = stack.enter_context(YoloxDetector(path, options.threads))
    facts = {
        "reference": True,
        "runtime": f"{detector.runtime.name} {detector.runtime.precision}",
        "device": detector.runtime.device,
        "input": f"{detector.side}x{detector.side}",
        "training_steps": None,
        **_size(path),
    }
    return [
        Contender(
            {"name": f"{path.stem}, {words}", **facts},
            classes,
            BoxReference(detector, shape, classes).segment,
        )
        for shape, words in SHAPES.items()
    ]


def split_precision(name: str) -> tuple[str, str]:
    """MODEL@PRECISION -> its two parts; ("MODEL", "") without a known precision."""
    model, _, precision = name.rpartition("@")
    return (model, precision) if model and precision in PRECISIONS else (name, "")


def _steps(card: ModelCard) -> int | None:
    steps = card.training.get("steps")
    return steps if isinstance(steps, int) else None


def _size(path: Path) -> dict[str, int]:
    """Bytes of an ONNX file and numbers in its weights; BatchNorm is counted as folded into them."""
    import onnx

    integers = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)  # shapes and axes
    weights = [w for w in onnx.load(path).graph.initializer if w.data_type not in integers]
    return {"parameters": sum(math.prod(w.dims) for w in weights), "file_bytes": path.stat().st_size}


def _row(
    contender: Contender, first: Contender, truth: GroundTruth, dataset: EvaluationSet
) -> dict[str, Any]:
    """The numbers of one contender. ratio: median over images of its time to the first one's."""
    ratios = np.array(contender.total_ms) / np.array(first.total_ms)
    scores = evaluate_in_full(truth, contender.instances).summary
    row = {**contender.facts, "mask": scores["mask"], "box": scores["box"]}
    for metric in dataset.metrics:
        row |= metric(contender.instances, contender.classes)
    return row | {
        "network_ms": percentiles(contender.network_ms, (50, 99)),
        "total_ms": percentiles(contender.total_ms, (50, 99)),
        "ratio": float(np.median(ratios)),
    }
