"""Objects cut out of a photo along their masks, and drawn into another image."""

from __future__ import annotations

import cv2
import numpy as np

from fassst_ros.coco_format import Shape
from fassst_ros.training.placement import Placement, draw_mask
from fassst_ros.types import Float32Array, RoiMask, UInt8Array

#: Objects stand at y = horizon + STANCE * own height, in pixels. Fitted within the images of coco_street:
#: 1.0 (person, bicycle) to 1.3 (motorcycle, bus). It predicts the bottom edge to 3 % of the image height
#: (median), where a fixed horizon leaves 16 % and the object's place in its own image 20 %.
STANCE = 1.1
_WHOLE = 0.9  # of an object's area that is in one piece; less: something in front splits it
_SOFTNESS = 0.8  # px, sigma of the blended outline


def in_one_piece(shape: Shape) -> bool:
    """Whether the mask is known and not split by what is in front of the object."""
    if isinstance(shape, RoiMask):
        areas = cv2.connectedComponentsWithStats(shape.bits.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    else:
        areas = np.array([cv2.contourArea(polygon) for polygon in shape])
    return bool(areas.size and areas.max() >= _WHOLE * areas.sum())


def shared(a: Float32Array, b: Float32Array) -> Float32Array:
    """(n, m) intersections of boxes (n, 4) and (m, 4), relative to the smaller of the two."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b))
    smaller = np.maximum(np.minimum(area_a[:, None], area_b[None]), 1e-6)
    found: Float32Array = (high - low).clip(0).prod(2) / smaller
    return found


def coverage(shape: Shape, place: Placement, box: Float32Array, size: tuple[int, int]) -> UInt8Array:
    """(H, W) coverage of each pixel by an object, 0..255, of which `box` is the clipped box."""
    # draw_mask makes cells of 2 x 2 pixels: at twice the scale, they are the pixels.
    (sx, sy), (ox, oy), (x0, y0, x1, y1) = place.scale, place.offset, place.tile
    double = Placement((2 * sx, 2 * sy), (2 * ox, 2 * oy), (2 * x0, 2 * y0, 2 * x1, 2 * y1))
    out = np.zeros(size, np.uint8)
    draw_mask(shape, double, 2 * box, False, out)
    return out


def blend(
    image: UInt8Array, source: UInt8Array, place: Placement, box: Float32Array, covered: UInt8Array
) -> None:
    """Draw what lies under `covered` (H, W) of the placed `source` into `image`, its outline softened.

    box: around all of it in `image`, inside of it.
    """
    height, width = image.shape[:2]
    x0, y0 = (int(v) for v in np.maximum(np.floor(box[:2]) - 3, 0))
    x1, y1 = (int(v) for v in np.minimum(np.ceil(box[2:]) + 3, (width, height)))
    alpha = cv2.GaussianBlur(
        covered[y0:y1, x0:x1], (5, 5), _SOFTNESS, borderType=cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED
    )
    patch = cv2.warpAffine(
        source, place.matrix((x0, y0)), (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    weight = alpha.astype(np.float32) / 255
    under = np.ascontiguousarray(image[y0:y1, x0:x1])
    image[y0:y1, x0:x1] = cv2.blendLinear(patch, under, weight, 1 - weight)
