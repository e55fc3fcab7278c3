"""Every setting once: name, type, default, range, unit and words, for YAML, shell and ROS alike.

Frozen dataclasses whose fields are made by `setting`; `from_mapping` checks and builds them,
`ros/params.py` derives parameter descriptors and `cli.py` derives options from the same fields.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from fassst_ros.types import ConfigError

T = TypeVar("T")


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = False,
) -> Any:
    """A dataclass field with what people and tools must know of it.

    minimum, maximum: inclusive. read_only: in the node, fixed once the node is configured.
    """
    meta = {
        "doc": doc,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "read_only": read_only,
    }
    return dataclasses.field(default=default, metadata=meta)


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Which model is executed, and on what."""

    model: str = setting(
        "", "model file (.onnx) or name of a shipped model; empty: the default", read_only=True
    )
    runtime: str = setting(
        "auto",
        "what executes the model; auto takes the first that works of tensorrt, openvino, onnxruntime",
        choices=("auto", "tensorrt", "openvino", "onnxruntime", "torch"),
        read_only=True,
    )
    precision: str = setting(
        "default",
        "arithmetic; default lets the runtime choose (OpenVINO: bf16 where the CPU has AMX)",
        choices=("default", "f32", "bf16", "fp16", "int8"),
        read_only=True,
    )
    threads: int = setting(0, "CPU threads; 0: all cores", minimum=0, maximum=256, read_only=True)
    device_id: int = setting(0, "index of the GPU", minimum=0, maximum=63, read_only=True)
    cache_dir: str = setting("", "folder for built engines; empty: ~/.cache/fassst_ros", read_only=True)


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """What is kept of the network's answer. All may change between two frames."""

    score_threshold: float = setting(
        -1.0, "instances below are dropped; -1: the value of the model card", minimum=-1.0, maximum=1.0
    )
    mask_threshold: float = setting(
        -1.0, "probability of a set mask pixel; -1: the value of the model card", minimum=-1.0, maximum=1.0
    )
    max_instances: int = setting(
        100, "at most so many instances an image, best first", minimum=1, maximum=65535
    )
    classes: tuple[str, ...] = setting((), "names of the classes to keep; empty: all")


@dataclass(frozen=True, slots=True)
class TrackOptions:
    """How instances get ids over time (fassst_ros/tracking.py). All may change between two frames."""

    track: bool = setting(False, "give instances ids over time (track_id), a tracker for each camera")
    track_high_threshold: float = setting(
        -1.0,
        "instances with at least this score are associated with tracks first; -1: score_threshold",
        minimum=-1.0,
        maximum=1.0,
    )
    track_low_threshold: float = setting(
        0.1,
        "instances with at least this score, also below score_threshold, may continue a track that was "
        "seen in the frame before; they are published then",
        minimum=0.0,
        maximum=1.0,
    )
    track_new_threshold: float = setting(
        -1.0, "least score of an instance that starts a track; -1: the high one", minimum=-1.0, maximum=1.0
    )
    track_iou: float = setting(
        0.1,
        "least overlap (IoU) of an instance with the place where its track is expected",
        minimum=0.01,
        maximum=1.0,
    )
    track_buffer: float = setting(
        1.0, "how long a track waits to be seen again", unit="s", minimum=0.1, maximum=60.0
    )

    @property
    def least_score(self) -> float:
        """What an instance must have to be looked at."""
        low, high = self.track_low_threshold, self.track_high_threshold
        return low if high < 0 else min(low, high)


def check(name: str, value: Any, kind: Any, meta: Mapping[str, Any], source: str) -> Any:
    """One value, converted to its field's type. Raises ConfigError saying came, expected, mend."""

    def fail(expected: str) -> ConfigError:
        return ConfigError(f"{source}: {name} = {value!r}; expected {expected} ({meta['doc']})")

    if kind == tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise fail("a list of strings")
        return tuple(v for v in value if v)
    if kind == tuple[float, ...]:
        if not isinstance(value, (list, tuple)):
            raise fail("a list of numbers")
        return tuple(check(f"{name}[{i}]", v, float, meta, source) for i, v in enumerate(value))
    if kind == tuple[float, float]:
        low_high = check(name, value, tuple[float, ...], meta, source)
        if len(low_high) != 2 or low_high[0] > low_high[1]:
            raise fail("two rising numbers")
        return low_high
    if kind is bool:
        if not isinstance(value, bool):
            raise fail("true or false")
        return value
    if kind is str:
        if not isinstance(value, str):
            raise fail("a string")
        if meta["choices"] and value not in meta["choices"]:
            raise fail("one of " + ", ".join(meta["choices"]))
        return value
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise fail("a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise fail("a finite number")
    if kind is int and value != int(value):
        raise fail("a whole number")
    low, high = meta["minimum"], meta["maximum"]
    if (low is not None and value < low) or (high is not None and value > high):
        raise fail(f"a value of at least {low}" if high is None else f"a value in [{low}, {high}]")
    return kind(value)


def _number(text: str) -> Any:
    """The number that a text such as 1e-4 is, which YAML 1.1 takes for a string; else the text."""
    try:
        return float(text)
    except ValueError:
        return text


def from_mapping(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    """Build a settings dataclass from names and values; `source` names the origin in errors.

    Raises ConfigError for an unknown name, a wrong type or a value out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(str(name) for name in values if name not in fields)
    if unknown:
        raise ConfigError(f"{source}: unknown setting {', '.join(unknown)}; known: {', '.join(fields)}")
    hints = get_type_hints(cls)
    return cls(
        **{name: check(name, v, hints[name], fields[name].metadata, source) for name, v in values.items()}
    )


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping. Raises ConfigError if it is not."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError(f"cannot read {path}: {err}") from err
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: the top level is a {type(data).__name__}; expected `name: value` lines")
    return data
