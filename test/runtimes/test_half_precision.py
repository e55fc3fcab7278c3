"""The float16 copy of a graph: valid ONNX, close to the original, coordinates still in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graph import build_model

from fassst_ros.runtimes.half_precision import to_half
from fassst_ros.types import ModelError


def run(data: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def types_of(data: bytes) -> dict[str, int]:
    """Name of each tensor that a node makes -> its element type."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data), strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}


def test_the_small_graph_keeps_its_interface_and_its_answer(model: Path, make_images) -> None:
    original = model.read_bytes()
    half = to_half(original)
    onnx.checker.check_model(onnx.load_model_from_string(half), full_check=True)
    expected, came = run(original, make_images()), run(half, make_images())
    assert {k: (v.shape, v.dtype) for k, v in came.items()} == {
        k: (v.shape, v.dtype) for k, v in expected.items()
    }
    np.testing.assert_array_equal(came["labels"], expected["labels"])
    np.testing.assert_allclose(came["scores"], expected["scores"], atol=1e-3)
    np.testing.assert_allclose(came["boxes"], expected["boxes"], atol=0.1)
    np.testing.assert_allclose(came["masks"], expected["masks"], atol=1e-2)


def test_convolutions_are_half_and_coordinates_are_not(model: Path) -> None:
    types = types_of(to_half(model.read_bytes()))
    graph = onnx.load_model_from_string(to_half(model.read_bytes())).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 5
    assert all(types[node.output[0]] == TensorProto.FLOAT16 for node in convolutions)
    for name in ("low", "high", "size", "points", "scaled", "shifted", "crops"):
        assert types[name] == TensorProto.FLOAT, name
    (pixels,) = (node for node in graph.node if node.input[0] == "images")
    assert types[pixels.output[0]] == TensorProto.FLOAT16  # at once: float32 is never written
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert weights["stem.weight/half"] == TensorProto.FLOAT16
    assert "stem.weight" not in weights  # no float32 copy is left behind
    assert weights["half"] == TensorProto.FLOAT


def graph_of(nodes: list, constants: dict[str, np.ndarray]) -> bytes:
    """A graph from images (1, 4, 4, 2) float to scores."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [info("images", TensorProto.FLOAT, [1, 2, 4, 4])],
        [info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_parameters_keep_or_take_the_type_that_their_operator_wants() -> None:
    weight = np.random.default_rng(0).normal(0, 0.5, (2, 2, 1, 1)).astype(np.float32)
    low = helper.make_node(
        "Constant", [], ["low"], value=numpy_helper.from_array(np.float32(0).reshape(()), "low")
    )
    data = graph_of(
        [
            helper.make_node("Conv", ["images", "weight"], ["a"]),
            low,
            helper.make_node("Clip", ["a", "low", "high"], ["b"]),
            helper.make_node("Resize", ["b", "", "scales"], ["c"], mode="nearest"),
            helper.make_node("Mul", ["c", "stride"], ["scores"]),
        ],
        {
            "weight": weight,
            "high": np.float32(6).reshape(()),
            "scales": np.array([1, 1, 2, 2], np.float32),
            "stride": np.float32(32).reshape(()),
        },
    )
    half = to_half(data)
    images = np.random.default_rng(1).normal(0, 1, (1, 2, 4, 4)).astype(np.float32)
    expected, came = run(data, images)["scores"], run(half, images)["scores"]
    np.testing.assert_allclose(came, expected, atol=0.1)
    types = types_of(half)
    assert types["c/half"] == TensorProto.FLOAT16
    assert types["scores"] == TensorProto.FLOAT  # a product with a constant may be a coordinate


def quantised_graph(tiny_scale: float = 0.02) -> bytes:
    """images -> 8 bits -> Conv -> Relu -> 8 bits -> MaxPool -> Conv -> scores, by explicit Q/DQ."""
    random = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["images", "scale", "zero"], ["q0"]),
        node("DequantizeLinear", ["q0", "scale", "zero"], ["d0"]),
        node("DequantizeLinear", ["w0", "w0_scale", "w0_zero"], ["w0_d"], axis=0),
        node("Conv", ["d0", "w0_d", "bias"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("QuantizeLinear", ["b", "scale", "zero"], ["q1"]),
        node("DequantizeLinear", ["q1", "scale", "zero"], ["d1"]),
        node("MaxPool", ["d1"], ["c"], kernel_shape=[2, 2]),
        node("Conv", ["c", "w1"], ["scores"]),
    ]
    constants = {
        "scale": np.float32(0.02).reshape(()),
        "zero": np.int8(0).reshape(()),
        "w0": random.integers(-127, 128, (4, 2, 3, 3)).astype(np.int8),
        "w0_scale": np.array([0.001, 0.002, 0.003, tiny_scale], np.float32),
        "w0_zero": np.zeros(4, np.int8),
        "bias": random.normal(0, 0.1, 4).astype(np.float32),
        "w1": random.normal(0, 0.5, (3, 4, 1, 1)).astype(np.float32),
    }
    return graph_of(nodes, constants)


def test_what_is_not_in_8_bits_becomes_half() -> None:
    data = quantised_graph()
    half = to_half(data)
    converted = onnx.load_model_from_string(half)
    onnx.checker.check_model(converted, full_check=True)
    assert converted.opset_import[0].version == 19
    types = types_of(half)
    # no cast between a DequantizeLinear and its convolution, nor before the next QuantizeLinear
    assert {types[f"{name}/half"] for name in ("d0", "w0_d", "a", "b", "d1", "c")} == {TensorProto.FLOAT16}
    assert [node.op_type for node in converted.graph.node].count("Cast") == 1  # of the output
    assert {types[name] for name in ("q0", "q1")} == {TensorProto.INT8}
    images = np.random.default_rng(1).normal(0, 1, (1, 2, 4, 4)).astype(np.float32)
    expected, came = run(data, images)["scores"], run(half, images)["scores"]
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(came, expected, atol=0.05)  # one step of the 8 bits in between, and float16


def test_a_scale_that_float16_cannot_hold_stays() -> None:
    half = to_half(quantised_graph(tiny_scale=1e-6))
    types = types_of(half)
    assert types["w0_d"] == TensorProto.FLOAT
    assert types["d0/half"] == TensorProto.FLOAT16


def test_weights_beyond_float16_are_refused() -> None:
    data = graph_of(
        [helper.make_node("Conv", ["images", "weight"], ["scores"])],
        {"weight": np.full((1, 2, 1, 1), 1e5, np.float32)},
    )
    with pytest.raises(ModelError, match="'weight' reach 100000; float16 ends at 65504"):
        to_half(data)


def test_a_damaged_file_is_a_model_error(model: Path) -> None:
    data = model.read_bytes()
    with pytest.raises(ModelError, match="not a readable ONNX file"):
        to_half(data[: len(data) // 2])


def test_control_flow_is_refused() -> None:
    model = build_model()
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], [], then_branch=branch, else_branch=branch))
    with pytest.raises(ModelError, match="control flow"):
        to_half(model.SerializeToString())
