"""A real, tiny ONNX model with the package's contract, and its card; for tests of what surrounds networks.

It "finds" rectangles whose place is a constant of the graph, and whose score is the mean
brightness of the red channel: so the answer depends on the image and can be told by hand.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fassst_ros.card import ClassInfo, MaskInfo, ModelCard, sha256

CLASSES = (ClassInfo(1, "person", (220, 20, 60)), ClassInfo(3, "car", (0, 0, 142)))


def tiny_card(
    height: int = 48,
    width: int = 64,
    slots: int = 3,
    cells: int = 8,
    kind: str = "box",
    threshold: float = 0.35,
) -> ModelCard:
    """A card of network-input height x width with two classes: ids 1 person, 3 car."""
    return ModelCard(
        name="tiny",
        network="constant",
        version="1",
        input_height=height,
        input_width=width,
        classes=CLASSES,
        masks=MaskInfo(kind, cells, cells),
        slots=slots,
        score_threshold=threshold,
    )


def make_tiny_model(
    folder: Path,
    boxes: NDArray[np.float32],
    labels: NDArray[np.int32],
    factors: NDArray[np.float32],
    masks: NDArray[np.float32] | None = None,
    card: ModelCard | None = None,
) -> Path:
    """Write tiny.onnx and tiny.json into `folder`; returns the model's path.

    boxes: (K, 4) network-input pixels. labels: (K,). factors: (K,), score = factor * mean red / 255.
    masks: (K, h, w), all 1 if None.
    """
    card = card or tiny_card(slots=len(labels))
    if masks is None:
        masks = np.ones((len(labels), card.masks.height, card.masks.width), np.float32)
    constants = {
        "factor": np.float32(factors)[None] / 255,
        "labels_c": np.int32(labels)[None],
        "boxes_c": np.float32(boxes)[None],
        "masks_c": np.float32(masks)[None],
        "axes": np.int64([1, 2, 3]),
        "starts": np.int64([0]),
        "ends": np.int64([1]),
        "channel": np.int64([3]),
        "flat": np.int64([1, 1]),
    }
    nodes = [
        helper.make_node("Slice", ["images", "starts", "ends", "channel"], ["red8"]),
        helper.make_node("Cast", ["red8"], ["red"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["red", "axes"], ["mean"], keepdims=1),
        helper.make_node("Reshape", ["mean", "flat"], ["mean11"]),
        helper.make_node("Mul", ["mean11", "factor"], ["scores"]),
        *(helper.make_node("Identity", [f"{n}_c"], [n]) for n in ("labels", "boxes", "masks")),
    ]
    k, (h, w) = len(labels), (card.masks.height, card.masks.width)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(
                "images", TensorProto.UINT8, [1, card.input_height, card.input_width, 3]
            )
        ],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, k]),
            helper.make_tensor_value_info("labels", TensorProto.INT32, [1, k]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, k, 4]),
            helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, k, h, w]),
        ],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = folder / "tiny.onnx"
    onnx.save(model, path)
    text = dataclasses.replace(card, files={path.name: sha256(path)}).to_json()
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    return path
