"""Frame, RoiMask and Instances: what they accept, and run lengths against slow references."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest

from fassst_ros.types import Frame, InputError, Instances, RoiMask


def random_instances(seed: int, size: tuple[int, int] = (23, 31), n: int = 4) -> Instances:
    """Instances with random rectangles and bits."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(n):
        x, y = int(rng.integers(0, size[1])), int(rng.integers(0, size[0]))
        w, h = int(rng.integers(1, size[1] - x + 1)), int(rng.integers(1, size[0] - y + 1))
        masks.append(RoiMask(x, y, rng.random((h, w)) < rng.random()))
    boxes = np.float32([[m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]] for m in masks])
    scores = np.sort(rng.random(n).astype(np.float32))[::-1]
    return Instances(boxes, scores, np.int32(rng.integers(1, 9, n)), tuple(masks), size)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        ([[1, 2, 3]], "list"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_frame_says_what_came(image: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Frame(image)


def test_frame_refuses_other_colours() -> None:
    with pytest.raises(InputError, match="'yuv'"):
        Frame(np.zeros((4, 4, 3), np.uint8), "yuv")  # type: ignore[arg-type]
    assert Frame(np.zeros((4, 6, 3), np.uint8), "bgr").size == (4, 6)


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_against_groupby(seed: int) -> None:
    for mask in random_instances(seed).masks:
        flat = mask.bits.ravel().tolist()
        runs = [len(list(group)) for _, group in groupby(flat)]
        assert mask.run_lengths().tolist() == ([0, *runs] if flat[0] else runs)
        h, w = mask.bits.shape
        again = RoiMask.from_run_lengths(mask.x, mask.y, w, h, mask.run_lengths())
        np.testing.assert_array_equal(again.bits, mask.bits)
        assert mask.area == sum(flat)


@pytest.mark.parametrize("counts", [[5], [7], [2, -1, 5], []])
def test_runs_that_do_not_fill_the_rectangle(counts: list[int]) -> None:
    with pytest.raises(InputError, match="3 x 2 = 6"):
        RoiMask.from_run_lengths(0, 0, 3, 2, counts)


@pytest.mark.parametrize("seed", range(10))
def test_dense_and_coco_masks_are_the_same(seed: int) -> None:
    instances = random_instances(seed)
    dense = instances.to_dense()
    for full, mask, rle in zip(dense, instances.masks, instances.to_rle(), strict=True):
        h, w = mask.bits.shape
        np.testing.assert_array_equal(full[mask.y : mask.y + h, mask.x : mask.x + w], mask.bits)
        assert full.sum() == mask.area
        values = np.zeros(len(rle["counts"]), bool)
        values[1::2] = True
        columns = np.repeat(values, rle["counts"]).reshape(31, 23)  # down the columns
        np.testing.assert_array_equal(columns.T, full)
        assert rle["size"] == [23, 31]


def test_coco_masks_at_the_edges_and_empty_ones() -> None:
    full = [np.ones((h, w), np.bool_) for h, w in ((4, 6), (4, 1), (4, 1), (1, 6), (2, 0), (2, 2))]
    places = [(0, 0), (0, 0), (5, 0), (0, 3), (3, 1), (4, 1)]
    masks = [RoiMask(x, y, bits) for (x, y), bits in zip(places, full, strict=True)]
    masks.append(RoiMask(1, 1, np.zeros((2, 3), np.bool_)))
    n = len(masks)
    boxes, scores = np.zeros((n, 4), np.float32), np.zeros(n, np.float32)
    instances = Instances(boxes, scores, np.ones(n, np.int32), tuple(masks), (4, 6))
    assert [rle["counts"] for rle in instances.to_rle()] == [
        [0, 24],
        [0, 4, 20],
        [20, 4],
        [3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1],
        [24],
        [17, 2, 2, 2, 1],
        [24],
    ]


def test_instances_check_lengths_types_and_rectangles() -> None:
    good = random_instances(0)
    given = (good.boxes, good.scores, good.class_ids, good.masks, good.size)
    broken = [
        ((good.boxes[:1], *given[1:]), r"boxes are float32 \(1, 4\)"),
        ((good.boxes.astype(np.float64), *given[1:]), "boxes are float64"),
        ((given[0], good.scores[:2], *given[2:]), r"scores are float32 \(2,\)"),
        ((*given[:2], good.class_ids.astype(np.int64), *given[3:]), "class_ids are int64"),
        ((*given[:4], (5, 5)), "leaves the image 5x5"),
        ((*given, np.zeros(3, np.int64)), "track_ids"),
    ]
    for arguments, problem in broken:
        with pytest.raises(InputError, match=problem):
            Instances(*arguments)
    left = (RoiMask(-1, 0, np.ones((2, 2), np.bool_)),)
    with pytest.raises(InputError, match="x=-1"):
        Instances(good.boxes[:1], good.scores[:1], good.class_ids[:1], left, (9, 9))


def test_empty() -> None:
    empty = Instances.empty((5, 7))
    assert len(empty) == 0
    assert empty.to_dense().shape == (0, 5, 7)
    assert empty.to_rle() == []
