"""Objects that a set does not label, as a teacher finds them: boxes without masks. And how good the teacher is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fassst_ros.labels import COCO
from fassst_ros.training.teacher import group_of
from fassst_ros.types import Float32Array
from fassst_ros.yolox import Boxes

_SAME_IOU = 0.5  # from which two boxes show the same object
_IN_CROWD = 0.5  # part of a box in a crowd's box from which it is one of the crowd
_PART = 0.8  # part of a box in an object's box from which it shows a part of that object
_IDS = {c.name: c.id for c in COCO}


class Objects(NamedTuple):
    """What is annotated in an image. boxes: (n, 4) xyxy; ids: (n,) COCO's category ids; crowd: (n,) bool."""

    boxes: Float32Array
    ids: NDArray[np.int32]
    crowd: NDArray[np.bool_]


def objects_of(annotations: Iterable[Mapping[str, Any]], names: Mapping[Any, str]) -> Objects:
    """The annotations of one image whose category COCO has, by name. names: category id -> name."""
    known = [a for a in annotations if names.get(a.get("category_id")) in _IDS]
    boxes = np.array([a["bbox"] for a in known], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    ids = [_IDS[names[a["category_id"]]] for a in known]
    crowd = [bool(a.get("iscrowd")) for a in known]
    return Objects(boxes, np.array(ids, np.int32), np.array(crowd, np.bool_))


def labelled_in(entry: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """The classes of which an image labels every object. names: the categories of its file."""
    if "labelled_classes" not in entry:
        return set(names)
    return {name.strip() for name in entry["labelled_classes"].split(",")}


def missing(found: Boxes, there: Objects, wanted: Collection[int]) -> NDArray[np.intp]:
    """Indices of the detections of `wanted` categories that show nothing annotated already.

    Cars, trucks, buses and trains are often taken for each other, as are two-wheelers: a box on one of
    them shows the same object. A box within an object of its group is a part of it, one mostly in a crowd
    one of the crowd.
    """
    same_group = group_of(found.category_ids)[:, None] == group_of(there.ids)
    shared = overlap(found.boxes, there.boxes)
    own, other = area(found.boxes)[:, None], area(there.boxes)[None]
    within = np.where(there.crowd, _IN_CROWD, _PART)
    known = (shared >= _SAME_IOU * (own + other - shared)) | (shared >= within * own)
    new = np.isin(found.category_ids, list(wanted)) & ~(known & same_group).any(axis=1)
    return np.flatnonzero(new)


def area(boxes: Float32Array) -> Float32Array:
    """(n,) areas of boxes (n, 4) xyxy."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def overlap(a: Float32Array, b: Float32Array) -> Float32Array:
    """(n, m) areas that boxes (n, 4) and (m, 4) xyxy share."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    sides = np.maximum(np.minimum(a[:, None, 2:], b[None, :, 2:]) - low, 0)
    return sides[..., 0] * sides[..., 1]


def box_annotation(
    box: Sequence[float], score: float, category_id: int, image_id: Any, number: int
) -> dict[str, Any]:
    """A COCO annotation of an object of which only the box (xyxy) is known."""
    x0, y0, x1, y1 = (round(float(v), 2) for v in box)
    size = [round(x1 - x0, 2), round(y1 - y0, 2)]
    return {
        "id": number, "image_id": image_id, "category_id": category_id, "iscrowd": 0,
        "bbox": [x0, y0, *size], "area": round(size[0] * size[1], 2), "box_only": True,
        "score": round(float(score), 4),
    }  # fmt: skip


class Count(NamedTuple):
    """Of one class: annotated objects, detections (without those in crowds), and pairs of them."""

    objects: int
    detections: int
    right: int


def count(found: Boxes, there: Objects, category: int) -> Count:
    """How the detections of one category fit: best score first, each object once, IoU 0.5, as in COCO."""
    mine, theirs = found.category_ids == category, there.ids == category
    boxes = found.boxes[mine]
    objects, crowds = there.boxes[theirs & ~there.crowd], there.boxes[theirs & there.crowd]
    shared = overlap(boxes, objects)
    iou = shared / (area(boxes)[:, None] + area(objects)[None] - shared)
    right = in_crowd = 0
    for row, box in zip(iou, boxes, strict=True):
        best = int(row.argmax()) if row.size else -1
        if best >= 0 and row[best] >= _SAME_IOU:
            iou[:, best] = 0  # taken
            right += 1
        elif (overlap(box[None], crowds) >= _IN_CROWD * area(box[None])).any():
            in_crowd += 1
    return Count(len(objects), len(boxes) - in_crowd, right)
