"""INT8 exports for TensorRT: TensorRT-RTX builds them, plain and for whole frames; the rest is float16."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto

from fassst_ros.card import MaskInfo, ModelCard, load_card
from fassst_ros.export import export_int8, export_model
from fassst_ros.labels import STREET
from fassst_ros.networks import build_network
from fassst_ros.runtimes.half_precision import to_half
from fassst_ros.runtimes.tensorrt_engine import build_engine

CONFIG = {
    **{"num_classes": 7, "input_size": [64, 96], "grid": 3, "width": 16, "roi_size": 8},
    **{"backbone": "cspdarknet_nano", "peaks": "levels", "activation": "relu"},
}


@pytest.fixture(scope="module", params=[None, (128, 192)], ids=["plain", "whole frames"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small network of random weights in INT8."""
    torch.manual_seed(0)
    network = build_network("fassst", **CONFIG)
    for head in network.iam.heads:
        torch.nn.init.normal_(head.classify.weight, std=1.0)  # slots that differ
    card = ModelCard("tiny", "fassst", "0", 1, 1, STREET, MaskInfo("frame", 1, 1), 1, config=CONFIG)
    model, _ = export_model(network, card, tmp_path_factory.mktemp("int8"), request.param)
    return export_int8(model, [image(load_card(model))], "tensorrt", {}).read_bytes()


def image(card: ModelCard) -> np.ndarray:
    shape = (1, card.input_height, card.input_width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def run(data: bytes) -> np.ndarray:
    """The scores, as the graph is written: ONNX Runtime's own rewriting knows no float16 scales."""
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    card = ModelCard.from_json(session.get_modelmeta().custom_metadata_map["fassst_ros.card"], "metadata")
    return np.asarray(session.run(["scores"], {"images": image(card)})[0])


def test_it_builds_with_the_rest_in_float16(exported: bytes) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    half = to_half(exported)
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(half), strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    eight_bits = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert sum(node.input[0] in eight_bits for node in convolutions) > len(convolutions) // 2
    assert all(types[node.output[0]] == TensorProto.FLOAT16 for node in convolutions)
    assert len(build_engine(rtx, half, "int8", print)) > 100_000


def test_it_builds_with_the_rest_in_float32(exported: bytes) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert len(build_engine(rtx, exported, "int8", print)) > 100_000


def test_the_rest_in_float16_changes_little(exported: bytes) -> None:
    expected = run(exported)
    assert expected.max() > 0.05
    # a value at the edge of two of the 256 steps may fall to either side, and move a score of random weights
    assert np.abs(run(to_half(exported)) - expected).mean() < 0.01
