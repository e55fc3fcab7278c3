"""Which detection is which object: COCO's matching of masks at one IoU, with the cause of each error.

The rule is that of COCOeval: per class, best score first, each detection takes the free object
that it overlaps most; what lies in a crowd region is neither right nor wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.evaluation.coco import CocoResult, library

#: A detection that overlaps nothing by this much is background (Bolya et al., TIDE, ECCV 2020).
BACKGROUND_IOU = 0.1
#: Causes of a false alarm, as TIDE names them; the first that applies counts.
FAULTS = {
    "duplicate": "covers an object of its class that a surer detection has taken",
    "wrong class": "covers an object of another class",
    "poor mask": "touches an object of its class, but covers it too badly",
    "wrong class, poor mask": "touches an object of another class only",
    "background": "touches no labelled object",
}


@dataclass(frozen=True, slots=True)
class ImageMatch:
    """The detections and objects of one image, and who belongs to whom.

    Detections, best score first: scores (n,), class_ids (n,), boxes (n, 4) around the masks, xywh in
    source pixels, taken (n,) index of its object or -1, ious (n,) mask IoU with it or 0, ignored (n,)
    bool: in a crowd region, and faults: why it is a false alarm, "" if it is none.
    Objects: object_classes (m,), object_boxes (m, 4) xywh, areas (m,) in pixels, taken_by (m,) index
    of its detection or -1, and shapes: their masks in COCO's run lengths.
    crowds: how many crowd regions there are beside them.
    """

    image_id: int
    scores: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    taken: NDArray[np.int64]
    ious: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    faults: tuple[str, ...]
    object_classes: NDArray[np.int64]
    object_boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    taken_by: NDArray[np.int64]
    shapes: tuple[dict[str, Any], ...]
    crowds: int

    def found(self, threshold: float) -> NDArray[np.bool_]:
        """(m,) whether a detection of at least that score has the object."""
        found = self.taken_by >= 0
        found[found] = self.scores[self.taken_by[found]] >= threshold
        return found

    def false_alarms(self, threshold: float) -> list[int]:
        """Indices of the detections of at least that score that are wrong."""
        return [i for i, fault in enumerate(self.faults) if fault and self.scores[i] >= threshold]

    def quality(self, threshold: float) -> float | None:
        """The panoptic quality of this one image, all classes together (Kirillov et al., CVPR 2019, eq. 1).

        Sum of the IoUs of found objects / (found + false alarms / 2 + missed / 2), in 0..1; None if
        there is nothing to find and nothing was found.
        """
        found = self.found(threshold)
        hits = int(found.sum())
        errors = len(self.false_alarms(threshold)) + int((~found).sum())
        if hits + errors == 0:
            return None
        return float(self.ious[self.taken_by[found]].sum()) / (hits + errors / 2)


def match_images(result: CocoResult, iou: float = 0.5) -> list[ImageMatch]:
    """All images of a result, in its order."""
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    detections: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in result.truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    for detection in result.detections:
        detections[detection["image_id"]].append(detection)
    matches = []
    for image in result.truth["images"]:
        size = (image["height"], image["width"])
        matches.append(_match(image["id"], size, objects[image["id"]], detections[image["id"]], iou))
    return matches


def _match(
    image_id: int,
    size: tuple[int, int],
    annotations: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    threshold: float,
) -> ImageMatch:
    _, _, mask_api = library()
    found = sorted(detections, key=lambda d: -d["score"])
    objects = [a for a in annotations if not a["iscrowd"]]
    crowds = [a for a in annotations if a["iscrowd"]]
    shapes = [run_lengths(a["segmentation"], size) for a in objects]
    regions = [run_lengths(a["segmentation"], size) for a in crowds]
    masks = [d["segmentation"] for d in found]
    table = _overlaps(mask_api.iou(masks, shapes, [0] * len(shapes)), len(masks), len(shapes))
    inside = _overlaps(mask_api.iou(masks, regions, [1] * len(regions)), len(masks), len(regions))
    classes = np.array([d["category_id"] for d in found], np.int64)
    object_classes = np.array([a["category_id"] for a in objects], np.int64)
    crowd_classes = np.array([a["category_id"] for a in crowds], np.int64)
    same = classes[:, None] == object_classes
    taken, taken_by = _assign(np.where(same, table, 0), threshold)
    in_crowd = ((inside >= threshold) & (classes[:, None] == crowd_classes)).any(axis=1)
    ignored = in_crowd & (taken < 0)
    faults = [
        "" if ignored[i] or taken[i] >= 0 else _fault(table[i], same[i], threshold) for i in range(len(found))
    ]
    hit = np.flatnonzero(taken >= 0)
    ious = np.zeros(len(found))
    ious[hit] = table[hit, taken[hit]]
    boxes, object_boxes = (np.asarray(mask_api.toBbox(m), np.float64).reshape(-1, 4) for m in (masks, shapes))
    scores = np.array([d["score"] for d in found], np.float64)
    areas = np.array([a["area"] for a in objects], np.float64)
    return ImageMatch(
        image_id, scores, classes, boxes, taken, ious, ignored, tuple(faults),
        object_classes, object_boxes, areas, taken_by, tuple(shapes), len(crowds),
    )  # fmt: skip


def run_lengths(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """An annotation's polygons or run lengths as COCO's compressed run lengths; size: (H, W)."""
    _, _, mask_api = library()
    if isinstance(segmentation, list):
        merged: dict[str, Any] = mask_api.merge(mask_api.frPyObjects(segmentation, *size))
        return merged
    if isinstance(segmentation["counts"], list):
        compressed: dict[str, Any] = mask_api.frPyObjects(segmentation, *size)
        return compressed
    return segmentation  # type: ignore[no-any-return]


def _overlaps(found: Any, rows: int, columns: int) -> NDArray[np.float64]:
    """COCO's IoU as (rows, columns); it returns an empty list where one side is empty."""
    return np.asarray(found, np.float64).reshape(rows, columns)


def _assign(table: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each detection its object, for each object its detection; -1: none. table: IoU, 0 = not allowed."""
    taken = np.full(table.shape[0], -1, np.int64)
    taken_by = np.full(table.shape[1], -1, np.int64)
    for i, row in enumerate(table):
        free = np.where(taken_by < 0, row, -1)
        if free.size and free[best := int(free.argmax())] >= threshold:
            taken[i], taken_by[best] = best, i
    return taken, taken_by


def _fault(ious: NDArray[np.float64], same: NDArray[np.bool_], threshold: float) -> str:
    """Why a detection that took no object is wrong. ious, same: with, and of the class of, each object."""
    own, other = ious[same].max(initial=0), ious[~same].max(initial=0)
    if own >= threshold:
        return "duplicate"
    if other >= threshold:
        return "wrong class"
    if own >= BACKGROUND_IOU:
        return "poor mask"
    return "wrong class, poor mask" if other >= BACKGROUND_IOU else "background"
