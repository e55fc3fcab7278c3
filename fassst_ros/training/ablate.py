"""`fassst ablate STUDY RECIPE`: train the variants of a study one after the other, and compare them.

The studies are those of the paper's tables 5 to 9, and some of this implementation's own choices.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fassst_ros.training.command import add_execution, execution, first_process, start, whole_number
from fassst_ros.types import ConfigError

if TYPE_CHECKING:
    from fassst_ros.training.options import Recipe

log = logging.getLogger(__name__)

#: Study -> variant -> changes of the recipe, as for --set.
STUDIES: dict[str, dict[str, tuple[str, ...]]] = {
    "depth": {f"depth {n}": (f"config.head_depth={n}",) for n in (4, 5, 6)},
    "backbone": {
        "MobileNetV2": (
            "config.backbone=mobilenet_v2",
            "backbone_weights=weights/mobilenet_v2_imagenet_bnfolded.pt",
        ),
        "ResNet-50-FPN": ("config.backbone=resnet50_fpn", "backbone_weights=weights/resnet50.pth"),
        "CSPDarknet-nano": ("config.backbone=cspdarknet_nano", "backbone_weights=weights/yolox_nano.onnx"),
    },
    "slots": {f"n = {s * s}": (f"config.grid={s}",) for s in (4, 5, 6, 7, 8, 9)},
    "fusion": {"with RFF": ("config.fusion=true",), "without RFF": ("config.fusion=false",)},
    "pretraining": {
        "none": ("backbone_weights=", "initial_weights="),
        "backbone": ("initial_weights=",),
        "whole network": (),  # where the recipe names initial_weights
    },
    "width": {f"d = {d}": (f"config.width={d}",) for d in (64, 128, 256)},
    "matching": {
        name: (f"config.matching={name}",)
        for name in ("task_aligned", "hungarian_dense", "hungarian", "cell")
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """A variant's result. weights: what it started from. ms: of the network in torch, float32, an image."""

    variant: str
    weights: str
    parameters: int
    steps: int
    mask_AP: float
    mask_AP50: float
    ms: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst ablate`."""
    parser.add_argument("study", choices=tuple(STUDIES), help="what is varied")
    parser.add_argument("recipe", type=Path, help="recipe with a `val`, such as config/ablations/street.yaml")
    parser.add_argument(
        "--run-folder",
        type=Path,
        help="folder of the variants' runs and the table; default runs/ablate_STUDY",
    )
    parser.add_argument(
        "--steps", type=whole_number(0), default=0, metavar="N", help="length of each phase; 0: the recipe's"
    )
    add_execution(parser)


def run(args: argparse.Namespace) -> int:
    """Train what is not trained yet; writes and prints the table.

    Returns 0, or 128 + the signal's number after Ctrl-C or SIGTERM.
    """
    from fassst_ros.training.stopping import Stopped

    settings = execution(args) | {"console": start(args)}
    folder = args.run_folder or Path("runs") / f"ablate_{args.study}"
    try:
        rows = ablate(args.study, args.recipe, args.data_root, folder, args.overrides, args.steps, **settings)
    except Stopped as stopped:
        if first_process():
            print(stopped)
        return 128 + stopped.signal
    if first_process():
        print(table(args.study, rows))
    return 0


def ablate(
    study: str,
    recipe: Path,
    data_root: Path,
    folder: Path,
    overrides: Sequence[str] = (),
    steps: int = 0,
    **settings: Any,
) -> list[Row]:
    """Train each variant of a study in a run folder of its own; writes table.md and table.json.

    overrides: changes of the recipe for all variants; steps: of each phase, 0: as the recipe says.
    settings: as for `train`. Runs that are done are not repeated, one that was stopped goes on.
    Raises ConfigError if the recipe has no `val`, and what `train` raises.
    """
    from fassst_ros.training.loop import train

    rows: list[Row] = []
    for label, variant in variants(study, recipe, data_root, overrides, steps):
        log.info("%s: %s", study, label)
        run = folder / variant.name
        weights = train(variant, data_root, run, **settings)
        rows.append(_row(label, variant, weights))
        if not first_process():
            continue
        (folder / "table.md").write_text(table(study, rows) + "\n", encoding="utf-8")
        content = [{name: getattr(row, name) for name in Row.__slots__} for row in rows]
        (folder / "table.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return rows


def variants(
    study: str, path: Path, data_root: Path, overrides: Sequence[str] = (), steps: int = 0
) -> Iterator[tuple[str, Recipe]]:
    """Label and recipe of each variant; none that says the same as an earlier one."""
    from fassst_ros.training.options import load_recipe

    phases = len(load_recipe(path, overrides).schedule)
    lengths = [
        f"schedule.{i}.{name}={n}" for i in range(phases) for name, n in (("steps", steps), ("epochs", 0))
    ]
    seen: list[Recipe] = []
    for label, changes in STUDIES[study].items():
        recipe = load_recipe(path, [*overrides, *(lengths if steps else ()), *changes])
        if recipe.val is None:
            raise ConfigError(f"{path} has no `val`, so nothing tells its variants apart; add one")
        if recipe.backbone_weights and not (data_root / recipe.backbone_weights).is_file():
            log.warning("%s: no file %s; random weights instead", label, data_root / recipe.backbone_weights)
            recipe = replace(recipe, backbone_weights="")
        if any(replace(recipe, name=other.name) == other for other in seen):
            continue
        words = "".join(c if c.isalnum() else " " for c in label).lower().split()
        seen.append(replace(recipe, name="_".join((study, *words))))
        yield label, seen[-1]


def _row(label: str, recipe: Recipe, weights: Path) -> Row:
    """The result of a finished run, from its last evaluation and its weights."""
    from fassst_ros.export import load_network

    lines = [
        json.loads(line) for line in (weights.parent / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    last = [line for line in lines if "mask_AP" in line][-1]
    network, _ = load_network(weights)
    return Row(
        variant=label,
        weights=recipe.initial_weights or recipe.backbone_weights or "random",
        parameters=sum(p.numel() for p in network.parameters()),
        steps=last["step"],
        mask_AP=last["mask_AP"],
        mask_AP50=last["mask_AP50"],
        ms=last["ms"],
    )


def table(study: str, rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown; AP in percent."""
    lines = [
        f"| {study} | started from | parameters | steps | mask AP | AP50 | ms (torch, f32) |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.variant} | {Path(r.weights).name} | {r.parameters / 1e6:.2f} M | {r.steps} | "
        f"{100 * r.mask_AP:.1f} | {100 * r.mask_AP50:.1f} | {r.ms:.1f} |"
        for r in rows
    ]
    return "\n".join(lines)
