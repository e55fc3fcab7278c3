"""What a detector without masks would score: its boxes filled, or with an ellipse inside.

A segmentation network is worth its name only if it is better than these. numpy only, no torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ClassInfo
from fassst_ros.labels import COCO
from fassst_ros.pipeline import Segmentation
from fassst_ros.types import ConfigError, Frame, Instances, RoiMask
from fassst_ros.yolox import Boxes, YoloxDetector

#: Shape of the mask -> what is said of it.
SHAPES = {"box": "boxes filled", "ellipse": "ellipses in its boxes"}
#: As in the evaluation of models: AP is the area under a curve over all scores.
SCORE_THRESHOLD, MAX_INSTANCES = 0.001, 100


class BoxReference:
    """A detector whose boxes are made masks of; it segments frames as `Segmenter` does."""

    def __init__(self, detector: YoloxDetector, shape: str, classes: Sequence[ClassInfo]) -> None:
        """detector: stays the caller's. shape: a key of SHAPES. classes: wanted; found by COCO's names.

        Raises ConfigError if none of the classes has a name of COCO's.
        """
        ids = {c.name: c.id for c in classes}
        self._class_of = {c.id: ids[c.name] for c in COCO if c.name in ids}
        if not self._class_of:
            raise ConfigError(f"the detector knows none of the classes {', '.join(ids)}; it knows COCO's 80")
        self._detector = detector
        self._shape = shape

    def segment(self, frame: Frame) -> Segmentation:
        """Detect, and make a mask of every box. Stages: "infer", the graph alone, and "masks"."""
        image = frame.image if frame.color == "rgb" else np.ascontiguousarray(frame.image[..., ::-1])
        boxes = self._detector.detect(image, SCORE_THRESHOLD)
        start = time.perf_counter()
        instances = to_instances(boxes, self._shape, self._class_of, frame.size)
        masks_ms = (time.perf_counter() - start) * 1e3
        return Segmentation(instances, {"infer": self._detector.infer_ms, "masks": masks_ms})


def to_instances(boxes: Boxes, shape: str, class_of: dict[int, int], size: tuple[int, int]) -> Instances:
    """The 100 best boxes of the wanted classes with masks, in an image of `size` (H, W).

    class_of: COCO's category id -> class id; other categories are dropped, as are boxes that hold
    no pixel's centre.
    """
    kept: list[int] = []
    masks: list[RoiMask] = []
    for i, box in enumerate(boxes.boxes.tolist()):
        if len(kept) == MAX_INSTANCES:
            break
        if int(boxes.category_ids[i]) in class_of and (mask := fill(box, shape)) is not None:
            kept.append(i)
            masks.append(mask)
    class_ids = np.array([class_of[int(boxes.category_ids[i])] for i in kept], np.int32)
    return Instances(boxes.boxes[kept], boxes.scores[kept], class_ids, tuple(masks), size)


def fill(box: Sequence[float], shape: str) -> RoiMask | None:
    """The pixels whose centres lie in a box xyxy, or in the ellipse inscribed in it; None without any."""
    x0, y0, x1, y1 = box
    columns, rows = _centers(x0, x1), _centers(y0, y1)
    if not columns.size or not rows.size:
        return None
    bits = np.ones((rows.size, columns.size), np.bool_)
    if shape == "ellipse":
        across = (2 * columns - x0 - x1) / (x1 - x0)
        down = (2 * rows - y0 - y1) / (y1 - y0)
        bits = across**2 + down[:, None] ** 2 <= 1
        if not bits.any():
            return None
    return RoiMask(int(columns[0]), int(rows[0]), bits)


def _centers(start: float, stop: float) -> NDArray[np.float64]:
    """Centres of the pixels whose centres lie in [start, stop)."""
    return np.arange(math.ceil(start - 0.5), math.ceil(stop - 0.5), dtype=np.float64) + 0.5
