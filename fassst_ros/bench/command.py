"""`fassst bench`: measures, prints a report, and writes it as JSON or Markdown with plots."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from fassst_ros.bench import node, scenes
from fassst_ros.bench.gpu import cuda_devices, gpu_suite
from fassst_ros.bench.growth import growth_suite
from fassst_ros.bench.measure import machine_facts
from fassst_ros.bench.mood import Mood
from fassst_ros.bench.network import network_suite
from fassst_ros.bench.peers import peers_suite
from fassst_ros.bench.plots import write_plots
from fassst_ros.bench.report import Suite, print_report, summary_table, to_markdown
from fassst_ros.bench.stages import stages_suite
from fassst_ros.card import load_card
from fassst_ros.cli import add_settings, read_settings
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.models import resolve_model
from fassst_ros.runtimes import RUNTIMES
from fassst_ros.types import ConfigError, FassstError, UInt8Array

#: Suite -> what it measures. In this order they run.
SUITES = {
    "network": "the model alone",
    "stages": "all around it, without ROS",
    "peers": "other networks side by side with it",
    "growth": "its cost against input size and slots",
    "gpu": "TensorRT beside torch and ONNX Runtime on an NVIDIA GPU, and its roofline",
    "node": "the real node over DDS",
}

DEFAULT = ("network", "stages")
_REPEATS = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst bench`."""
    parser.add_argument(
        "--suite",
        nargs="+",
        choices=(*SUITES, "all"),
        default=DEFAULT,
        metavar="SUITE",
        help="; ".join(f"{name}: {words}" for name, words in SUITES.items())
        + f"; all. Default: {' '.join(DEFAULT)}, about a minute; all takes about eight minutes on two cores",
    )
    parser.add_argument(
        "--runtime",
        choices=("auto", "all", *RUNTIMES),
        default="auto",
        help="all: the network suite in each of them; peers and growth in ONNX Runtime, too",
    )
    parser.add_argument(
        "--yolox", type=Path, metavar="FILE", help="raw YOLOX-nano (.onnx) for the peers: the least cost"
    )
    size = f"{scenes.WIDTH}x{scenes.HEIGHT}"
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help=f"a photo, scaled to {size} (default: a made-up image)"
    )
    parser.add_argument(
        "--repeats", type=int, default=_REPEATS, metavar="N", help="measured runs of each (%(default)s)"
    )
    parser.add_argument(
        "--objects",
        type=int,
        default=0,
        metavar="N",
        help="lower the score threshold until N instances are kept (0: the card's threshold)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="also write the report there, and its plots to images/ beside it",
    )
    node.add_arguments(parser)
    add_settings(parser, RuntimeOptions, "model", skip=("runtime",))


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; returns 1 if a suite that was asked for could not run."""
    from rich.console import Console

    errors = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        errors.print(text, markup=False, soft_wrap=True)

    for name, least in (("repeats", 1), ("objects", 0)):
        if (value := getattr(args, name)) < least:
            raise ConfigError(f"--{name} is {value}; expected {least} or more")
    options = read_settings(args, RuntimeOptions, skip=("runtime",))
    card = load_card(resolve_model(options.model))
    image = scenes.bench_image(args.image)
    facts: dict[str, Any] = {
        "command": _command(args, options),
        "date": datetime.now().astimezone().isoformat(" ", "seconds"),
        "machine": machine_facts(),
        "model": f"{card.name} {card.version}, {card.input_width}x{card.input_height}",
        "image": f"{image.shape[1]}x{image.shape[0]}, {args.image.name if args.image else 'made up'}",
    }
    notes: list[str] = []
    makers = _makers(args, options, image, notes.append, say)
    asked = [name for name in SUITES if name in args.suite or "all" in args.suite]
    if "gpu" not in args.suite and "gpu" in asked:
        try:
            cuda_devices()
        except FassstError as err:  # nothing failed: this machine has no GPU
            asked.remove("gpu")
            notes.append(f"gpu: not measured: {err}")
    found, facts["warnings"] = _measure({name: makers[name] for name in asked}, notes.append, say)
    print_report(facts, found, notes)
    _write(args, facts, found, notes)
    return 0 if len(found) == len(asked) else 1


def _makers(
    args: argparse.Namespace,
    options: RuntimeOptions,
    image: UInt8Array,
    note: Callable[[str], None],
    say: Callable[[str], None],
) -> dict[str, Callable[[], Suite]]:
    """What measures each suite."""
    model = resolve_model(options.model)
    single = dataclasses.replace(options, runtime="auto" if args.runtime == "all" else args.runtime)
    names = list(RUNTIMES) if args.runtime == "all" else [args.runtime]
    settings = [single]
    if args.runtime == "all":
        settings.append(dataclasses.replace(options, runtime="onnxruntime"))
    chosen = SegmentOptions(score_threshold=scenes.threshold_for(single, image, args.objects))
    if args.objects:
        note(f"score threshold {chosen.score_threshold:.4f}, so that {args.objects} instances are kept")
    return {
        "network": lambda: network_suite(model, image, names, options, args.repeats, note),
        "stages": lambda: stages_suite(single, chosen, image, args.repeats),
        "peers": lambda: peers_suite(model, image, settings, args.repeats, note, say, args.yolox),
        "growth": lambda: growth_suite(model, image, settings, args.repeats, note, say),
        "gpu": lambda: gpu_suite(model, image, options, args.repeats, note),
        "node": lambda: node.node_suite(
            model, single, chosen, image, note, say, args.node_parts, args.node_seconds
        ),
    }


def _measure(
    makers: dict[str, Callable[[], Suite]], note: Callable[[str], None], say: Callable[[str], None]
) -> tuple[dict[str, Suite], list[str]]:
    """What each suite found, and what is to be said of the machine.

    Suites that failed are missing, and `note` is told why.
    """
    mood = Mood()
    mood.look()
    found: dict[str, Suite] = {}
    seconds = {}
    for name, make in makers.items():
        say(f"measuring: {name}")
        start = time.monotonic()
        try:
            suite = make()
        except (FassstError, OSError) as err:  # a full disk must not cost what was measured before
            note(f"{name}: not measured: {err}")
        else:
            if suite.tables or suite.plots:
                found[name] = suite
        seconds[name] = time.monotonic() - start
        mood.look(name)
    parts = ", ".join(f"{name} {taken:.0f}" for name, taken in seconds.items())
    note(f"the run took {sum(seconds.values()):.0f} s: {parts}")
    note(mood.words())
    return found, mood.warnings()


def _command(args: argparse.Namespace, options: RuntimeOptions) -> str:
    """The command without this machine's folders, for a report that others read."""
    words = ["fassst", "bench", "--suite", *args.suite]
    if options.model:
        words += ["--model", Path(options.model).name]
    if args.runtime != "auto":
        words += ["--runtime", args.runtime]
    if args.image is not None:
        words += ["--image", args.image.name]
    if args.yolox is not None:
        words += ["--yolox", args.yolox.name]
    for option in ("precision", "threads"):
        if (value := getattr(options, option)) != getattr(RuntimeOptions(), option):
            words += [f"--{option}", str(value)]
    for option, default in (("repeats", _REPEATS), ("objects", 0)):
        if (value := getattr(args, option)) != default:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def _write(
    args: argparse.Namespace, facts: dict[str, Any], found: dict[str, Suite], notes: list[str]
) -> None:
    if args.markdown is not None:
        pictures = write_plots(found, args.markdown, notes.append)
        _write_text(args.markdown, to_markdown(facts, found, notes, pictures))
    if args.json is not None:
        measured = {name: dataclasses.asdict(suite) for name, suite in found.items()}
        content = {**facts, "summary": summary_table(found).rows, "suites": measured, "notes": notes}
        _write_text(args.json, json.dumps(content, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror or err}") from err
