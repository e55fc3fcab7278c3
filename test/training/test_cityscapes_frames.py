from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapes_files import CITY, street, write_frame
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

from fassst_ros.card import ClassInfo
from fassst_ros.cityscapes_format import draw_polygons
from fassst_ros.labels import CITYSCAPES, COCO, STREET
from fassst_ros.training.cityscapes import CityscapesInstances
from fassst_ros.training.loader import make_loader
from fassst_ros.types import InputError, RoiMask

NAMES = [c.name for c in CITYSCAPES]


def one_sample(root: Path, **options: Any) -> Any:
    return CityscapesInstances(root, "train", CITYSCAPES, **options)[0]


def truth_of(root: Path, name: str, kind: str) -> Path:
    return root / "gtFine" / "train" / CITY / f"{name}_gtFine_{kind}"


def write_polygons(root: Path, name: str, objects: list[dict[str, Any]], size: tuple[int, int]) -> None:
    content = {"imgHeight": size[0], "imgWidth": size[1], "objects": objects}
    truth_of(root, name, "polygons.json").write_text(json.dumps(content))


def polygon(label: str, *points: tuple[int, int], **more: Any) -> dict[str, Any]:
    return {"label": label, "polygon": [list(p) for p in points], **more}


def test_sample_holds_objects_and_what_to_ignore(tmp_path: Path) -> None:
    ids = street()
    write_frame(tmp_path, 1, ids)
    dataset = CityscapesInstances(tmp_path, "train", CITYSCAPES)
    sample = dataset[0]
    assert dataset.warnings == []
    assert [NAMES[i] for i in sample.labels] == ["person", "rider", "car", "bicycle"]
    values = (24000, 25000, 26000, 33000)
    for value, box, shape in zip(values, sample.boxes, sample.shapes, strict=True):
        y, x = np.nonzero(ids == value)
        np.testing.assert_array_equal(box, [x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert isinstance(shape, RoiMask)
        x0, y0, x1, y1 = box.astype(int)
        assert (shape.x, shape.y) == (x0, y0)
        np.testing.assert_array_equal(shape.bits, (ids == value)[y0:y1, x0:x1])
    ignored = sorted(map(tuple, sample.ignore.tolist()))  # the caravan and the group of cars
    assert ignored == [(120, 30, 150, 45), (120, 60, 160, 80)]
    assert sample.labelled.all()
    assert sample.image.shape == (96, 192, 3)
    np.testing.assert_array_equal(sample.image[40, 40], [240, 200, 40])  # RGB
    assert dataset.counts()["car"] == 1
    assert list(dataset.with_objects) == [0]


def test_other_class_lists_take_what_they_know(tmp_path: Path) -> None:
    write_frame(tmp_path, 1, street())
    dataset = CityscapesInstances(tmp_path, "train", STREET)
    # As in COCO, who rides is a person; the bicycle under it stays.
    assert dataset.counts() | {"car": 1, "person": 2, "bicycle": 1} == dataset.counts()
    assert dataset[0].labelled.all()
    coco = CityscapesInstances(tmp_path, "train", COCO)
    assert [COCO[i].name for i in np.flatnonzero(coco[0].labelled)] == [c.name for c in STREET]
    (note,) = coco.notes
    assert "no such class: airplane, boat, traffic light, " in note
    with pytest.raises(InputError, match=r"none of the classes zebra; it has: person, rider"):
        CityscapesInstances(tmp_path, "train", [ClassInfo(1, "zebra", (0, 0, 0))])
    some = CityscapesInstances(tmp_path, "train", CITYSCAPES, ["car", "bus"])[0]
    assert [NAMES[i] for i in np.flatnonzero(some.labelled)] == ["car", "bus"]
    (note,) = CityscapesInstances(tmp_path, "train", CITYSCAPES, ["car", "lorry"]).notes
    assert note.endswith("has no such class: lorry")


def test_polygons_replace_a_missing_instance_map(tmp_path: Path) -> None:
    name = write_frame(tmp_path, 1, None, image=np.zeros((60, 80, 3), np.uint8))
    objects = [
        polygon("road", (0, 0), (79, 0), (79, 59), (0, 59)),
        polygon("car", (10, 10), (30, 10), (30, 30), (10, 30)),
        polygon("license plate", (12, 12), (16, 12), (16, 16), (12, 16)),
        polygon("car", (20, 20), (40, 20), (40, 40), (20, 40)),  # in front of the first
        polygon("persongroup", (60, 10), (70, 10), (70, 40), (60, 40)),
        polygon("bus", (50, 50), (58, 50), (58, 58), deleted=1),
        polygon("polegroup", (0, 50), (5, 50), (5, 58)),
    ]
    write_polygons(tmp_path, name, objects, (60, 80))
    sample = one_sample(tmp_path)
    assert [NAMES[i] for i in sample.labels] == ["car", "car"]
    np.testing.assert_array_equal(sample.boxes, [[10, 10, 31, 31], [20, 20, 41, 41]])
    assert sample.shapes[0].area == 21 * 21 - 11 * 11
    assert sample.shapes[1].area == 21 * 21
    np.testing.assert_array_equal(sample.ignore, [[60, 10, 71, 41]])


def test_polygons_are_drawn_as_by_the_official_script() -> None:
    rng = np.random.default_rng(0)
    objects = []
    for label in rng.choice(["car", "person", "rider", "bicyclegroup", "tree", "caravan", "static"], 40):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        centre, reach = rng.uniform(0, (400, 200)), rng.uniform(10, 50, (9, 1))
        points = centre + reach * np.stack((np.cos(angle), np.sin(angle)), 1)
        objects.append(
            polygon(str(label).replace("tree", "vegetation"), *np.round(points).astype(int).tolist())
        )
    objects[3]["deleted"] = 1
    content = {"imgHeight": 200, "imgWidth": 400, "objects": objects}
    annotation = Annotation()
    annotation.fromJsonText(json.dumps(content))
    expected = np.array(createInstanceImage(annotation, "ids"))
    ids = draw_polygons(content, "made up")
    assert set(np.unique(ids)) == set(np.unique(expected))
    different = (ids != expected).astype(np.uint8)
    assert different.mean() < 0.01
    assert not cv2.erode(different, np.ones((3, 3), np.uint8)).any()  # outlines only


def test_boxes_of_citypersons_are_ignored(tmp_path: Path) -> None:
    name = write_frame(tmp_path, 1, np.full((60, 80), 7, np.uint16))
    folder = tmp_path / "gtBboxCityPersons" / "train" / CITY
    folder.mkdir(parents=True)
    path = folder / f"{name}_gtBboxCityPersons.json"
    labels = ("pedestrian", "ignore", "person group", "rider")
    path.write_text(
        json.dumps({"objects": [{"label": n, "bbox": [i, 2, 10, 20]} for i, n in enumerate(labels)]})
    )
    np.testing.assert_array_equal(one_sample(tmp_path).ignore, [[1, 2, 11, 22], [2, 2, 12, 22]])
    path.write_text("{}")
    dataset = CityscapesInstances(tmp_path, "train", CITYSCAPES)
    assert len(dataset[0].ignore) == 0
    assert "is no CityPersons file" in dataset.warnings[0]


def no_annotation(root: Path, name: str) -> None:
    truth_of(root, name, "instanceIds.png").unlink()


def other_size(root: Path, name: str) -> None:
    cv2.imwrite(str(truth_of(root, name, "instanceIds.png")), np.zeros((48, 96), np.uint16))


def label_ids(root: Path, name: str) -> None:
    cv2.imwrite(str(truth_of(root, name, "instanceIds.png")), np.full((96, 192), 26, np.uint8))


def unknown_value(root: Path, name: str) -> None:
    cv2.imwrite(str(truth_of(root, name, "instanceIds.png")), np.full((96, 192), 11003, np.uint16))


def broken_map(root: Path, name: str) -> None:
    path = truth_of(root, name, "instanceIds.png")
    path.write_bytes(path.read_bytes()[:60])


def broken_image(root: Path, name: str) -> None:
    path = root / "leftImg8bit" / "train" / CITY / f"{name}_leftImg8bit.png"
    path.write_bytes(path.read_bytes()[:200])


def only_void(root: Path, name: str) -> None:
    cv2.imwrite(str(truth_of(root, name, "instanceIds.png")), np.full((96, 192), 3, np.uint16))


def no_objects(root: Path, name: str) -> None:
    no_annotation(root, name)
    write_polygons(root, name, [], (96, 192))


def unknown_label(root: Path, name: str) -> None:
    no_annotation(root, name)
    write_polygons(root, name, [polygon("spaceship", (1, 1), (5, 1), (5, 5))], (96, 192))


def polygons_of_other_size(root: Path, name: str) -> None:
    no_annotation(root, name)
    write_polygons(root, name, [polygon("car", (1, 1), (5, 1), (5, 5))], (50, 60))


def malformed_polygon(root: Path, name: str) -> None:
    no_annotation(root, name)
    write_polygons(root, name, [{"label": "car", "polygon": [1, 2, 3]}], (96, 192))


def no_json(root: Path, name: str) -> None:
    no_annotation(root, name)
    truth_of(root, name, "polygons.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_annotation, "neither .*instanceIds.png nor .*polygons.json is in"),
        (other_size, r"image is \(96, 192\), its annotation \(48, 96\)"),
        (label_ids, "uint8 .*; expected 16 bit"),
        (unknown_value, r"holds the values \[11003\], which mean no label"),
        (broken_map, "not decodable"),
        (broken_image, "truncated PNG"),
        (only_void, "nothing but void"),
        (no_objects, "nothing but void"),
        (unknown_label, "unknown label 'spaceship'"),
        (polygons_of_other_size, r"\(50, 60\), its image \(96, 192\)"),
        (malformed_polygon, "no list of x, y pairs"),
        (no_json, "cannot read"),
    ],
)
def test_defective_frame_is_named_and_skipped(tmp_path: Path, spoil: Any, words: str) -> None:
    write_frame(tmp_path, 1, street())
    name = write_frame(tmp_path, 2, street())
    spoil(tmp_path, name)
    dataset = CityscapesInstances(tmp_path, "train", CITYSCAPES)
    assert len(dataset) == 1
    assert len(dataset.warnings) == 1
    assert dataset.warnings[0].startswith(f"{tmp_path.name} train: {name}: ")
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(dataset.warnings[0])


def test_wrong_root_or_split_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Looked for .*nowhere/leftImg8bit/train/.*\*_leftImg8bit.png and"):
        CityscapesInstances(tmp_path / "nowhere", "train", CITYSCAPES)
    write_frame(tmp_path, 1, street())
    with pytest.raises(InputError, match=r"leftImg8bit holds: train"):
        CityscapesInstances(tmp_path, "vall", CITYSCAPES)


def test_set_of_defective_frames_is_refused(tmp_path: Path) -> None:
    write_frame(tmp_path, 1, np.zeros((20, 40), np.uint16))
    with pytest.raises(InputError, match=r"no usable image; first defects: .*nothing but void"):
        CityscapesInstances(tmp_path, "train", CITYSCAPES)


def test_loader_mixes_it_with_augmentation(tmp_path: Path) -> None:
    for number in range(3):
        write_frame(tmp_path, number, street())
    loader = make_loader([CityscapesInstances(tmp_path, "train", CITYSCAPES)], [1.0], (64, 128), 2, 8)
    targets = [target for batch in loader for target in batch.targets]
    assert len(targets) == 8
    assert sum(len(t["labels"]) for t in targets) > 5
    assert all(t["masks"].shape[1:] == (32, 64) for t in targets)
