"""A detector as teacher: its boxes in the whole image and in overlapping tiles of it, for small objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fassst_ros.types import Float32Array, Frame, UInt8Array
from fassst_ros.yolox import Boxes, YoloxDetector, nms

#: Sides of the tiles, as parts of the shorter side of the image.
TILES = (1.0, 0.66)
_STEP = 0.6  # from tile to tile at most, in sides
_EDGE = 3.0  # pixels from a tile's inner edge within which a box is taken for a cut-off object
_LONGEST = 0.35  # of a tile's side; longer boxes in it are mostly parts of what the whole image shows better
_NMS_IOU = 0.6
_PART = 0.85  # a box of which so much lies in another, with the same foot, is a part of that object
_FOOT = 0.1  # how far two feet differ at most to be the same, in heights of the taller box
#: Categories of COCO that a detector takes for each other; boxes of one group compete for an object.
GROUPS = ((3, 6, 7, 8), (2, 4))


class Teacher:
    """Detects as the detector does, and again in tiles, which show small objects larger."""

    def __init__(self, detector: YoloxDetector, tiles: Sequence[float] = TILES) -> None:
        """detector: stays the caller's. tiles: sides, as parts of the shorter image side; () for none."""
        self._detector = detector
        self._tiles = tuple(tiles)

    def detect(self, image_rgb: UInt8Array, score_threshold: float) -> Boxes:
        """Boxes in an RGB image (H, W, 3) uint8, best score first. Raises InputError for another array."""
        size = Frame(image_rgb).size
        found = [self._detector.detect(image_rgb, score_threshold)]
        for x, y, side in tiles(size, self._tiles):
            tile = np.ascontiguousarray(image_rgb[y : y + side, x : x + side])
            found.append(_whole(self._detector.detect(tile, score_threshold), x, y, side, size))
        return without_parts(_merge(found))


def tiles(size: tuple[int, int], shares: Sequence[float]) -> Iterator[tuple[int, int, int]]:
    """Left, top and side of square tiles that cover an image of `size` (H, W), in pixels."""
    for share in shares:
        side = round(share * min(size))
        rows, columns = (_starts(length, side) for length in size)
        if len(rows) * len(columns) > 1:  # else it is the image itself
            yield from ((x, y, side) for y, x in itertools.product(rows, columns))


def _starts(length: int, side: int) -> list[int]:
    steps = math.ceil((length - side) / (_STEP * side))
    return [round(i * (length - side) / max(1, steps)) for i in range(steps + 1)]


def _whole(boxes: Boxes, x: int, y: int, side: int, size: tuple[int, int]) -> Boxes:
    """The small boxes of a tile in pixels of the image, without those that the tile may have cut."""
    moved: Float32Array = boxes.boxes + np.array([x, y, x, y], np.float32)
    height, width = size
    kept: NDArray[np.bool_] = np.max(moved[:, 2:] - moved[:, :2], axis=1, initial=0) <= _LONGEST * side
    for axis, (start, length) in enumerate(((x, width), (y, height))):
        if start > 0:
            kept &= moved[:, axis] > start + _EDGE
        if start + side < length:
            kept &= moved[:, axis + 2] < start + side - _EDGE
    return choose(Boxes(moved, boxes.scores, boxes.category_ids), kept)


def _merge(found: Sequence[Boxes]) -> Boxes:
    boxes = Boxes(
        np.concatenate([f.boxes for f in found]),
        np.concatenate([f.scores for f in found]),
        np.concatenate([f.category_ids for f in found]),
    )
    return choose(boxes, nms(boxes.boxes, boxes.scores, group_of(boxes.category_ids), _NMS_IOU))


def without_parts(found: Boxes) -> Boxes:
    """Without boxes of a part of an object, or around two: of box and part the better score stays."""
    x0, y0, x1, y1 = found.boxes.T
    areas = (x1 - x0) * (y1 - y0)
    groups = group_of(found.category_ids)
    kept: list[int] = []
    for i in range(len(found)):
        j = np.array(kept, np.intp)
        across = np.minimum(x1[i], x1[j]) - np.maximum(x0[i], x0[j])
        down = np.minimum(y1[i], y1[j]) - np.maximum(y0[i], y0[j])
        inside = across.clip(0) * down.clip(0) > _PART * np.minimum(areas[i], areas[j])
        foot = np.abs(y1[i] - y1[j]) < _FOOT * np.maximum(y1[i] - y0[i], y1[j] - y0[j])
        if not (inside & foot & (groups[i] == groups[j])).any():
            kept.append(i)
    return choose(found, np.array(kept, np.intp))


def choose(boxes: Boxes, which: NDArray[np.intp] | NDArray[np.bool_]) -> Boxes:
    """Some of the boxes, in the order of the indices."""
    return Boxes(boxes.boxes[which], boxes.scores[which], boxes.category_ids[which])


def group_of(category_ids: NDArray[np.int32]) -> NDArray[np.intp]:
    """The first category of each one's group; of a category without a group itself."""
    groups = category_ids.astype(np.intp)
    for group in GROUPS:
        groups[np.isin(groups, group)] = group[0]
    return groups
