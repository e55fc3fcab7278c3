"""Instance AP by the rules of Cityscapes (Cordts et al., CVPR 2016, section 4.2 and its scripts).

It differs from COCO's AP: regions below 100 pixels do not count, unmatched predictions that lie
mostly in void, in groups or on such small regions are ignored, the area under the precision-recall
curve is exact (trapezoids, no interpolation), and there is no limit on the number of predictions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ClassInfo
from fassst_ros.cityscapes_format import (
    FIRST_INSTANCE,
    VOID,
    CityscapesFrame,
    UInt16Array,
    group_masks,
    instance_masks,
    list_frames,
    only_void,
    read_ids,
)
from fassst_ros.evaluation.dataset import EvaluationSet, Predictions
from fassst_ros.labels import CITYSCAPES
from fassst_ros.types import ConfigError, InputError, Instances, RoiMask

_log = logging.getLogger(__name__)

#: As the official scripts compute them: a match must overlap by more than this.
OVERLAPS = np.arange(0.5, 1.0, 0.05)
MIN_REGION = 100  # pixels of a ground-truth instance that counts

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """One class in one image: n predictions against m regions of the ground truth.

    scores, pixels, void: (n,), void being the pixels in void; areas: (m,) pixels; groups: (m,)
    bool; shared: (n, m) pixels in common.
    """

    scores: FloatArray
    pixels: FloatArray
    void: FloatArray
    areas: FloatArray
    groups: NDArray[np.bool_]
    shared: FloatArray


class CityscapesMetric:
    """Collects images one by one; the result is AP over all of them."""

    def __init__(self, classes: Sequence[ClassInfo]) -> None:
        """classes: those of the model's card; matched by name. Raises InputError if none fits."""
        names = {c.id: c.name for c in classes}
        self._class_ids = {
            info.id: next((i for i, name in names.items() if name == info.name), None) for info in CITYSCAPES
        }
        #: Classes of Cityscapes that the model cannot find.
        self.unknown = tuple(c.name for c in CITYSCAPES if self._class_ids[c.id] is None)
        if len(self.unknown) == len(CITYSCAPES):
            raise InputError(f"the model knows no class of Cityscapes, only {', '.join(names.values())}")
        self._images: dict[int, list[_Pairs]] = {c.id: [] for c in CITYSCAPES}

    def add(self, instances: Instances, ids: UInt16Array) -> None:
        """Count an image. ids: its instance map (H, W). Raises InputError for another size."""
        if ids.shape != instances.size:
            raise InputError(f"instances are for {instances.size}, the instance map is {ids.shape}")
        areas = np.bincount(ids.ravel())
        values = np.flatnonzero(areas)
        position = np.cumsum(areas > 0) - 1  # of each value among `values`
        shared = np.zeros((len(instances), len(values)), np.float64)
        for row, mask in zip(shared, instances.masks, strict=True):
            height, width = mask.bits.shape
            under = ids[mask.y : mask.y + height, mask.x : mask.x + width][mask.bits]
            row += np.bincount(position[under], minlength=len(values))
        void = shared[:, np.isin(values, VOID)].sum(1)
        pixels = shared.sum(1)
        labels = np.where(values < FIRST_INSTANCE, values, values // FIRST_INSTANCE)
        for label, class_id in self._class_ids.items():
            mine, regions = (instances.class_ids == class_id) & (pixels > 0), labels == label
            pairs = _Pairs(
                scores=instances.scores[mine].astype(np.float64),
                pixels=pixels[mine],
                void=void[mine],
                areas=areas[values[regions]].astype(np.float64),
                groups=values[regions] < FIRST_INSTANCE,
                shared=shared[np.ix_(mine, regions)],
            )
            if len(pairs.scores) or len(pairs.areas):
                self._images[label].append(pairs)

    def result(self) -> dict[str, Any]:
        """{"AP", "AP50", "per_class": {name: {"AP", "AP50"}}, "unknown_classes": [names]}.

        Numbers are in 0..1, None without ground truth; a class that the model does not know scores 0
        where there is ground truth, as in the official result.
        """
        table = {c.name: _precisions(self._images[c.id]) for c in CITYSCAPES}
        counted = np.array([row for row in table.values() if row])
        return {
            "AP": float(counted.mean()) if len(counted) else None,
            "AP50": float(counted[:, 0].mean()) if len(counted) else None,
            "per_class": {
                name: {"AP": float(np.mean(row)) if row else None, "AP50": row[0] if row else None}
                for name, row in table.items()
            },
            "unknown_classes": list(self.unknown),
        }


def _precisions(images: Sequence[_Pairs]) -> list[float]:
    """AP of one class at each overlap; empty without a region of the ground truth that counts."""
    if not any((~pairs.groups & (pairs.areas >= MIN_REGION)).any() for pairs in images):
        return []
    return [_average_precision(images, float(overlap)) for overlap in OVERLAPS]


def _average_precision(images: Sequence[_Pairs], overlap: float) -> float:
    missed = 0
    hits: list[FloatArray] = []
    alarms: list[FloatArray] = []
    for pairs in images:
        counts = ~pairs.groups & (pairs.areas >= MIN_REGION)
        matched = pairs.shared / (pairs.areas + pairs.pixels[:, None] - pairs.shared) > overlap
        # The best of several predictions of one region is right, the others are false alarms.
        best = np.where(matched, pairs.scores[:, None], -np.inf).max(0, initial=-np.inf)[counts]
        found = best > -np.inf
        hits.append(best[found])
        missed += int((~found).sum())
        for column in np.flatnonzero(counts)[found]:
            alarms.append(np.sort(pairs.scores[matched[:, column]])[:-1])
        # Unmatched: small groups are subtracted twice, as the official scripts do.
        ignored = pairs.void + pairs.shared @ (pairs.groups * 1.0 + (pairs.areas < MIN_REGION))
        alone = ~matched.any(1) & (ignored / pairs.pixels <= overlap)
        alarms.append(pairs.scores[alone])
    return _area(np.concatenate(hits), np.concatenate(alarms), missed)


def _area(hits: FloatArray, alarms: FloatArray, missed: int) -> float:
    """Area under precision over recall, from the scores of right and of wrong predictions."""
    scores = np.concatenate((hits, alarms))
    if not scores.size:
        return 0.0
    thresholds = np.unique(scores)
    right = len(hits) - np.searchsorted(np.sort(hits), thresholds)  # with at least that score
    wrong = len(alarms) - np.searchsorted(np.sort(alarms), thresholds)
    precision = np.append(right / (right + wrong), 1.0)
    recall = np.append(right / (len(hits) + missed), 0.0)
    return float(((precision[1:] + precision[:-1]) / 2 * (recall[:-1] - recall[1:])).sum())


def open_cityscapes(root: Path, split: str, limit: int = 0) -> EvaluationSet:
    """The first frames of a split (limit 0: all) with the metric above; groups become crowds of COCO.

    What cannot be used is logged. Raises InputError if the split has no frame, or only frames without
    public annotations, ConfigError for a limit below 0.
    """
    if limit < 0:
        raise ConfigError(f"--limit is {limit}; expected a number of images, or 0 for all")
    frames: dict[int, CityscapesFrame] = {}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for frame in list_frames(root, split, _log.warning):
        try:
            ids = read_ids(frame)
        except InputError as err:
            _log.warning("%s: %s: skipped", frame.name, err)
            continue
        if only_void(ids):
            _log.warning("%s: nothing but void is annotated: skipped", frame.name)
            continue
        image_id = len(frames) + 1
        frames[image_id] = frame
        height, width = frame.size
        name = frame.image.relative_to(root).as_posix()
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        annotations += _coco_annotations(ids, image_id)
        if len(frames) == limit:
            break
    if not frames:
        raise InputError(f"split {split} of {root} has no public annotations; take val")
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    categories = [{"id": c.id, "name": c.name} for c in CITYSCAPES]
    content = {"images": images, "annotations": annotations, "categories": categories}

    def measure(predictions: Predictions, classes: Sequence[ClassInfo]) -> dict[str, Any]:
        metric = CityscapesMetric(classes)
        for image_id, instances in predictions.items():
            metric.add(instances, read_ids(frames[image_id]))
        return {"cityscapes": metric.result()}

    arguments = ("--cityscapes", "DIR", "--split", split)
    return EvaluationSet(f"Cityscapes {split}", content, root, arguments, (measure,))


def _coco_annotations(ids: UInt16Array, image_id: int) -> list[dict[str, Any]]:
    labels = {c.id for c in CITYSCAPES}
    objects = [(value // FIRST_INSTANCE, 0, mask) for value, mask in instance_masks(ids).items()]
    objects += [(label, 1, mask) for label, mask in group_masks(ids)]
    objects = [o for o in objects if o[0] in labels]
    boxes = [_xywh(mask) for _, _, mask in objects]
    runs = Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(len(objects), np.float32),
        np.array([label for label, _, _ in objects], np.int32),
        tuple(mask for _, _, mask in objects),
        (ids.shape[0], ids.shape[1]),
    ).to_rle()
    return [
        {
            "image_id": image_id, "category_id": label, "iscrowd": crowd, "area": mask.area,
            "bbox": box, "segmentation": rle,
        }
        for (label, crowd, mask), box, rle in zip(objects, boxes, runs, strict=True)
    ]  # fmt: skip


def _xywh(mask: RoiMask) -> list[int]:
    height, width = mask.bits.shape
    return [mask.x, mask.y, width, height]
