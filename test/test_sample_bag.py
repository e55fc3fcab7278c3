"""The sample bag: what is in it, that it may be there, and the errors of reading bags."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fassst_ros.bag import COMPRESSED, ImageBag, typestore
from fassst_ros.coco_format import read_coco
from fassst_ros.evaluation.coco import library
from fassst_ros.evaluation.matching import run_lengths
from fassst_ros.types import InputError

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "test/data/street_sample"
COCO = ROOT.parent / "shared/data/coco_street"


@pytest.fixture(scope="module")
def recipe() -> Any:
    """scripts/make_sample_bag.py as a module."""
    spec = importlib.util.spec_from_file_location("make_sample_bag", ROOT / "scripts/make_sample_bag.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_sample_bag"] = module
    spec.loader.exec_module(module)
    return module


def test_frames_are_those_of_a_street_camera(recipe: Any) -> None:
    with ImageBag(SAMPLE) as bag:
        assert (bag.topic, bag.msgtype) == ("/camera/image_raw/compressed", COMPRESSED)
        images = list(bag)
    assert len(images) == bag.count == len(recipe.SHOTS) * recipe.FRAMES
    assert {image.message.header.frame_id for image in images} == {"camera_front_optical"}
    stamps = np.array([image.stamp for image in images])
    np.testing.assert_array_equal(np.diff(stamps), 100_000_000)
    assert [image.received for image in images] == stamps.tolist()
    for image in images[:: recipe.FRAMES]:
        assert cv2.imdecode(image.message.data, cv2.IMREAD_COLOR).shape == (1024, 2048, 3)


def test_it_is_small_and_attributed(recipe: Any) -> None:
    assert sum(file.stat().st_size for file in SAMPLE.iterdir()) < 10e6
    text = (SAMPLE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, -]+) \| (\d+) \| <(http\S+)> \| (\d+) \| \[CC BY 2.0\]", text, re.MULTILINE)
    assert {int(coco_id) for *_, coco_id in rows} == {shot.image_id for shot in recipe.SHOTS}
    covered: list[int] = []
    for places, photo, url, _ in rows:
        assert photo in url
        for first, last in re.findall(r"(\d+)-(\d+)", places):
            covered += range(int(first), int(last) + 1)
    assert sorted(covered) == list(range(len(recipe.SHOTS) * recipe.FRAMES))


def test_recipe_makes_the_bag_from_val_images_only(recipe: Any, tmp_path: Path) -> None:
    if not COCO.is_dir():
        pytest.skip("no ../shared/data/coco_street: the recipe of the sample bag is not run again")
    coco = json.loads((COCO / "val.json").read_text(encoding="utf-8"))
    ids = {shot.image_id for shot in recipe.SHOTS}
    for name in ("train.json", "train_road4.json", "train_person1.json"):
        train = json.loads((COCO / name).read_text(encoding="utf-8"))
        assert not ids & {image["id"] for image in train["images"]}, name
    count = recipe.write_bag(tmp_path / "bag", recipe.usable(coco), COCO / "images")
    with ImageBag(SAMPLE) as shipped, ImageBag(tmp_path / "bag") as made:
        assert made.count == shipped.count == count
        for old, new in zip(shipped, made, strict=True):
            if old.index % recipe.FRAMES == 0:  # JPEG encoders may differ by a rounding
                a, b = (cv2.imdecode(i.message.data, cv2.IMREAD_COLOR).astype(int) for i in (old, new))
                assert np.abs(a - b).mean() < 1.0
            assert old.stamp == new.stamp


def test_ground_truth_is_that_of_val_moved_as_the_pictures(recipe: Any) -> None:
    if not COCO.is_dir():
        pytest.skip("no ../shared/data/coco_street: the ground truth of the sample bag is not made again")
    coco = json.loads((COCO / "val.json").read_text(encoding="utf-8"))
    made = recipe.ground_truth(coco)
    assert made == json.loads((SAMPLE / "ground_truth.json").read_text(encoding="utf-8"))
    # The pixels of an object in the photo, moved by OpenCV, are the pixels of its moved polygon.
    shot = recipe.SHOTS[1]
    size = next((i["height"], i["width"]) for i in coco["images"] if i["id"] == shot.image_id)
    whole = [a for a in coco["annotations"] if a["image_id"] == shot.image_id and a["category_id"] == 3]
    window = list(recipe.windows(shot))[3]
    compared = 0
    for source in whole:
        found = recipe.annotation(source, *window)
        if found is None or found["area"] < 5000:
            continue
        photo = library()[2].decode(run_lengths(source["segmentation"], size))
        expected = recipe.warp(photo, *window, cv2.INTER_NEAREST).astype(bool)
        pixels = library()[2].decode(run_lengths(found["segmentation"], (1024, 2048))).astype(bool)
        assert (expected & pixels).sum() / (expected | pixels).sum() > 0.9
        centres = [np.array([axis.mean() for axis in np.nonzero(m)]) for m in (expected, pixels)]
        assert np.abs(centres[0] - centres[1]).max() < 0.5 * window[2]  # half a pixel of the photo
        compared += 1
    assert compared


def test_ground_truth_fits_the_frames(recipe: Any) -> None:
    truth = read_coco(SAMPLE / "ground_truth.json")
    with ImageBag(SAMPLE) as bag:
        assert [image["stamp"] for image in truth["images"]] == [image.stamp for image in bag]
    assert {(i["height"], i["width"]) for i in truth["images"]} == {(1024, 2048)}
    assert {a["image_id"] for a in truth["annotations"]} == {i["id"] for i in truth["images"]}


def test_recipe_refuses_a_licence_that_forbids_it(recipe: Any) -> None:
    images = [{"id": shot.image_id, "license": 3} for shot in recipe.SHOTS]
    with pytest.raises(SystemExit, match="licence id 3: not to be shipped"):
        recipe.usable({"images": images})


def test_a_bag_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        ImageBag(tmp_path / "none")
    with pytest.raises(InputError, match="no readable ROS bag"):
        ImageBag(tmp_path)


def test_an_unknown_topic_names_those_that_are_there() -> None:
    with pytest.raises(InputError, match=r"no images on /other; it holds: /camera/image_raw/compressed"):
        ImageBag(SAMPLE, "/other")


def test_a_bag_without_images(tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = typestore()
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/text", "std_msgs/msg/String", typestore=store)
        message = store.types["std_msgs/msg/String"]("no image")
        writer.write(connection, 1, store.serialize_cdr(message, "std_msgs/msg/String"))
    with pytest.raises(InputError, match=r"holds no sensor_msgs/msg/Image.*it holds: /text"):
        ImageBag(tmp_path / "bag")


def test_a_damaged_message_and_a_short_bag(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "bag")
    database = tmp_path / "bag/street_sample.db3"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE messages SET data = x'0001000001' WHERE id = 2")
    with ImageBag(tmp_path / "bag") as bag, pytest.raises(InputError, match=r"message 1 .* is damaged"):
        list(bag)
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM messages WHERE id < 10")
    with ImageBag(tmp_path / "bag") as bag, pytest.raises(InputError, match="metadata promises 48"):
        list(bag)
