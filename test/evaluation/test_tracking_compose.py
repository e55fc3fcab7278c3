"""Composed videos: exact masks and identities, occlusion, camera motion; one seed gives one video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fassst_ros.cli import main
from fassst_ros.coco_format import Shape, decode_rle
from fassst_ros.evaluation.tracking_scene import Camera, CutOut, Scene, Still, Visible, Walker

HEIGHT, WIDTH = 120, 160
STEADY = Camera((HEIGHT, WIDTH), zoom=1.0, growth=0.0, period=5.0, phase=0.0, shake=np.zeros((100, 2)))
RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def square(x0: float, y0: float, x1: float, y1: float) -> Shape:
    return (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32),)


def cut_out(box: tuple[float, ...], colour: tuple[int, int, int], name: str = "car") -> CutOut:
    """A square of one colour that fills its box."""
    image = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
    return CutOut(image, square(*box), np.array(box, np.float32), name)


def walker(colour: tuple[int, int, int], x: float, height: float, **more: Any) -> Walker:
    options = {"middle": 0.0, "speed": 0.0, "growth": 0.0, "horizon": 40.0, "mirrored": False}
    return Walker(cut_out((10, 10, 30, 50), colour), height=height, x=x, **{**options, **more})


def scene(*actors: Still | Walker, camera: Camera = STEADY) -> Scene:
    return Scene(np.full((HEIGHT, WIDTH, 3), 120, np.uint8), camera, actors)


def dense(item: Visible) -> np.ndarray:
    full = np.zeros((HEIGHT, WIDTH), np.bool_)
    h, w = item.mask.bits.shape
    full[item.mask.y : item.mask.y + h, item.mask.x : item.mask.x + w] = item.mask.bits
    return full


def test_masks_are_the_pixels_that_are_drawn() -> None:
    picture, found = scene(walker(RED, 40, 40), walker(GREEN, 100, 60)).draw(0, 0.0)
    assert [item.index for item in found] == [0, 1]
    for item, colour in zip(found, (RED, GREEN), strict=True):
        inner = cv2.erode(dense(item).astype(np.uint8), np.ones((5, 5))).astype(bool)
        outer = cv2.dilate(dense(item).astype(np.uint8), np.ones((5, 5))).astype(bool)
        alike = np.abs(picture.astype(int) - colour).max(axis=-1) <= 2
        assert alike[inner].all()
        assert not alike[~outer].any()
    # 40 high: 20 wide, centred at x = 40; it stands at 40 + 1.1 * 40 = 84
    assert (found[0].mask.x, found[0].mask.y, found[0].mask.bits.shape) == (30, 44, (40, 20))


def test_what_stands_nearer_hides_what_is_behind() -> None:
    far, near = walker(RED, 80, 40), walker(GREEN, 90, 50)
    for actors, i in (((far, near), 0), ((near, far), 1)):
        _, found = scene(*actors).draw(0, 0.0)
        masks = {item.index: dense(item) for item in found}
        assert not (masks[0] & masks[1]).any()
        assert masks[1 - i].sum() == 50 * 25
        assert 0 < masks[i].sum() < 40 * 20


def test_objects_of_the_background_hide_too() -> None:
    still = Still(cut_out((60, 20, 110, 110), BLUE))
    picture, found = scene(walker(RED, 80, 40), still).draw(0, 0.0)
    assert [item.index for item in found] == [1], "the walker is behind it"
    assert (picture[50, 80] == BLUE).all()
    _, found = scene(walker(RED, 80, 70), still).draw(0, 0.0)
    assert [item.index for item in found] == [0, 1]


def test_what_is_hardly_visible_is_not_expected_to_be_found() -> None:
    behind = walker(RED, 80, 40)
    for x, clear in ((78, False), (100, True)):
        _, found = scene(behind, walker(GREEN, x, 50)).draw(0, 0.0)
        assert next(item.clear for item in found if item.index == 0) == clear


def test_objects_walk_and_come_nearer() -> None:
    moving = scene(walker(RED, 40, 40, speed=0.5, growth=0.1))
    boxes = []
    for k in range(3):
        _, (item,) = moving.draw(k, float(k))
        boxes.append((item.mask.x + item.mask.bits.shape[1] / 2, item.mask.bits.shape[0]))
    assert boxes == [pytest.approx((40 + 20 * k, 40 * np.exp(0.1 * k)), abs=1) for k in range(3)]
    _, found = moving.draw(9, 9.0)
    assert found == [], "it has left"


def test_the_camera_moves_everything_alike() -> None:
    camera = Camera((HEIGHT, WIDTH), 1.5, 0.0, 4.0, 0.0, np.zeros((100, 2)))
    still, walking = Still(cut_out((60, 60, 80, 80), BLUE)), walker(RED, 100, 30)
    places = []
    for k in (0, 1, 3):  # middle, right, left
        _, found = scene(still, walking, camera=camera).draw(k, float(k))
        places.append([item.mask.x for item in found])
    (a, b), (c, d), (e, f) = places
    assert (c - a, d - b) == pytest.approx((-40, -40), abs=1)  # 1.5 * 160 * (1 - 1 / 1.5) / 2
    assert (e - a, f - b) == pytest.approx((40, 40), abs=1)


def write_photos(folder: Path) -> Path:
    """Two streets and a portrait, with cars and persons in the places where such stand."""
    rng = np.random.default_rng(3)
    images, annotations = [], []
    cars = [(20, 150, 120, 230), (160, 140, 250, 210)]
    persons = [(200, 60, 270, 220), (40, 80, 110, 240)]
    for number, (height, width, objects) in enumerate(
        [(240, 320, [(3, cars[0])]), (240, 320, [(3, cars[1])]), (320, 240, [(1, b) for b in persons[1:]])], 1
    ):
        name = f"{number}.png"
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for category, (x0, y0, x1, y1) in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                }
            )  # fmt: skip
    path = folder / "photos.json"
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def compose(folder: Path, out: str, *more: str) -> int:
    photos = folder / "photos.json"
    arguments = ["--annotations", str(photos), "--images", str(folder), "--out", str(folder / out)]
    return main(["compose-tracks", *arguments, "--videos", "2", "--frames", "4", "--objects", "2", *more])


def test_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(tmp_path)
    assert compose(tmp_path, "a") == 0
    assert "2 videos, 8 frames" in capsys.readouterr().out
    content = json.loads((tmp_path / "a" / "annotations.json").read_text(encoding="utf-8"))
    assert [(v["width"], v["height"], v["fps"]) for v in content["videos"]] == [(320, 240, 15.0)] * 2
    frames = [(i["video_id"], i["frame_index"], i["stamp"]) for i in content["images"]]
    assert frames == [(v, k, k / 15) for v in (1, 2) for k in range(4)]
    names = {c["id"]: c["name"] for c in content["categories"]}
    of_track: dict[int, set[tuple[int, str]]] = {}
    for a in content["annotations"]:
        mask = decode_rle(a["segmentation"])
        height, width = mask.bits.shape
        assert a["bbox"] == [mask.x, mask.y, width, height]
        assert a["area"] == mask.area
        of_track.setdefault(a["track_id"], set()).add((a["video_id"], names[a["category_id"]]))
    assert all(len(kinds) == 1 for kinds in of_track.values()), "a track is of one video and one class"
    assert {name for kinds in of_track.values() for _, name in kinds} == {"person", "car"}
    for image in content["images"]:
        picture = cv2.imread(str(tmp_path / "a" / "images" / image["file_name"]))
        assert picture is not None
        assert picture.shape == (240, 320, 3)


def test_a_seed_gives_one_video(tmp_path: Path) -> None:
    write_photos(tmp_path)
    texts = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert compose(tmp_path, name, "--seed", seed) == 0
        texts.append((tmp_path / name / "annotations.json").read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--videos", "0"), "--videos is 0; expected 1 or more"),
        (("--rate", "-1"), "--rate is -1.0; expected frames a second"),
        (("--classes", "unicorn"), "none of the classes unicorn"),
        (("--classes", "person"), "no photo serves as background"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    write_photos(tmp_path)
    assert compose(tmp_path, "a", *more) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    assert compose(tmp_path, "a") == 1
    assert "expected a new or empty folder" in capsys.readouterr().err


def test_a_run_with_the_wrong_folder_of_photos_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path)
    photos = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    for path in photos:
        path.unlink()
    assert compose(tmp_path, "a") == 1
    assert "cannot be read" in capsys.readouterr().err
    for path, data in photos.items():
        path.write_bytes(data)
    assert compose(tmp_path, "a") == 0


def test_malformed_photos_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_photos(tmp_path)
    content = json.loads(path.read_text())
    del content["annotations"][1]["bbox"]
    path.write_text(json.dumps(content))
    assert compose(tmp_path, "a") == 1
    assert "annotations of photo '2.png'" in capsys.readouterr().err
