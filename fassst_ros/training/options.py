"""A training recipe: one YAML file, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fassst_ros.config import from_mapping, load_yaml, setting
from fassst_ros.labels import CLASS_LISTS
from fassst_ros.types import ConfigError


@dataclass(frozen=True, slots=True)
class DataSource:
    """One annotated set: a COCO file with its images, or a split of Cityscapes.

    mapping "cityscapes" (COCO only): a person on a bicycle or motorcycle becomes a rider. labelled: the
    classes of which every object is annotated; none given: what the annotations say of themselves.
    """

    format: str = setting("coco", "format of the annotations", choices=("coco", "cityscapes"))
    annotations: str = setting("", "coco: JSON file, relative to the data root")
    images: str = setting("", "coco: folder of its images, relative to the data root")
    mapping: str = setting("none", "coco: what its classes are turned into", choices=("none", "cityscapes"))
    root: str = setting("", "cityscapes: folder of leftImg8bit and gtFine, relative to the data root")
    split: str = setting("train", "cityscapes: train, val, or another folder inside leftImg8bit")
    labelled: tuple[str, ...] = setting((), "classes annotated exhaustively; empty: as the set says itself")
    weight: float = setting(1.0, "share of the samples drawn", minimum=0.0)

    @property
    def name(self) -> str:
        """What to call the set in logs and cards."""
        return self.annotations if self.format == "coco" else f"{self.root} ({self.split})"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast. One run may have several phases, each with its own input size."""

    input_height: int = setting(768, "network input", unit="px", minimum=64)
    input_width: int = setting(768, "network input", unit="px", minimum=64)
    steps: int = setting(1000, "optimiser steps of this phase", minimum=1)
    mosaic: float = setting(0.3, "chance that a sample is a mosaic of four", minimum=0.0, maximum=1.0)


@dataclass(frozen=True, slots=True)
class Optimisation:
    """The optimiser. The paper: SGD, lr .005, batch 8; the default here: AdamW."""

    optimiser: str = setting("adamw", "adamw or sgd", choices=("adamw", "sgd"))
    lr: float = setting(5e-4, "peak learning rate", minimum=0.0)
    backbone_scale: float = setting(0.2, "learning rate of the backbone relative to lr", minimum=0.0)
    weight_decay: float = setting(0.02, "on weights, not on biases and norms", minimum=0.0)
    warmup: int = setting(200, "steps of linear warm-up", minimum=0)
    batch: int = setting(8, "images a step", minimum=1)
    clip: float = setting(10.0, "largest gradient norm", minimum=0.0)
    ema: float = setting(0.998, "decay of the averaged weights", minimum=0.0, maximum=1.0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a run depends on.

    backbone_weights: published weights of the backbone; initial_weights: a .safetensors of an earlier
    run, of which every tensor that fits is taken. Both are relative to the data root.
    """

    name: str
    network: str
    config: dict[str, Any]
    classes: str
    backbone_weights: str
    initial_weights: str
    data: tuple[DataSource, ...]
    schedule: tuple[Schedule, ...]
    optimisation: Optimisation = field(default_factory=Optimisation)
    seed: int = 0
    licence: str = ""  # of the trained weights, as the data allow

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(s.steps for s in self.schedule)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises ConfigError naming the file and the entry that is wrong."""
    raw = load_yaml(path)
    known = set(Recipe.__dataclass_fields__)
    if set(raw) - known:
        raise ConfigError(
            f"{path}: unknown entry {', '.join(sorted(set(raw) - known))}; known: {', '.join(sorted(known))}"
        )
    missing = {"name", "network", "config", "classes", "data", "schedule"} - set(raw)
    if missing:
        raise ConfigError(f"{path}: missing {', '.join(sorted(missing))}")
    if raw["classes"] not in CLASS_LISTS:
        raise ConfigError(f"{path}: classes {raw['classes']!r}; known: {', '.join(CLASS_LISTS)}")
    return Recipe(
        name=str(raw["name"]),
        network=str(raw["network"]),
        config=dict(_mapping(raw["config"], path, "config")),
        classes=raw["classes"],
        backbone_weights=str(raw.get("backbone_weights", "")),
        initial_weights=str(raw.get("initial_weights", "")),
        data=_sources(raw["data"], path),
        schedule=tuple(
            from_mapping(Schedule, _mapping(s, path, "schedule"), f"{path}: schedule")
            for s in raw["schedule"]
        ),
        optimisation=from_mapping(
            Optimisation, _mapping(raw.get("optimisation", {}), path, "optimisation"), f"{path}: optimisation"
        ),
        seed=int(raw.get("seed", 0)),
        licence=str(raw.get("licence", "")),
    )


def _sources(entries: Any, path: Path) -> tuple[DataSource, ...]:
    """The sets under `data`, each named by its number in errors."""
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: data holds {entries!r}; expected a list of one set or more")
    return tuple(
        _source(_mapping(entry, path, f"data[{i}]"), f"{path}: data[{i}]") for i, entry in enumerate(entries)
    )


def _source(entry: Mapping[str, Any], where: str) -> DataSource:
    """One set; its entries must be those of its format."""
    source = from_mapping(DataSource, entry, where)
    coco = ("annotations", "images", "mapping")
    cityscapes = ("root", "split")
    own, foreign = (coco, cityscapes) if source.format == "coco" else (cityscapes, coco)
    for name in own:
        if not getattr(source, name):
            raise ConfigError(
                f"{where}: {name} is missing; format {source.format} needs {' and '.join(own[:2])}"
            )
    for name in foreign:
        if name in entry:
            raise ConfigError(
                f"{where}: {name} has no meaning for format {source.format}; its entries: {', '.join(own)}"
            )
    return source


def _mapping(value: Any, path: Path, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: {name} holds {value!r}; expected `key: value` entries")
    return value
