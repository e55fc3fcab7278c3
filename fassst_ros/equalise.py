"""Cross-layer equalisation: an ONNX graph whose channels fill 8 bits alike, with the same results in float.

The scale of a tensor is that of its largest channel. In the first layers of a small ReLU network
channels differ by tens: those that are small there keep two or three bits without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.runtimes.base import INPUT_NAME


def equalise(model: Any, images: Iterable[NDArray[np.uint8]]) -> int:
    """Scale channels between two convolutions so that all reach as high; returns how many pairs there were.

    Where only one convolution reads a ReLU, its channels may be multiplied before and divided after (Nagel et
    al., "Data-free quantization through weight equalization", 2019, section 4.1; here by ranges measured on
    images). Depthwise layers take the whole difference; others, whose weights share a scale, its root.
    Weights that two convolutions read are an error of the caller.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = _pairs(model.graph, tensors)
    peaks = _channel_peaks(model, [before.output[0] for before, _ in pairs], images)
    for before, after in pairs:
        peak = peaks[before.output[0]]
        highest = np.maximum(peak, max(1e-3 * peak.max(), 1e-6))
        depthwise = tensors[after.input[1]].dims[1] == 1
        factor = (highest.max() / highest) ** (1.0 if depthwise else 0.5)
        scales = [
            (before.input[1], factor.reshape(-1, 1, 1, 1)),
            *((bias, factor) for bias in before.input[2:]),
        ]
        scales.append((after.input[1], 1 / factor.reshape((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1))))
        for name, by in scales:
            scaled = (numpy_helper.to_array(tensors[name]) * by).astype(np.float32)
            tensors[name].CopyFrom(numpy_helper.from_array(scaled, name))
    return len(pairs)


def _pairs(graph: Any, tensors: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Convolutions with nothing but one ReLU between them, and with constant weights."""
    made_by = {node.output[0]: node for node in graph.node}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    pairs = []
    for after in graph.node:
        relu = made_by.get(after.input[0]) if after.op_type == "Conv" else None
        before = made_by.get(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
        if relu is None or before is None or before.op_type != "Conv":
            continue
        alone = len(readers[relu.output[0]]) == len(readers[before.output[0]]) == 1
        channels = tensors[before.input[1]].dims[0] if before.input[1] in tensors else 0
        known = all(name in tensors for name in (*before.input[1:], *after.input[1:2]))
        # dense, or depthwise: what lies between belongs to some of the channels
        if alone and known and tensors[after.input[1]].dims[1] in (1, channels):
            pairs.append((before, after))
    return pairs


def _channel_peaks(
    model: Any, names: list[str], images: Iterable[NDArray[np.uint8]]
) -> dict[str, NDArray[np.float32]]:
    """The largest value of each channel of the named tensors, on average over the images."""
    import onnx
    import onnxruntime

    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    del measured.graph.output[:]
    for name in names:
        peak = f"{name}/peak"
        node = onnx.helper.make_node("ReduceMax", [name], [peak], axes=[0, 2, 3], keepdims=0)
        measured.graph.node.append(node)
        measured.graph.output.append(onnx.helper.make_tensor_value_info(peak, onnx.TensorProto.FLOAT, None))
    if not names:
        return {}
    session = onnxruntime.InferenceSession(measured.SerializeToString(), providers=["CPUExecutionProvider"])
    values = [session.run(None, {INPUT_NAME: image}) for image in images]
    return {name: np.mean([peaks[i] for peaks in values], 0) for i, name in enumerate(names)}
