"""What a run is measured on: defects show before the first step, and never end a run later."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_run import read_log, recipe_file, write_cars

from fassst_ros.labels import STREET
from fassst_ros.training.loop import train
from fassst_ros.training.options import load_recipe
from fassst_ros.training.validation import open_validation
from fassst_ros.types import InputError

VAL = {"annotations": "val.json", "images": ".", "every": 1}
ONE_STEP = [{"input_height": 96, "input_width": 96, "steps": 1}]


def write_val(root: Path, images: int = 3) -> dict[str, Any]:
    """The first images of the set under other names, as val.json."""
    write_cars(root)
    raw: dict[str, Any] = json.loads((root / "set.json").read_text())
    raw["images"] = raw["images"][:images]
    for entry in raw["images"]:
        name = f"val_{entry['file_name']}"
        (root / name).write_bytes((root / entry["file_name"]).read_bytes())
        entry["file_name"] = name
    (root / "val.json").write_text(json.dumps(raw))
    return raw


def test_broken_files_are_left_out_before_the_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_val(tmp_path)
    (tmp_path / "val_1.jpg").write_bytes((tmp_path / "val_1.jpg").read_bytes()[:300])
    val = load_recipe(recipe_file(tmp_path, val=VAL)).val
    assert val is not None
    assert [e["id"] for e in open_validation(val, tmp_path, STREET).entries] == [0, 2]
    assert "val_1.jpg is a truncated JPEG" in caplog.text
    for path in tmp_path.glob("val_*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="val: none of the 3 images can be used"):
        open_validation(val, tmp_path, STREET)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("annotations", {"segmentation": []}, "annotation 1 of image 0 cannot be compared with"),
        ("images", {"id": None}, "has no whole number as id"),
        ("images", {"labelled_classes": ["car"]}, "labelled_classes of image 0"),
    ],
)
def test_broken_annotations_are_refused_before_the_first_step(
    tmp_path: Path, kind: str, change: dict[str, Any], words: str
) -> None:
    raw = write_val(tmp_path)
    raw[kind][0] |= change
    (tmp_path / "val.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=words):
        train(load_recipe(recipe_file(tmp_path, val=VAL)), tmp_path, tmp_path / "run", workers=0)
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize("broken", [1, 3])
def test_images_that_cannot_be_decoded_do_not_end_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: int
) -> None:
    write_val(tmp_path)
    for i in range(broken):
        cv2.imwrite(str(tmp_path / f"val_{i}.jpg"), np.zeros((10, 10, 3), np.uint8))
    recipe = load_recipe(recipe_file(tmp_path, val=VAL, schedule=ONE_STEP))
    with caplog.at_level(logging.WARNING):
        weights = train(recipe, tmp_path, tmp_path / "run", workers=0, pictures_every=0)
    assert weights.is_file()
    assert caplog.text.count("its annotations say (96, 128): left out") == broken
    measured = [line for line in read_log(tmp_path / "run") if "mask_AP" in line]
    assert len(measured) == (broken < 3)
    assert ("no image could be read: not measured" in caplog.text) == (broken == 3)
