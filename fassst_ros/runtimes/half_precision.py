"""An FP16 copy of an FP32 ONNX graph for engines whose precision lives in the graph (TensorRT 10 on).

Only what costs time and bears it is converted: convolutions and products with constant weights, the
simple operators between them, and those from the pixels to them. Box coordinates (float16 has steps of
0.5 px above 512), sampling grids, sums over the image, norms, exponentials and ranking stay in float32.
Inputs and outputs keep their types. Of a quantised graph, what is not in 8 bits is converted in the same way:
scales become float16, so that no cast stands between a DequantizeLinear and its convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fassst_ros.types import ModelError

#: Converted wherever they stand (products only where the right side is constant).
HEAVY = ("Conv", "ConvTranspose")
PRODUCTS = ("MatMul", "Gemm")
#: Converted where all their data come from converted nodes: constants here may be coordinates.
BETWEEN = (
    *("Add", "Mul", "Concat", "Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Clip"),
    *("MaxPool", "AveragePool", "Resize", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
)
#: Inputs of BETWEEN that are parameters rather than data, and whether they take the type of the data.
PARAMETERS = {"Clip": True, "Resize": False, "Reshape": False, "Squeeze": False, "Unsqueeze": False}

#: Since this opset, scales may be float16. GridSample means something else from 20 on in TensorRT.
QUANTISED_OPSET = 19
#: Relative error that a scale may get: of normal float16 numbers it is 2 ** -11.
SCALE_ERROR = 0.005


def to_half(data: bytes) -> bytes:
    """The model with its heavy part in float16. Needs the onnx package (ImportError without it).

    Raises ModelError for a file that is no ONNX model, control flow, or weights beyond float16.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as err:  # protobuf's DecodeError, which onnx does not name
        raise ModelError(f"the model is not a readable ONNX file: {err}") from err
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        model = with_opset(onnx, model, QUANTISED_OPSET)
    HalfConverter(onnx, model.graph).run()
    converted: bytes = model.SerializeToString()
    return converted


def with_opset(onnx: Any, model: Any, opset: int) -> Any:
    """The model in at least this opset. Raises ModelError if onnx cannot convert it."""
    if any(entry.domain in ("", "ai.onnx") and entry.version >= opset for entry in model.opset_import):
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as err:  # a bare RuntimeError, or what its parser raises
        raise ModelError(
            f"the model cannot be converted to opset {opset}, for float16 scales: {err}"
        ) from err


class HalfConverter:
    """Rewrites one graph in place, node by node in their order."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx = onnx
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        pixels = onnx.TensorProto.UINT8
        self._pixels = {i.name for i in graph.input if i.type.tensor_type.elem_type == pixels}
        self._half: dict[str, str] = {}  # float32 name -> name of its float16 twin
        self._only_half: set[str] = set()  # names that exist as float16 only, so far
        self._nodes: list[Any] = []

    def run(self) -> None:
        """Convert. The graph is only changed when all of it could be converted."""
        for node in self._graph.node:
            if any(attribute.HasField("g") for attribute in node.attribute):
                raise ModelError(
                    f"node {node.name!r} ({node.op_type}) is control flow; expected none for fp16. Set "
                    "precision to f32"
                )
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                tensor = self._onnx.TensorProto()
                tensor.CopyFrom(node.attribute[0].t)
                tensor.name = node.output[0]
                self._constants[tensor.name] = tensor
            elif self._reads_pixels(node):
                self._convert_pixels(node)
            elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                self._convert_scale(node)
            elif self._is_half(node):
                self._convert(node)
            else:
                self._keep(node)
        for output in self._graph.output:
            self._need_float(output.name)
        used = {name for node in self._nodes for name in node.input} | {o.name for o in self._graph.output}
        constants = [tensor for name, tensor in self._constants.items() if name in used]
        for field in (self._graph.node, self._graph.initializer, self._graph.value_info):
            del field[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(constants)

    def _reads_pixels(self, node: Any) -> bool:
        to_float = self._onnx.TensorProto.FLOAT
        return node.op_type == "Cast" and node.input[0] in self._pixels and node.attribute[0].i == to_float

    def _convert_pixels(self, node: Any) -> None:
        """Whole numbers up to 255 are exact; a resize of whole frames then moves half the bytes."""
        name = node.output[0]
        self._half[name] = f"{name}/half"
        self._only_half.add(name)
        self._cast(node.input[0], self._half[name], self._onnx.TensorProto.FLOAT16)

    def _convert_scale(self, node: Any) -> None:
        """To float16, where the features are, or come out, in it, and the scale fits."""
        quantises = node.op_type == "QuantizeLinear"
        if (quantises and node.input[0] not in self._half) or not self._fits(node.input[1]):
            self._keep(node)
            return
        copy = self._copy(node)
        copy.input[1] = self._half_of(node.input[1])
        if quantises:
            copy.input[0] = self._half_of(node.input[0])
        else:
            name = node.output[0]
            copy.output[0] = self._half[name] = f"{name}/half"
            self._only_half.add(name)
        self._nodes.append(copy)

    def _fits(self, scale: str) -> bool:
        if scale not in self._constants:
            return False
        values = self._onnx.numpy_helper.to_array(self._constants[scale])
        with np.errstate(over="ignore"):
            error = np.abs(values.astype(np.float16).astype(np.float64) - values)
        return bool((error <= SCALE_ERROR * np.abs(values)).all())

    def _is_half(self, node: Any) -> bool:
        if node.op_type in PRODUCTS:
            return node.input[1] in self._constants
        if node.op_type in BETWEEN:
            return all(name in self._half for name in self._data(node))
        return node.op_type in HEAVY

    @staticmethod
    def _data(node: Any) -> list[str]:
        return list(node.input[:1] if node.op_type in PARAMETERS else node.input)

    def _convert(self, node: Any) -> None:
        copy = self._copy(node)
        for index, name in enumerate(node.input):
            parameter = index > 0 and not PARAMETERS.get(node.op_type, True)
            if name and not parameter:
                copy.input[index] = self._half_of(name)
            elif name:
                self._need_float(name)
        for index, name in enumerate(node.output):
            copy.output[index] = self._half[name] = f"{name}/half"
            self._only_half.add(name)
        self._nodes.append(copy)

    def _keep(self, node: Any) -> None:
        for name in node.input:
            self._need_float(name)
        self._nodes.append(self._copy(node))

    def _copy(self, node: Any) -> Any:
        copy = self._onnx.NodeProto()
        copy.CopyFrom(node)
        return copy

    def _half_of(self, name: str) -> str:
        """The float16 twin of a float32 tensor, made at its first use."""
        if name not in self._half:
            half = self._half[name] = f"{name}/half"
            if name in self._constants:
                self._constants[half] = self._half_constant(name, half)
            else:
                self._cast(name, half, self._onnx.TensorProto.FLOAT16)
        return self._half[name]

    def _half_constant(self, name: str, half: str) -> Any:
        values = self._onnx.numpy_helper.to_array(self._constants[name])
        with np.errstate(over="ignore"):
            converted = values.astype(np.float16)
        # infinite bounds (of a Clip) stay what they are; finite weights must stay finite
        if not np.array_equal(np.isfinite(converted), np.isfinite(values)):
            raise ModelError(
                f"weights {name!r} reach {np.abs(values).max():g}; float16 ends at 65504. Set precision f32"
            )
        return self._onnx.numpy_helper.from_array(converted, half)

    def _need_float(self, name: str) -> None:
        if name in self._only_half:
            self._only_half.remove(name)
            self._cast(self._half[name], name, self._onnx.TensorProto.FLOAT)

    def _cast(self, source: str, target: str, to: int) -> None:
        node = self._onnx.helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=to)
        self._nodes.append(node)
