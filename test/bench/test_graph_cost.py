"""Multiply-adds and parameters of small graphs, against counts by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fassst_ros.bench.graph_cost import graph_cost
from fassst_ros.bench.peak import CHAIN, SIDE, write_chain
from fassst_ros.types import ModelError


def write(folder: Path, nodes: Sequence[Any], shape: Sequence[int], **weights: Any) -> Path:
    """A graph x -> y; weights: name -> array."""
    graph = helper.make_graph(
        list(nodes),
        "counted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    path = folder / "counted.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def ramp(*shape: int) -> Any:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_convolution(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    cost = graph_cost(write(tmp_path, [node], (1, 3, 8, 6), w=ramp(4, 3, 3, 3), b=ramp(4)))
    assert cost.macs == (4 * 4 * 3) * (3 * 3 * 3)  # output 4 x 4 x 3
    assert cost.parameters == 4 * 3 * 3 * 3 + 4
    assert (cost.operations, cost.file_bytes) == (1, (tmp_path / "counted.onnx").stat().st_size)


def test_depthwise_convolution(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=4, pads=[1, 1, 1, 1])
    assert graph_cost(write(tmp_path, [node], (1, 4, 5, 5), w=ramp(4, 1, 3, 3))).macs == 4 * 25 * 9


def test_transposed_convolution(tmp_path: Path) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    # each of 2 x 3 x 3 inputs meets 5 output channels and 2 x 2 weights
    assert graph_cost(write(tmp_path, [node], (1, 2, 3, 3), w=ramp(2, 5, 2, 2))).macs == 18 * 5 * 4


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(tmp_path: Path, transposed: int) -> None:
    shape = (7, 5) if transposed else (5, 7)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transA=transposed)
    cost = graph_cost(write(tmp_path, [node], shape, w=ramp(7, 3), b=ramp(3)))
    assert (cost.macs, cost.parameters) == (5 * 7 * 3, 7 * 3 + 3)


def test_matrix_product_of_batches(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert graph_cost(write(tmp_path, [node], (2, 4, 5, 7), w=ramp(7, 3))).macs == 2 * 4 * 5 * 7 * 3


def test_a_layer_that_runs_twice_has_its_parameters_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"]),
        helper.make_node("Conv", ["a", "w2", "b2"], ["y"]),  # the same numbers under another name
    ]
    weights = {"w": ramp(3, 3, 1, 1), "b": ramp(3), "w2": ramp(3, 3, 1, 1), "b2": ramp(3)}
    cost = graph_cost(write(tmp_path, nodes, (1, 3, 4, 4), **weights))
    assert (cost.macs, cost.parameters) == (2 * 16 * 9, 9 + 3)


def test_eight_bit_weights_count_and_their_scales_do_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    weights = {"w8": np.ones((4, 3, 1, 1), np.int8), "scale": np.float32(0.1), "zero": np.int8(0)}
    cost = graph_cost(write(tmp_path, nodes, (1, 3, 2, 2), **weights))
    assert (cost.macs, cost.parameters) == (4 * 4 * 3, 12)


@pytest.mark.parametrize("quantised", [False, True])
def test_the_chain_of_products_is_what_its_count_says(tmp_path: Path, quantised: bool) -> None:
    path = tmp_path / "chain.onnx"
    write_chain(path, quantised)
    onnx.checker.check_model(onnx.load(path))
    cost = graph_cost(path)
    assert (cost.macs, cost.parameters) == (CHAIN * SIDE**3, CHAIN * SIDE * SIDE)


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"no graph at all")
    with pytest.raises(ModelError, match=r"cannot count what no\.onnx costs"):
        graph_cost(path)
