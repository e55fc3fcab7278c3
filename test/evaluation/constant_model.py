"""An ONNX model with the package's contract that finds one and the same rectangle in every image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fassst_ros.card import ClassInfo, MaskInfo, ModelCard, card_path, sha256

CLASSES = (ClassInfo(1, "person", (220, 20, 60)), ClassInfo(3, "car", (0, 0, 142)))
SIZE, CELLS = 64, 12  # network input and mask cells, square
BOX = (16.0, 8.0, 48.0, 56.0)  # x_min y_min x_max y_max in the network input


def write_constant_model(folder: Path, label: int = 1) -> Path:
    """Write found.onnx and its card; slot 0 is BOX with `label`, filled, slot 1 scores 0."""
    cells = np.zeros((1, 2, CELLS, CELLS), np.float32)
    cells[:, :, 1:-1, 1:-1] = 1.0  # the box without its padding of 0.1 on each side
    constants = {
        "scores_c": np.array([[0.9, 0.0]], np.float32),
        "labels_c": np.array([[label, 0]], np.int32),
        "boxes_c": np.array([[BOX, BOX]], np.float32),
        "masks_c": cells,
        "zero": np.zeros(1, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "zero"], ["nothing"]),
        helper.make_node("Add", ["scores_c", "nothing"], ["scores"]),
        *(helper.make_node("Identity", [f"{name}_c"], [name]) for name in ("labels", "boxes", "masks")),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "constant",
        [info("images", TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [
            info("scores", TensorProto.FLOAT, [1, 2]),
            info("labels", TensorProto.INT32, [1, 2]),
            info("boxes", TensorProto.FLOAT, [1, 2, 4]),
            info("masks", TensorProto.FLOAT, [1, 2, CELLS, CELLS]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "found.onnx"
    onnx.save(model, path)
    masks = MaskInfo("box", CELLS, CELLS)
    card = ModelCard(
        "found", "constant", "1", SIZE, SIZE, CLASSES, masks, slots=2, files={path.name: sha256(path)}
    )
    card_path(path).write_text(card.to_json(), encoding="utf-8")
    return path
