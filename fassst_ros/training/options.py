"""A training recipe: one YAML file, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fassst_ros.config import from_mapping, load_yaml, setting
from fassst_ros.labels import CLASS_LISTS
from fassst_ros.training.augment import AugmentOptions
from fassst_ros.training.recipes import apply_overrides, apply_preset
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
    """One phase of a run: input size, length (in steps or in epochs), and what its images undergo."""

    input_height: int = setting(768, "network input", unit="px", minimum=64)
    input_width: int = setting(768, "network input", unit="px", minimum=64)
    steps: int = setting(0, "optimiser steps of this phase", minimum=0)
    epochs: float = setting(0.0, "length in passes over the data, instead of steps", minimum=0.0)
    augment: AugmentOptions = field(default_factory=AugmentOptions)


@dataclass(frozen=True, slots=True)
class Optimisation:
    """The optimiser. The paper: SGD, lr .005, batch 8 (preset `paper`); the default here: AdamW."""

    optimiser: str = setting("adamw", "adamw or sgd", choices=("adamw", "sgd"))
    lr: float = setting(5e-4, "peak learning rate", minimum=0.0)
    momentum: float = setting(0.9, "of sgd", minimum=0.0, maximum=1.0)
    backbone_scale: float = setting(
        0.2, "learning rate of a backbone with given weights relative to lr", minimum=0.0
    )
    relative: bool = setting(
        False, "each tensor's rate is lr times the root mean square of its initial values (adamw)"
    )
    weight_decay: float = setting(0.02, "on weights, not on biases and norms", minimum=0.0)
    warmup: int = setting(200, "steps of linear warm-up", minimum=0)
    decay: str = setting(
        "cosine", "course of the rate: to 1 % by cosine, or in steps", choices=("cosine", "step")
    )
    milestones: tuple[float, ...] = setting(
        (0.667, 0.889), "parts of the run after which the rate steps down", minimum=0.0, maximum=1.0
    )
    gamma: float = setting(0.1, "factor of a step", minimum=0.0, maximum=1.0)
    batch: int = setting(8, "images a step, of all processes together", minimum=1)
    clip: float = setting(10.0, "largest gradient norm; 0: not clipped", minimum=0.0)
    ema: float = setting(0.998, "decay of the averaged weights; 0: no average", minimum=0.0, maximum=1.0)
    precision: str = setting("bf16", "arithmetic of the forward pass", choices=("bf16", "f32"))
    frozen_norm: bool = setting(False, "BatchNorm keeps its statistics, for small batches")


@dataclass(frozen=True, slots=True)
class Teacher:
    """A trained network of the same layers that the one in training is to be like (training/imitation.py)."""

    weights: str = setting("", ".safetensors below the data root, or the name of a shipped model")
    features: float = setting(10.0, "weight of the difference between layers", minimum=0.0)
    answers: float = setting(1.0, "weight of the difference between what is stated", minimum=0.0)


@dataclass(frozen=True, slots=True)
class Validation:
    """What the averaged weights are measured on while a run goes on."""

    source: DataSource = field(default_factory=DataSource)
    every: int = setting(1000, "steps between two evaluations; the last step has one, too", minimum=1)
    limit: int = setting(0, "only the first images; 0: all", minimum=0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a run depends on.

    backbone_weights: published weights of the backbone; initial_weights: a .safetensors of an earlier
    run, or the name of a shipped model, of which every tensor that fits is taken; teacher: a network to be
    like. Paths are relative to the data root.
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
    val: Validation | None = None
    teacher: Teacher | None = None
    seed: int = 0
    licence: str = ""  # of the trained weights, as the data allow

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases; known once epochs are counted in steps."""
        return sum(s.steps for s in self.schedule)

    def in_steps(self, images: int) -> Recipe:
        """The recipe with every length in steps, an epoch being `images` images."""
        phases = tuple(
            replace(s, steps=math.ceil(s.epochs * images / self.optimisation.batch), epochs=0.0)
            if s.epochs
            else s
            for s in self.schedule
        )
        return replace(self, schedule=phases)


#: Entries of the top level of a recipe file.
_REQUIRED = ("name", "network", "config", "classes", "data", "schedule")
_KNOWN = (*Recipe.__dataclass_fields__, "augment")


def load_recipe(path: Path, overrides: Sequence[str] = (), preset: str = "") -> Recipe:
    """Read a recipe, with the optimisation of `preset` and changes such as "optimisation.lr=0.001".

    Raises ConfigError naming the file and the entry that is wrong.
    """
    raw = load_yaml(path)
    if preset:
        raw = apply_preset(raw, preset, str(path))
    return build_recipe(apply_overrides(raw, overrides, str(path)), str(path))


def build_recipe(raw: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from the content of its file; `source` names it in errors. Raises ConfigError."""
    if set(raw) - set(_KNOWN):
        unknown = ", ".join(sorted(str(k) for k in set(raw) - set(_KNOWN)))
        raise ConfigError(f"{source}: unknown entry {unknown}; known: {', '.join(sorted(_KNOWN))}")
    missing = set(_REQUIRED) - set(raw)
    if missing:
        raise ConfigError(f"{source}: missing {', '.join(sorted(missing))}")
    if raw["classes"] not in CLASS_LISTS:
        raise ConfigError(f"{source}: classes {raw['classes']!r}; known: {', '.join(CLASS_LISTS)}")
    if not isinstance(raw["name"], str) or not raw["name"]:
        raise ConfigError(f"{source}: name = {raw['name']!r}; expected the name of the model's files")
    seed = raw.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"{source}: seed = {seed!r}; expected a whole number from 0 on")
    optimisation = _mapping(raw.get("optimisation", {}), source, "optimisation")
    return Recipe(
        name=raw["name"],
        network=str(raw["network"]),
        config=dict(_mapping(raw["config"], source, "config")),
        classes=raw["classes"],
        backbone_weights=str(raw.get("backbone_weights") or ""),
        initial_weights=str(raw.get("initial_weights") or ""),
        data=_sources(raw["data"], source),
        schedule=_phases(raw["schedule"], _mapping(raw.get("augment", {}), source, "augment"), source),
        optimisation=from_mapping(Optimisation, optimisation, f"{source}: optimisation"),
        val=_validation(_mapping(raw["val"], source, "val"), f"{source}: val") if raw.get("val") else None,
        teacher=_teacher(_mapping(raw["teacher"], source, "teacher"), source) if raw.get("teacher") else None,
        seed=seed,
        licence=str(raw.get("licence", "")),
    )


def _teacher(entry: Mapping[str, Any], source: str) -> Teacher:
    teacher = from_mapping(Teacher, entry, f"{source}: teacher")
    if not teacher.weights:
        raise ConfigError(f"{source}: teacher: weights is missing; expected a file or a shipped model's name")
    return teacher


def _phases(entries: Any, augment: Mapping[str, Any], source: str) -> tuple[Schedule, ...]:
    """The phases under `schedule`; augment: that of all phases, of which each may change entries."""
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{source}: schedule holds {entries!r}; expected a list of one phase or more")
    phases = []
    for i, entry in enumerate(entries):
        where = f"{source}: schedule[{i}]"
        phase = dict(_mapping(entry, source, f"schedule[{i}]"))
        own = dict(_mapping(phase.pop("augment", {}), source, f"schedule[{i}].augment"))
        if "mosaic" in phase:  # the one that most phases set
            own["mosaic"] = phase.pop("mosaic")
        options = from_mapping(AugmentOptions, {**augment, **own}, f"{where}: augment")
        schedule = from_mapping(Schedule, phase, where)
        if bool(schedule.steps) == bool(schedule.epochs):
            raise ConfigError(
                f"{where}: {schedule.steps} steps, {schedule.epochs} epochs; expected one of them"
            )
        phases.append(replace(schedule, augment=options))
    return tuple(phases)


def _validation(entry: Mapping[str, Any], where: str) -> Validation:
    """A set as under `data`, with `every` and `limit`; either flat, or as a resolved recipe has it."""
    own = {name: entry[name] for name in ("every", "limit") if name in entry}
    rest = {name: value for name, value in entry.items() if name not in own}
    source = _source(_mapping(rest.get("source", rest), where, "source"), where)
    return replace(from_mapping(Validation, own, where), source=source)


def _sources(entries: Any, path: str) -> tuple[DataSource, ...]:
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
        if getattr(source, name) != getattr(DataSource(), name):
            raise ConfigError(
                f"{where}: {name} has no meaning for format {source.format}; its entries: {', '.join(own)}"
            )
    return source


def _mapping(value: Any, path: str, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: {name} holds {value!r}; expected `key: value` entries")
    return value
