from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CATEGORIES, CLASSES, image_entry, rectangle, rectangle_annotation, write_coco
from pycocotools import mask as oracle

from fassst_ros.coco_format import decode_rle
from fassst_ros.training.augment import AugmentOptions, augment, stretch
from fassst_ros.training.datasets import CocoInstances
from fassst_ros.types import InputError, RoiMask

REAL = Path(__file__).parents[3] / "shared" / "data" / "coco_street"


def one_image(folder: Path, annotations: list[dict[str, Any]], **more: Any) -> CocoInstances:
    path = write_coco(folder, [image_entry(folder, 7, 60, 80, **more)], annotations)
    return CocoInstances(path, folder, CLASSES)


def full(mask: RoiMask, shape: tuple[int, int]) -> np.ndarray:
    dense = np.zeros(shape, np.bool_)
    dense[mask.y : mask.y + mask.bits.shape[0], mask.x : mask.x + mask.bits.shape[1]] = mask.bits
    return dense


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_decode_as_pycocotools_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(v) for v in rng.integers(3, 300, 2))
    dense = np.zeros(shape, np.uint8, order="F")
    y, x = rng.integers(0, shape[0] - 1), rng.integers(0, shape[1] - 1)
    dense[y:, x:] = rng.random((shape[0] - y, shape[1] - x)) < rng.choice([0.02, 0.5, 1.0])
    dense[-1, -1] = 1
    compressed = oracle.encode(dense)
    text = {"size": compressed["size"], "counts": compressed["counts"].decode("ascii")}
    runs = RoiMask(0, 0, dense.T.astype(np.bool_)).run_lengths().tolist()
    for segmentation in (compressed, text, {"size": list(shape), "counts": runs}):
        mask = decode_rle(segmentation)
        np.testing.assert_array_equal(full(mask, shape), dense.astype(np.bool_))
        assert mask.bits.any(0)[[0, -1]].all()
        assert mask.bits.any(1)[[0, -1]].all()


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 4], "counts": [3, 2]},
        {"size": [4, 4], "counts": [16]},
        {"size": [4, 4], "counts": "\x00garbage"},
        {"size": [4, 4], "counts": None},
        {"size": "huge", "counts": [1]},
        {"size": [4, 4], "counts": [-1, 17]},
        {"counts": [16]},
    ],
)
def test_broken_run_lengths_are_refused(segmentation: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="mask"):
        decode_rle(segmentation)


def test_sample_holds_objects_crowds_and_labelled_classes(tmp_path: Path) -> None:
    crowd = np.zeros((60, 80), np.uint8, order="F")
    crowd[40:50, 60:75] = 1
    rle = oracle.encode(crowd)
    dataset = one_image(
        tmp_path,
        [
            rectangle_annotation(7, 3, 10.5, 20, 30, 40),
            rectangle_annotation(7, 5, 0, 0, 50, 50),  # an airplane: not our class
            {
                "image_id": 7, "category_id": 1, "iscrowd": 1, "bbox": [60, 40, 15, 10],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            },
        ],
        labelled_classes="person, airplane",
    )  # fmt: skip
    sample = dataset[0]
    assert dataset.warnings == []
    assert sample.image.shape == (60, 80, 3)
    assert sample.image.dtype == np.uint8
    np.testing.assert_array_equal(sample.boxes, np.array([[10.5, 20, 30, 40]], np.float32))
    assert sample.labels.tolist() == [1]
    assert sample.labelled.tolist() == [True, False]
    np.testing.assert_array_equal(sample.ignore, np.array([[60, 40, 75, 50]], np.float32))
    assert dataset.counts() == {"person": 0, "car": 1}


def test_labelled_argument_goes_before_the_file(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [image_entry(tmp_path, 1, 20, 20, labelled_classes="person")], [])
    assert CocoInstances(path, tmp_path, CLASSES, ["car"])[0].labelled.tolist() == [False, True]
    with pytest.raises(InputError, match="zebra"):
        CocoInstances(path, tmp_path, CLASSES, ["zebra"])


def test_class_without_a_category_counts_as_not_labelled(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [image_entry(tmp_path, 1, 20, 20)], [], [CATEGORIES[0]])
    dataset = CocoInstances(path, tmp_path, CLASSES)
    assert dataset[0].labelled.tolist() == [True, False]
    assert dataset.warnings == []
    assert dataset.notes == ["annotations.json: not labelled, as it has no such class: car"]


def test_missing_images_are_named_before_all_else(tmp_path: Path) -> None:
    entry = image_entry(tmp_path, 1, 20, 20)
    path = write_coco(tmp_path, [entry], [rectangle_annotation(1, 1, 2, 2, 9, 9)], [CATEGORIES[0]])
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(
        InputError, match=r"first defects: annotations.json: image .*000001.jpg cannot be read"
    ):
        CocoInstances(path, tmp_path / "elsewhere", CLASSES)


@pytest.mark.parametrize(
    ("annotation", "warning", "ignored"),
    [
        ({"category_id": 99}, "category_id 99", False),
        ({"image_id": 12345}, "not in the set", False),
        ({"segmentation": []}, "no segmentation", True),
        ({"segmentation": [[1, 2, 3, 4]]}, "no polygon of 3", True),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "not a flat list", True),
        ({"segmentation": [[1, 2, float("nan"), 4, 5, 6]]}, "not a flat list of finite", True),
        ({"segmentation": [["a", "b"]]}, "malformed", True),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, r"mask of size \[5, 5\]", True),
        ({"segmentation": {"size": [60, 80], "counts": [4800]}}, "is empty", True),
        ({"segmentation": [rectangle(10, 10, 10.4, 40)]}, "covers no pixel", True),
        (
            {"segmentation": [rectangle(100, 100, 120, 120)], "bbox": [100, 100, 20, 20]},
            "no usable bbox",
            False,
        ),
        ({"segmentation": [], "bbox": [1, 2]}, "no usable bbox", False),
    ],
)
def test_defective_annotation_is_named_and_never_trained_on(
    tmp_path: Path, annotation: dict[str, Any], warning: str, ignored: bool
) -> None:
    good = rectangle_annotation(7, 1, 10, 10, 30, 40)
    dataset = one_image(tmp_path, [good, {**good, **annotation}])
    assert len(dataset[0].labels) == 1
    assert len(dataset[0].ignore) == int(ignored)
    with pytest.raises(AssertionError, match=warning):
        raise AssertionError(" | ".join(dataset.warnings))


def test_object_of_which_only_the_box_is_known_is_an_object(tmp_path: Path) -> None:
    box_only = {"image_id": 7, "category_id": 3, "bbox": [60, 10, 30, 20], "area": 600, "box_only": True}
    dataset = one_image(tmp_path, [rectangle_annotation(7, 1, 10, 10, 30, 40), box_only])
    sample = dataset[0]
    assert sample.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(sample.boxes[1], [60, 10, 80, 30])
    assert sample.shapes[1] == ()
    assert len(sample.ignore) == 0
    assert "leaves the image by 10 px" in dataset.warnings[0]
    whole = stretch(sample, (120, 160))
    np.testing.assert_array_equal(whole.boxes, [[20, 20, 60, 80], [120, 20, 160, 60]])
    assert whole.masks[0].any()
    assert not whole.masks[1].any()


@pytest.mark.parametrize("seed", range(10))
def test_box_without_a_mask_moves_with_the_image(tmp_path: Path, seed: int) -> None:
    same = {"image_id": 7, "category_id": 1, "bbox": [15, 10, 40, 30], "area": 1200}
    pictures = []
    for number, more in enumerate(({"box_only": True}, {"segmentation": [rectangle(15, 10, 55, 40)]})):
        (folder := tmp_path / str(number)).mkdir()
        sample = one_image(folder, [{**same, **more}])[0]
        pictures.append(augment([sample], (128, 128), AugmentOptions(), np.random.default_rng(seed)))
    box_only, with_mask = pictures
    np.testing.assert_array_equal(box_only.image, with_mask.image)
    assert len(box_only.labels) == len(with_mask.labels)
    np.testing.assert_allclose(box_only.boxes, with_mask.boxes, atol=1)
    np.testing.assert_allclose(box_only.ignore, with_mask.ignore, atol=1)
    assert not box_only.masks.any()


@pytest.mark.parametrize("bbox", [[1, 2], None, [200, 200, 5, 5], [10, 10, 0, 5]])
def test_box_only_object_without_a_usable_box_is_left_out(tmp_path: Path, bbox: Any) -> None:
    defective = {"image_id": 7, "category_id": 3, "bbox": bbox, "box_only": True}
    dataset = one_image(tmp_path, [rectangle_annotation(7, 1, 10, 10, 30, 40), defective])
    assert dataset[0].labels.tolist() == [0]
    assert len(dataset[0].ignore) == 0
    assert "no usable bbox" in dataset.warnings[-1]


def test_no_class_at_all_may_be_labelled_in_an_image(tmp_path: Path) -> None:
    dataset = one_image(tmp_path, [rectangle_annotation(7, 1, 10, 10, 30, 40)], labelled_classes="")
    assert dataset[0].labelled.tolist() == [False, False]
    assert dataset[0].labels.tolist() == [0]


def test_image_that_labels_only_other_classes_is_one_without_labels(tmp_path: Path) -> None:
    names = ("person", "airplane, zebra", "airplane")
    entries = [image_entry(tmp_path, i + 1, 20, 20, labelled_classes=n) for i, n in enumerate(names)]
    dataset = CocoInstances(write_coco(tmp_path, entries, []), tmp_path, CLASSES)
    assert [dataset[i].labelled.tolist() for i in range(3)] == [[True, False], [False] * 2, [False] * 2]


def test_labelled_names_without_effect_are_told(tmp_path: Path) -> None:
    entries = [image_entry(tmp_path, i, 20, 20, labelled_classes="persn, car") for i in (1, 2)]
    path = write_coco(tmp_path, entries, [], CATEGORIES[:1])
    absent, mistyped, in_images = CocoInstances(path, tmp_path, CLASSES).notes
    assert "no such class: car" in absent
    assert "persn is no category of the file: without effect in labelled_classes of 2 images" in mistyped
    assert "car is no category of the file" in in_images
    dataset = CocoInstances(path, tmp_path, CLASSES, ["person", "car", "persn"])
    assert dataset[0].labelled.tolist() == [True, False]
    assert dataset.notes[0] == absent
    assert "without effect in `labelled`" in dataset.notes[1]
    assert dataset.notes[1].endswith("no such class: car, persn")


def test_object_that_leaves_the_image_is_clipped_and_named(tmp_path: Path) -> None:
    dataset = one_image(tmp_path, [rectangle_annotation(7, 1, 50, 30, 95, 70)])
    np.testing.assert_array_equal(dataset[0].boxes, np.array([[50, 30, 80, 60]], np.float32))
    assert "leaves the image by 15 px" in dataset.warnings[0]


def test_defective_images_are_named_and_skipped(tmp_path: Path) -> None:
    entries = [image_entry(tmp_path, i, 40, 50) for i in range(1, 5)]
    (tmp_path / "000001.jpg").write_bytes(b"")
    whole = (tmp_path / "000002.jpg").read_bytes()
    (tmp_path / "000002.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "000003.jpg").unlink()
    path = write_coco(tmp_path, [*entries, entries[3], {"id": 9}], [])
    dataset = CocoInstances(path, tmp_path, CLASSES)
    assert [dataset[i].image_id for i in range(len(dataset))] == [4]
    text = "\n".join(dataset.warnings)
    for part in ("000001.jpg is empty", "truncated JPEG", "000003.jpg cannot be read", "repeats the id 4"):
        assert part in text
    assert "image entry 9 is malformed" in text


def test_image_of_another_size_than_its_entry_is_refused_by_name(tmp_path: Path) -> None:
    entry = image_entry(tmp_path, 1, 40, 50)
    dataset = CocoInstances(
        write_coco(tmp_path, [{**entry, "height": 50, "width": 40}], []), tmp_path, CLASSES
    )
    with pytest.raises(InputError, match=r"000001.jpg is \(40, 50\).*\(50, 40\)"):
        dataset[0]


def test_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    entry = image_entry(tmp_path, 1, 40, 50)
    (tmp_path / "000001.jpg").write_text("not an image")
    dataset = CocoInstances(write_coco(tmp_path, [entry], []), tmp_path, CLASSES)
    with pytest.raises(InputError, match=r"000001.jpg: not decodable"):
        dataset[0]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "cannot read"),
        ("[]", "no list of objects under 'images'"),
        (json.dumps({"images": [], "annotations": {}, "categories": []}), "'annotations'"),
        (
            json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}),
            "it has: cat",
        ),
        (json.dumps({"images": [], "annotations": [], "categories": CATEGORIES}), "no usable image"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, content: str, match: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(InputError, match=match):
        CocoInstances(path, tmp_path, CLASSES)


def test_missing_annotation_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read annotations"):
        CocoInstances(tmp_path / "absent.json", tmp_path, CLASSES)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real photos are not at {REAL}")
def test_real_set_reads_without_a_warning() -> None:
    dataset = CocoInstances(REAL / "train_road4.json", REAL / "images", CLASSES)
    assert dataset.warnings == []
    assert dataset.counts() == {"person": 1132, "car": 551}
    assert dataset[0].labelled.all()
