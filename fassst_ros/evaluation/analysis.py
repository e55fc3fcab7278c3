"""What matched images say: precision and recall over the score threshold, what was missed, what was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ClassInfo
from fassst_ros.evaluation.matching import FAULTS, ImageMatch

#: COCO's sizes by mask area in pixels of the original image: name -> from, to.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}


def size_of(area: float) -> str:
    """The name of COCO's size of an object with that many pixels."""
    return next(size for size, (_, high) in SIZES.items() if area < high)


@dataclass(frozen=True, slots=True)
class ThresholdCurve:
    """Precision, recall and F1, all classes together, over every score that occurs, best first.

    All arrays (n,). At `scores[i]`, the detections of at least that score are kept.
    """

    scores: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]

    def at(self, threshold: float) -> dict[str, float | None]:
        """The numbers where `threshold` is the lowest score that is kept; None where undefined."""
        kept = int((self.scores >= threshold).sum())
        if kept == 0:
            return {"threshold": threshold, "precision": None, "recall": 0.0, "f1": 0.0}
        values = {name: float(getattr(self, name)[kept - 1]) for name in ("precision", "recall", "f1")}
        return {"threshold": threshold, **values}

    def best(self) -> dict[str, float | None]:
        """Where F1 is highest; the highest threshold if several are."""
        if not self.scores.size:
            return {"threshold": None, "precision": None, "recall": None, "f1": None}
        return self.at(float(self.scores[int(self.f1.argmax())]))


def threshold_curve(matches: Sequence[ImageMatch]) -> ThresholdCurve:
    """The curve over all images; crowd regions and what lies in them do not count."""
    counted = [~m.ignored for m in matches]
    scores = _joined([m.scores[c] for m, c in zip(matches, counted, strict=True)])
    hits = _joined([m.taken[c] >= 0 for m, c in zip(matches, counted, strict=True)])
    objects = sum(len(m.areas) for m in matches)
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(hits[order])
    last = np.append(scores[1:] != scores[:-1], True)[: scores.size]  # equal scores are kept together
    kept = np.arange(1, scores.size + 1)[last]
    scores, right = scores[last], right[last]
    f1 = 2 * right / (kept + objects)
    recall = right / objects if objects else np.zeros(right.size)
    return ThresholdCurve(scores, right / kept, recall, f1)


def _joined(parts: list[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def missed(
    matches: Sequence[ImageMatch], threshold: float, classes: Sequence[ClassInfo]
) -> dict[str, dict[str, Any]]:
    """Class name -> objects, missed, and {size: [missed, objects]} at a score threshold."""
    ids = np.concatenate([m.object_classes for m in matches])
    areas = np.concatenate([m.areas for m in matches])
    lost = ~np.concatenate([m.found(threshold) for m in matches])
    table: dict[str, dict[str, Any]] = {}
    for info in classes:
        mine = ids == info.id
        sizes = {}
        for size, (low, high) in SIZES.items():
            chosen = mine & (areas >= low) & (areas < high)
            sizes[size] = [int((lost & chosen).sum()), int(chosen.sum())]
        table[info.name] = {"objects": int(mine.sum()), "missed": int((lost & mine).sum()), "sizes": sizes}
    return table


def false_alarms(
    matches: Sequence[ImageMatch], threshold: float, classes: Sequence[ClassInfo]
) -> dict[str, dict[str, int]]:
    """Class name -> detections that count, right ones, and false alarms by cause, at a score threshold."""
    names = {c.id: c.name for c in classes}
    table = {c.name: dict.fromkeys(("detections", "right", *FAULTS), 0) for c in classes}
    for match in matches:
        for i in np.flatnonzero(~match.ignored & (match.scores >= threshold)):
            row = table[names[int(match.class_ids[i])]]
            row["detections"] += 1
            row[match.faults[i] or "right"] += 1
    return table


def analyse(matches: Sequence[ImageMatch], threshold: float, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """The part of the report that says how the model does at one score threshold, mask IoU 0.5."""
    curve = threshold_curve(matches)
    qualities = [q for m in matches if (q := m.quality(threshold)) is not None]
    return {
        "objects": {c.name: sum(int((m.object_classes == c.id).sum()) for m in matches) for c in classes},
        "at_threshold": {
            **curve.at(threshold),
            "image_pq": float(np.mean(qualities)) if qualities else None,
            "missed": missed(matches, threshold, classes),
            "false_alarms": false_alarms(matches, threshold, classes),
        },
        "best_threshold": curve.best(),
    }
