"""Ground truth that cannot be compared with is refused by name, and before any image is segmented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constant_model import write_constant_model
from test_coco import CLASSES, made_up
from test_eval_command import write_set

from fassst_ros.cli import main
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.pipeline import Segmenter
from fassst_ros.types import InputError


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labelled_classes": ["person"]}, r"labelled_classes of image 2 is \['person'\]"),
        ({"id": None}, r"image '2.jpg' has no whole number as id"),
        ({"width": "160"}, r"image '2.jpg' has no whole number as width"),
        ({"id": 1}, "two images with the id 1"),
    ],
)
def test_malformed_image_entries_are_named(change: dict[str, Any], match: str) -> None:
    raw = made_up(np.random.default_rng(1))
    raw["images"][1] |= change
    with pytest.raises(InputError, match=match):
        GroundTruth.read(raw, CLASSES)


def test_some_images_only() -> None:
    raw = made_up(np.random.default_rng(1))
    part = GroundTruth.read(raw, CLASSES).of([4, 2])
    assert [image["id"] for image in part["images"]] == [4, 2]
    assert {a["image_id"] for a in part["annotations"]} == {2, 4}
    assert [a["id"] for a in part["annotations"]] == list(range(1, len(part["annotations"]) + 1))
    raw["annotations"][0] |= {"bbox": None}
    assert raw["annotations"][0]["image_id"] == 2
    GroundTruth.read(raw, CLASSES, only=[4])  # the defect is of another image


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"category_id": "1"}, "categories '1' of annotations are not defined there"),
        ({"iscrowd": 1}, "hold no object of the classes car, person, truck in these images, only crowds"),
        ({"image_id": 99}, "hold no object of the classes car, person, truck in these images. Check"),
    ],
)
def test_sets_without_an_object_are_refused(change: dict[str, Any], match: str) -> None:
    raw = made_up(np.random.default_rng(1))
    assert len(GroundTruth.read(raw, CLASSES).with_objects().objects) == len(raw["annotations"])
    for annotation in raw["annotations"]:
        annotation |= change
    with pytest.raises(InputError, match=match):
        GroundTruth.read(raw, CLASSES).with_objects()


def change_set(folder: Path, kind: str, **change: Any) -> None:
    path = folder / "truth.json"
    raw = json.loads(path.read_text())
    raw[kind][1] |= change
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("command", ["eval", "compare"])
@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        ("annotations", {"segmentation": []}, "annotation 2 of image 2 cannot be compared with"),
        ("images", {"labelled_classes": ["car"]}, "labelled_classes of image 2"),
        ("images", {"id": None}, "has no whole number as id"),
        ("categories", {"id": "3"}, "categories 3 of annotations are not defined there"),
    ],
)
def test_commands_refuse_before_they_segment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    kind: str,
    change: dict[str, Any],
    match: str,
) -> None:
    write_set(tmp_path)
    change_set(tmp_path, kind, **change)
    monkeypatch.setattr(Segmenter, "segment", lambda *_: pytest.fail("an image was segmented"))
    model = write_constant_model(tmp_path)
    words = [command, model, "--annotations", tmp_path / "truth.json", "--images", tmp_path]
    assert main([*map(str, words), "--runtime", "onnxruntime"]) == 1
    assert match in capsys.readouterr().err
