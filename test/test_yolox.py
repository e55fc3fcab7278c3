"""The YOLOX detector, on a graph whose answer is known and on the real one where it is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fassst_ros.coco_format import load_image
from fassst_ros.types import InputError, ModelError
from fassst_ros.yolox import CATEGORY_IDS, YoloxDetector

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "yolox_nano.onnx"
STREET = SHARED / "data" / "coco_street"
SIDE = 64
CELLS = 8 * 8 + 4 * 4 + 2 * 2


def write_graph(
    folder: Path, found: list[tuple[int, list[float], float, int, float]], classes: int = 80
) -> Path:
    """A YOLOX that always finds (position, [dx, dy, log w, log h], objectness, class, its score).

    An image without a blue pixel is empty to it: objectness is multiplied by the blue there is.
    """
    raw = np.zeros((1, CELLS, 5 + classes), np.float32)
    for position, box, objectness, label, score in found:
        raw[0, position, :4] = box
        raw[0, position, 4] = objectness
        raw[0, position, 5 + label] = score
    only_objectness = np.zeros((1, 1, 5 + classes), np.float32)
    only_objectness[..., 4] = 1
    constants = {
        "raw": raw, "mask": only_objectness, "rest": 1 - only_objectness, "starts": np.int64([0]),
        "ends": np.int64([1]), "axes": np.int64([1]), "full": np.float32(255), "flat": np.int64([1, 1, 1]),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Slice", ["images", "starts", "ends", "axes"], ["blue"]),  # the first channel of BGR
        node("ReduceMax", ["blue"], ["most"], keepdims=0),
        node("Div", ["most", "full"], ["share"]),
        node("Reshape", ["share", "flat"], ["share3"]),
        node("Mul", ["mask", "share3"], ["scaled"]),
        node("Add", ["scaled", "rest"], ["factor"]),
        node("Mul", ["raw", "factor"], ["output"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "yolox",
        [info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [info("output", TensorProto.FLOAT, [1, CELLS, 5 + classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = folder / "yolox.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def image(height: int = 64, width: int = 128, blue: int = 255) -> np.ndarray:
    """RGB with `blue` in its last channel."""
    return np.full((height, width, 3), (0, 0, blue), np.uint8)


def test_boxes_are_decoded_to_source_pixels(tmp_path: Path) -> None:
    # cell (row 1, column 2) of stride 8: centre (2.5, 1.25) * 8 = (20, 10); sides 16 and 8 network pixels
    found = [(1 * 8 + 2, [0.5, 0.25, np.log(2), 0.0], 0.8, 2, 0.5)]
    with YoloxDetector(write_graph(tmp_path, found), threads=1) as detector:
        boxes = detector.detect(image(64, 128))  # letterboxed: half as large in the network
    np.testing.assert_allclose(boxes.boxes, [[24, 12, 56, 28]], atol=1e-4)
    np.testing.assert_allclose(boxes.scores, [0.4], atol=1e-6)
    assert boxes.category_ids.tolist() == [3]
    assert (boxes.boxes.dtype, boxes.scores.dtype) == (np.float32, np.float32)


def test_cells_of_all_strides_and_colour_order(tmp_path: Path) -> None:
    found = [
        (64 + 1 * 4 + 1, [0.5, 0.5, 0.0, 0.0], 0.9, 0, 1.0),  # stride 16: centre (24, 24), side 16
        (64 + 16 + 1, [0.0, 0.5, 0.0, 0.0], 1.0, 1, 0.5),  # stride 32: centre (32, 16), side 32
    ]
    with YoloxDetector(write_graph(tmp_path, found), threads=1) as detector:
        boxes = detector.detect(image(64, 64))
        assert len(detector.detect(image(64, 64, blue=0), 0.1)) == 0
        assert len(detector.detect(image(64, 64), 0.6)) == 1
    np.testing.assert_allclose(boxes.boxes, [[16, 16, 32, 32], [16, 0, 48, 32]], atol=1e-4)
    assert boxes.category_ids.tolist() == [1, 2]


def test_overlapping_boxes_of_one_class_are_merged_and_boxes_stay_in_the_image(tmp_path: Path) -> None:
    box = [0.5, 0.5, np.log(4), np.log(4)]
    found = [(0, box, 0.6, 0, 1.0), (1, box, 0.9, 0, 1.0), (8, box, 0.5, 2, 1.0)]
    with YoloxDetector(write_graph(tmp_path, found), threads=1) as detector:
        merged = detector.detect(image(64, 64), nms_iou=0.5)
        kept = detector.detect(image(64, 64), nms_iou=0.9)
    assert merged.category_ids.tolist() == [1, 3]  # the car lies on the persons and stays
    np.testing.assert_allclose(merged.boxes[0], [0, 0, 28, 20])
    np.testing.assert_allclose(kept.scores, [0.9, 0.6, 0.5], atol=1e-6)


@pytest.mark.parametrize("classes", [7, 81])
def test_another_graph_is_refused(tmp_path: Path, classes: int) -> None:
    with pytest.raises(ModelError, match="no raw YOLOX detector"):
        YoloxDetector(write_graph(tmp_path, [], classes))


def test_missing_file_and_wrong_image_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx does not exist"):
        YoloxDetector(tmp_path / "absent.onnx")
    with YoloxDetector(write_graph(tmp_path, []), threads=1) as detector:
        assert len(detector.detect(image())) == 0
        with pytest.raises(InputError, match="expected a uint8 array"):
            detector.detect(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]


def test_category_ids_are_those_of_coco() -> None:
    assert len(CATEGORY_IDS) == 80
    assert CATEGORY_IDS[[0, 1, 2, 3, 5, 6, 7, 11, 79]].tolist() == [1, 2, 3, 4, 6, 7, 8, 13, 90]


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no YOLOX-nano at {WEIGHTS}")
@pytest.mark.skipif(not (STREET / "val.json").is_file(), reason=f"no photos at {STREET}")
def test_real_detector_finds_large_people_and_cars() -> None:
    raw = json.loads((STREET / "val.json").read_text(encoding="utf-8"))
    wanted = {1: 0, 3: 0}
    found = {1: 0, 3: 0}
    with YoloxDetector(WEIGHTS, threads=1) as detector:
        for entry in raw["images"][:12]:
            photo = load_image(STREET / "images" / entry["file_name"], (entry["height"], entry["width"]))
            boxes = detector.detect(photo)
            assert (np.diff(boxes.scores) <= 0).all()
            for a in raw["annotations"]:
                if a["image_id"] == entry["id"] and a["category_id"] in wanted and not a["iscrowd"]:
                    x, y, w, h = a["bbox"]
                    if w * h >= 64 * 64:
                        same = boxes.boxes[boxes.category_ids == a["category_id"]]
                        wanted[a["category_id"]] += 1
                        found[a["category_id"]] += bool((overlaps([x, y, x + w, y + h], same) >= 0.5).any())
    assert wanted[1] >= 10
    assert found[1] >= 0.75 * wanted[1]
    assert wanted[3] >= 3
    assert found[3] >= 0.6 * wanted[3]


def overlaps(one: list[float], boxes: np.ndarray) -> np.ndarray:
    """IoU of a box with each of `boxes`, xyxy."""
    shared = np.minimum(one[2:], boxes[:, 2:]) - np.maximum(one[:2], boxes[:, :2])
    inner = np.maximum(shared, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return inner / (areas + (one[2] - one[0]) * (one[3] - one[1]) - inner)
