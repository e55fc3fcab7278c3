"""Boxes and outlines of annotations: read, measured and cut to their image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fassst_ros.coco_format import Shape
from fassst_ros.types import InputError, RoiMask

#: x_min, y_min, x_max, y_max in pixels.
Box = tuple[float, float, float, float]


def bbox(annotation: Mapping[str, Any]) -> Box:
    """The `bbox` of an annotation as xyxy. Raises InputError if there is none."""
    try:
        x, y, w, h = (float(v) for v in annotation["bbox"])
    except (KeyError, TypeError, ValueError) as err:
        raise InputError(f"bbox is malformed ({type(err).__name__}: {err})") from err
    return x, y, x + w, y + h


def extent(shape: Shape) -> Box:
    """The xyxy box around a shape, in pixels."""
    if isinstance(shape, RoiMask):
        height, width = shape.bits.shape
        return shape.x, shape.y, shape.x + width, shape.y + height
    points = np.concatenate(shape)
    low, high = points.min(0), points.max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def clip(box: Box, size: tuple[int, int]) -> tuple[Box, float]:
    """The part of a box inside the image, and by how many pixels it left it.

    Raises InputError if less than a pixel of width or height is left.
    """
    x0, y0, x1, y1 = box
    height, width = size
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if not (inside[2] - inside[0] >= 1 and inside[3] - inside[1] >= 1):  # also refuses NaN
        raise InputError(
            f"box {tuple(round(v, 1) for v in box)} covers no pixel of the {width}x{height} image"
        )
    return inside, max(-x0, -y0, x1 - width, y1 - height)


def clip_shape(shape: Shape, size: tuple[int, int]) -> Shape:
    """The same with its polygons inside an image of `size` (H, W); pixels are there already."""
    if isinstance(shape, RoiMask):
        return shape
    limit = np.array([size[1], size[0]], np.float32)
    return tuple(np.clip(points, 0, limit) for points in shape)
