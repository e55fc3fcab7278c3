"""Where an image goes in another, with its points, boxes and masks.

Polygons are placed as points and filled only then: masks stay sharp at every scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.coco_format import Shape
from fassst_ros.types import Float32Array, RoiMask, UInt8Array


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image goes: p_out = scale * p_source + offset (pixels; scale x < 0 is a flip),
    visible only inside `tile` (x0, y0, x1, y1 of the output, even numbers)."""

    scale: tuple[float, float]
    offset: tuple[float, float]
    tile: tuple[int, int, int, int]

    def points(self, points: Float32Array) -> Float32Array:
        """(..., 2) points of the source in the output."""
        placed: Float32Array = points * np.array(self.scale, np.float32) + np.array(self.offset, np.float32)
        return placed

    def boxes(self, boxes: Float32Array) -> Float32Array:
        """(n, 4) boxes in the output, not clipped."""
        corners = self.points(boxes.reshape(-1, 2, 2))
        return np.concatenate([corners.min(1), corners.max(1)], axis=1)

    def clip(self, boxes: Float32Array) -> Float32Array:
        """(n, 4) boxes cut to the tile."""
        low, high = self.tile[:2] * 2, self.tile[2:] * 2
        return np.clip(boxes, np.array(low, np.float32), np.array(high, np.float32))

    def matrix(self, origin: tuple[float, float], cell: float = 1.0) -> NDArray[np.float64]:
        """2x3 for cv2.warpAffine to a raster at `origin` with `cell` pixels a cell.

        OpenCV counts from the centre of the first pixel; resize and boxes from its corner.
        """
        scale, offset = np.array(self.scale), np.array(self.offset)
        shift = (scale * 0.5 + offset - np.array(origin)) / cell - 0.5
        return np.array([[scale[0] / cell, 0, shift[0]], [0, scale[1] / cell, shift[1]]])


def draw_mask(
    shape: Shape, place: Placement, box: Float32Array, cut: bool, out: UInt8Array
) -> tuple[Float32Array, float]:
    """Draw an object's coverage into `out` ((H/2, W/2) uint8, zero before), inside the tile only.

    box: its box in the output, clipped to the tile; cut: whether clipping took part of it away.
    Returns the box of what is visible, and the visible fraction of its area (1 if not cut).
    """
    x0, y0 = (int(v) for v in np.floor(box[:2] / 2))
    x1, y1 = (int(v) for v in np.ceil(box[2:] / 2))
    size = (x1 - x0, y1 - y0)
    if isinstance(shape, RoiMask):
        # Sample about each source pixel and then average, or thin parts vanish between the samples.
        fine = min(8, max(1, round(2 / min(abs(v) for v in place.scale))))
        matrix = place.matrix((2.0 * x0, 2.0 * y0), 2.0 / fine)
        matrix[:, 2] += matrix[:, :2] @ np.array([shape.x, shape.y], np.float64)
        raster = cv2.warpAffine(
            shape.bits.astype(np.uint8) * 255,
            matrix,
            (size[0] * fine, size[1] * fine),
            flags=cv2.INTER_LINEAR,
        )
    else:
        # fillPoly paints every pixel that the outline touches: count those half, and fill finer than
        # the cells, the more so the smaller the object.
        fine = 8 if max(size) <= 32 else 4 if max(size) <= 128 else 2
        raster = np.zeros((size[1] * fine, size[0] * fine), np.uint8)
        for polygon in shape:
            cells = (place.points(polygon) / 2 - np.array([x0, y0], np.float32)) * fine - 0.5
            points = [np.round(cells * 16).astype(np.int32)]
            cv2.fillPoly(raster, points, 255, shift=4)
            cv2.polylines(raster, points, True, 128, shift=4)
    coverage = cv2.resize(raster, size, interpolation=cv2.INTER_AREA) if fine > 1 else raster
    out[y0:y1, x0:x1] = coverage
    if not cut:
        return box, 1.0
    columns, rows = np.flatnonzero(raster.max(0) > 127), np.flatnonzero(raster.max(1) > 127)
    if columns.size == 0:
        return box, 0.0
    pixels = 2 / fine
    low = np.array([columns[0], rows[0]]) * pixels + (2 * x0, 2 * y0)
    high = np.array([columns[-1] + 1, rows[-1] + 1]) * pixels + (2 * x0, 2 * y0)
    seen = np.concatenate([np.maximum(low, box[:2]), np.minimum(high, box[2:])]).astype(np.float32)
    whole = _area(shape) * abs(place.scale[0] * place.scale[1])
    return seen, float(coverage.sum(dtype=np.int64)) * 4 / 255 / max(whole, 1e-6)


def _area(shape: Shape) -> float:
    if isinstance(shape, RoiMask):
        return float(shape.area)
    return sum(cv2.contourArea(polygon) for polygon in shape)
