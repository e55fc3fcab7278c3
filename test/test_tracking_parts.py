"""What the tracker is made of: assignment, motion and overlaps, each against an independent computation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from fassst_ros.tracking_assignment import assign
from fassst_ros.tracking_motion import BoxMotion
from fassst_ros.tracking_overlap import box_iou, mask_iou
from fassst_ros.types import RoiMask


def test_assignment_is_the_best_there_is() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, m = rng.integers(0, 12, 2)
        gains = rng.normal(size=(n, m)) * (rng.random((n, m)) < rng.random())
        if rng.random() < 0.3:
            gains = np.round(gains)  # ties
        rows, columns = assign(gains)
        assert (gains[rows, columns] > 0).all()
        assert (np.diff(rows) > 0).all()
        assert len(set(columns.tolist())) == len(columns)
        best = np.maximum(gains, 0)
        assert gains[rows, columns].sum() == pytest.approx(
            best[linear_sum_assignment(best, maximize=True)].sum()
        )


def test_motion_is_the_kalman_filter_of_the_textbook() -> None:
    """Compared with 2x2 matrices for one coordinate: the centre's x of a box of 50x50 pixels."""
    motion = BoxMotion()
    motion.append(np.array([[75.0, 75.0, 125.0, 125.0]]))
    state, covariance = np.array([100.0, 0.0]), np.diag([(0.08 * 50) ** 2, (2.0 * 50) ** 2])
    for seconds, x in ((0.1, 104.0), (0.25, 117.0), (0.05, 119.0)):
        motion.predict(seconds)
        motion.correct(np.array([0]), np.array([[x - 25, 75.0, x + 25, 125.0]]))
        step = np.array([[1, seconds], [0, 1]])
        noise = np.array([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]]) * (1.5 * 50) ** 2
        state, covariance = step @ state, step @ covariance @ step.T + noise
        gain = covariance[:, 0] / (covariance[0, 0] + (0.08 * 50) ** 2)
        state = state + gain * (x - state[0])
        covariance = covariance - np.outer(gain, covariance[0])
        assert motion.boxes()[0, [0, 2]].mean() == pytest.approx(state[0], rel=1e-6)
    motion.predict(0.5)
    assert motion.boxes()[0, [0, 2]].mean() == pytest.approx(state[0] + 0.5 * state[1], rel=1e-6)


def test_overlaps_of_boxes_and_masks() -> None:
    rng = np.random.default_rng(1)
    given = [RoiMask(x, y, rng.random((h, w)) < 0.6) for x, y, h, w in rng.integers(5, 40, (6, 4))]
    shifts = rng.integers(-5, 6, (6, 2))
    shifts[0] = 0

    def dense(mask: RoiMask, right: int = 0, down: int = 0) -> np.ndarray:
        full = np.zeros((100, 100), np.bool_)
        h, w = mask.bits.shape
        full[mask.y + down : mask.y + down + h, mask.x + right : mask.x + right + w] = mask.bits
        return full

    found = mask_iou(given, given, shifts, np.ones((6, 6), np.bool_))
    for i, (right, down) in enumerate(shifts.tolist()):
        moved = dense(given[i], right, down)
        expected = [(moved & dense(b)).sum() / (moved | dense(b)).sum() for b in given]
        np.testing.assert_allclose(found[i], expected, atol=1e-12)
    some = np.eye(6, dtype=np.bool_)
    np.testing.assert_array_equal(mask_iou(given, given, shifts, some), np.where(some, found, 0))

    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], float)
    np.testing.assert_allclose(box_iou(boxes, boxes[:2]), [[1, 1 / 3], [1 / 3, 1], [0, 0]])


def test_large_masks_are_sampled_closely_enough() -> None:
    y, x = np.mgrid[0:400, 0:600]
    disc = np.hypot((x - 300) / 300, (y - 200) / 200) < 1
    a, b = RoiMask(10, 10, disc), RoiMask(70, 30, disc)
    full = np.zeros((2, 500, 800), np.bool_)
    full[0, 10:410, 10:610], full[1, 30:430, 70:670] = disc, disc
    exact = (full[0] & full[1]).sum() / (full[0] | full[1]).sum()
    found = mask_iou([a], [b], np.zeros((1, 2), np.int64), np.ones((1, 1), np.bool_))
    assert found[0, 0] == pytest.approx(exact, abs=0.01)
