"""How much boxes and masks overlap: IoU of all pairs of boxes, and of those masks that can overlap at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fassst_ros.types import RoiMask

# Of the common rectangle of two masks, about so many pixels are looked at: a grid of 64 x 64.
_SAMPLES = 4096


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, m) IoU of boxes (n, 4) and (m, 4), x_min y_min x_max y_max."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    iou: NDArray[np.float64] = shared / np.maximum(area_a[:, None] + area_b - shared, 1e-9)
    return iou


def mask_iou(
    a: Sequence[RoiMask], b: Sequence[RoiMask], shifts: NDArray[np.integer], pairs: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n, m) IoU of masks where `pairs` (n, m) is true, else 0; a[i] is moved by shifts[i] = (x, y) pixels.

    Large overlaps are counted on a grid of pixels, which is exact enough to choose by.
    """
    result = np.zeros(pairs.shape)
    rows, columns = np.nonzero(pairs)
    areas_a, areas_b = (
        {i: a[i].area for i in set(rows.tolist())},
        {j: b[j].area for j in set(columns.tolist())},
    )
    for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
        shared = _shared(a[i], b[j], int(shifts[i, 0]), int(shifts[i, 1]))
        result[i, j] = shared / max(areas_a[i] + areas_b[j] - shared, 1)
    return result


def _shared(a: RoiMask, b: RoiMask, right: int, down: int) -> int:
    """Pixels set in both, about."""
    ax, ay = a.x + right, a.y + down
    (ah, aw), (bh, bw) = a.bits.shape, b.bits.shape
    x0, y0, x1, y1 = max(ax, b.x), max(ay, b.y), min(ax + aw, b.x + bw), min(ay + ah, b.y + bh)
    if x1 <= x0 or y1 <= y0:
        return 0
    step = max(1, math.isqrt((x1 - x0) * (y1 - y0) // _SAMPLES))
    of_a = a.bits[y0 - ay : y1 - ay : step, x0 - ax : x1 - ax : step]
    of_b = b.bits[y0 - b.y : y1 - b.y : step, x0 - b.x : x1 - b.x : step]
    # In parts of a step at the right and lower end, a sample stands for fewer pixels.
    cell = (x1 - x0) * (y1 - y0) / of_a.size
    return int(np.count_nonzero(of_a & of_b) * cell)
