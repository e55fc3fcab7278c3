"""Pasted objects: exact masks of what they cover, plausible places, and nothing that is not known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import CLASSES, image_entry, rectangle_annotation, write_coco

from fassst_ros.coco_format import Shape
from fassst_ros.training.augment import AugmentOptions, stretch
from fassst_ros.training.copy_paste import copy_paste
from fassst_ros.training.datasets import CocoInstances, Sample
from fassst_ros.training.loader import MixedSamples, make_loader
from fassst_ros.types import RoiMask

SAME_SIZE = AugmentOptions(pasted=1, paste_scale=(1, 1), flip=0)
#: A person 50 px high: the horizon is at 60, and one of 100 px stands at 170.
PERSON = (290, 65, 310, 115)


def square(x0: float, y0: float, x1: float, y1: float) -> Shape:
    return (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32),)


def sample_of(
    boxes: list[tuple[float, ...]],
    colour: int,
    labels: list[int] | None = None,
    shapes: tuple[Shape, ...] | None = None,
    size: tuple[int, int] = (200, 320),
    ignore: list[tuple[float, ...]] | None = None,
) -> Sample:
    return Sample(
        np.full((*size, 3), colour, np.uint8),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels if labels else [0] * len(boxes), np.int64),
        tuple(square(*box) for box in boxes) if shapes is None else shapes,
        np.array([True, False]),
        np.array(ignore or [], np.float32).reshape(-1, 4),
        1,
    )


def pixels(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of a pixel mask."""
    assert isinstance(shape, RoiMask)
    full = np.zeros(size, np.bool_)
    height, width = shape.bits.shape
    full[shape.y : shape.y + height, shape.x : shape.x + width] = shape.bits
    return full


def paste(sample: Sample, donor: Sample, options: AugmentOptions = SAME_SIZE, seed: int = 0) -> Sample:
    return copy_paste(sample, donor, options, np.random.default_rng(seed))


def test_covered_pixels_leave_the_mask_and_the_box() -> None:
    """A wall of cars, 60 px high, and a person of 100 px pasted in front somewhere."""
    street = sample_of([PERSON, (0, 90, 288, 150)], 10, [0, 1])
    for seed in range(20):
        result = paste(street, sample_of([(130, 40, 170, 140)], 200), seed=seed)
        x0, y0, x1, y1 = result.boxes[-1]
        assert (x1 - x0, y1 - y0) == (40, 100)
        assert y1 == 170
        person = pixels(result.shapes[-1], (200, 320))
        assert person.sum() == 4000
        if x0 > 248:
            continue
        car = pixels(result.shapes[1], (200, 320))
        expected = np.zeros_like(car)
        expected[90:150, :288] = True
        np.testing.assert_array_equal(car, expected & ~person)
        np.testing.assert_allclose(result.boxes[1], [0, 90, 288, 150], atol=1e-4)
        assert result.labels.tolist() == [0, 1, 0]
        assert result.image[120, int(x0 + 20)].tolist() == [200] * 3
        assert result.image[~person].max() <= 10 + 190 / 2  # half of the softened outline lies outside
        assert result.labelled.tolist() == [True, False]


def test_what_hardly_shows_any_more_is_ignored() -> None:
    """A bus is pasted at 70..170 px: of a tenth the rest is ignored, of a third it is learnt."""
    hardly, not_at_all, well = (40, 65, 60, 115), (100, 110, 120, 168), (70, 50, 90, 110)
    street = sample_of([hardly, not_at_all, well], 10, ignore=[(200, 10, 220, 30)])
    result = paste(street, sample_of([(10, 40, 310, 140)], 200, [1]))
    assert result.boxes[:, 1::2].tolist() == [[50, 70], [70, 170]]
    np.testing.assert_allclose(result.boxes[0], [70, 50, 90, 70])
    np.testing.assert_allclose(result.ignore, [[200, 10, 220, 30], [40, 65, 60, 70]])
    assert result.labels.tolist() == [0, 1]


def test_objects_without_a_mask_are_not_pasted_and_half_hidden_ones_ignored() -> None:
    street = sample_of([PERSON], 10)
    assert paste(street, sample_of([(130, 40, 170, 140)], 200, shapes=((),))) is street
    known = [PERSON, (60, 90, 100, 160)]
    boxes_only = sample_of(known, 10, shapes=((), ()))
    kept = ignored = 0
    for seed in range(60):
        result = paste(boxes_only, sample_of([(130, 40, 170, 140)], 200), seed=seed)
        front = pixels(result.shapes[-1], (200, 320))
        hidden = np.array([front[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in known])
        assert len(result.boxes) == (hidden <= 0.5).sum() + 1
        assert len(result.ignore) == ((hidden > 0.5) & (hidden < 1)).sum()
        assert all(shape == () for shape in result.shapes[:-1])
        kept += ((hidden > 0) & (hidden <= 0.5)).sum()
        ignored += len(result.ignore)
    assert kept
    assert ignored


def test_unknown_crowded_and_split_objects_are_not_pasted() -> None:
    street, box = sample_of([PERSON], 10), (130, 40, 170, 140)
    assert paste(street, sample_of([box], 200)) is not street
    assert paste(street, sample_of([], 200)) is street
    assert paste(street, sample_of([box], 200, ignore=[(160, 40, 300, 140)])) is street
    halves = (*square(130, 40, 170, 80), *square(130, 100, 170, 140))
    assert paste(street, sample_of([box], 200, shapes=(halves,))) is street
    bits = np.ones((100, 40), np.bool_)
    assert paste(street, sample_of([box], 200, shapes=(RoiMask(130, 40, bits),))) is not street
    bits[40:60] = False
    assert paste(street, sample_of([box], 200, shapes=(RoiMask(130, 40, bits),))) is street
    crowd = [(130 + 30.0 * i, 40, 170 + 30.0 * i, 140) for i in range(4)]
    options = dataclasses.replace(SAME_SIZE, pasted=3)
    assert all(paste(street, sample_of(crowd, 200), options, seed) is street for seed in range(10))


def test_overlapping_objects_stay_together() -> None:
    """A rider and the bicycle below: pasted both, as they were to each other, or neither."""
    street = sample_of([PERSON], 10)
    pair = sample_of([(140, 40, 165, 110), (130, 80, 180, 140)], 200, [0, 1])
    options = dataclasses.replace(SAME_SIZE, pasted=2, flip=0.5)
    numbers = set()
    for seed in range(20):
        result = paste(street, pair, options, seed)
        numbers.add(len(result.boxes))
        if len(result.boxes) == 3:
            rider, bicycle = result.boxes[1:]
            assert bicycle[3] - rider[3] == pytest.approx(30, abs=1e-3)
            assert result.labels.tolist() == [0, 0, 1]
    assert numbers == {1, 3}


def test_where_there_is_no_place_the_image_stays_as_it_is() -> None:
    street = sample_of([PERSON], 10)
    wide, tall = [(10.0, 40, 390, 140)], [(100.0, 10, 200, 390)]
    large = dataclasses.replace(SAME_SIZE, paste_scale=(1.2, 1.2))
    assert paste(street, sample_of(wide, 200, size=(200, 400)), large) is street
    assert paste(street, sample_of(tall, 200, size=(400, 400)), large) is street
    empty = sample_of([], 10)  # no object tells where others would stand
    assert paste(empty, sample_of([(130, 40, 170, 140)], 200)) is empty


def test_nearer_objects_and_crowds_are_not_covered() -> None:
    lower = (0.0, 150, 320, 199)
    donor = sample_of([(130, 40, 170, 140)], 200)
    for street in (
        sample_of([PERSON, lower], 10, [0, 1], size=(220, 320)),
        sample_of([PERSON], 10, ignore=[lower], size=(220, 320)),
    ):
        assert paste(street, donor) is street


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_cuts_lie_at_the_border_again(flip: float) -> None:
    options = dataclasses.replace(SAME_SIZE, flip=flip)
    street = sample_of([PERSON], 10)
    left = paste(street, sample_of([(0, 40, 40, 140)], 200), options).boxes[-1]
    assert left.tolist()[::2] == ([280, 320] if flip else [0, 40])
    bottom = paste(street, sample_of([(130, 60, 170, 200)], 200), options).boxes[-1]
    assert bottom.tolist()[1::2] == [60, 200]
    # Cut at 80 px, it would stand at 148: nobody of that size is cut by this border.
    assert paste(street, sample_of([(130, 120, 170, 200)], 200), options) is street
    assert paste(street, sample_of([(130, 20, 170, 200)], 200), options) is street  # a giant's head
    assert paste(street, sample_of([(130, 0, 170, 100)], 200), options) is street  # cut at the top
    assert paste(street, sample_of([(0, 40, 320, 140)], 200), options) is street  # on both sides


def test_sizes_follow_the_longer_image_side() -> None:
    street = sample_of([PERSON], 10)
    donor = sample_of([(260, 80, 340, 280)], 200, size=(400, 640))
    box = paste(street, donor).boxes[-1]
    np.testing.assert_allclose(box[2:] - box[:2], [40, 100], atol=1e-3)


def test_masks_and_pixels_agree_after_augmentation() -> None:
    street = sample_of([PERSON], 0)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    disc = (np.stack([150 + 45 * np.cos(angle), 90 + 45 * np.sin(angle)], 1).astype(np.float32),)
    box = (*disc[0].min(0), *disc[0].max(0))
    for seed in range(6):
        options = dataclasses.replace(SAME_SIZE, flip=0.5, paste_scale=(0.6, 1.2))
        result = stretch(paste(street, sample_of([box], 250, shapes=(disc,)), options, seed), (400, 640))
        shown = result.image[::2, ::2, 0] > 125
        drawn = result.masks[-1] > 127
        assert (shown & drawn).sum() / (shown | drawn).sum() > 0.93


@pytest.fixture
def sets(tmp_path: Path) -> list[CocoInstances]:
    result = []
    for name, category in (("a", 1), ("b", 3)):
        folder = tmp_path / name
        folder.mkdir()
        entries = [image_entry(folder, i, 120, 160, labelled_classes="person") for i in range(1, 7)]
        boxes = [rectangle_annotation(i, category, 20 + 10 * i, 50, 50 + 10 * i, 90) for i in range(1, 7)]
        result.append(CocoInstances(write_coco(folder, entries, boxes), folder, CLASSES))
    return result


def test_images_depend_on_seed_and_number_alone(sets: list[CocoInstances]) -> None:
    options = AugmentOptions(copy_paste=0.7, mosaic=0.3, scale=(1, 1))
    alone, shared = (
        list(make_loader(sets, [1, 1], (64, 96), 4, 24, workers=workers, seed=3, options=options))
        for workers in (0, 2)
    )
    resumed = list(make_loader(sets, [1, 1], (64, 96), 4, 12, seed=3, options=options, first=12))
    for other in (shared, alone[:3] + resumed):
        for a, b in zip(alone, other, strict=True):
            assert torch.equal(a.images, b.images)
            for ta, tb in zip(a.targets, b.targets, strict=True):
                assert all(torch.equal(ta[k], tb[k]) for k in ta)


def test_chance_of_zero_leaves_every_image_as_it_was(sets: list[CocoInstances]) -> None:
    """Pasting draws no random number where it is off; where it is on, sets mix within an image."""
    off = MixedSamples(sets, [1, 1], (64, 96), 40, options=AugmentOptions(mosaic=0.0))
    on = MixedSamples(sets, [1, 1], (64, 96), 40, options=AugmentOptions(mosaic=0.0, copy_paste=1.0))
    classes = [set(on[i].labels.tolist()) for i in range(40)]
    assert {0, 1} in classes
    assert all(len(set(off[i].labels.tolist())) <= 1 for i in range(40))
