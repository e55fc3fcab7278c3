"""The `fassst` command: finds the subcommand's module, imports only that, and reports errors.

Also `add_settings` and `read_settings`: options of a subcommand made from the fields of config.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Collection, Sequence
from typing import Any, TypeVar, get_type_hints

from fassst_ros import __version__
from fassst_ros.config import from_mapping
from fassst_ros.types import FassstError

T = TypeVar("T")

#: Subcommand -> (module with add_arguments(parser) and run(args) -> exit status, what it does).
COMMANDS = {
    "predict": ("fassst_ros.predict", "segment images, folders, videos or a camera"),
    "bench": ("fassst_ros.bench.command", "measure the network and every other part of a frame's way"),
    "replay": ("fassst_ros.replay.command", "replay a bag without ROS, and report on speed and accuracy"),
    "eval": ("fassst_ros.evaluation.command", "measure mask AP on an annotated dataset"),
    "compare": ("fassst_ros.evaluation.compare", "measure several models on the same images in one run"),
    "eval-tracks": ("fassst_ros.evaluation.tracking_command", "measure ids over time on annotated videos"),
    "compose-tracks": (
        "fassst_ros.evaluation.tracking_compose",
        "make videos with exact ids from annotated photos",
    ),
    "train": ("fassst_ros.training.command", "train a network as a recipe says"),
    "label": ("fassst_ros.training.label", "label training images with a detector's help"),
    "ablate": ("fassst_ros.training.ablate", "train the variants of a study and compare them"),
    "export": ("fassst_ros.export", "export trained weights to ONNX, with a model card"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fassst` with the given arguments (default: of the process); returns the exit status.

    0: done; 1: an error, told on stderr; 2: wrong usage; 130: ended by Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((a for a in arguments if not a.startswith("-")), "")
    try:
        args = _parser(command).parse_args(arguments)
        return int(importlib.import_module(COMMANDS[args.command][0]).run(args))
    except FassstError as err:
        print(f"fassst {command}: {err}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as err:
        print(f"fassst {command}: {_missing(err)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"fassst {command}: interrupted", file=sys.stderr)
        return 130


def _parser(command: str) -> argparse.ArgumentParser:
    """The whole parser; only `command` has its options, as only its module is imported."""
    parser = argparse.ArgumentParser(prog="fassst", description="Real-time instance segmentation.")
    parser.add_argument("--version", action="version", version=f"fassst_ros {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == command:
            importlib.import_module(module).add_arguments(subparser)
    return parser


def _missing(err: ModuleNotFoundError) -> str:
    """What to install for a module that is not there."""
    package = (err.name or "").partition(".")[0]
    for extra, needs in (
        ("train", ("torch", "onnx", "onnxslim", "safetensors", "scipy", "faster_coco_eval", "matplotlib")),
        ("cpu", ("openvino", "onnxruntime")),
        ("replay", ("rosbags", "mcap", "zstandard")),
    ):
        if package in needs:
            return f"this needs the Python package {package}: pip install 'fassst_ros[{extra}]'"
    return f"this needs the Python module {err.name}, which is not installed"


def add_settings(
    parser: argparse.ArgumentParser, cls: type[Any], title: str, skip: Collection[str] = ()
) -> None:
    """Add one option for each field of a settings dataclass, named like it with dashes.

    Options that are not given stay out of the namespace; `read_settings` then keeps the default.
    """
    group = parser.add_argument_group(title)
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in skip:
            continue
        meta, kind = field.metadata, hints[field.name]
        listed = kind == tuple[str, ...]
        shown = "none" if listed and not field.default else repr(field.default)
        unit = f", {meta['unit']}" if meta["unit"] else ""
        options: dict[str, Any] = {"help": f"{meta['doc']}{unit} (default: {shown})".replace("%", "%%")}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = _comma_list if listed else kind
            options["metavar"] = "{" + ",".join(meta["choices"]) + "}" if meta["choices"] else _metavar(kind)
        group.add_argument(f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS, **options)


def _comma_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _metavar(kind: Any) -> str:
    return {int: "N", float: "X", str: "NAME"}.get(kind, "NAME,NAME")


def read_settings(args: argparse.Namespace, cls: type[T], skip: Collection[str] = ()) -> T:
    """The settings dataclass that the options of `add_settings` describe; checked as everywhere.

    Raises ConfigError, naming the option, for a value out of range.
    """
    fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    given = {name: getattr(args, name) for name in fields if name not in skip and hasattr(args, name)}
    return from_mapping(cls, given, "command line")


if __name__ == "__main__":
    sys.exit(main())
