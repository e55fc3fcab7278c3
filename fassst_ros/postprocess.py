"""Raw network outputs -> Instances; numpy and OpenCV only.

Masks are sampled exactly at the source pixel centres, and only where an instance can be: the
cost follows the pixels of the objects, not slots times the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ModelCard
from fassst_ros.config import SegmentOptions
from fassst_ros.preprocess import Geometry
from fassst_ros.types import Float32Array, Instances, ModelError, RoiMask

# Multiply-adds of one block: small enough for the cache, and below the size (2**18) from which
# OpenBLAS wakes its threads, which would then take the cores from the next inference.
_BLOCK = 1 << 17

DEFAULT_OPTIONS = SegmentOptions()
#: Boxes (n, 4) in source pixels and class ids (n,) -> (n,) which of these instances are wanted.
Wanted = Callable[[Float32Array, NDArray[np.int32]], NDArray[np.bool_]]


def score_threshold(options: SegmentOptions, card: ModelCard) -> float:
    """The one in force."""
    return card.score_threshold if options.score_threshold < 0 else options.score_threshold


def postprocess(
    outputs: Mapping[str, NDArray[Any]],
    geometry: Geometry,
    card: ModelCard,
    options: SegmentOptions = DEFAULT_OPTIONS,
    log: Callable[[str], None] | None = None,
    least_score: float = 1.0,
    wanted: Wanted | None = None,
) -> Instances:
    """The instances of one image from the network's raw outputs, best score first.

    outputs: scores (1, K), labels (1, K), boxes (1, K, 4) xyxy in network-input pixels and
    masks (1, K, h, w), as the card says. Boxes are scaled to source pixels and clipped to the
    image. Mask rectangles are tight around the set pixels. Dropped are: scores below the
    threshold, classes not asked for, boxes without area in the image, masks without a pixel,
    and slots with numbers that are not finite (these are told to `log`). Instances from `least_score`
    up to the threshold stay if they are `wanted` (None: all); only then are their masks sampled.
    Raises ModelError if a label is not the index of a class of the card.
    """
    scores, labels, boxes = outputs["scores"][0], outputs["labels"][0], outputs["boxes"][0]
    masks = outputs["masks"][0]
    sure = score_threshold(options, card)
    slots = _select(scores, labels, boxes, masks, card, options, min(sure, least_score), log)
    scaled = boxes[slots].astype(np.float32) * np.array(geometry.scale * 2, np.float32)
    rectangles = _mask_rectangles(scaled, card, geometry)
    height, width = geometry.source
    limits = np.array([width, height, width, height], np.float32)
    clipped = np.clip(scaled, np.float32(0), limits).astype(np.float32)

    ids = np.array([c.id for c in card.classes], np.int32)[labels[slots]]
    asked = scores[slots] >= sure
    if not asked.all():
        asked |= True if wanted is None else wanted(clipped, ids)
    threshold = card.masks.threshold if options.mask_threshold < 0 else options.mask_threshold
    kept: list[int] = []
    rois: list[RoiMask] = []
    for i, (slot, box) in enumerate(zip(slots, clipped, strict=True)):
        if len(kept) == options.max_instances:
            break
        if not asked[i] or box[2] <= box[0] or box[3] <= box[1]:
            continue
        roi = roi_mask(masks[slot], rectangles[i], threshold, geometry.source)
        if roi is not None:
            kept.append(i)
            rois.append(roi)
    return Instances(
        boxes=clipped[kept],
        scores=np.clip(scores[slots[kept]], 0, 1).astype(np.float32),
        class_ids=ids[kept],
        masks=tuple(rois),
        size=geometry.source,
    )


def _select(
    scores: NDArray[Any],
    labels: NDArray[Any],
    boxes: NDArray[Any],
    masks: NDArray[Any],
    card: ModelCard,
    options: SegmentOptions,
    threshold: float,
    log: Callable[[str], None] | None,
) -> NDArray[np.intp]:
    """Indices of the slots to look at, best score first."""
    finite = np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
    asked = np.flatnonzero(finite & (scores >= threshold))
    finite[asked] = np.isfinite(masks[asked]).all(axis=(1, 2))  # only these: a hundred are much to read
    if log is not None and not finite.all():
        log(
            f"the network gave numbers that are not finite in {int((~finite).sum())} of {finite.size} slots; "
            "they are dropped. Run it at a higher precision (precision: f32), or export the model again"
        )
    slots: NDArray[np.intp] = asked[finite[asked]]
    known = (labels[slots] >= 0) & (labels[slots] < len(card.classes))
    if not known.all():
        bad = int(labels[slots[~known][0]])
        raise ModelError(
            f"model {card.name!r} gave label {bad}; its card lists {len(card.classes)} classes, so labels "
            f"0..{len(card.classes) - 1} were expected. Take model and card from the same export"
        )
    if options.classes:
        wanted = np.array([c.name in options.classes for c in card.classes])
        slots = slots[wanted[labels[slots]]]
    return slots[np.argsort(-scores[slots], kind="stable")]


def _mask_rectangles(boxes: Float32Array, card: ModelCard, geometry: Geometry) -> NDArray[np.float64]:
    """(n, 4) xyxy in source pixels: what the mask cells of each box tile; may leave the image."""
    if card.masks.kind == "frame":
        height, width = geometry.source
        return np.tile(np.array([0, 0, width, height], np.float64), (len(boxes), 1))
    rectangles = boxes.astype(np.float64)
    margin = card.masks.padding * (rectangles[:, 2:] - rectangles[:, :2])
    rectangles[:, :2] -= margin
    rectangles[:, 2:] += margin
    return rectangles


def roi_mask(
    cells: NDArray[Any], rectangle: NDArray[np.float64], threshold: float, size: tuple[int, int]
) -> RoiMask | None:
    """One mask on the source image, or None if no pixel is set.

    cells: (h, w) probabilities that tile `rectangle` (xyxy, source pixels, edges). A pixel is
    set if its centre lies in the rectangle and the bilinear value there, constant beyond the
    outer cell centres, is above `threshold`. size: (H, W) of the source image.
    """
    above = cells > threshold
    rows, columns = above.any(axis=1).nonzero()[0], above.any(axis=0).nonzero()[0]
    if rows.size == 0:
        return None
    x0, y0, x1, y1 = rectangle.tolist()
    top, bottom = _pixel_range(rows, y0, y1, cells.shape[0], size[0])
    left, right = _pixel_range(columns, x0, x1, cells.shape[1], size[1])
    if bottom <= top or right <= left:
        return None
    down = _positions(top, bottom, y0, y1, cells.shape[0])
    along = _positions(left, right, x0, x1, cells.shape[1])
    bits = _sample(cells, down, along, threshold)
    x, y, w, h = cv2.boundingRect(bits.view(np.uint8))
    if w == 0:
        return None
    return RoiMask(left + x, top + y, bits[y : y + h, x : x + w])


def _pixel_range(on: NDArray[np.intp], start: float, stop: float, cells: int, size: int) -> tuple[int, int]:
    """Pixels [begin, end) that cells on[0]..on[-1] of [start, stop) can reach, inside the image.

    A cell reaches the centres of its neighbours; an outermost cell also its own outer edge.
    """
    cell = (stop - start) / cells
    begin = max(start, start + (on[0] - 0.5) * cell, 0.0)
    end = min(stop, start + (on[-1] + 1.5) * cell, float(size))
    return max(0, math.ceil(begin - 0.5)), min(size, math.ceil(end - 0.5))


def _positions(begin: int, end: int, start: float, stop: float, cells: int) -> NDArray[np.float64]:
    """Where the centres of pixels [begin, end) lie between the centres of the cells, 0 .. cells - 1."""
    at = np.arange(begin, end, dtype=np.float64)
    at += 0.5 - start
    at *= cells / (stop - start)
    at -= 0.5
    np.maximum(at, 0, out=at)
    np.minimum(at, cells - 1, out=at)
    return at


def _sample(
    cells: NDArray[Any], down: NDArray[np.float64], along: NDArray[np.float64], threshold: float
) -> NDArray[np.bool_]:
    """Bilinear values of `cells` at all (down, along) > threshold; both are positions in cells.

    Along first, then down as a product with the weights, in blocks of rows that touch few cells.
    """
    index, following, share = _split(along, cells.shape[1])
    lines = cells.take(index, axis=1)
    lines += (cells.take(following, axis=1) - lines) * share  # (cells, pixels along)
    first, last, _ = _split(down, cells.shape[0])
    weights = down.astype(np.float32)[:, None] - np.arange(cells.shape[0], dtype=np.float32)
    np.subtract(1, np.abs(weights, out=weights), out=weights)
    np.maximum(weights, 0, out=weights)  # (pixels down, cells)
    height, width = len(down), len(along)
    bits = np.empty((height, width), np.bool_)
    step = max(1, _BLOCK // (4 * width))
    for begin in range(0, height, step):
        end = min(begin + step, height)
        used = slice(first[begin], last[end - 1] + 1)
        np.greater(weights[begin:end, used] @ lines[used], threshold, out=bits[begin:end])
    return bits


def _split(at: NDArray[np.float64], cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32Array]:
    """The cell before each position, the one after it, and the share of the latter."""
    index = at.astype(np.intp)
    return index, np.minimum(index + 1, cells - 1), (at - index).astype(np.float32)
