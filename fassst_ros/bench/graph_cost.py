"""What an ONNX graph costs by itself: multiply-adds and parameters, counted in the graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fassst_ros.types import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

#: Operations whose multiply-adds and weights are counted.
COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class GraphCost:
    """macs: multiply-adds of one run in Conv, ConvTranspose, Gemm and MatMul; all else is not counted.

    parameters: numbers in their weights and biases; a layer that runs twice counts once.
    operations: nodes of the graph. file_bytes: of the file.
    """

    macs: int
    parameters: int
    operations: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One Conv, ConvTranspose, Gemm or MatMul. numbers: how many it reads and writes, each once."""

    macs: int
    numbers: int


def layer_costs(path: Path) -> list[LayerCost]:
    """Of every counted node of an ONNX file. Raises ModelError like `graph_cost`."""
    model = _with_shapes(path)
    shapes = _shapes(model)
    costs = []
    for node in model.graph.node:
        if node.op_type in COUNTED:
            macs = _macs(node, shapes)
            tensors = (*node.input, node.output[0])
            costs.append(LayerCost(macs, sum(math.prod(shapes[name]) for name in tensors if name)))
    return costs


def graph_cost(path: Path) -> GraphCost:
    """Count in an ONNX file with static shapes. Raises ModelError if it is none."""
    model = _with_shapes(path)
    shapes = _shapes(model)
    counted = [node for node in model.graph.node if node.op_type in COUNTED]
    return GraphCost(
        sum(_macs(node, shapes) for node in counted),
        _parameters(model.graph, counted),
        len(model.graph.node),
        path.stat().st_size,
    )


def _with_shapes(path: Path) -> ModelProto:
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    except Exception as err:  # what onnx and protobuf raise shares no base class
        raise ModelError(f"cannot count what {path.name} costs: {err}") from err


def _shapes(model: ModelProto) -> Shapes:
    """Shape of every tensor whose shape is known. A dimension without a value counts as one."""
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        if info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            shapes[info.name] = tuple(d.dim_value or 1 for d in dims)
    return shapes


def _macs(node: NodeProto, shapes: Shapes) -> int:
    """Multiply-adds of one node. Raises ModelError if a shape is not known."""
    try:
        left, right, out = (shapes[name] for name in (*node.input[:2], node.output[0]))
    except KeyError as err:
        raise ModelError(f"the graph does not say the shape of {err} ({node.op_type} {node.name})") from err
    if node.op_type == "Conv":  # weight (out, in / groups, rows, columns)
        return math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":  # weight (in, out / groups, rows, columns)
        return math.prod(left) * math.prod(right[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(out) * left[0 if transposed else 1]
    return math.prod(out) * left[-1]


def _parameters(graph: GraphProto, counted: list[NodeProto]) -> int:
    """Numbers in the weights of these nodes. A layer may be in the file once for each of its uses."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:  # 8-bit weights
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    layers: dict[bytes, int] = {}
    for node in counted:
        tensors = [constants[name] for name in node.input if name in constants]
        weights = [numpy_helper.to_array(tensor) for tensor in tensors if len(tensor.dims) > 1]
        if weights:
            layers[weights[0].tobytes()] = sum(math.prod(tensor.dims) for tensor in tensors)
    return sum(layers.values())
