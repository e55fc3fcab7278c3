"""No shipped model gets slower unseen: what its graph holds, and what OpenVINO makes of it, in counts.

At f32 the layers are the same on every x86 CPU with AVX2. A limit is what was counted when it was set, or a
little more; if a new model needs more and is worth it, raise the limit in the same commit and say why.
"""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from fassst_ros.bench.graph_cost import graph_cost

MODELS = sorted((Path(__file__).resolve().parents[1] / "models").glob("*.onnx"))
X86 = platform.machine() in ("x86_64", "AMD64")
#: Layers of OpenVINO that do not work on numbers while a frame is segmented.
FREE = ("Const", "Input", "Output", "Reshape")
#: Those that only read and write memory: activations and sums that are part of no convolution.
UNFUSED = ("Subgraph", "Eltwise", "Math", "FakeQuantize", "Convert")


@dataclass(frozen=True, slots=True)
class Limit:
    """macs: multiply-adds. layers: that OpenVINO runs; unfused: those of them that are in UNFUSED."""

    macs: float
    layers: int
    unfused: int


LIMITS = {
    "fassst_768_street.onnx": Limit(macs=5.3e9, layers=400, unfused=42),
    "fassst_768_street_fast.onnx": Limit(macs=5.3e9, layers=400, unfused=42),
    "fassst_768_street_fast_int8.onnx": Limit(macs=5.3e9, layers=395, unfused=37),
}


def executed(model: Any) -> Counter[str]:
    """Kind of layer -> how many of them OpenVINO runs at f32. model: path, or ONNX as bytes."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    layers = (layer.get_rt_info()["layerType"] for layer in compiled.get_runtime_model().get_ops())
    kinds = Counter(layer if isinstance(layer, str) else layer.astype(str) for layer in layers)
    return Counter({kind: count for kind, count in kinds.items() if kind not in FREE})


def counted(model: Path) -> Limit:
    """What the model needs now."""
    kinds = executed(model)
    return Limit(graph_cost(model).macs, kinds.total(), unfused(kinds))


def unfused(kinds: Counter[str]) -> int:
    return sum(kinds[kind] for kind in UNFUSED)


def with_activation(path: Path) -> bytes:
    """The model with an activation that no convolution takes up, after its first layer."""
    model = onnx.load(path)
    index, node = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "Conv")
    name = node.output[0]
    node.output[0] = "before"
    added = [
        helper.make_node("Tanh", ["before"], ["tanh"]),
        helper.make_node("Mul", ["before", "tanh"], [name]),
    ]
    for offset, one in enumerate(added, start=1):
        model.graph.node.insert(index + offset, one)
    content: bytes = model.SerializeToString()
    return content


def test_every_model_has_limits() -> None:
    new = {model.name: counted(model) for model in MODELS if model.name not in LIMITS}
    assert not new, f"to be added to LIMITS, with some room: {new}"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_multiply_adds(model: Path) -> None:
    assert graph_cost(model).macs <= LIMITS[model.name].macs


@pytest.mark.skipif(not X86, reason="OpenVINO makes other graphs on other CPUs")
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_layers_of_openvino(model: Path) -> None:
    kinds, limit = executed(model), LIMITS[model.name]
    assert kinds.total() <= limit.layers, kinds
    assert unfused(kinds) <= limit.unfused, kinds


@pytest.mark.skipif(not X86, reason="OpenVINO makes other graphs on other CPUs")
def test_an_activation_that_is_not_fused_is_seen() -> None:
    model = MODELS[0]
    assert unfused(executed(with_activation(model))) == unfused(executed(model)) + 1
