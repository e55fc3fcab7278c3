"""`fassst train RECIPE.yaml`: train a network as a recipe says."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst train`."""
    parser.add_argument("recipe", type=Path, help="YAML recipe, see config/train_street.yaml")
    parser.add_argument(
        "--run",
        "--run-folder",  # torchrun takes any --run for one of its own options
        type=Path,
        help="run folder; default runs/NAME. An existing one is continued",
    )
    parser.add_argument("--preset", default="", help="optimisation and length of: paper")
    add_execution(parser)
    parser.add_argument(
        "--changed-recipe", action="store_true", help="continue a run although its recipe is another one now"
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Options of all that trains: where data are, changes of the recipe, and how it is executed."""
    parser.add_argument(
        "--data-root", type=Path, default=Path(), help="folder that the recipe's paths start from"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="change an entry of the recipe, as in optimisation.lr=0.001 or schedule.0.steps=10; repeatable",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto")
    for name, minimum, default, words in (
        ("--workers", 0, 1, "processes that load and augment images; 0: the one that trains does it"),
        ("--threads", 0, 0, "CPU threads of the training step; 0: all"),
        ("--save-every", 1, 250, "steps between checkpoints"),
        ("--log-every", 1, 20, "steps between lines of the log"),
        ("--pictures-every", 0, 500, "steps between pictures; 0: none"),
    ):
        parser.add_argument(name, type=whole_number(minimum), default=default, metavar="N", help=words)


def whole_number(minimum: int) -> Callable[[str], int]:
    """What reads an option's whole number from `minimum` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {minimum} on")
        return int(text)

    return read


def first_process() -> bool:
    """Whether this is the process that speaks: the only one, or torchrun's number 0."""
    return os.environ.get("RANK", "0") == "0"


def execution(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_execution` read, as `train` takes it."""
    return {
        "device": args.device,
        "workers": args.workers,
        "save_every": args.save_every,
        "log_every": args.log_every,
        "pictures_every": args.pictures_every,
    }


def start(args: argparse.Namespace) -> Console | None:
    """Set up logging and threads; returns the terminal for a progress bar, None if there is none."""
    import torch
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(stderr=True)
    level = logging.INFO if first_process() else logging.ERROR
    if console.is_terminal:
        handler = RichHandler(console=console, show_level=False, show_path=False)
        logging.basicConfig(level=level, format="%(message)s", datefmt="%H:%M:%S", handlers=[handler])
    else:
        logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it tells each of its steps
    if args.threads:
        torch.set_num_threads(args.threads)
    return console if console.is_terminal else None


def run(args: argparse.Namespace) -> int:
    """Train; prints where the weights are and how to export them.

    Returns 0, or 128 + the signal's number after Ctrl-C or SIGTERM.
    """
    from fassst_ros.training.loop import train
    from fassst_ros.training.options import load_recipe
    from fassst_ros.training.stopping import Stopped

    console = start(args)
    recipe = load_recipe(args.recipe, args.overrides, args.preset)
    folder = args.run or Path("runs") / recipe.name
    try:
        weights = train(
            recipe,
            args.data_root,
            folder,
            changed=args.changed_recipe,
            console=console,
            **execution(args),
        )
    except Stopped as stopped:
        if first_process():
            print(stopped)
        return 128 + stopped.signal
    if first_process():
        print(f"trained weights: {weights}\nnext: fassst export {weights} --out models")
    return 0
