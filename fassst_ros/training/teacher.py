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
_NMS_IOU = 0.6
#: Categories of COCO that a detector confuses: of overlapping boxes of one group only the best stays.
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
        return _merge(found)


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
    """The boxes of a tile in pixels of the image, without those that the tile may have cut."""
    moved: Float32Array = boxes.boxes + np.array([x, y, x, y], np.float32)
    low = [-1.0 if start == 0 else start + _EDGE for start in (x, y)]
    high = [
        end + 1.0 if start + side >= end else start + side - _EDGE
        for start, end in zip((x, y), size[::-1], strict=True)
    ]
    kept = ((moved[:, :2] > low) & (moved[:, 2:] < high)).all(axis=1)
    return Boxes(moved[kept], boxes.scores[kept], boxes.category_ids[kept])


def _merge(found: Sequence[Boxes]) -> Boxes:
    boxes = np.concatenate([f.boxes for f in found])
    scores = np.concatenate([f.scores for f in found])
    ids = np.concatenate([f.category_ids for f in found])
    kept = nms(boxes, scores, group_of(ids), _NMS_IOU)
    return Boxes(boxes[kept], scores[kept], ids[kept])


def group_of(category_ids: NDArray[np.integer]) -> NDArray[np.intp]:
    """The first category of each one's group; of a category without a group itself."""
    groups = np.array(category_ids, np.intp)
    for group in GROUPS:
        groups[np.isin(groups, group)] = group[0]
    return groups
