"""Instances -> drawn image: masks, outlines, boxes, names and scores; numpy and OpenCV only."""

from __future__ import annotations

import colorsys
import dataclasses
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

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
    scale: float = 1.0,
) -> UInt8Array:
    """A copy of `image` with the instances on it.

    image: (H, W, 3) uint8 in the order `color`. alpha: share of the colour inside masks, 0..1.
    Colours are those of the card's classes, or one per track where there are tracks.
    out: array to draw into instead of a new one; it may be `image` itself.
    scores: write them beside the names; False for ground truth.
    scale: size of the drawn picture as a share of the image's, up to 1; the smaller, the faster.
    Raises InputError if the instances are not of an image of this size.
    """
    if image.shape != (*instances.size, 3):
        raise InputError(
            f"image has shape {image.shape}; the instances are of an image {(*instances.size, 3)}. Draw "
            "them on the image that they were found in"
        )
    if scale != 1:
        image, instances = _shrunk(image, instances, scale)
        out = image if out is None else out
    if out is None:
        out = image.copy()
    elif out is not image:
        np.copyto(out, image)
    colors = [c if color == "rgb" else c[::-1] for c in instance_colors(instances, card)]
    thin = max(1, round(min(instances.size) / 700))
    for i in reversed(range(len(instances))):  # the best on top
        _blend(out, instances.masks[i], colors[i], alpha, thin)
    font = min(max(min(instances.size) / 1600, 0.4), 1.2)
    boxes = [_whole(box) for box in instances.boxes.tolist()]
    for (x, y, w, h), line in zip(boxes, colors, strict=True):  # around the object, not over its edge
        cv2.rectangle(out, (x - thin, y - thin), (x + w + thin - 1, y + h + thin - 1), line, thin)
    small = [box for box in boxes if box[2] * box[3] < (150 * font) ** 2]  # not to be hidden
    taken = np.array(small + boxes, np.int64).reshape(-1, 4)
    texts = captions(instances, card, scores)
    for i, (text, box, plate) in enumerate(zip(texts, boxes, colors, strict=True), start=len(small)):
        taken[i] = _label(out, text, box, plate, font, taken[:i])
    return out


def _shrunk(image: UInt8Array, instances: Instances, scale: float) -> tuple[UInt8Array, Instances]:
    """A smaller copy of the image, and its instances in the pixels of that copy."""
    height, width = instances.size
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small: Any = image
    while small.shape[0] >= 2 * size[0] and small.shape[1] >= 2 * size[1]:
        # Halving is ten times as fast as INTER_AREA with other factors.
        small = cv2.resize(small, (small.shape[1] // 2, small.shape[0] // 2), interpolation=cv2.INTER_AREA)
    small = cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
    ratio = np.array([size[1] / width, size[0] / height])
    # The pixel of the image that is under the centre of each pixel of the smaller one.
    rows, columns = (
        ((np.arange(n) + 0.5) / r).astype(np.int64) for n, r in zip(size, ratio[::-1], strict=True)
    )
    masks = []
    for mask in instances.masks:
        top, bottom = np.searchsorted(rows, (mask.y, mask.y + mask.bits.shape[0])).tolist()
        left, right = np.searchsorted(columns, (mask.x, mask.x + mask.bits.shape[1])).tolist()
        bits = mask.bits[rows[top:bottom] - mask.y].take(columns[left:right] - mask.x, axis=1)
        masks.append(RoiMask(left, top, bits))
    boxes = instances.boxes * np.tile(ratio, 2).astype(np.float32)
    return small, dataclasses.replace(instances, boxes=boxes, masks=tuple(masks), size=size)


def _whole(box: list[float]) -> Rectangle:
    """A box xyxy as whole pixels."""
    x0, y0, x1, y1 = (round(v) for v in box)
    return x0, y0, max(1, x1 - x0), max(1, y1 - y0)


def instance_colors(instances: Instances, card: ModelCard) -> list[Color]:
    """The RGB colour of each instance: one per track where it has one, else its class's in the card.

    The same for every picture, marker and page, so that one object looks alike everywhere.
    """
    by_class = {c.id: c.color for c in card.classes}
    tracks = _tracks(instances)
    return [
        track_color(track) if track else by_class.get(class_id, (255, 255, 255))
        for class_id, track in zip(instances.class_ids.tolist(), tracks, strict=True)
    ]


def track_color(track: int) -> Color:
    """The RGB colour of a track: the golden ratio gives neighbouring ids distant hues."""
    r, g, b = colorsys.hsv_to_rgb(track * 0.61803398875 % 1, 0.8, 1.0)
    return round(255 * r), round(255 * g), round(255 * b)


def captions(instances: Instances, card: ModelCard, scores: bool = True) -> list[str]:
    """What is written at each instance: "car 0.87", "car #12 0.87", "car" without scores."""
    names = {c.id: c.name for c in card.classes}
    texts = []
    for class_id, track, score in zip(
        instances.class_ids.tolist(), _tracks(instances), instances.scores.tolist(), strict=True
    ):
        text = names.get(class_id, f"class {class_id}") + (f" #{track}" if track else "")
        texts.append(f"{text} {score:.2f}" if scores else text)
    return texts


def _tracks(instances: Instances) -> list[int]:
    """Track ids; 0 = none."""
    return [0] * len(instances) if instances.track_ids is None else instances.track_ids.tolist()


def _blend(image: UInt8Array, mask: RoiMask, color: Color, alpha: float, thin: int) -> None:
    """Tint the pixels of the mask and draw its outline, lighter, so that dark colours show."""
    h, w = mask.bits.shape
    if h == 0 or w == 0:
        return
    bits = np.ascontiguousarray(mask.bits).view(np.uint8)
    region = image[mask.y : mask.y + h, mask.x : mask.x + w]
    plain = np.empty_like(region)
    cv2.rectangle(plain, (0, 0), (w, h), color, cv2.FILLED)
    tinted = cv2.addWeighted(region, 1 - alpha, plain, alpha, 0)
    cv2.copyTo(tinted, bits, region)
    outlines, _ = cv2.findContours(bits, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    light = tuple((c + 255) // 2 for c in color)
    cv2.drawContours(region, outlines, -1, light, thin, cv2.LINE_AA)


def _label(
    image: UInt8Array, text: str, box: Rectangle, color: Color, scale: float, taken: NDArray[np.int64]
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
    box: Rectangle, width: int, height: int, size: tuple[int, int], taken: NDArray[np.int64]
) -> tuple[int, int]:
    """Top left pixel of a plate: above the box, else below, beside, inside, or farther off.

    taken: (k, 4) rectangles of which it should hide as little as possible.
    """
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
    places = np.maximum(np.minimum(np.array(wishes), limit), 0)
    start, end = taken[:, :2], taken[:, :2] + taken[:, 2:]
    shared = np.minimum(places[:, None] + (width, height), end) - np.maximum(places[:, None], start)
    np.maximum(shared, 0, out=shared)
    hidden = (shared[..., 0] * shared[..., 1]).sum(axis=1)  # pixels of `taken` under each place
    x, y = places[hidden.argmin()]  # the first of the best
    return int(x), int(y)
