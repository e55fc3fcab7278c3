"""`fassst label fill` and `check`: what is missing, what is right, and the commands on small sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import image_entry, rectangle_annotation, write_coco
from label_teacher import CATEGORIES, SIDE_BY_SIDE, boxes, label, write_car_finder

from fassst_ros.labels import STREET
from fassst_ros.training.datasets import CocoInstances
from fassst_ros.training.label_fill import Count, Objects, count, missing


def objects(*rows: tuple[int, bool, float, float, float, float]) -> Objects:
    """rows: (category, crowd, x0, y0, x1, y1)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Objects(table[:, 2:], table[:, 0].astype(np.int32), table[:, 1].astype(np.bool_))


@pytest.fixture
def car_finder(tmp_path: Path) -> Path:
    return write_car_finder(tmp_path)


@pytest.mark.parametrize(
    ("there", "new"),
    [
        ((3, False, 10, 10, 50, 30), False),  # the same
        ((8, False, 12, 10, 50, 32), False),  # the same, taken for a truck
        ((3, False, 0, 0, 100, 100), False),  # a part of it
        ((3, True, 0, 0, 40, 100), False),  # in a crowd
        ((1, False, 10, 10, 50, 30), True),  # a person before it
        ((1, True, 0, 0, 100, 100), True),
        ((3, False, 45, 10, 85, 30), True),  # its neighbour
    ],
)
def test_detection_is_missing_unless_annotated(there: tuple[Any, ...], new: bool) -> None:
    found = boxes((3, 0.9, 10, 10, 50, 30), (2, 0.8, 10, 10, 50, 30))
    assert missing(found, objects(there), {3}).tolist() == ([0] if new else [])
    assert missing(found, objects(), {3, 2}).tolist() == [0, 1]
    assert missing(boxes(), objects(there), {3}).tolist() == []


def test_count_is_that_of_coco() -> None:
    there = objects(
        (1, False, 0, 0, 10, 20), (1, False, 50, 0, 60, 20), (1, True, 80, 0, 160, 90), (3, False, 0, 0, 9, 9)
    )
    found = boxes(
        (1, 0.9, 0, 0, 10, 21),  # right
        (1, 0.8, 0, 0, 10, 20),  # the same object again: wrong
        (1, 0.7, 90, 10, 100, 30),  # one of the crowd: not counted
        (1, 0.6, 30, 0, 40, 20),  # nothing there: wrong
        (3, 0.5, 0, 0, 9, 9),
    )  # fmt: skip
    assert count(found, there, 1) == Count(objects=2, detections=3, right=1)
    assert count(found, there, 3) == Count(1, 1, 1)
    assert count(boxes(), there, 1) == Count(2, 0, 0)


def test_fill_adds_boxes_of_unlabelled_classes_only(
    tmp_path: Path, car_finder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [
        image_entry(tmp_path, 1, 64, 64, labelled_classes="person"),
        image_entry(tmp_path, 2, 64, 64, labelled_classes="person, car"),
        image_entry(tmp_path, 3, 64, 64),
        image_entry(tmp_path, 4, 64, 64, labelled_classes="person"),
    ]
    there = [
        rectangle_annotation(1, 1, 10, 10, 30, 60),
        {**rectangle_annotation(4, 3, 9, 22, 47, 42), "id": 40},
    ]
    source, out = write_coco(tmp_path, entries, there, CATEGORIES), tmp_path / "new" / "filled.json"
    assert (
        label("fill", source, "--images", tmp_path, "--teacher", car_finder, SIDE_BY_SIDE, "--out", out) == 0
    )
    raw = json.loads(out.read_text())
    new = [a for a in raw["annotations"] if a.get("box_only")]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in new] == [(41, 1, 3)]
    np.testing.assert_allclose(new[0]["bbox"], [8, 22, 40, 20], atol=0.01)
    assert new[0]["score"] == pytest.approx(0.9)
    assert raw["info"]["filled"]["teacher"] == "yolox.onnx"
    assert raw["images"] == entries
    assert "car 1" in capsys.readouterr().err
    dataset = CocoInstances(out, tmp_path, STREET)
    assert dataset.warnings == []
    assert dataset.counts()["car"] == 2
    assert dataset[0].shapes[1] == ()
    assert [p.name for p in out.parent.iterdir()] == ["filled.json"]


def test_fill_says_when_there_is_nothing_to_add(
    tmp_path: Path, car_finder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = (
        write_coco(tmp_path, [image_entry(tmp_path, 1, 64, 64)], [], CATEGORIES),
        tmp_path / "out.json",
    )
    words = (
        "fill",
        source,
        "--images",
        tmp_path / "absent",
        "--teacher",
        car_finder,
        SIDE_BY_SIDE,
        "--out",
        out,
    )
    assert label(*words) == 0
    message = capsys.readouterr().err
    assert "every image labels every class that is looked for: nothing to add, no image was read" in message
    assert "added" not in message
    assert label(*words, "--incomplete", "car", "--overwrite") == 1  # now the missing folder shows
    assert "left out: image" in capsys.readouterr().err


def test_fill_takes_a_class_for_incomplete(tmp_path: Path, car_finder: Path) -> None:
    entries = [image_entry(tmp_path, 1, 64, 64)]
    source, out = write_coco(tmp_path, entries, [], CATEGORIES), tmp_path / "filled.json"
    command = ("fill", source, "--images", tmp_path, "--teacher", car_finder, SIDE_BY_SIDE, "--out", out)
    assert label(*command) == 0
    assert json.loads(out.read_text())["annotations"] == []
    assert label(*command, "--incomplete", "car", "--overwrite") == 0
    sample = CocoInstances(out, tmp_path, STREET)[0]
    assert sample.labels.tolist() == [2]
    assert sample.labelled.tolist() == [True, True, False, True, True, True, True]


def test_check_prints_precision_and_recall(
    tmp_path: Path, car_finder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [image_entry(tmp_path, i, 64, 64) for i in (1, 2)]
    entries.append(image_entry(tmp_path, 3, 64, 64, labelled_classes="person"))
    there = [rectangle_annotation(1, 3, 8, 22, 48, 42), rectangle_annotation(2, 1, 8, 22, 48, 42)]
    source = write_coco(tmp_path, entries, there, CATEGORIES)
    assert label("check", source, "--images", tmp_path, "--teacher", car_finder, SIDE_BY_SIDE) == 0
    lines = {line.split()[0]: line.split()[1:5] for line in capsys.readouterr().out.splitlines()}
    assert lines["car"] == ["1", "2", "0.50", "1.00"]
    assert lines["person"] == ["1", "0", "-", "0.00"]
    assert lines["truck"] == ["0", "0", "-", "-"], "the same object as the car"


def test_broken_images_are_named_and_left_out(
    tmp_path: Path, car_finder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [image_entry(tmp_path, i, 64, 64, labelled_classes="person") for i in (1, 2, 3)]
    (tmp_path / "000001.jpg").unlink()
    entries[1]["height"] = 63
    source, out = write_coco(tmp_path, entries, [], CATEGORIES), tmp_path / "filled.json"
    assert (
        label("fill", source, "--images", tmp_path, "--teacher", car_finder, SIDE_BY_SIDE, "--out", out) == 1
    )
    assert [a["image_id"] for a in json.loads(out.read_text())["annotations"]] == [3]
    told = capsys.readouterr().err
    assert "000001.jpg: cannot be read" in told
    assert "000002.jpg is (64, 64)" in told


@pytest.mark.parametrize(
    ("images", "annotations", "match"),
    [
        ([], [], "no images"),
        ([{"id": 1}], [], "lacks id, file_name"),
        (
            [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}],
            [{"image_id": 1, "category_id": 1}],
            "KeyError: 'bbox'",
        ),
        (
            [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4, "labelled_classes": ["car"]}],
            [],
            "labelled_classes that are no text",
        ),
    ],
)
def test_unusable_annotations_are_refused(
    tmp_path: Path, car_finder: Path, capsys: pytest.CaptureFixture[str],
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], match: str,
) -> None:  # fmt: skip
    source = write_coco(tmp_path, images, annotations, CATEGORIES)
    assert label("check", source, "--images", tmp_path, "--teacher", car_finder, SIDE_BY_SIDE) == 1
    assert match in capsys.readouterr().err
