"""The best and the worst images of an evaluation, drawn beside their ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fassst_ros.card import ModelCard
from fassst_ros.coco_format import decode_rle
from fassst_ros.evaluation.analysis import size_of
from fassst_ros.evaluation.matching import ImageMatch
from fassst_ros.overlay import draw
from fassst_ros.types import ConfigError, InputError, Instances, UInt8Array

#: At most so many of the best, and of the worst.
COUNT = 12
#: Pixels of a picture's longer side.
LONGEST = 800
_FRAME = (255, 220, 0)  # around what was missed and what is wrong


@dataclass(frozen=True, slots=True)
class Pair:
    """Two picture files, and what stands beside them. All texts are plain, not HTML."""

    truth: str
    found: str
    title: str
    notes: tuple[str, ...]


def ranked(
    matches: Sequence[ImageMatch], threshold: float, count: int = COUNT
) -> tuple[list[ImageMatch], list[ImageMatch]]:
    """The best images, best first, and the worst, worst first, by image PQ at a score threshold.

    Equal ones: the image with more objects and false alarms first. No image is in both lists, and
    images with nothing to find and nothing found are in none.
    """
    known = [(quality, m) for m in matches if (quality := m.quality(threshold)) is not None]

    def content(match: ImageMatch) -> int:
        return len(match.areas) + len(match.false_alarms(threshold))

    worst = sorted(known, key=lambda entry: (entry[0], -content(entry[1])))
    few = min(count, (len(known) + 1) // 2)
    best = sorted(worst[few:], key=lambda entry: (-entry[0], -content(entry[1])))
    return [m for _, m in best[:count]], [m for _, m in worst[:few]]


def draw_pair(
    path: Path,
    title: str,
    image: UInt8Array,
    match: ImageMatch,
    predicted: Instances,
    card: ModelCard,
    threshold: float,
) -> Pair:
    """Write PATH_truth.jpg and PATH_found.jpg, with what was found from a score threshold on.

    image: (H, W, 3) RGB. What was missed has a yellow frame in the one, what is wrong in the other. Raises
    ConfigError if the folder cannot be written to.
    """
    scale = min(1.0, LONGEST / max(predicted.size))  # drawn small, so that names can be read
    truth = draw(image, true_instances(match, predicted.size), card, scores=False, scale=scale)
    _frame(truth, scale * match.object_boxes[~match.found(threshold)])
    found = draw(image, _surest(predicted, threshold), card, scale=scale)
    _frame(found, scale * match.boxes[match.false_alarms(threshold)])
    pair = Pair(
        f"{path.name}_truth.jpg",
        f"{path.name}_found.jpg",
        f"{title}: image PQ {match.quality(threshold) or 0.0:.2f}",
        _notes(match, card, threshold),
    )
    write_picture(path.with_name(pair.truth), truth)
    write_picture(path.with_name(pair.found), found)
    return pair


def true_instances(match: ImageMatch, size: tuple[int, int]) -> Instances:
    """The objects of an image of `size` (H, W), small ones first: what is first is drawn on top.

    An object without a pixel (a degenerate polygon) is left out.
    """
    masks, chosen = [], []
    for i in np.argsort(match.areas, kind="stable"):
        try:
            masks.append(decode_rle(match.shapes[i]))
        except InputError:
            continue
        chosen.append(i)
    boxes = match.object_boxes[chosen].astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    classes = match.object_classes[chosen].astype(np.int32)
    return Instances(boxes, np.ones(len(chosen), np.float32), classes, tuple(masks), size)


def _surest(instances: Instances, threshold: float) -> Instances:
    """Instances of at least that score; they come best first."""
    n = int((instances.scores >= threshold).sum())
    kept = (instances.boxes[:n], instances.scores[:n], instances.class_ids[:n], instances.masks[:n])
    return Instances(*kept, instances.size)


def _frame(image: UInt8Array, boxes: Any) -> None:
    """Draw yellow frames with a dark edge around boxes (n, 4) xywh."""
    thin = max(1, round(min(image.shape[:2]) / 300))
    for x, y, w, h in np.rint(boxes).astype(int).tolist():
        for grow, color in ((2 * thin, (0, 0, 0)), (thin, _FRAME)):
            cv2.rectangle(image, (x - grow, y - grow), (x + w + grow, y + h + grow), color, thin)


def _notes(match: ImageMatch, card: ModelCard, threshold: float) -> tuple[str, ...]:
    """What was found, missed and wrong, in words."""
    names = {c.id: c.name for c in card.classes}
    found = match.found(threshold)
    missed = Counter(
        f"{size_of(match.areas[i])} {names[int(match.object_classes[i])]}" for i in np.flatnonzero(~found)
    )
    wrong = Counter(
        f"{names[int(match.class_ids[i])]} ({match.faults[i]})" for i in match.false_alarms(threshold)
    )
    notes = [f"found: {int(found.sum())} of {found.size} objects"]
    for title, counted in (("missed", missed), ("false alarms", wrong)):
        if counted:
            notes.append(f"{title}: " + ", ".join(f"{n} {what}" for what, n in counted.most_common()))
    if match.crowds:
        notes.append(f"{match.crowds} crowd regions, not drawn: what is found there does not count")
    return tuple(notes)


def write_picture(path: Path, image: UInt8Array) -> None:
    """An RGB image as JPEG, made smaller where it is large. Raises ConfigError if it cannot be written."""
    scale = min(1.0, LONGEST / max(image.shape[:2]))
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    try:
        path.write_bytes(data.tobytes())
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror or err}") from err
