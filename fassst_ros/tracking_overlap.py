"""How much boxes and masks overlap: IoU of all pairs of boxes, and of those masks that can overlap at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fassst_ros.types import RoiMask

# Of the common rectangle of two masks, so many rows and columns are looked at, or up to twice as many.
_SAMPLES = 64


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
    right_step, down_step = max(1, (x1 - x0) // _SAMPLES), max(1, (y1 - y0) // _SAMPLES)
    columns = slice(x0 + right_step // 2, x1, right_step)
    rows = slice(y0 + down_step // 2, y1, down_step)
    of_a, of_b = _part(a, rows, columns, right, down), _part(b, rows, columns)
    return int(np.count_nonzero(of_a & of_b) * ((x1 - x0) * (y1 - y0) / of_a.size))


def _part(mask: RoiMask, rows: slice, columns: slice, right: int = 0, down: int = 0) -> NDArray[np.bool_]:
    """Pixels of a moved mask, by rows and columns of the image."""
    x, y = mask.x + right, mask.y + down
    return mask.bits[
        rows.start - y : rows.stop - y : rows.step, columns.start - x : columns.stop - x : columns.step
    ]
