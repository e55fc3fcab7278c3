"""What the suites look at: an image of a street camera's size, and objects made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ModelCard
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.images import read_image
from fassst_ros.pipeline import Segmenter
from fassst_ros.types import ConfigError, Float32Array, Frame, UInt8Array

#: The camera of CityScapes; every stage is measured on an image of this size.
HEIGHT, WIDTH = 1024, 2048
#: How many objects a busy street has.
OBJECTS = 30


def bench_image(path: Path | None) -> UInt8Array:
    """(1024, 2048, 3) uint8 BGR: the photo, scaled; or shapes on a gradient with a camera's noise."""
    if path is not None:
        photo: Any = cv2.resize(read_image(path).image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        return np.asarray(photo, np.uint8)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    image = np.stack([rows // 5, columns // 10, 200 - rows // 8], axis=2).astype(np.float32)
    for _ in range(60):
        center = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        axes = int(rng.integers(10, 120)), int(rng.integers(10, 160))
        cv2.ellipse(image, center, axes, 0, 0, 360, rng.integers(0, 256, 3).tolist(), cv2.FILLED)
    image += rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def made_up_objects(n: int, card: ModelCard) -> dict[str, NDArray[Any]]:
    """Raw outputs of n round objects whose sizes are spread as in a street: many small, few large."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.normal(np.log(card.input_width / 20), 0.8, (n, 2)))
    centers = rng.random((n, 2)) * (card.input_width, card.input_height)
    boxes = np.hstack([centers - sides / 2, centers + sides / 2]).astype(np.float32)
    return {
        "scores": np.linspace(0.95, 0.4, n, dtype=np.float32)[None],
        "labels": (np.arange(n, dtype=np.int32) % len(card.classes))[None],
        "boxes": boxes[None],
        "masks": _ellipses(boxes, card)[None],
    }


def _ellipses(boxes: Float32Array, card: ModelCard) -> Float32Array:
    """(n, h, w) probabilities of a mask that fills most of each box (n, 4), in the form of the card."""
    h, w = card.masks.height, card.masks.width
    rows, columns = (np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w
    if card.masks.kind == "frame":
        y, x = rows * card.input_height, columns * card.input_width
        left, top, right, bottom = boxes.T[:, :, None]
        rows, columns = (y - top) / (bottom - top), (x - left) / (right - left)
    else:
        rows, columns = ((1 + 2 * card.masks.padding) * v - card.masks.padding for v in (rows, columns))
    distance = np.hypot((rows - 0.5)[..., :, None], (columns - 0.5)[..., None, :])
    masks = 1 / (1 + np.exp(np.minimum(60 * (distance - 0.5), 80)))
    return np.broadcast_to(masks.astype(np.float32), (len(boxes), h, w))


def threshold_for(options: RuntimeOptions, image: UInt8Array, objects: int) -> float:
    """The score threshold that leaves `objects` instances in the image; -1 (the card's) for 0.

    Raises ConfigError if the model finds nothing at all.
    """
    if objects == 0:
        return -1.0
    with Segmenter.open(options, SegmentOptions(score_threshold=0.0), lambda _: None) as segmenter:
        scores = segmenter.segment(Frame(image, "bgr")).instances.scores
    if len(scores) == 0:
        raise ConfigError("--objects: the model finds nothing in this image; give a photo with --image")
    return float(scores[min(objects, len(scores)) - 1])
