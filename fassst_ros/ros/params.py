"""ROS parameters made from the settings dataclasses, with descriptors and checked changes."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from fassst_ros.card import ModelCard
from fassst_ros.config import RuntimeOptions, SegmentOptions, TrackOptions, from_mapping, setting
from fassst_ros.types import ConfigError


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the node itself does: its inputs, their QoS, and its reports."""

    image_topics: tuple[str, ...] = setting(
        ("image",), "image topics, one a camera; relative names can be remapped", read_only=True
    )
    transport: str = setting(
        "auto",
        "message type of the image topics: sensor_msgs/Image (raw) or CompressedImage (compressed); auto "
        "takes what the publisher offers, or goes by a name that ends in /compressed",
        choices=("auto", "raw", "compressed"),
        read_only=True,
    )
    reliability: str = setting(
        "auto",
        "reliability of the image subscriptions; auto: reliable, unless a publisher offers only best effort",
        choices=("auto", "reliable", "best_effort", "system_default"),
        read_only=True,
    )
    depth: int = setting(
        5,
        "frames that the middleware may hold for a subscription; the node itself holds only the newest",
        unit="frames",
        minimum=1,
        maximum=1000,
        read_only=True,
    )
    autostart: bool = setting(False, "configure and activate at the start", read_only=True)
    max_age: float = setting(
        0.0,
        "older frames, by their stamp and the clock of the node, are dropped as stale; 0: off",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )
    silence_timeout: float = setting(
        5.0,
        "warn when no frame came for so long although a publisher is there; 0: off",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )
    diagnostics_period: float = setting(
        1.0, "time between two messages on /diagnostics", unit="s", minimum=0.1, maximum=60.0
    )
    marker_distance: float = setting(
        5.0,
        "distance from the camera at which ~/markers are drawn; a mask has no depth of its own",
        unit="m",
        minimum=0.1,
        maximum=1000.0,
    )
    overlay_scale: float = setting(
        1.0,
        "size of ~/overlay and ~/overlay/compressed as a share of the image's; 0.5 takes half of the time",
        minimum=0.1,
        maximum=1.0,
    )
    overlay_quality: int = setting(
        80, "JPEG quality of ~/overlay/compressed", unit="%", minimum=1, maximum=100
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All parameters of the node, checked."""

    node: NodeOptions
    runtime: RuntimeOptions
    segment: SegmentOptions
    track: TrackOptions

    def least_score(self, card: ModelCard) -> float:
        """What every published instance has at least."""
        threshold = self.segment.score_threshold
        threshold = card.score_threshold if threshold < 0 else threshold
        return min(threshold, self.track.least_score) if self.track.track else threshold


GROUPS: dict[str, type[Any]] = {
    "node": NodeOptions,
    "runtime": RuntimeOptions,
    "segment": SegmentOptions,
    "track": TrackOptions,
}
FIELDS: dict[str, dataclasses.Field[Any]] = {
    field.name: field for group in GROUPS.values() for field in dataclasses.fields(group)
}
KINDS: dict[str, Any] = {
    name: kind for group in GROUPS.values() for name, kind in get_type_hints(group).items()
}
# Others marked read_only may be set while the node is unconfigured; this one is read once.
_ONLY_AT_START = ("autostart",)


def build(values: Mapping[str, Any]) -> Settings:
    """Settings from parameter values. Raises ConfigError for a wrong type or range."""
    made = {}
    for group, cls in GROUPS.items():
        own = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        made[group] = from_mapping(cls, own, "parameter")
    return Settings(**made)


def descriptor(name: str) -> ParameterDescriptor:
    """What `ros2 param describe` shows: words and unit, range or choices, and when it may change."""
    meta = FIELDS[name].metadata
    unit = f" [{meta['unit']}]" if meta["unit"] else ""
    made = ParameterDescriptor(name=name, description=f"{meta['doc']}{unit}")
    made.read_only = name in _ONLY_AT_START
    notes = []
    if meta["choices"]:
        notes.append("one of " + ", ".join(meta["choices"]))
    if KINDS[name] == tuple[str, ...]:
        notes.append("a list of strings; [''] is the empty list")
    if meta["read_only"] and not made.read_only:
        notes.append("may change only while the node is unconfigured")
    made.additional_constraints = "; ".join(notes)
    low, high = meta["minimum"], meta["maximum"]
    if low is not None and KINDS[name] is float:
        made.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    elif low is not None:
        made.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return made


def _default(name: str) -> Any:
    value = FIELDS[name].default
    # rclpy takes an empty list for a byte array, so the empty list of strings is [''].
    return (list(value) or [""]) if isinstance(value, tuple) else value


class Parameters:
    """Declares the parameters of `node`, checks every change and reports it.

    frozen: says whether the node is configured, when settings marked read_only must not change.
    check: raises ConfigError if the node cannot take new settings. apply: takes them over.
    current: the settings in force. Raises ConfigError if a start value is wrong.
    """

    def __init__(
        self,
        node: Node,
        frozen: Callable[[], bool],
        check: Callable[[Settings], None],
        apply: Callable[[Settings], None],
    ) -> None:
        self._node = node
        self._frozen, self._check, self._apply = frozen, check, apply
        values = {}
        for name in FIELDS:
            try:
                values[name] = node.declare_parameter(name, _default(name), descriptor(name)).value
            except ParameterException as err:
                point = " (numbers of type double need a decimal point)" if KINDS[name] is float else ""
                raise ConfigError(f"parameter {name}: {err}. Expected: {explain(name)}{point}") from err
        self.current = build(values)
        _warn_of_unknown(node)
        if hasattr(node, "add_pre_set_parameters_callback"):  # not in Humble
            node.add_pre_set_parameters_callback(_integers_as_doubles)
        node.add_on_set_parameters_callback(self._on_set)
        self._post_set = hasattr(node, "add_post_set_parameters_callback")  # not in Humble
        if self._post_set:
            node.add_post_set_parameters_callback(self._on_changed)

    def _on_set(self, changes: Sequence[Parameter[Any]]) -> SetParametersResult:
        try:
            settings = self._with(changes)
            if self._frozen():
                self._refuse_frozen(changes, settings)
            self._check(settings)
        except ConfigError as err:
            return SetParametersResult(successful=False, reason=str(err))
        if not self._post_set:
            self._on_changed(changes)
        return SetParametersResult(successful=True)

    def _on_changed(self, changes: Sequence[Parameter[Any]]) -> None:
        if any(change.name in FIELDS for change in changes):
            self.current = self._with(changes)
            self._apply(self.current)

    def _with(self, changes: Sequence[Parameter[Any]]) -> Settings:
        return build({**_flat(self.current), **{c.name: c.value for c in changes if c.name in FIELDS}})

    def _refuse_frozen(self, changes: Sequence[Parameter[Any]], settings: Settings) -> None:
        old, new = _flat(self.current), _flat(settings)
        for name in (c.name for c in changes if c.name in FIELDS):
            if FIELDS[name].metadata["read_only"] and old[name] != new[name]:
                node = self._node.get_fully_qualified_name()
                raise ConfigError(
                    f"parameter {name} = {new[name]!r}: fixed while the node is configured. Bring it to "
                    f"unconfigured first (`ros2 lifecycle set {node} deactivate`, then `cleanup`), set it "
                    "and configure again"
                )


def _warn_of_unknown(node: Node) -> None:
    """ROS ignores start values of undeclared parameters, so a misspelt one would go unnoticed."""
    for name in getattr(node, "_parameter_overrides", {}):
        if not node.has_parameter(name) and not name.startswith("qos_overrides."):
            close = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(FIELDS)}"
            node.get_logger().warning(f"unknown parameter {name} is ignored; {hint}")


def _integers_as_doubles(changes: list[Parameter[Any]]) -> list[Parameter[Any]]:
    """`ros2 param set ... 1` sends an integer, which rclpy would refuse for a double."""
    return [
        Parameter(c.name, Parameter.Type.DOUBLE, float(c.value))
        if KINDS.get(c.name) is float and c.type_ == Parameter.Type.INTEGER
        else c
        for c in changes
    ]


def _flat(settings: Settings) -> dict[str, Any]:
    values = {}
    for group in GROUPS:
        options = getattr(settings, group)
        values.update({field.name: getattr(options, field.name) for field in dataclasses.fields(options)})
    return values


def explain(name: str) -> str:
    """Type, range and meaning of a parameter in one line."""
    meta, kind = FIELDS[name].metadata, KINDS[name]
    words = {bool: "true or false", int: "an integer", float: "a double", str: "a string"}
    text = words.get(kind, "a list of strings")
    if meta["choices"]:
        text = "one of " + ", ".join(meta["choices"])
    low, high = meta["minimum"], meta["maximum"]
    if low is not None and math.isfinite(low):
        text += f" in [{low}, {high}]"
    return f"{text} ({meta['doc']})"
