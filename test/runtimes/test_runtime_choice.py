"""The registry, the choice of `auto` and the check of graph against card."""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path

import numpy as np
import pytest

from fassst_ros.card import MaskInfo, load_card
from fassst_ros.config import RuntimeOptions, from_mapping
from fassst_ros.runtimes import AUTO_ORDER, RUNTIMES, check_specs, create_runtime
from fassst_ros.runtimes.base import GraphRuntime, usable_cores
from fassst_ros.runtimes.cuda_driver import Driver
from fassst_ros.types import ConfigError, ModelError, RuntimeUnavailable


def has_gpu() -> bool:
    try:
        return Driver().device_count > 0
    except RuntimeUnavailable:
        return False


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_entry_is_a_runtime_of_that_name(name: str) -> None:
    module, attribute = RUNTIMES[name].split(":")
    runtime = getattr(importlib.import_module(module), attribute)
    assert issubclass(runtime, GraphRuntime)
    assert runtime.name == name
    from_mapping(RuntimeOptions, {"runtime": name}, "test")  # the settings know it, too


def test_auto_order_are_runtimes() -> None:
    assert set(AUTO_ORDER) <= set(RUNTIMES)
    assert "torch" not in AUTO_ORDER


def test_an_unknown_runtime_lists_the_known_ones(model: Path) -> None:
    with pytest.raises(ConfigError, match="'tflite'; expected one of auto, tensorrt, openvino, onnxruntime"):
        create_runtime(model, RuntimeOptions(runtime="tflite"))


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU; the test is about machines without")
def test_auto_takes_openvino_without_a_gpu_and_says_why(model: Path) -> None:
    lines: list[str] = []
    with create_runtime(model, RuntimeOptions(), lines.append) as runtime:
        assert runtime.name == "openvino"
        assert f"runtime auto: chose openvino on {runtime.device} in {runtime.precision}" in lines
    assert any(line.startswith("runtime auto: not tensorrt: ") and "CUDA" in line for line in lines)


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU; the test is about machines without")
def test_auto_names_every_reason_when_nothing_works(model: Path) -> None:
    lines: list[str] = []
    with pytest.raises(ConfigError) as caught:
        create_runtime(model, RuntimeOptions(precision="int8"), lines.append)
    for name in AUTO_ORDER:
        assert f"{name}: " in str(caught.value)
        assert any(line.startswith(f"runtime auto: not {name}: ") for line in lines)


def test_auto_survives_a_runtime_that_is_broken(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "tensorrt", "fassst_ros.runtimes.no_such_module:Runtime")
    lines: list[str] = []
    with create_runtime(model, RuntimeOptions(), lines.append) as runtime:
        assert runtime.name == "openvino"
    assert lines[0].startswith("runtime auto: not tensorrt: ModuleNotFoundError: No module named")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000", 2), ("1000 100000", 1), ("900000000 100000", None), ("max 100000", None), ("?", None)],
)
def test_container_limits_count_as_cores(text: str, expected: int | None, tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    quota = tmp_path / "cpu.max"
    quota.write_text(text + "\n", encoding="ascii")
    assert usable_cores(quota) == (allowed if expected is None else min(expected, allowed))
    assert usable_cores(tmp_path / "missing") == allowed


def changed(card, **masks: int):
    return dataclasses.replace(card, masks=MaskInfo("box", **{"height": 8, "width": 8, **masks}))


def test_a_graph_that_does_not_fit_its_card_is_refused(model: Path) -> None:
    card = load_card(model)
    with create_runtime(model, RuntimeOptions(runtime="onnxruntime")) as runtime:
        check_specs(runtime, card)
        for wrong in (
            dataclasses.replace(card, input_height=65),
            dataclasses.replace(card, slots=6),
            changed(card, height=9),
        ):
            with pytest.raises(ModelError, match="does not fit its card") as caught:
                check_specs(runtime, wrong)
            assert "uint8 (1, 64, 96, 3)" in str(caught.value) or "masks float32" in str(caught.value)
        runtime.outputs = tuple(
            dataclasses.replace(spec, dtype=np.dtype(np.int64)) if spec.name == "labels" else spec
            for spec in runtime.outputs
        )
        with pytest.raises(ModelError, match="labels int64"):
            check_specs(runtime, card)
