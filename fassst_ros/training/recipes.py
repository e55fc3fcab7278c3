"""Recipes as mappings: presets, changes from the command line, and how two of them differ."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from fassst_ros.types import ConfigError

#: What `--preset NAME` puts in the place of a recipe's optimisation and length.
PRESETS: dict[str, dict[str, Any]] = {
    # Section 3.4: SGD, lr .005, batch 8, 100 epochs, losses 5.75/3/1.25. It gives neither weight decay,
    # warm-up nor steps of the rate: those are the customary ones of detection. It averages no weights.
    "paper": {
        "epochs": 100,
        "loss_weights": {"mask": 5.75, "box": 3.0, "class": 1.25},
        "optimisation": {
            "optimiser": "sgd",
            "lr": 0.005,
            "momentum": 0.9,
            "backbone_scale": 1.0,
            "weight_decay": 1e-4,
            "warmup": 500,
            "decay": "step",
            "milestones": [0.667, 0.889],
            "gamma": 0.1,
            "batch": 8,
            "ema": 0.0,
        },
    },
}


def apply_preset(raw: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    """The recipe with the optimisation of preset `name`, in one phase with the input of its last one.

    Raises ConfigError for an unknown preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"{source}: preset {name!r}; known: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    result = copy.deepcopy(dict(raw))
    result["optimisation"] = dict(preset["optimisation"])
    phases = result.get("schedule")
    if isinstance(phases, list) and phases and isinstance(phases[-1], dict):
        kept = {k: v for k, v in phases[-1].items() if k != "steps"}
        result["schedule"] = [{**kept, "epochs": preset["epochs"]}]
    if result.get("network") == "fassst" and isinstance(result.get("config"), dict):
        result["config"]["loss_weights"] = dict(preset["loss_weights"])
    return result


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str], source: str) -> dict[str, Any]:
    """The recipe with entries replaced by texts such as "optimisation.lr=0.001" or "schedule.0.steps=10".

    Values are YAML. Names are checked when the recipe is built, as those of its file.
    Raises ConfigError for a text of another form, or a path through something that holds no entries.
    """
    result = copy.deepcopy(dict(raw))
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"--set {text!r}; expected NAME=VALUE such as optimisation.lr=0.001")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as err:
            raise ConfigError(f"--set {text!r}: the value is not YAML: {err}") from err
        *parents, last = path.split(".")
        place: Any = result
        for name in parents:
            if isinstance(place, dict):
                place = place.setdefault(name, {})
            else:
                place = place[_index(place, name, text, source)]
        if isinstance(place, dict):
            place[last] = parsed
        else:
            place[_index(place, last, text, source)] = parsed
    return result


def _index(place: Any, name: str, text: str, source: str) -> int:
    """`name` as the number of an entry of a list."""
    if not isinstance(place, list):
        raise ConfigError(
            f"--set {text!r}: what holds {name!r} in {source} is {place!r}, which has no entries"
        )
    if not name.isdecimal() or int(name) >= len(place):
        raise ConfigError(f"--set {text!r}: {name!r} is none of the {len(place)} entries, numbered from 0")
    return int(name)


def as_mapping(recipe: Any) -> dict[str, Any]:
    """A recipe as plain lists and mappings, every setting with its value: what is written as YAML."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(recipe))
    return {name: value for name, value in plain.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Lines such as "optimisation.lr: 0.001 before, 0.002 now" for all that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys: list[Any] = list(dict.fromkeys((*old, *new)))
        pairs = [(key, old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    elif isinstance(old, list) and isinstance(new, list):
        yield f"{name}: {len(old)} entries before, {len(new)} now"
        return
    else:
        if old != new:
            yield f"{name}: {old!r} before, {new!r} now"
        return
    for key, a, b in pairs:
        yield from differences(a, b, f"{name}.{key}" if name else str(key))
