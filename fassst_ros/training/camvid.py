"""Instances out of CamVid's semantic labels: the pixels of a class, cut by a detector's boxes.

The pixels are a person's work, the boxes a network's: a box says which pixels belong together, never
what they are. What no box claims is a region to ignore, never background.
CamVid: Brostow, Fauqueur and Cipolla, 2009; the 12 labels are those of SegNet's version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.training.teacher import choose
from fassst_ros.types import Float32Array, Instances, RoiMask, UInt8Array
from fassst_ros.yolox import Boxes

#: Labels of the PNG files. Car covers vans, trucks and buses; bicyclist is rider and bicycle in one.
FENCE, CAR, PEDESTRIAN, BICYCLIST, VOID = 7, 8, 9, 10, 11
LABELS = 12
#: Of these every object is an instance or a box, or within a region to ignore. Not so of parked bicycles,
#: motorcycles and trains: they have no label of their own.
LABELLED_CLASSES = ("person", "car", "bus", "truck")
PERSON = 1  # category id of COCO


class Rule(NamedTuple):
    """Boxes of `categories` claim pixels of `label` if these fill at least `fill` of the box."""

    label: int
    categories: tuple[int, ...]
    fill: float


MASK_RULES = (Rule(CAR, (3, 6, 8), 0.5), Rule(PEDESTRIAN, (PERSON,), 0.3))
#: Rider and bicycle share a label: their boxes are objects, their masks are not known.
BOX_RULE = Rule(BICYCLIST, (PERSON, 2, 4), 0.3)

MIN_AREA = 40  # pixels of a mask; smaller ones are ignored
MIN_SIDE = 5  # pixels of a box
_GUESSED = 0.45  # part of an outline that only the boxes drew, from which the mask counts as not known
_MIN_LEFT = 0.4  # part of its pixels that nearer objects must leave to an object
_FRAGMENT = 0.1  # pieces of a mask below this part of it are another object's
_BEHIND = 0.5  # part of a box that is fence, from which the object behind it is ignored
_REGION_FILL = 0.5  # regions to ignore count as their boxes in training: these must be filled so far
_REGION_SIDE = 16  # pixels; shorter regions are not divided further


@dataclass(frozen=True, slots=True)
class FrameLabels:
    """What is known of one frame. instances: with masks, boxes tight around these, COCO's category ids.

    boxes: objects without a mask. regions: (category id, pixels) to ignore.
    """

    instances: Instances
    boxes: Boxes
    regions: tuple[tuple[int, RoiMask], ...]


def label_frame(labels: UInt8Array, found: Boxes) -> FrameLabels:
    """labels: (H, W) CamVid's labels. found: the teacher's boxes in that image, COCO's category ids."""
    masks: dict[int, RoiMask] = {}  # by index of the box
    only_boxes: list[int] = []
    regions: list[tuple[int, RoiMask]] = []
    for rule in MASK_RULES:
        pixels = labels == rule.label
        candidates = np.flatnonzero(np.isin(found.category_ids, rule.categories))
        owners = _claim(pixels, found.boxes[candidates], rule.fill)
        for number, index in enumerate(candidates.tolist(), 1):
            mask = _cleaned(owners, number)
            if mask is not None and _guessed(mask, pixels) < _GUESSED:
                masks[index] = mask
            elif mask is not None:
                only_boxes.append(index)
        regions += [(rule.categories[0], region) for region in divide(pixels & (owners == 0))]
    riders, unclaimed = _riders(labels == BOX_RULE.label, found, {*masks, *only_boxes})
    only_boxes += riders
    regions += [(PERSON, region) for region in divide(unclaimed)]
    regions += [(PERSON, region) for region in divide(labels == VOID)]
    regions += _behind_fences(labels == FENCE, found, {*masks, *only_boxes})
    boxes = choose(found, np.array(sorted(only_boxes), np.intp))
    return FrameLabels(_instances(found, masks, (labels.shape[0], labels.shape[1])), boxes, tuple(regions))


def _instances(found: Boxes, masks: dict[int, RoiMask], size: tuple[int, int]) -> Instances:
    """The masks with score and category of their boxes, best first."""
    chosen = sorted(masks)
    kept = tuple(masks[i] for i in chosen)
    return Instances(extents(kept), found.scores[chosen], found.category_ids[chosen], kept, size)


def extents(masks: Sequence[RoiMask]) -> Float32Array:
    """(n, 4) boxes xyxy around the rectangles of the masks."""
    boxes = [(m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]) for m in masks]
    return np.array(boxes, np.float32).reshape(-1, 4)


def _claim(pixels: NDArray[np.bool_], boxes: Float32Array, fill: float) -> NDArray[np.int32]:
    """(H, W) number of the box, from 1, that has each pixel; 0: none. Nearer objects stand lower and win."""
    owners = np.zeros(pixels.shape, np.int32)
    for i in np.argsort(-boxes[:, 3], kind="stable"):
        window = _window(boxes[i])
        inside = pixels[window]
        free = inside & (owners[window] == 0)
        filled = np.count_nonzero(inside)
        if inside.size and filled >= fill * inside.size and np.count_nonzero(free) >= _MIN_LEFT * filled:
            owners[window][free] = i + 1
    return owners


def _window(box: Float32Array) -> tuple[slice, slice]:
    x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
    return slice(y0, y1), slice(x0, x1)


def _cleaned(owners: NDArray[np.int32], number: int) -> RoiMask | None:
    """The pixels of an object without its fragments, which go back to nobody; None if too few are left."""
    own = owners == number
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(own.view(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas > _FRAGMENT * np.count_nonzero(own)
    kept[0] = False  # the background
    bits = kept[pieces]
    x, y, w, h = cv2.boundingRect(bits.view(np.uint8))
    small = np.count_nonzero(bits) < MIN_AREA or min(w, h) < MIN_SIDE
    owners[own if small else own & ~bits] = 0
    return None if small else RoiMask(x, y, bits[y : y + h, x : x + w])


def _guessed(mask: RoiMask, pixels: NDArray[np.bool_]) -> float:
    """The part of the outline beyond which the same label goes on: 0 if the labels drew it all."""
    h, w = mask.bits.shape
    full = np.zeros(pixels.shape, np.uint8)
    full[mask.y : mask.y + h, mask.x : mask.x + w] = mask.bits
    ring = cv2.dilate(full, np.ones((3, 3), np.uint8)) > full
    return float(pixels[ring].mean()) if ring.any() else 0.0


def _riders(pixels: NDArray[np.bool_], found: Boxes, taken: set[int]) -> tuple[list[int], NDArray[np.bool_]]:
    """Indices of the boxes that riders and their bicycles fill, and the pixels where no rider was found."""
    rest = pixels.copy()
    chosen: list[int] = []
    for i in np.flatnonzero(np.isin(found.category_ids, BOX_RULE.categories)).tolist():
        window = _window(found.boxes[i])
        inside = pixels[window]
        if i not in taken and min(inside.shape) >= MIN_SIDE and inside.mean() >= BOX_RULE.fill:
            chosen.append(i)
            if found.category_ids[i] == PERSON:  # a bicycle alone does not tell where its rider is
                rest[window] = False
    return chosen, rest


def _behind_fences(fence: NDArray[np.bool_], found: Boxes, taken: set[int]) -> Iterator[tuple[int, RoiMask]]:
    """What the teacher sees through a fence: no object to the labels, but no background either."""
    wanted = {category for rule in MASK_RULES for category in rule.categories}
    for i, category in enumerate(found.category_ids.tolist()):
        window = _window(found.boxes[i])
        inside = fence[window]
        if i not in taken and category in wanted and inside.size and inside.mean() >= _BEHIND:
            yield category, RoiMask(window[1].start, window[0].start, np.ones_like(inside))


def divide(pixels: NDArray[np.bool_]) -> Iterator[RoiMask]:
    """Connected regions, without slivers at outlines, divided until their boxes are mostly filled."""
    opened = cv2.morphologyEx(pixels.view(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, pieces = cv2.connectedComponents(opened)
    for number in range(1, count):
        yield from _divided(pieces == number, 0, 0)


def _divided(bits: NDArray[np.bool_], x: int, y: int) -> Iterator[RoiMask]:
    """The set pixels of `bits`, whose corner is at x, y."""
    left, top, w, h = cv2.boundingRect(bits.view(np.uint8))
    if w == 0:
        return
    bits = np.ascontiguousarray(bits[top : top + h, left : left + w])
    x, y = x + left, y + top
    if bits.mean() >= _REGION_FILL or max(w, h) <= _REGION_SIDE:
        yield RoiMask(x, y, bits)
    elif w >= h:
        yield from _divided(np.ascontiguousarray(bits[:, : w // 2]), x, y)
        yield from _divided(np.ascontiguousarray(bits[:, w // 2 :]), x + w // 2, y)
    else:
        yield from _divided(bits[: h // 2], x, y)
        yield from _divided(bits[h // 2 :], x, y + h // 2)
