"""`fassst label`: the commands on small sets and a detector whose answer is known, and on real photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from coco_files import image_entry, rectangle_annotation, write_coco, write_image
from test_yolox import write_graph

from fassst_ros.cli import main
from fassst_ros.coco_format import decode_rle, load_image
from fassst_ros.labels import STREET
from fassst_ros.training.datasets import CocoInstances
from fassst_ros.training.label_fill import Count, Objects, count, missing
from fassst_ros.training.teacher import Teacher, tiles, without_parts
from fassst_ros.yolox import Boxes, YoloxDetector

SHARED = Path(__file__).parents[3] / "shared"
WEIGHTS = SHARED / "weights" / "yolox_nano.onnx"
STREET_PHOTOS = SHARED / "data" / "coco_street"
CAMVID = SHARED / "data" / "camvid" / "train"
CATEGORIES = [{"id": c.id, "name": c.name} for c in STREET]
SIDE_BY_SIDE = "--tiles none --threads 1"


def boxes(*rows: tuple[int, float, float, float, float, float]) -> Boxes:
    """rows: (category, score, x0, y0, x1, y1), best score first."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes(table[:, 2:], table[:, 1], table[:, 0].astype(np.int32))


def objects(*rows: tuple[int, bool, float, float, float, float]) -> Objects:
    """rows: (category, crowd, x0, y0, x1, y1)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Objects(table[:, 2:], table[:, 0].astype(np.int32), table[:, 1].astype(np.bool_))


@pytest.fixture
def car_finder(tmp_path: Path) -> Path:
    """A YOLOX that finds a car of 40 x 20 pixels at (8, 22) in any image of 64 x 64, and a truck there."""
    box = [0.5, 0.0, np.log(5), np.log(2.5)]  # cell (row 4, column 3) of stride 8: centre (28, 32)
    found = [(4 * 8 + 3, box, 0.9, 2, 1.0), (4 * 8 + 3 + 1, [-0.5, 0.0, *box[2:]], 0.7, 7, 1.0)]
    return write_graph(tmp_path, found)


def label(*arguments: object) -> int:
    return main(["label", *(part for a in arguments for part in str(a).split())])


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


# -- what is missing, what is right


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


# -- fill and check


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


@pytest.mark.parametrize(
    "option", ["--classes rickshaw", "--tiles 2", "--tiles x", "--incomplete ,", "--threshold high"]
)
def test_wrong_options_are_refused(option: str) -> None:
    with pytest.raises(SystemExit):
        label("fill a.json --images . --teacher x.onnx --out o.json", option)


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
