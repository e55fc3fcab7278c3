"""A small graph of the real shape of our exports, with the operators that matter to the runtimes.

uint8 NHWC input, normalisation inside, convolutions, TopK, gathered boxes, masks by GridSample.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fassst_ros.card import ClassInfo, MaskInfo, ModelCard, card_path, sha256

HEIGHT, WIDTH, SLOTS, CELLS, CHANNELS = 64, 96, 5, 8, 16


def build_model(seed: int = 0) -> onnx.ModelProto:
    """The graph; random weights from `seed`."""
    rng = np.random.default_rng(seed)
    initializers: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def const(name: str, value: object, dtype: type = np.float32) -> str:
        initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{outputs[0]}", **attributes))
        return outputs[0]

    def conv(source: str, name: str, c_in: int, c_out: int, size: int, stride: int) -> str:
        weight = rng.normal(0, (2 / (c_in * size * size)) ** 0.5, (c_out, c_in, size, size))
        bias = rng.normal(0, 0.1, c_out)
        inputs = [source, const(f"{name}.weight", weight), const(f"{name}.bias", bias)]
        pads = [size // 2] * 4
        return node("Conv", inputs, [name], kernel_shape=[size, size], strides=[stride] * 2, pads=pads)

    pixels = node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT)
    planar = node("Transpose", [pixels], ["planar"], perm=[0, 3, 1, 2])
    x = node("Mul", [planar, const("scale", 1 / 255)], ["normalised"])
    x = node("Relu", [conv(x, "stem", 3, CHANNELS, 3, 2)], ["stem_relu"])
    features = node("Relu", [conv(x, "body", CHANNELS, CHANNELS, 3, 2)], ["features"])  # (1, C, 16, 24)

    classes = node("Sigmoid", [conv(features, "classes", CHANNELS, 3, 1, 1)], ["class_scores"])
    best = node("ReduceMax", [classes], ["best"], axes=[1], keepdims=0)
    flat = node("Reshape", [best, const("flat_shape", [1, 384], np.int64)], ["flat"])
    node("TopK", [flat, const("k", [SLOTS], np.int64)], ["scores", "slots"], axis=1)
    winner = node("ArgMax", [classes], ["winner"], axis=1, keepdims=0)
    flat_winner = node("Reshape", [winner, "flat_shape"], ["flat_winner"])
    label = node("GatherElements", [flat_winner, "slots"], ["label64"], axis=1)
    node("Cast", [label], ["labels"], to=TensorProto.INT32)

    cells = node("Sigmoid", [conv(features, "cells", CHANNELS, 4, 1, 1)], ["cell_boxes"])
    rows = node("Reshape", [cells, const("rows_shape", [4, 384], np.int64)], ["rows"])
    index = node("Reshape", ["slots", const("index_shape", [SLOTS], np.int64)], ["index"])
    picked = node("Transpose", [node("Gather", [rows, index], ["gathered"], axis=1)], ["picked"], perm=[1, 0])
    half = const("half", [WIDTH / 2, HEIGHT / 2])
    node("Split", [picked], ["corner", "extent"], axis=1)
    low = node("Mul", ["corner", half], ["low"])
    high = node("Add", [low, node("Mul", ["extent", half], ["size"])], ["high"])
    flat_boxes = node("Concat", [low, high], ["flat_boxes"], axis=1)
    node("Reshape", [flat_boxes, const("boxes_shape", [1, SLOTS, 4], np.int64)], ["boxes"])

    steps = (np.arange(CELLS) + 0.5) / CELLS
    unit = np.stack(np.meshgrid(steps, steps), -1)[None]  # (1, 8, 8, 2)
    shape = const("corner_shape", [SLOTS, 1, 1, 2], np.int64)
    spread = node("Mul", [node("Reshape", ["size", shape], ["size4"]), const("unit", unit)], ["spread"])
    points = node("Add", [node("Reshape", [low, shape], ["low4"]), spread], ["points"])
    scaled = node("Mul", [points, const("to_grid", [2 / WIDTH, 2 / HEIGHT])], ["scaled"])
    shifted = node("Sub", [scaled, const("one", 1.0)], ["shifted"])
    folded = node("Reshape", [shifted, const("grid_shape", [1, SLOTS * CELLS, CELLS, 2], np.int64)], ["grid"])
    crops = node(
        "GridSample", [features, folded], ["crops"], mode="bilinear", padding_mode="zeros", align_corners=0
    )
    tail = node("Sigmoid", [conv(crops, "tail", CHANNELS, 1, 1, 1)], ["mask_cells"])
    node("Reshape", [tail, const("masks_shape", [1, SLOTS, CELLS, CELLS], np.int64)], ["masks"])

    info = helper.make_tensor_value_info
    outputs = [
        info("scores", TensorProto.FLOAT, [1, SLOTS]),
        info("labels", TensorProto.INT32, [1, SLOTS]),
        info("boxes", TensorProto.FLOAT, [1, SLOTS, 4]),
        info("masks", TensorProto.FLOAT, [1, SLOTS, CELLS, CELLS]),
    ]
    images = info("images", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])
    graph = helper.make_graph(nodes, "tiny", [images], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def build_card(model: Path) -> ModelCard:
    """The card of the graph stored at `model`."""
    classes = tuple(ClassInfo(i + 1, name, (i, 0, 0)) for i, name in enumerate(("person", "car", "bus")))
    masks = MaskInfo("box", CELLS, CELLS)
    files = {model.name: sha256(model)}
    return ModelCard("tiny", "fassst", "0", HEIGHT, WIDTH, classes, masks, SLOTS, files=files)


def write_model(folder: Path, seed: int = 0) -> Path:
    """Graph and card as files; returns the .onnx."""
    path = folder / "tiny.onnx"
    path.write_bytes(build_model(seed).SerializeToString())
    card_path(path).write_text(build_card(path).to_json(), encoding="utf-8")
    return path
