"""Samples to network inputs: one axis-aligned placement an image, mosaic, colour and sensor noise.

The deployed pipeline stretches every camera image to the network input, so that objects of a
2:1 camera arrive half as wide as they are. Augmentation therefore draws the distortion (width to
height) itself, whatever the aspect of the training image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.config import setting
from fassst_ros.training.datasets import Sample
from fassst_ros.training.placement import Placement, draw_mask
from fassst_ros.types import Float32Array, InputError, UInt8Array

_GREY = 114  # outside the image


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """What is varied and how much. Ranges are drawn log-uniformly, probabilities are per image.

    scale: of the image relative to filling the output; mosaic_scale: relative to its tile.
    aspect: width to height distortion of objects; 0.5 is a 2:1 camera on a square input, 1.33 a
    3:4 one. hue: degrees, saturation and value: relative. paste_scale: of pasted objects, relative to
    the images' longer sides (copy_paste.py). min_size: pixels of the shorter box side; min_visible: of
    the object's area; below either it is ignored instead of learnt.
    """

    scale: tuple[float, float] = setting((0.7, 2.0), "size of the image", minimum=0.01)
    mosaic_scale: tuple[float, float] = setting((0.7, 2.0), "size of the images of a mosaic", minimum=0.01)
    aspect: tuple[float, float] = setting((0.5, 1.34), "distortion, width to height", minimum=0.01)
    flip: float = setting(0.5, "chance of a mirrored image", minimum=0.0, maximum=1.0)
    mosaic: float = setting(0.3, "chance that a sample is a mosaic of four", minimum=0.0, maximum=1.0)
    hue: float = setting(6.0, "largest shift of hue", unit="deg", minimum=0.0, maximum=180.0)
    saturation: float = setting(0.5, "largest change of saturation", minimum=0.0, maximum=1.0)
    value: float = setting(0.4, "largest change of brightness", minimum=0.0, maximum=1.0)
    grey: float = setting(0.03, "chance of a grey image", minimum=0.0, maximum=1.0)
    blur: float = setting(0.08, "chance of blur", minimum=0.0, maximum=1.0)
    noise: float = setting(0.08, "chance of sensor noise", minimum=0.0, maximum=1.0)
    jpeg: float = setting(0.08, "chance of JPEG artefacts", minimum=0.0, maximum=1.0)
    copy_paste: float = setting(
        0.0, "chance that an image, not a mosaic, gets objects of another", minimum=0.0, maximum=1.0
    )
    pasted: int = setting(3, "most objects that an image gets", minimum=1, maximum=100)
    paste_scale: tuple[float, float] = setting((0.5, 1.25), "size of pasted objects", minimum=0.01)
    min_size: float = setting(
        4.0, "shorter box side below which an object is ignored", unit="px", minimum=0.0
    )
    min_visible: float = setting(
        0.15, "visible part below which an object is ignored", minimum=0.0, maximum=1.0
    )


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """A network input with its targets, all in its pixels.

    image: (H, W, 3) uint8 RGB. boxes: (n, 4) float32 xyxy. labels: (n,) int64. masks: (n, H/2, W/2)
    uint8, 0..255 coverage of each 2 x 2 pixel cell. labelled: (C,) bool. ignore: (m, 4) float32.
    """

    image: UInt8Array
    boxes: Float32Array
    labels: NDArray[np.int64]
    masks: UInt8Array
    labelled: NDArray[np.bool_]
    ignore: Float32Array


def stretch(sample: Sample, out_size: tuple[int, int]) -> TrainingImage:
    """A sample as the deployed pipeline shows it to the network: stretched, nothing else.

    out_size: (H, W), even. Raises InputError if it is odd.
    """
    height, width = out_size
    source_h, source_w = sample.image.shape[:2]
    whole = Placement((width / source_w, height / source_h), (0.0, 0.0), (0, 0, width, height))
    return _compose([(sample, whole)], out_size, AugmentOptions())


def augment(
    samples: Sequence[Sample], out_size: tuple[int, int], options: AugmentOptions, rng: np.random.Generator
) -> TrainingImage:
    """One network input from one sample, or a mosaic of four.

    out_size: (H, W), even. Raises InputError for another number of samples or an odd size.
    """
    height, width = out_size
    if len(samples) == 1:
        tiles = [(0, 0, width, height)]
    elif len(samples) == 4:
        x, y = (2 * round(side / 2 * rng.uniform(0.3, 0.7)) for side in (width, height))
        tiles = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    else:
        raise InputError(f"augment came with {len(samples)} samples; expected 1, or 4 for a mosaic")
    scale = options.scale if len(samples) == 1 else options.mosaic_scale
    placed = [
        (sample, _random_placement(sample, tile, scale, options, rng))
        for sample, tile in zip(samples, tiles, strict=True)
    ]
    result = _compose(placed, out_size, options)
    return TrainingImage(
        degrade(recolour(result.image, options, rng), options, rng),
        result.boxes, result.labels, result.masks, result.labelled, result.ignore,
    )  # fmt: skip


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _random_placement(
    sample: Sample,
    tile: tuple[int, int, int, int],
    scale: tuple[float, float],
    options: AugmentOptions,
    rng: np.random.Generator,
) -> Placement:
    """Scale, distort, flip and shift an image at random within its tile (crop or pad)."""
    source = np.array([sample.image.shape[1], sample.image.shape[0]], np.float64)
    low, high = np.array(tile[:2], np.float64), np.array(tile[2:], np.float64)
    fill = np.sqrt(np.prod(high - low) / np.prod(source)) * _log_uniform(rng, *scale)
    stretch_x = np.sqrt(_log_uniform(rng, *options.aspect))
    factor = fill * np.array([stretch_x, 1 / stretch_x])
    room = (high - low) - factor * source  # negative: crop, positive: pad
    offset = low + room * rng.uniform(size=2)
    if rng.random() < options.flip:
        offset[0] += factor[0] * source[0]
        factor[0] = -factor[0]
    return Placement((float(factor[0]), float(factor[1])), (float(offset[0]), float(offset[1])), tile)


def _compose(
    placed: Sequence[tuple[Sample, Placement]], out_size: tuple[int, int], options: AugmentOptions
) -> TrainingImage:
    """Draw the images into one, and collect what is visible of their objects."""
    height, width = out_size
    if height % 2 or width % 2:
        raise InputError(f"network input is {height}x{width}; expected even numbers")
    image = np.empty((height, width, 3), np.uint8)
    total = sum(len(sample.labels) for sample, _ in placed)
    masks = np.zeros((total, height // 2, width // 2), np.uint8)
    boxes: list[Float32Array] = []
    labels: list[np.int64] = []
    ignore: list[Float32Array] = []
    for sample, place in placed:
        x0, y0, x1, y1 = place.tile
        image[y0:y1, x0:x1] = cv2.warpAffine(
            sample.image, place.matrix((x0, y0)), (x1 - x0, y1 - y0),
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(_GREY,) * 3,
        )  # fmt: skip
        ignore.extend(place.clip(place.boxes(sample.ignore)))
        for full, label, shape in zip(place.boxes(sample.boxes), sample.labels, sample.shapes, strict=True):
            box = place.clip(full[None])[0]
            if box[2] <= box[0] or box[3] <= box[1]:
                continue
            mask = masks[len(boxes)]
            if shape:
                box, visible = draw_mask(shape, place, box, bool((box != full).any()), mask)
            else:  # only the box is known: an empty mask says so
                visible = float((box[2:] - box[:2]).prod() / (full[2:] - full[:2]).prod())
            if min(box[2] - box[0], box[3] - box[1]) < options.min_size or visible < options.min_visible:
                mask[:] = 0
                ignore.append(box)
                continue
            boxes.append(box)
            labels.append(label)
    keep = [b for b in ignore if b[2] > b[0] and b[3] > b[1]]
    return TrainingImage(
        image=image,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        masks=masks if len(boxes) == total else masks[: len(boxes)].copy(),  # do not ship the rest
        labelled=np.logical_and.reduce([sample.labelled for sample, _ in placed]),
        ignore=np.array(keep, np.float32).reshape(-1, 4),
    )


def recolour(image: UInt8Array, options: AugmentOptions, rng: np.random.Generator) -> UInt8Array:
    """Jitter hue, saturation and brightness of an RGB image, or turn it grey like a mono camera's."""
    if rng.random() < options.grey:
        return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]
    hue, saturation, value = rng.uniform(-1, 1, 3) * (options.hue / 2, options.saturation, options.value)
    steps = np.arange(256, dtype=np.float64)
    table = np.empty((256, 1, 3), np.uint8)
    table[:, 0, 0] = (steps + hue) % 180  # OpenCV's hue is in units of two degrees
    table[:, 0, 1] = np.clip(steps * (1 + saturation), 0, 255)
    table[:, 0, 2] = np.clip(steps * (1 + value), 0, 255)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)  # type: ignore[return-value]


def degrade(image: UInt8Array, options: AugmentOptions, rng: np.random.Generator) -> UInt8Array:
    """Blur, sensor noise and JPEG artefacts of cheap cameras, each with its own probability."""
    blur, noise, jpeg = rng.random(3) < (options.blur, options.noise, options.jpeg)
    strength = rng.random(3)
    if blur:
        image = cv2.GaussianBlur(image, (5, 5), 0.5 + 1.5 * strength[0])  # type: ignore[assignment]
    if noise:
        cv2.setRNGSeed(int(rng.integers(2**31)))
        grain = np.empty(image.shape, np.int16)
        cv2.randn(grain, np.zeros(3), np.full(3, 2 + 10 * strength[1]))
        image = cv2.add(image, grain, dtype=cv2.CV_8U)  # type: ignore[assignment]
    if jpeg:
        quality = int(30 + 60 * strength[2])
        # Red and blue are swapped here and back: only the tint of the artefacts differs.
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[assignment]
    return image
