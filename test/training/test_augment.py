from __future__ import annotations

import dataclasses
import logging
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from coco_files import CLASSES, image_entry, rectangle_annotation, write_coco
from pycocotools import mask as oracle

from fassst_ros.training.augment import AugmentOptions, TrainingImage, augment, stretch
from fassst_ros.training.datasets import CocoInstances, Sample
from fassst_ros.training.loader import Batch, MixedSamples, make_loader
from fassst_ros.training.placement import Placement, draw_mask
from fassst_ros.types import ConfigError, InputError, RoiMask

GEOMETRY_ONLY = AugmentOptions(hue=0, saturation=0, value=0, grey=0, blur=0, noise=0, jpeg=0)


def star(cx: float, cy: float, radius: float, points: int = 9) -> np.ndarray:
    """A concave polygon with blunt tips."""
    angle = np.arange(2 * points) * np.pi / points
    reach = radius * np.where(np.arange(2 * points) % 2, 0.75, 1.0)
    return np.stack([cx + reach * np.cos(angle), cy + reach * np.sin(angle)], 1).astype(np.float32)


def sample_of(polygons: list[np.ndarray], height: int = 480, width: int = 640) -> Sample:
    rng = np.random.default_rng(1)
    image = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (width, height))
    boxes = np.array([[*p.min(0), *p.max(0)] for p in polygons], np.float32).reshape(-1, 4)
    return Sample(
        image, boxes, np.zeros(len(polygons), np.int64), tuple((p,) for p in polygons),
        np.ones(2, np.bool_), np.zeros((0, 4), np.float32), 1,
    )  # fmt: skip


def test_stretch_shows_what_the_pipeline_shows() -> None:
    sample = sample_of([])
    result = stretch(sample, (768, 512))
    expected = cv2.resize(sample.image, (512, 768), interpolation=cv2.INTER_LINEAR)
    inner = np.abs(result.image.astype(int) - expected)[2:-2, 2:-2]
    assert inner.max() <= 3  # warpAffine interpolates in steps of 1/32 pixel
    assert inner.mean() < 0.5


def test_thin_masks_keep_their_area_where_they_shrink() -> None:
    """A picket fence of 2 px in a frame of Cityscapes: half of its extent at every scale."""
    bits = np.zeros((400, 200), np.bool_)
    bits[:, ::4] = bits[:, 1::4] = True
    box = np.array([[600, 300, 800, 700]], np.float32)
    sample = dataclasses.replace(sample_of([], 1024, 2048), boxes=box, labels=np.zeros(1, np.int64))
    sample = dataclasses.replace(sample, shapes=(RoiMask(600, 300, bits),))
    for size in ((768, 768), (512, 1024), (416, 416)):
        mask = stretch(sample, size).masks[0]
        cells = 200 * 400 * (size[0] / 2048) * (size[1] / 4096)
        assert mask.sum(dtype=np.int64) / 255 == pytest.approx(cells / 2, rel=0.03)
        inside = mask[mask > 0]
        assert np.median(np.abs(inside - 127.5)) < 70  # grey, not stripes


@pytest.mark.parametrize("radius", [8, 20, 60, 200])
def test_masks_cover_the_polygons(radius: int) -> None:
    polygon = star(320.3, 240.7, radius)
    mask = stretch(sample_of([polygon]), (960, 1280)).masks[0]  # half resolution = the source's pixels
    truth = oracle.decode(oracle.merge(oracle.frPyObjects([polygon.ravel().tolist()], 480, 640)))
    seen = mask > 127
    iou = np.logical_and(seen, truth).sum() / np.logical_or(seen, truth).sum()
    assert iou > (0.9 if radius == 8 else 0.96)
    exact = cv2.contourArea(polygon)
    assert mask.sum(dtype=np.int64) / 255 == pytest.approx(exact, rel=0.01)


def test_polygon_and_pixel_shapes_give_the_same_mask() -> None:
    polygon = star(100, 80, 50)
    dense = oracle.decode(oracle.merge(oracle.frPyObjects([polygon.ravel().tolist()], 200, 200)))
    pixels = RoiMask(30, 20, dense[20:150, 30:160].astype(np.bool_))
    for place in (
        Placement((1.7, 0.8), (3.3, -10.2), (0, 0, 400, 300)),
        Placement((-1.1, 1.4), (210.0, 5.5), (0, 0, 400, 300)),
        Placement((1.5, 1.5), (-60.0, 2.0), (20, 10, 140, 300)),
    ):
        masks = []
        for shape in ((polygon,), pixels):
            whole = place.boxes(np.array([[*polygon.min(0), *polygon.max(0)]], np.float32))
            box = place.clip(whole)
            out = np.zeros((150, 200), np.uint8)
            seen, visible = draw_mask(shape, place, box[0], bool((box != whole).any()), out)
            masks.append((out.astype(int), seen, visible))
        (a, box_a, visible_a), (b, box_b, visible_b) = masks
        assert np.abs(a - b).sum() / a.sum() < 0.05
        np.testing.assert_allclose(box_a, box_b, atol=2.5)
        assert visible_a == pytest.approx(visible_b, abs=0.03)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("number", [1, 4])
def test_boxes_are_tight_around_their_masks(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = [
        star(*rng.uniform((0, 0, 10), (640, 480, 150))).clip(0, (640, 480)).astype(np.float32)
        for _ in range(6)
    ]
    result = augment([sample_of(polygons)] * number, (256, 384), GEOMETRY_ONLY, rng)
    assert result.image.shape == (256, 384, 3)
    assert result.masks.shape == (len(result.boxes), 128, 192)
    for box, mask in zip(result.boxes, result.masks, strict=True):
        rows, columns = np.flatnonzero(mask.max(1) > 32), np.flatnonzero(mask.max(0) > 32)
        extent = 2 * np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        np.testing.assert_allclose(box, extent, atol=4)  # tips cover little of a cell of 2 pixels
        assert (box[2:] - box[:2]).min() >= GEOMETRY_ONLY.min_size


def test_image_and_mask_move_together() -> None:
    """A white object on black is found where its mask says, through every crop, flip and mosaic."""
    polygon = star(300, 250, 120)
    sample = sample_of([polygon])
    image = np.zeros_like(sample.image)
    cv2.fillPoly(image, [np.round(polygon).astype(np.int32)], (255, 255, 255))
    sample = dataclasses.replace(sample, image=image)
    options = dataclasses.replace(GEOMETRY_ONLY, min_size=1.0, min_visible=0.0)
    seen = 0
    for seed in range(20):
        result = augment([sample] * (4 if seed % 2 else 1), (320, 320), options, np.random.default_rng(seed))
        drawn = cv2.resize(result.image, (160, 160), interpolation=cv2.INTER_AREA)[..., 0] > 180
        masked = result.masks.max(0, initial=0) > 127
        if masked.sum() > 200:
            seen += 1
            assert np.logical_and(drawn, masked).sum() / np.logical_or(drawn, masked).sum() > 0.9
    assert seen > 10


def test_aspects_of_real_cameras_are_all_seen() -> None:
    sample = sample_of([star(320, 240, 40)])
    ratios = []
    for seed in range(300):
        options = dataclasses.replace(GEOMETRY_ONLY, scale=(0.5, 0.5))
        box = augment([sample], (512, 512), options, np.random.default_rng(seed)).boxes[0]
        ratios.append((box[2] - box[0]) / (box[3] - box[1]))
    base = np.ptp(star(320, 240, 40), axis=0)
    distortion = np.array(ratios) / (base[0] / base[1])
    assert distortion.min() < 0.53
    assert distortion.max() > 1.27


def test_objects_mostly_out_of_sight_become_ignored() -> None:
    square = np.array([[0, 0], [100, 0], [100, 100], [0, 100]], np.float32)
    sample = sample_of([square], 400, 400)
    # Fill factor 1, shifted so far that a tenth (then half) of the square stays visible.
    for left, kept in ((-90.0, 0), (-50.0, 1)):
        place = Placement((1.0, 1.0), (left, 0.0), (0, 0, 400, 400))
        out = np.zeros((200, 200), np.uint8)
        box = place.clip(place.boxes(sample.boxes))[0]
        seen, visible = draw_mask((square,), place, box, True, out)
        assert visible == pytest.approx((100 + left) / 100, abs=0.01)
        np.testing.assert_allclose(seen, [0, 0, 100 + left, 100], atol=0.6)
        assert (visible >= AugmentOptions().min_visible) == bool(kept)
    tiny = sample_of([np.array([[5, 5], [8, 5], [8, 30], [5, 30]], np.float32)], 400, 400)
    result = stretch(tiny, (400, 400))
    assert len(result.boxes) == 0
    assert result.masks.shape == (0, 200, 200)
    np.testing.assert_allclose(result.ignore, [[5, 5, 8, 30]])


def test_visible_box_of_a_cut_object_skips_parts_out_of_sight() -> None:
    near = np.array([[10, 10], [40, 10], [40, 40], [10, 40]], np.float32)
    far = near + np.array([200, 0], np.float32)
    place = Placement((1.0, 1.0), (0.0, 0.0), (0, 0, 100, 100))
    out = np.zeros((50, 50), np.uint8)
    box = place.clip(np.array([[10, 10, 240, 40]], np.float32))[0]
    seen, visible = draw_mask((near, far), place, box, True, out)
    np.testing.assert_allclose(seen, [10, 10, 40, 40], atol=0.6)
    assert visible == pytest.approx(0.5, abs=0.02)


def test_mosaic_labels_only_what_all_four_label() -> None:
    whole = sample_of([star(100, 100, 60)])
    part = dataclasses.replace(whole, labelled=np.array([True, False]))
    result = augment([whole, part, whole, whole], (256, 256), GEOMETRY_ONLY, np.random.default_rng(0))
    assert result.labelled.tolist() == [True, False]


def test_wrong_numbers_are_refused() -> None:
    sample, rng = sample_of([]), np.random.default_rng(0)
    with pytest.raises(InputError, match="2 samples"):
        augment([sample] * 2, (256, 256), GEOMETRY_ONLY, rng)
    with pytest.raises(InputError, match="255x256"):
        augment([sample], (255, 256), GEOMETRY_ONLY, rng)
    with pytest.raises(InputError, match="even"):
        stretch(sample, (256, 255))


def test_colour_and_noise_leave_the_targets_alone() -> None:
    strong = AugmentOptions(grey=0.5, blur=0.9, noise=0.9, jpeg=0.9)
    sample = sample_of([star(320, 240, 100)])
    for seed in range(8):
        plain = augment([sample], (256, 256), GEOMETRY_ONLY, np.random.default_rng(seed))
        noisy = augment([sample], (256, 256), strong, np.random.default_rng(seed))
        np.testing.assert_array_equal(plain.masks, noisy.masks)
        np.testing.assert_array_equal(plain.boxes, noisy.boxes)
        assert noisy.image.dtype == np.uint8
        assert noisy.image.shape == plain.image.shape
        assert (noisy.image != plain.image).mean() > 0.2


@pytest.fixture
def sets(tmp_path: Path) -> list[CocoInstances]:
    result = []
    for name, label in (("a", "person,car"), ("b", "person")):
        folder = tmp_path / name
        folder.mkdir()
        entries = [image_entry(folder, i, 60, 80, labelled_classes=label) for i in range(1, 7)]
        boxes = [rectangle_annotation(i, 1, 10, 10, 60, 50) for i in range(1, 7)]
        result.append(CocoInstances(write_coco(folder, entries, boxes), folder, CLASSES))
    return result


def same(a: TrainingImage, b: TrainingImage) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))


def test_samples_depend_on_seed_and_number_alone(sets: list[CocoInstances]) -> None:
    mixed = MixedSamples(sets, [1, 1], (64, 64), 20, seed=5)
    copy = pickle.loads(pickle.dumps(mixed))
    assert all(same(mixed[i], copy[i]) for i in (11, 3, 7))
    other = MixedSamples(sets, [1, 1], (64, 64), 20, seed=6)
    assert not all(same(mixed[i], other[i]) for i in range(5))
    assert not same(mixed[0], mixed[1])


def test_batches_are_the_same_for_any_number_of_workers(sets: list[CocoInstances]) -> None:
    alone, shared = (
        list(make_loader(sets, [1, 2], (64, 96), 4, 10, workers=workers, seed=3)) for workers in (0, 2)
    )
    assert len(alone) == len(shared) == 2  # 10 images are 2 whole batches
    for a, b in zip(alone, shared, strict=True):
        assert isinstance(a, Batch)
        assert a.images.shape == (4, 64, 96, 3)
        assert a.images.dtype == torch.uint8
        assert torch.equal(a.images, b.images)
        for ta, tb in zip(a.targets, b.targets, strict=True):
            assert set(ta) == {"boxes", "labels", "masks", "labelled", "ignore"}
            assert all(torch.equal(ta[k], tb[k]) for k in ta)
            assert ta["masks"].shape == (len(ta["boxes"]), 32, 48)
            assert ta["labels"].dtype == torch.int64


def test_weights_choose_the_set(sets: list[CocoInstances]) -> None:
    mixed = MixedSamples(sets, [3, 1], (32, 32), 400)
    share = np.mean([mixed[i].labelled.all() for i in range(400)])  # only set a labels both classes
    assert share == pytest.approx(0.75, abs=0.07)


def test_images_without_objects_are_rare_but_not_absent(tmp_path: Path) -> None:
    entries = [image_entry(tmp_path, i, 40, 40) for i in range(1, 21)]
    boxes = [rectangle_annotation(1, 1, 5, 5, 35, 35)]
    dataset = CocoInstances(write_coco(tmp_path, entries, boxes), tmp_path, CLASSES)
    options = dataclasses.replace(GEOMETRY_ONLY, mosaic=0, scale=(1, 1), aspect=(1, 1))
    mixed = MixedSamples([dataset], [1], (32, 32), 300, options=options)
    share = np.mean([len(mixed[i].boxes) for i in range(300)])
    assert 0.6 < share < 1
    empty = CocoInstances(write_coco(tmp_path, entries, []), tmp_path, CLASSES)
    assert len(MixedSamples([empty], [1], (32, 32), 1)[0].boxes) == 0


def test_broken_image_is_named_and_replaced(
    sets: list[CocoInstances], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a" / "000003.jpg").write_bytes(b"gone bad")
    mixed = MixedSamples(sets, [1, 0], (32, 32), 30)
    with caplog.at_level(logging.WARNING):
        images = [mixed[i] for i in range(30)]
    assert len(images) == 30
    assert "000003.jpg" in caplog.text
    for path in (tmp_path / "a").glob("*.jpg"):
        path.unlink()
    with pytest.raises(InputError, match="images in a row"):
        mixed[0]


def test_mixes_that_make_no_sense_are_refused(sets: list[CocoInstances]) -> None:
    for weights in ([1.0], [0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ConfigError, match="weights"):
            MixedSamples(sets, weights, (32, 32), 4)
    other = CocoInstances(
        sets[0]._records[0].path.parent / "annotations.json", sets[0]._records[0].path.parent, CLASSES[:1]
    )
    with pytest.raises(ConfigError, match="different classes"):
        MixedSamples([sets[0], other], [1, 1], (32, 32), 4)
