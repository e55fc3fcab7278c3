"""`fassst bench`: measures, prints a report, and writes it as JSON or Markdown."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fassst_ros.bench import suites
from fassst_ros.bench.measure import Timing, machine_facts
from fassst_ros.bench.node import node_suite
from fassst_ros.bench.report import print_report, to_markdown
from fassst_ros.card import load_card
from fassst_ros.cli import add_settings, read_settings
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.models import resolve_model
from fassst_ros.runtimes import RUNTIMES
from fassst_ros.types import ConfigError, FassstError

SUITES = ("network", "stages", "node")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst bench`."""
    parser.add_argument(
        "--suite",
        choices=(*SUITES, "all"),
        default="all",
        help="network: the model alone; stages: all around it, without ROS; node: the real node over DDS",
    )
    parser.add_argument(
        "--runtime",
        choices=("auto", "all", *RUNTIMES),
        default="auto",
        help="all: the network suite in each of them",
    )
    size = f"{suites.WIDTH}x{suites.HEIGHT}"
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help=f"a photo, scaled to {size} (default: a made-up image)"
    )
    parser.add_argument("--repeats", type=int, default=100, metavar="N", help="measured runs of each (100)")
    parser.add_argument(
        "--objects",
        type=int,
        default=0,
        metavar="N",
        help="lower the score threshold until N instances are kept (0: the card's threshold)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the report there")
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
    model = resolve_model(options.model)
    card = load_card(model)
    image = suites.bench_image(args.image)
    single = dataclasses.replace(options, runtime="auto" if args.runtime == "all" else args.runtime)
    chosen = SegmentOptions(score_threshold=suites.threshold_for(single, image, args.objects))
    names = list(RUNTIMES) if args.runtime == "all" else [args.runtime]
    report: dict[str, Any] = {
        "machine": machine_facts(),
        "model": f"{card.name} {card.version}, {card.input_width}x{card.input_height}",
        "image": f"{image.shape[1]}x{image.shape[0]}, {args.image.name if args.image else 'made up'}",
        "suites": {},
        "notes": [],
    }
    note = report["notes"].append
    if args.objects:
        note(f"score threshold {chosen.score_threshold:.4f}, so that {args.objects} instances are kept")
    if os.getloadavg()[0] > 1:
        note(f"the machine was busy with other work (load {os.getloadavg()[0]:.1f}): times are too long")
    makers: dict[str, Callable[[], list[Timing]]] = {
        "network": lambda: suites.network_suite(model, card, image, names, options, args.repeats, note),
        "stages": lambda: suites.stages_suite(single, chosen, image, args.repeats),
        "node": lambda: node_suite(model, single, chosen, image, args.repeats, note),
    }
    for suite in SUITES if args.suite == "all" else (args.suite,):
        say(f"measuring: {suite}")
        found: list[Timing] = []
        try:
            found = makers[suite]()
        except FassstError as err:
            note(f"{suite}: not measured: {err}")
        report["suites"][suite] = [dataclasses.asdict(t) for t in found]
    print_report(report)
    for path, text in (
        (args.json, json.dumps(report, indent=2) + "\n"),
        (args.markdown, to_markdown(report)),
    ):
        if path is not None:
            _write(path, text)
    return 0 if all(report["suites"].values()) else 1


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror or err}") from err
