"""Settings from mappings and YAML: defaults, conversions, and errors that name the setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fassst_ros.config import RuntimeOptions, SegmentOptions, from_mapping, load_yaml, setting
from fassst_ros.types import ConfigError


def test_defaults_and_values() -> None:
    assert from_mapping(SegmentOptions, {}, "here") == SegmentOptions()
    given = {"score_threshold": 1, "max_instances": 5.0, "classes": ["car", ""]}
    options = from_mapping(SegmentOptions, given, "here")
    assert options == SegmentOptions(1.0, -1.0, 5, ("car",))
    assert isinstance(options.score_threshold, float)
    assert isinstance(options.max_instances, int)


def test_numbers_that_yaml_takes_for_strings(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("score_threshold: 1e-4\nmax_instances: 1e2\n", encoding="utf-8")
    options = from_mapping(SegmentOptions, load_yaml(path), str(path))
    assert options == SegmentOptions(score_threshold=0.0001, max_instances=100)
    assert isinstance(options.max_instances, int)


@pytest.mark.parametrize(
    ("cls", "values", "problem"),
    [
        (SegmentOptions, {"threshold": 1}, "unknown setting threshold; known: score_threshold"),
        (SegmentOptions, {"score_threshold": float("nan")}, "a finite number"),
        (SegmentOptions, {"score_threshold": 1.1}, r"\[-1.0, 1.0\]"),
        (SegmentOptions, {"score_threshold": "high"}, "score_threshold = 'high'; expected a number"),
        (SegmentOptions, {"score_threshold": "-inf"}, "a finite number"),
        (SegmentOptions, {"score_threshold": "1e1"}, r"\[-1.0, 1.0\]"),
        (SegmentOptions, {"max_instances": "2.5e0"}, "a whole number"),
        (SegmentOptions, {"score_threshold": True}, "a number"),
        (SegmentOptions, {"max_instances": 0}, r"\[1, 65535\]"),
        (SegmentOptions, {"max_instances": 2.5}, "a whole number"),
        (SegmentOptions, {"max_instances": 10**400}, "max_instances"),
        (SegmentOptions, {1: 2, "b": 3}, "unknown setting 1, b"),
        (SegmentOptions, {"classes": "car"}, "a list of strings"),
        (SegmentOptions, {"classes": [1]}, "a list of strings"),
        (SegmentOptions, {"classes": 5}, "a list of strings"),
        (RuntimeOptions, {"runtime": "cuda"}, "one of auto, tensorrt"),
        (RuntimeOptions, {"runtime": 3}, "a string"),
        (RuntimeOptions, {"threads": -1}, r"\[0, 256\]"),
    ],
)
def test_wrong_values_are_named(cls: type[Any], values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"here: .*{problem}"):
        from_mapping(cls, values, "here")


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("runtime: openvino\nthreads: 2\n", encoding="utf-8")
    assert from_mapping(RuntimeOptions, load_yaml(path), str(path)).threads == 2
    path.write_text("", encoding="utf-8")
    assert load_yaml(path) == {}


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"a: [1\n", b"\xff\xfe\x00", b"text"])
def test_broken_yaml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_yaml(path)
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        load_yaml(tmp_path / "missing.yaml")


@dataclass(frozen=True, slots=True)
class Lists:
    marks: tuple[float, ...] = setting((), "any number of numbers", minimum=0.0, maximum=1.0)
    span: tuple[float, float] = setting((0.5, 1.0), "from, to", minimum=0.1)


def test_lists_of_numbers() -> None:
    lists = from_mapping(Lists, {"marks": [0.5, 1], "span": [1, 2]}, "here")
    assert lists == Lists((0.5, 1.0), (1.0, 2.0))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"marks": 0.5}, "a list of numbers"),
        ({"marks": [0.5, 2]}, r"marks\[1\] = 2; expected a value in \[0.0, 1.0\]"),
        ({"span": [1.0]}, "two rising numbers"),
        ({"span": [2.0, 1.0]}, "two rising numbers"),
        ({"span": [0.0, 1.0]}, r"span\[0\] = 0.0"),
    ],
)
def test_wrong_lists_of_numbers(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        from_mapping(Lists, values, "here")
