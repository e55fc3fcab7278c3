"""Instances -> drawn image: masks, outlines, boxes, names and scores; numpy and OpenCV only."""

from __future__ import annotations

import colorsys
from typing import Literal

import cv2
import numpy as np

from fassst_ros.card import ModelCard
from fassst_ros.types import InputError, Instances, RoiMask, UInt8Array

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # x, y, width, height

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(
    image: UInt8Array,
    instances: Instances,
    card: ModelCard,
    color: Literal["rgb", "bgr"] = "rgb",
    alpha: float = 0.45,
    out: UInt8Array | None = None,
    scores: bool = True,
) -> UInt8Array:
    """A copy of `image` with the instances on it.

    image: (H, W, 3) uint8 in the order `color`. alpha: share of the colour inside masks, 0..1.
    Colours are those of the card's classes, or one per track where there are tracks.
    out: array to draw into instead of a new one; it may be `image` itself.
    scores: write them beside the names; False for ground truth.
    Raises InputError if the instances are not of an image of this size.
    """
    if image.shape != (*instances.size, 3):
        raise InputError(
            f"image has shape {image.shape}; the instances are of an image {(*instances.size, 3)}. Draw "
            "them on the image that they were found in"
        )
    if out is None:
        out = image.copy()
    elif out is not image:
        np.copyto(out, image)
    colors = [_color(instances, i, card, color) for i in range(len(instances))]
    thin = max(1, round(min(instances.size) / 700))
    for i in reversed(range(len(instances))):  # the best on top
        _blend(out, instances.masks[i], colors[i], alpha, thin)
    scale = min(max(min(instances.size) / 1600, 0.4), 1.2)
    boxes = [_whole(box) for box in instances.boxes.tolist()]
    for (x, y, w, h), line in zip(boxes, colors, strict=True):  # around the object, not over its edge
        cv2.rectangle(out, (x - thin, y - thin), (x + w + thin - 1, y + h + thin - 1), line, thin)
    taken = [box for box in boxes if box[2] * box[3] < (150 * scale) ** 2]  # not to hide small objects
    for i, box in enumerate(boxes):
        taken.append(_label(out, _text(instances, i, card, scores), box, colors[i], scale, taken))
    return out


def _whole(box: list[float]) -> Rectangle:
    """A box xyxy as whole pixels."""
    x0, y0, x1, y1 = (round(v) for v in box)
    return x0, y0, max(1, x1 - x0), max(1, y1 - y0)


def _color(instances: Instances, i: int, card: ModelCard, order: str) -> Color:
    """The colour of instance i in the image's channel order."""
    track = 0 if instances.track_ids is None else int(instances.track_ids[i])
    if track:
        hue = track * 0.61803398875 % 1  # golden ratio: neighbouring tracks get distant hues
        r, g, b = (round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.8, 1.0))
    else:
        r, g, b = next((c.color for c in card.classes if c.id == instances.class_ids[i]), (255, 255, 255))
    return (r, g, b) if order == "rgb" else (b, g, r)


def _text(instances: Instances, i: int, card: ModelCard, scores: bool = True) -> str:
    """What is written at instance i: "car 0.87", "car #12 0.87", "car" without scores."""
    class_id = int(instances.class_ids[i])
    name = next((c.name for c in card.classes if c.id == class_id), f"class {class_id}")
    track = 0 if instances.track_ids is None else int(instances.track_ids[i])
    tracked = f"{name} #{track}" if track else name
    return f"{tracked} {instances.scores[i]:.2f}" if scores else tracked


def _blend(image: UInt8Array, mask: RoiMask, color: Color, alpha: float, thin: int) -> None:
    """Tint the pixels of the mask and draw its outline, lighter, so that dark colours show."""
    h, w = mask.bits.shape
    bits = np.ascontiguousarray(mask.bits).view(np.uint8)
    region = image[mask.y : mask.y + h, mask.x : mask.x + w]
    levels = np.arange(256)[:, None] * (1 - alpha) + np.array(color) * alpha
    tinted = cv2.LUT(region, np.rint(levels).astype(np.uint8)[None])
    cv2.copyTo(tinted, bits, region)
    outlines, _ = cv2.findContours(bits, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    light = tuple((c + 255) // 2 for c in color)
    cv2.drawContours(region, outlines, -1, light, thin, cv2.LINE_AA)


def _label(
    image: UInt8Array, text: str, box: Rectangle, color: Color, scale: float, taken: list[Rectangle]
) -> Rectangle:
    """Write `text` on a plate near the box, where it hides least of `taken`; returns the plate."""
    (tw, th), base = cv2.getTextSize(text, _FONT, scale, 1)
    width, height = tw + 4, th + base + 2
    x, y = _place(box, width, height, (image.shape[0], image.shape[1]), taken)
    cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), color, cv2.FILLED)
    bright = 0.5 * color[1] + 0.25 * (color[0] + color[2]) > 140
    ink = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(image, text, (x + 2, y + height - base), _FONT, scale, ink, 1, cv2.LINE_AA)
    return x, y, width, height


def _place(
    box: Rectangle, width: int, height: int, size: tuple[int, int], taken: list[Rectangle]
) -> tuple[int, int]:
    """Top left pixel of a plate: above the box, else below, beside, inside, or farther off."""
    x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    wishes = [
        (x0 - 1, y0 - height - 1),
        (x1 - width, y0 - height - 1),
        (x0 - 1, y1 + 2),
        (x1 + 2, y0),
        (x0 - width - 2, y0),
        (x0 + 2, y0 + 2),
        (x0 - 1, y0 - 2 * height - 2),
        (x0 - 1, y1 + height + 3),
        (x0 - width // 2, y0 - 3 * height - 3),
        (x0 - width // 2, y1 + 2 * height + 4),
    ]
    limit = (max(0, size[1] - width), max(0, size[0] - height))
    places = np.clip(np.array(wishes), 0, limit)
    if not taken:
        return int(places[0, 0]), int(places[0, 1])
    start, extent = np.hsplit(np.array(taken), 2)
    shared = np.minimum(places[:, None] + (width, height), start + extent) - np.maximum(
        places[:, None], start
    )
    hidden = np.maximum(shared, 0).prod(axis=2).sum(axis=1)  # pixels of `taken` under each place
    x, y = places[hidden.argmin()]  # the first of the best
    return int(x), int(y)
