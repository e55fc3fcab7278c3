"""Instances out of CamVid's semantic labels: the pixels of a class, cut by a detector's boxes.

The pixels are a person's work, the boxes a network's: a box says which pixels belong together, never
what they are. What no box claims is a region to ignore, never background.
CamVid: Brostow, Fauqueur and Cipolla, 2009; the 12 labels are those of SegNet's version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.training.teacher import group_of
from fassst_ros.types import Instances, RoiMask, UInt8Array
from fassst_ros.yolox import Boxes

#: Labels of the PNG files, by name.
CAR, PEDESTRIAN, BICYCLIST, VOID = 8, 9, 10, 11
LABELS = 12
#: Of these every object is an instance, or within a region to ignore. Cars' label covers vans, trucks and
#: buses; persons are pedestrians and riders. Parked bicycles, motorcycles and trains have no label here.
LABELLED_CLASSES = ("person", "car", "bus", "truck")


class Rule(NamedTuple):
    """Boxes of `categories` claim pixels of `label` if these fill at least `fill` of the box."""

    label: int
    categories: tuple[int, ...]
    fill: float


MASK_RULES = (Rule(CAR, (3, 6, 8), 0.5), Rule(PEDESTRIAN, (1,), 0.3))
#: Rider and bicycle are one label: their boxes are objects, their masks are not known.
BOX_RULE = Rule(BICYCLIST, (1, 2, 4), 0.3)

MIN_AREA = 40  # pixels of a mask; smaller ones are ignored
MIN_SIDE = 5  # pixels of a box
_MIN_LEFT = 0.4  # part of its pixels that nearer objects must leave to an object
_PART = 0.85  # a box of which so much lies in another, with the same foot, is a part of that object
_FOOT = 0.1  # how far two feet differ at most to be the same, in heights of the taller box
_FRAGMENT = 0.1  # pieces of a mask below this part of it are another object's
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
    height, width = labels.shape
    found = _without_parts(found)
    chosen: list[int] = []
    masks: list[RoiMask] = []
    regions: list[tuple[int, RoiMask]] = []
    for rule in MASK_RULES:
        pixels = labels == rule.label
        candidates = np.flatnonzero(np.isin(found.category_ids, rule.categories))
        owners = _claim(pixels, found.boxes[candidates], rule.fill)
        for number, index in enumerate(candidates, 1):
            mask = _cleaned(owners, number)
            if mask is not None:
                chosen.append(int(index))
                masks.append(mask)
        regions += [(rule.categories[0], region) for region in divide(pixels & (owners == 0))]
    order = np.argsort(-found.scores[chosen], kind="stable")
    tight = [(m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]) for m in masks]
    instances = Instances(
        np.array(tight, np.float32).reshape(-1, 4)[order],
        found.scores[chosen][order],
        found.category_ids[chosen][order],
        tuple(masks[i] for i in order),
        (height, width),
    )
    boxes, unclaimed = _boxed(labels == BOX_RULE.label, found)
    regions += [(1, region) for region in divide(unclaimed)]
    regions += [(1, region) for region in divide(labels == VOID)]
    return FrameLabels(instances, boxes, tuple(regions))


def _without_parts(found: Boxes) -> Boxes:
    """Without boxes of a part of an object, or around two: of box and part the better score stays."""
    x0, y0, x1, y1 = found.boxes.T
    areas = (x1 - x0) * (y1 - y0)
    groups = group_of(found.category_ids)
    kept: list[int] = []
    for i in range(len(found)):  # best score first
        j = np.array(kept, np.intp)
        across = np.minimum(x1[i], x1[j]) - np.maximum(x0[i], x0[j])
        down = np.minimum(y1[i], y1[j]) - np.maximum(y0[i], y0[j])
        inside = across.clip(0) * down.clip(0) > _PART * np.minimum(areas[i], areas[j])
        tall = np.maximum(y1[i] - y0[i], y1[j] - y0[j])
        foot = np.abs(y1[i] - y1[j]) < _FOOT * tall
        if not (inside & foot & (groups[i] == groups[j])).any():
            kept.append(i)
    return Boxes(found.boxes[kept], found.scores[kept], found.category_ids[kept])


def _claim(pixels: NDArray[np.bool_], boxes: NDArray[np.float32], fill: float) -> NDArray[np.int32]:
    """(H, W) whose each pixel is: number of the box from 1, or 0. Nearer objects stand lower and hide others."""
    owners = np.zeros(pixels.shape, np.int32)
    for i in np.argsort(-boxes[:, 3], kind="stable"):
        window = _window(boxes[i])
        inside = pixels[window]
        free = inside & (owners[window] == 0)
        filled = np.count_nonzero(inside)
        if inside.size and filled >= fill * inside.size and free.sum() >= _MIN_LEFT * filled:
            owners[window][free] = i + 1
    return owners


def _window(box: NDArray[np.float32]) -> tuple[slice, slice]:
    x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
    return slice(y0, y1), slice(x0, x1)


def _cleaned(owners: NDArray[np.int32], number: int) -> RoiMask | None:
    """The pixels of an object without its fragments, which go back to nobody; None if too few are left."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats((owners == number).view(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas > _FRAGMENT * areas.sum())
    bits = np.isin(pieces, kept) if count > 1 else np.zeros(owners.shape, np.bool_)
    x, y, w, h = cv2.boundingRect(bits.view(np.uint8))
    small = np.count_nonzero(bits) < MIN_AREA or min(w, h) < MIN_SIDE
    owners[(owners == number) & (~bits | small)] = 0
    return None if small else RoiMask(x, y, bits[y : y + h, x : x + w])


def _boxed(pixels: NDArray[np.bool_], found: Boxes) -> tuple[Boxes, NDArray[np.bool_]]:
    """The boxes that `pixels` of riders fill, and the pixels that are in none of them."""
    rest = pixels.copy()
    kept = []
    for i in np.flatnonzero(np.isin(found.category_ids, BOX_RULE.categories)):
        window = _window(found.boxes[i])
        inside = pixels[window]
        if inside.size and inside.mean() >= BOX_RULE.fill and min(inside.shape) >= MIN_SIDE:
            kept.append(int(i))
            if found.category_ids[i] == 1:  # a bicycle alone does not tell where its rider is
                rest[window] = False
    return Boxes(found.boxes[kept], found.scores[kept], found.category_ids[kept]), rest


def divide(pixels: NDArray[np.bool_]) -> Iterator[RoiMask]:
    """Connected regions, without slivers at outlines, divided until their boxes are mostly filled."""
    opened = cv2.morphologyEx(pixels.view(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, pieces = cv2.connectedComponents(opened)
    for number in range(1, count):
        yield from _divided(pieces == number, 0, 0)


def _divided(bits: NDArray[np.bool_], x: int, y: int) -> Iterator[RoiMask]:
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
