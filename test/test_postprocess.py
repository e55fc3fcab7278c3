"""Raw outputs -> Instances, against a reference that samples every pixel on its own."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from tiny_model import tiny_card

from fassst_ros.card import ModelCard
from fassst_ros.config import SegmentOptions
from fassst_ros.postprocess import postprocess, roi_masks
from fassst_ros.preprocess import Geometry
from fassst_ros.types import ModelError, RoiMask


def value_at(cells: np.ndarray, rectangle: tuple[float, ...], px: int, py: int) -> float:
    """Bilinear value of the cells at one pixel centre, one number at a time."""
    x0, y0, x1, y1 = rectangle
    h, w = cells.shape
    u = min(max((px + 0.5 - x0) / (x1 - x0) * w - 0.5, 0.0), w - 1.0)
    v = min(max((py + 0.5 - y0) / (y1 - y0) * h - 0.5, 0.0), h - 1.0)
    i, j = int(u), int(v)
    i2, j2 = min(i + 1, w - 1), min(j + 1, h - 1)
    a, b = u - i, v - j
    top = (1 - a) * cells[j, i] + a * cells[j, i2]
    low = (1 - a) * cells[j2, i] + a * cells[j2, i2]
    return float((1 - b) * top + b * low)


def slow_values(cells: np.ndarray, rectangle: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """(H, W) float64 mask values; -1 where the pixel centre is outside of the rectangle."""
    values = np.full(size, -1.0)
    x0, y0, x1, y1 = rectangle
    for py in range(size[0]):
        for px in range(size[1]):
            if x0 <= px + 0.5 < x1 and y0 <= py + 0.5 < y1:
                values[py, px] = value_at(cells, rectangle, px, py)
    return values


def smooth(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Cells with blobs, as a network gives them."""
    coarse = rng.random((cells // 2 + 1, cells // 2 + 1))
    return np.kron(coarse, np.ones((2, 2)))[:cells, :cells].astype(np.float32)


def one_mask(
    cells: np.ndarray, rectangle: tuple[float, ...], threshold: float, size: tuple[int, int]
) -> RoiMask | None:
    (roi,) = roi_masks(cells[None], np.zeros(1, np.intp), np.float64([rectangle]), threshold, size)
    return roi


@pytest.mark.parametrize("seed", range(40))
def test_mask_pixels_agree_with_the_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(20, 70)), int(rng.integers(20, 90)))
    cells = smooth(rng, int(rng.integers(1, 33)))
    if seed % 3 == 0:  # a small object in the corner of its cells
        cells = np.where(rng.random(cells.shape) > 0.95, cells, 0).astype(np.float32)
    x0, y0 = rng.uniform(-40, size[1]), rng.uniform(-40, size[0])
    rectangle = (x0, y0, x0 + rng.uniform(0.3, 120), y0 + rng.uniform(0.3, 120))
    threshold = float(rng.uniform(0.05, 0.9))
    values = slow_values(cells, rectangle, size)
    roi = one_mask(cells, rectangle, threshold, size)
    found = np.zeros(size, bool)
    if roi is not None:
        h, w = roi.bits.shape
        found[roi.y : roi.y + h, roi.x : roi.x + w] = roi.bits
        assert all(edge.any() for edge in (roi.bits[0], roi.bits[-1], roi.bits[:, 0], roi.bits[:, -1]))
    differs = found != (values > threshold)
    assert (np.abs(values[differs] - threshold) < 1e-5).all()  # only where rounding decides
    assert differs.sum() <= 2


def test_masks_made_together_are_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(7)
    size, n = (300, 500), 200  # more than are made at once
    masks = np.stack([smooth(rng, 20) for _ in range(n)])
    masks[[3, 40]] = 0
    corners = rng.uniform((-50, -50), (450, 280), (n, 2))
    rectangles = np.hstack([corners, corners + rng.uniform(1, 200, (n, 2))])
    rectangles[5] += 1000  # beside the image
    slots = rng.permutation(n)
    together = list(roi_masks(masks, slots, rectangles, 0.5, size))
    assert 3 <= sum(roi is None for roi in together) < n / 2
    for slot, rectangle, roi in zip(slots, rectangles, together, strict=True):
        alone = one_mask(masks[slot], tuple(rectangle), 0.5, size)
        if roi is None or alone is None:
            assert roi is alone
        else:
            assert (roi.x, roi.y) == (alone.x, alone.y)
            np.testing.assert_array_equal(roi.bits, alone.bits)


def test_a_box_beyond_all_numbers_costs_only_itself() -> None:
    card = tiny_card()
    raw = outputs(card, boxes=[[-3e38, -3e38, 3e38, 3e38]])
    with np.errstate(all="ignore"):
        found = postprocess(raw, Geometry((96, 256), (48, 64)), card)
    np.testing.assert_allclose(found.scores, [0.5])


def test_large_mask_crosses_blocks_of_rows() -> None:
    cells = smooth(np.random.default_rng(3), 32)
    roi = one_mask(cells, (-3.3, -2.2, 1501.7, 803.9), 0.5, (800, 1490))
    assert roi is not None
    for py, px in np.random.default_rng(4).integers(0, (800, 1490), (3000, 2)):
        value = value_at(cells, (-3.3, -2.2, 1501.7, 803.9), px, py)
        inside = 0 <= py - roi.y < roi.bits.shape[0] and 0 <= px - roi.x < roi.bits.shape[1]
        if abs(value - 0.5) > 1e-5:
            assert (inside and roi.bits[py - roi.y, px - roi.x]) == (value > 0.5)


def outputs(card: ModelCard, **given: Any) -> dict[str, np.ndarray]:
    """Raw outputs with two good slots of card.slots, then `given` over them."""
    k, h, w = card.slots, card.masks.height, card.masks.width
    raw = {
        "scores": np.zeros((1, k), np.float32),
        "labels": np.zeros((1, k), np.int32),
        "boxes": np.tile(np.float32([8, 6, 40, 30]), (1, k, 1)),
        "masks": np.ones((1, k, h, w), np.float32),
    }
    raw["scores"][0, :2] = 0.9, 0.5
    raw["labels"][0, :2] = 1, 0
    for name, value in given.items():
        raw[name][0, : len(value)] = value
    return raw


def test_boxes_masks_and_ids_in_source_pixels() -> None:
    card = tiny_card()  # 48 x 64 input
    found = postprocess(outputs(card), Geometry((96, 256), (48, 64)), card)
    assert found.size == (96, 256)
    assert found.class_ids.tolist() == [3, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.5])
    np.testing.assert_array_equal(found.boxes, [[32, 12, 160, 60]] * 2)
    mask = found.masks[0]  # the box grown by a tenth of 128 x 48 on each side: x 19.2..172.8, y 7.2..64.8
    assert (mask.x, mask.y, mask.bits.shape) == (19, 7, (65 - 7, 173 - 19))
    assert mask.bits.all()


def test_boxes_are_clipped_and_empty_ones_dropped() -> None:
    card = tiny_card()
    raw = outputs(card, scores=[0.9, 0.8, 0.7], boxes=[[-10, -10, 20, 20], [70, 0, 90, 20], [30, 30, 30, 40]])
    found = postprocess(raw, Geometry((48, 64), (48, 64)), card)
    np.testing.assert_array_equal(found.boxes, [[0, 0, 20, 20]])


def test_instances_without_a_mask_pixel_are_dropped() -> None:
    card = tiny_card()
    raw = outputs(card)
    raw["masks"][0, 0] = 0.2
    found = postprocess(raw, Geometry((48, 64), (48, 64)), card)
    assert found.class_ids.tolist() == [1]


def test_best_first_even_if_the_slots_are_not() -> None:
    card = tiny_card()
    raw = outputs(card, scores=[0.4, 0.9, 0.6], labels=[0, 1, 0])
    found = postprocess(raw, Geometry((48, 64), (48, 64)), card)
    np.testing.assert_allclose(found.scores, [0.9, 0.6, 0.4])
    assert found.class_ids.tolist() == [3, 1, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (SegmentOptions(), [0.9, 0.5]),
        (SegmentOptions(score_threshold=0.6), [0.9]),
        (SegmentOptions(score_threshold=0.0), [0.9, 0.5, 0.0]),
        (SegmentOptions(max_instances=1), [0.9]),
        (SegmentOptions(classes=("person",)), [0.5]),
        (SegmentOptions(classes=("person",), max_instances=1), [0.5]),
        (SegmentOptions(mask_threshold=1.0), []),
    ],
)
def test_options(options: SegmentOptions, expected: list[float]) -> None:
    card = tiny_card(threshold=0.4)
    found = postprocess(outputs(card), Geometry((48, 64), (48, 64)), card, options)
    np.testing.assert_allclose(found.scores, expected)


def test_dropped_instances_do_not_count_against_max_instances() -> None:
    card = tiny_card()
    raw = outputs(card)
    raw["masks"][0, 0] = 0
    found = postprocess(raw, Geometry((48, 64), (48, 64)), card, SegmentOptions(max_instances=1))
    np.testing.assert_allclose(found.scores, [0.5])


@pytest.mark.parametrize("name", ["scores", "boxes", "masks"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_cost_their_slot_only(name: str, value: float) -> None:
    card = tiny_card()
    raw = outputs(card)
    raw[name][0, 0].flat[-1] = value
    if name == "scores":
        raw["scores"][0, 0] = value
    told: list[str] = []
    found = postprocess(raw, Geometry((48, 64), (48, 64)), card, log=told.append)
    np.testing.assert_allclose(found.scores, [0.5])
    assert len(told) == 1
    assert "1 of 3 slots" in told[0]


@pytest.mark.parametrize("label", [-1, 2])
def test_label_outside_of_the_card_is_a_model_error(label: int) -> None:
    card = tiny_card()
    with pytest.raises(ModelError, match=f"label {label}.*0..1"):
        postprocess(outputs(card, labels=[label]), Geometry((48, 64), (48, 64)), card)
    ignored = outputs(card, labels=[0, 1, label])  # an unused slot may hold anything
    assert len(postprocess(ignored, Geometry((48, 64), (48, 64)), card)) == 2


def test_frame_masks_tile_the_whole_image() -> None:
    card = tiny_card(kind="frame")
    raw = outputs(card)
    raw["masks"][0, 0] = 0
    raw["masks"][0, 0, 4, 2] = 1.0
    found = postprocess(raw, Geometry((80, 160), (48, 64)), card)
    mask = found.masks[0]
    values = slow_values(raw["masks"][0, 0], (0, 0, 160, 80), (80, 160))
    np.testing.assert_array_equal(found.to_dense()[0], values > 0.5)
    assert (mask.x, mask.y, mask.bits.shape) == (41, 40, (10, 18))


@pytest.mark.parametrize("seed", range(8))
def test_shapes_come_back_from_what_an_ideal_network_would_say(seed: int) -> None:
    """Shapes on the image -> share of each of the 32 x 32 cells that they cover -> the same shapes."""
    rng = np.random.default_rng(seed)
    size, fine = (400, 900), 8
    card = tiny_card(768, 768, slots=2, cells=32)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radii = rng.uniform(0.4, 1.0, 9) * rng.uniform(20, 150)
    center = rng.uniform(60, 340), rng.uniform(60, 840)
    points = np.stack([center[1] + radii * np.cos(angles), center[0] + radii * np.sin(angles)], axis=1)
    shape = np.zeros(size, np.uint8)
    cv2.fillPoly(shape, [np.int32(points)], 1)
    x, y, w, h = cv2.boundingRect(shape)
    across = np.floor(x - 0.1 * w + (np.arange(32 * fine) + 0.5) / (32 * fine) * 1.2 * w).astype(int)
    down = np.floor(y - 0.1 * h + (np.arange(32 * fine) + 0.5) / (32 * fine) * 1.2 * h).astype(int)
    inside = (down[:, None] >= 0) & (down[:, None] < size[0]) & (across >= 0) & (across < size[1])
    samples = np.where(
        inside, shape[np.clip(down, 0, size[0] - 1)[:, None], np.clip(across, 0, size[1] - 1)], 0
    )
    raw = outputs(card, scores=[0.9, 0.0])
    raw["boxes"][0, 0] = np.array([x, y, x + w, y + h]) * np.array([768 / 900, 768 / 400] * 2)
    raw["masks"][0, 0] = samples.reshape(32, fine, 32, fine).mean(axis=(1, 3))
    found = postprocess(raw, Geometry(size, (768, 768)), card).to_dense()[0]
    truth = shape > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.96


def test_below_the_threshold_only_what_is_wanted_stays() -> None:
    boxes = np.float32([[0, 0, 20, 20], [20, 0, 40, 20], [40, 0, 60, 20], [0, 20, 20, 40]])
    outputs = {
        "scores": np.float32([[0.9, 0.3, 0.2, 0.05]]),
        "labels": np.int32([[0, 1, 0, 1]]),
        "boxes": boxes[None],
        "masks": np.ones((1, 4, 8, 8), np.float32),
    }
    card, geometry = tiny_card(slots=4), Geometry((96, 128), (48, 64))  # twice the network's input
    asked: list[Any] = []

    def second(boxes: Any, class_ids: Any) -> Any:
        asked.append((boxes.tolist(), class_ids.tolist()))
        return np.array([False, True, False])

    def scores(*more: Any) -> list[float]:
        found = postprocess(outputs, geometry, card, SegmentOptions(), None, *more)
        return [round(float(score), 2) for score in found.scores]

    assert scores() == [0.9]
    assert scores(0.1) == [0.9, 0.3, 0.2]
    assert scores(0.1, second) == [0.9, 0.3]
    assert asked == [((2 * boxes[:3]).tolist(), [1, 3, 1])]
    assert scores(0.5, second) == [0.9], "a higher least score takes nothing away"
    assert len(asked) == 1, "there was nothing to ask for"
