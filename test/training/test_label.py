"""`fassst label`: its teacher, frames of CamVid with a teacher whose answer is known, and real photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from coco_files import write_image
from label_teacher import SIDE_BY_SIDE, boxes, label, write_car_finder
from test_yolox import write_graph

from fassst_ros.coco_format import decode_rle, load_image
from fassst_ros.labels import STREET
from fassst_ros.training.datasets import CocoInstances
from fassst_ros.training.teacher import Teacher, tiles, without_parts
from fassst_ros.yolox import Boxes, YoloxDetector

SHARED = Path(__file__).parents[3] / "shared"
WEIGHTS = SHARED / "weights" / "yolox_nano.onnx"
STREET_PHOTOS = SHARED / "data" / "coco_street"
CAMVID = SHARED / "data" / "camvid" / "train"


@pytest.fixture
def car_finder(tmp_path: Path) -> Path:
    return write_car_finder(tmp_path)


@pytest.mark.parametrize(
    "option", ["--classes rickshaw", "--tiles 2", "--tiles x", "--incomplete ,", "--threshold high"]
)
def test_wrong_options_are_refused(option: str) -> None:
    with pytest.raises(SystemExit):
        label("fill a.json --images . --teacher x.onnx --out o.json", option)


# -- the teacher


def test_tiles_cover_the_image_and_overlap() -> None:
    assert list(tiles((360, 480), (1.0,))) == [(0, 0, 360), (120, 0, 360)]
    assert list(tiles((400, 400), (1.0,))) == []
    covered = np.zeros((360, 480), int)
    for x, y, side in tiles((360, 480), (0.5,)):
        assert covered[y : y + side, x : x + side].shape == (side, side), "inside the image"
        covered[y : y + side, x : x + side] += 1
    assert covered.min() >= 1
    assert covered[100:260, 100:380].min() >= 2


def test_teacher_finds_small_objects_in_tiles_and_each_once(tmp_path: Path) -> None:
    # In any square that it is shown: a person of an eighth of its side in the middle, one at the left.
    found = [(4 * 8 + 4, [0.0, 0.0, 0.0, 0.0], 0.9, 0, 1.0), (4 * 8, [0.5, 0.0, 0.0, 0.0], 0.8, 0, 1.0)]
    image = np.full((64, 128, 3), (0, 0, 255), np.uint8)
    with YoloxDetector(write_graph(tmp_path, found), threads=1) as detector:
        alone = Teacher(detector, ()).detect(image, 0.3)
        tiled = Teacher(detector, (1.0,)).detect(image, 0.3)
    assert len(alone) == 2
    middles = sorted((tiled.boxes[:, 0] + tiled.boxes[:, 2]).tolist())
    # Whole image (letterboxed): 128 wide, x 8 and 64. Tiles at 0, 32 and 64 px: x 32, 64 (again) and 96 in
    # their middles; x 4 at the left edge of the first; at the inner left edges of the others: cut off.
    assert [m / 2 for m in middles] == pytest.approx([4, 8, 32, 64, 64, 96], abs=0.1)


def test_of_a_box_and_its_part_the_better_stays() -> None:
    bus, door, mirrored = (6, 0.9, 10, 10, 110, 60), (6, 0.6, 12, 12, 60, 59), (8, 0.5, 60, 10, 108, 61)
    assert without_parts(boxes(bus, door, mirrored)).scores.tolist() == pytest.approx([0.9])
    far_car, person = (3, 0.6, 20, 12, 60, 40), (1, 0.5, 12, 12, 60, 59)
    assert len(without_parts(boxes(bus, far_car, person))) == 3, "another foot, another kind"


# -- camvid


def camvid_folder(folder: Path, names: list[str]) -> Path:
    """Frames of 64 x 64 with a car at (8, 22) of 40 x 20."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    labels = np.full((64, 64), 3, np.uint8)
    labels[22:42, 8:48] = 8
    for name in names:
        write_image(folder / "images" / f"{name}.jpg", 64, 64)
        cv2.imwrite(str(folder / "labels" / f"{name}.png"), labels)
    return folder


def test_camvid_writes_annotations_and_pictures(tmp_path: Path, car_finder: Path) -> None:
    folder, out = camvid_folder(tmp_path / "set", ["b", "a"]), tmp_path / "out.json"
    pictures = tmp_path / "pictures"
    command = ("camvid", folder, "--teacher", car_finder, SIDE_BY_SIDE, "--out", out, "--pictures", pictures)
    assert label(*command) == 0
    raw = json.loads(out.read_text())
    assert [i["file_name"] for i in raw["images"]] == ["a.jpg", "b.jpg"]
    assert [(a["id"], a["image_id"], a["category_id"], a["iscrowd"]) for a in raw["annotations"]] == [
        (1, 1, 3, 0),
        (2, 2, 3, 0),
    ]
    first = raw["annotations"][0]
    assert (first["bbox"], first["area"]) == ([8, 22, 40, 20], 800)
    mask = decode_rle(first["segmentation"])
    assert (mask.x, mask.y, mask.bits.shape, mask.area) == (8, 22, (20, 40), 800)
    assert {"licence", "command", "teacher", "teacher_sha256", "score_threshold", "tiles"} <= raw[
        "info"
    ].keys()
    dataset = CocoInstances(out, folder / "images", STREET)
    assert dataset.warnings == []
    assert [c.name for c, known in zip(STREET, dataset[0].labelled, strict=True) if known] == [
        "person", "car", "bus", "truck",
    ]  # fmt: skip
    picture, plain = (load_image(p / "a.jpg", (64, 64)).astype(int) for p in (pictures, folder / "images"))
    assert np.abs(picture - plain)[25:40, 10:45].mean() > 10


def test_defective_frames_are_named_and_left_out(
    tmp_path: Path, car_finder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["missing", "unknown", "colour", "deep", "small", "good", "broken"]
    folder, out = camvid_folder(tmp_path / "set", names), tmp_path / "out.json"
    labels = {name: folder / "labels" / f"{name}.png" for name in names}
    labels["missing"].unlink()
    cv2.imwrite(str(labels["unknown"]), np.full((64, 64), 12, np.uint8))
    cv2.imwrite(str(labels["colour"]), np.zeros((64, 64, 3), np.uint8))
    cv2.imwrite(str(labels["deep"]), np.zeros((64, 64), np.uint16))
    cv2.imwrite(str(labels["small"]), np.zeros((32, 64), np.uint8))
    (folder / "images" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    assert label("camvid", folder, "--teacher", car_finder, SIDE_BY_SIDE, "--out", out) == 1
    told = capsys.readouterr().err
    for text in (
        "missing.png: cannot be read", "unknown.png: holds label 12", "colour.png: uint8 of shape",
        "deep.png: uint16", "small.jpg is (64, 64)", "broken.jpg: is a truncated JPEG",
    ):  # fmt: skip
        assert text in told
    assert [i["file_name"] for i in json.loads(out.read_text())["images"]] == ["good.jpg"]


def test_folder_without_usable_frames_is_refused(
    tmp_path: Path, car_finder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = camvid_folder(tmp_path / "set", ["a"]), tmp_path / "out.json"
    (folder / "labels" / "a.png").unlink()
    assert label("camvid", folder, "--teacher", car_finder, SIDE_BY_SIDE, "--out", out) == 1
    assert label("camvid", tmp_path, "--teacher", car_finder, SIDE_BY_SIDE, "--out", out) == 1
    told = capsys.readouterr().err
    assert "no usable frame" in told
    assert "no images/*.jpg" in told
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["yolox.onnx"]


def test_output_that_is_there_or_cannot_be_written_is_refused(
    tmp_path: Path, car_finder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = camvid_folder(tmp_path / "set", ["a"]), tmp_path / "out.json"
    out.write_text("mine")
    command = ("camvid", folder, "--teacher", car_finder, SIDE_BY_SIDE, "--out")
    assert label(*command, out) == 1
    assert "exists; add --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert label(*command, out / "below.json") == 1
    assert "cannot write" in capsys.readouterr().err
    assert label(*command, out, "--overwrite") == 0


def test_interrupted_run_goes_on_where_it_stopped(
    tmp_path: Path, car_finder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = camvid_folder(tmp_path / "set", ["a", "b", "c", "d"]), tmp_path / "out.json"
    command = ("camvid", folder, "--teacher", car_finder, SIDE_BY_SIDE, "--out", out)
    calls = 0
    detect = Teacher.detect

    def interrupted(self: Teacher, image: Any, threshold: float) -> Boxes:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return detect(self, image, threshold)

    monkeypatch.setattr(Teacher, "detect", interrupted)
    assert label(*command) == 130
    assert not out.exists()
    with (tmp_path / "out.json.boxes").open("a") as file:
        file.write('{"image": "c.jpg", "bo')  # as a power cut leaves it
    assert label(*command) == 0
    assert calls == 5, "a and b are not looked at again"
    assert "2 images are done" in capsys.readouterr().err
    assert not (tmp_path / "out.json.boxes").exists()
    resumed = json.loads(out.read_text())
    assert label(*command, "--overwrite") == 0
    assert json.loads(out.read_text())["annotations"] == resumed["annotations"]


def test_boxes_of_another_threshold_are_not_taken_up(tmp_path: Path, car_finder: Path) -> None:
    folder, out = camvid_folder(tmp_path / "set", ["a"]), tmp_path / "out.json"
    left = tmp_path / "out.json.boxes"
    left.write_text('{"teacher": "yolox.onnx", "score_threshold": 0.1}\n{"image": "a.jpg", "boxes": []}\n')
    assert label("camvid", folder, "--teacher", car_finder, SIDE_BY_SIDE, "--out", out) == 0
    assert len(json.loads(out.read_text())["annotations"]) == 1


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no YOLOX-nano at {WEIGHTS}")
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid at {CAMVID}")
def test_real_frames_give_most_cars_and_pedestrians(tmp_path: Path) -> None:
    names = [p.stem for p in sorted((CAMVID / "images").glob("*.jpg"))[200:204]]
    for part, suffix in (("images", "jpg"), ("labels", "png")):
        (tmp_path / part).mkdir()
        for name in names:
            source = CAMVID / part / f"{name}.{suffix}"
            (tmp_path / part / source.name).write_bytes(source.read_bytes())
    out = tmp_path / "out.json"
    assert label("camvid", tmp_path, "--teacher", WEIGHTS, "--threads 1 --out", out) == 0
    raw = json.loads(out.read_text())
    assert len(raw["images"]) == 4
    claimed = dict.fromkeys((1, 3), 0)
    for annotation in raw["annotations"]:
        if "segmentation" in annotation and not annotation["iscrowd"]:
            claimed[1 if annotation["category_id"] == 1 else 3] += annotation["area"]
    labels = [cv2.imread(str(tmp_path / "labels" / f"{n}.png"), cv2.IMREAD_UNCHANGED) for n in names]
    assert claimed[3] >= 0.7 * sum(int((label == 8).sum()) for label in labels)
    assert claimed[1] >= 0.5 * sum(int((label == 9).sum()) for label in labels)
    assert CocoInstances(out, tmp_path / "images", STREET).warnings == []
