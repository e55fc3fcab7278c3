"""Persons of COCO that are riders in the sense of Cityscapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import image_entry, rectangle_annotation, write_coco

from fassst_ros.labels import CITYSCAPES, STREET
from fassst_ros.training.datasets import CocoInstances
from fassst_ros.training.riders import find_riders
from fassst_ros.types import ConfigError

REAL = Path(__file__).parents[3] / "shared" / "data" / "coco_street"
PERSON, BICYCLE, CAR, MOTORCYCLE = 1, 2, 3, 4
CATEGORIES = [{"id": c.id, "name": c.name} for c in STREET]
NAMES = {c.id: c.name for c in STREET}
CYCLIST, CYCLE = (40.0, 10.0, 60.0, 70.0), (30.0, 40.0, 70.0, 80.0)  # x_min y_min x_max y_max


def annotations(*objects: tuple[int, tuple[float, float, float, float]]) -> list[dict[str, Any]]:
    return [rectangle_annotation(1, category, *box) for category, box in objects]


@pytest.mark.parametrize(
    ("person", "role"),
    [
        (CYCLIST, "sure"),
        ((30, 25, 70, 78), "sure"),  # seen from the front, feet at the wheel's bottom
        ((55, 10, 78, 70), "unsure"),  # to the side
        ((40, 35, 60, 70), None),  # no head above the vehicle: lies or works on it
        ((80, 10, 100, 70), None),  # beside
        ((40, 0, 60, 50), None),  # behind: feet at the handlebar
        ((40, 40, 60, 140), None),  # in front: feet far below the wheels
    ],
)
def test_boxes_tell_riders(person: tuple[float, float, float, float], role: str | None) -> None:
    riders = find_riders(annotations((BICYCLE, CYCLE), (PERSON, person)), NAMES)
    assert (riders.sure, riders.unsure) == (
        {1} if role == "sure" else set(),
        {1} if role == "unsure" else set(),
    )


def test_a_bicycle_carries_one_and_a_motorcycle_two() -> None:
    behind = (34.0, 12.0, 52.0, 68.0)
    for vehicle, sure, unsure in ((BICYCLE, {1}, {2}), (MOTORCYCLE, {1, 2}, set())):
        riders = find_riders(annotations((vehicle, CYCLE), (PERSON, CYCLIST), (PERSON, behind)), NAMES)
        assert (riders.sure, riders.unsure) == (sure, unsure)


def test_only_single_objects_of_the_same_image_count() -> None:
    good = annotations((BICYCLE, CYCLE), (PERSON, CYCLIST))
    assert find_riders(good, NAMES).sure == {1}
    for change in ({"iscrowd": 1}, {"image_id": 2}, {"bbox": [1, 2]}, {"bbox": None}, {"category_id": CAR}):
        assert find_riders([{**good[0], **change}, good[1]], NAMES).sure == set()


def write(folder: Path, **more: Any) -> Path:
    objects = annotations(
        (BICYCLE, CYCLE), (PERSON, CYCLIST), (PERSON, (55, 10, 78, 70)), (PERSON, (0, 0, 20, 60))
    )
    return write_coco(folder, [image_entry(folder, 1, 100, 100, **more)], objects, CATEGORIES)


def test_sample_has_riders_and_ignores_unclear_cases(tmp_path: Path) -> None:
    dataset = CocoInstances(write(tmp_path), tmp_path, CITYSCAPES, riders=True)
    sample = dataset[0]
    assert [CITYSCAPES[i].name for i in sample.labels] == ["bicycle", "rider", "person"]
    np.testing.assert_array_equal(sample.ignore, [[55, 10, 78, 70]])
    assert sample.labelled.all()
    assert dataset.warnings == []


def test_without_the_mapping_riders_are_persons_and_rider_is_not_labelled(tmp_path: Path) -> None:
    dataset = CocoInstances(write(tmp_path), tmp_path, CITYSCAPES)
    assert dataset.counts()["person"] == 3
    assert [c.name for c, known in zip(CITYSCAPES, dataset[0].labelled, strict=True) if not known] == [
        "rider"
    ]


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ("person, bicycle, motorcycle", ["person", "rider", "motorcycle", "bicycle"]),
        ("person, bicycle", ["person", "bicycle"]),  # who rides a motorcycle is not known
        ("person", ["person"]),
    ],
)
def test_rider_is_labelled_where_persons_and_vehicles_are(
    tmp_path: Path, names: str, known: list[str]
) -> None:
    for options in (
        {"more": {"labelled_classes": names}},
        {"argument": [n.strip() for n in names.split(",")]},
    ):
        path = write(tmp_path, **options.get("more", {}))
        dataset = CocoInstances(path, tmp_path, CITYSCAPES, options.get("argument"), riders=True)
        assert [CITYSCAPES[i].name for i in np.flatnonzero(dataset[0].labelled)] == known


def test_classes_without_rider_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="makes riders; the classes are person, bicycle"):
        CocoInstances(write(tmp_path), tmp_path, STREET, riders=True)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real annotations are not at {REAL}")
@pytest.mark.parametrize(("name", "sure", "unsure"), [("train.json", 21, 2), ("train_road4.json", 227, 37)])
def test_riders_of_the_real_sets(name: str, sure: int, unsure: int) -> None:
    raw = json.loads((REAL / name).read_text())
    riders = find_riders(raw["annotations"], {c["id"]: c["name"] for c in raw["categories"]})
    assert (len(riders.sure), len(riders.unsure)) == (sure, unsure)
