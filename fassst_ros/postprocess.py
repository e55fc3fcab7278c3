"""Raw network outputs -> Instances; numpy and OpenCV only.

Masks are sampled exactly at the source pixel centres, and only where an instance can be: the
cost follows the pixels of the objects, not slots times the image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
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
# Weights (4 bytes each) that are made at once at most.
_WEIGHTS = 1 << 20

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
    candidates = np.flatnonzero(asked & (clipped[:, 2:] > clipped[:, :2]).all(axis=1))
    found = roi_masks(masks, slots[candidates], rectangles[candidates], threshold, geometry.source)
    good = ((i, roi) for i, roi in zip(candidates, found, strict=True) if roi is not None)
    best = list(itertools.islice(good, options.max_instances))  # masks of further ones are not made
    kept, rois = [i for i, _ in best], tuple(roi for _, roi in best)
    return Instances(
        boxes=clipped[kept],
        scores=np.clip(scores[slots[kept]], 0, 1).astype(np.float32),
        class_ids=ids[kept],
        masks=rois,
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


def roi_masks(
    masks: NDArray[Any],
    slots: NDArray[np.intp],
    rectangles: NDArray[np.float64],
    threshold: float,
    size: tuple[int, int],
) -> Iterator[RoiMask | None]:
    """The masks of some slots on the source image, each made when it is asked for; None if no pixel is set.

    masks: (K, h, w) probabilities; slots: (n,) which; rectangles: (n, 4) xyxy that the cells of each tile
    (source pixels, edges). A pixel is set if its centre lies in the rectangle and the bilinear value there,
    constant beyond the outer cell centres, is above `threshold`. size: (H, W) of the source image.
    """
    _, rows, columns = masks.shape
    step = max(1, _WEIGHTS // (rows * size[0]))
    for begin in range(0, len(slots), step):
        cells, (x0, y0, x1, y1) = masks[slots[begin : begin + step]], rectangles[begin : begin + step].T
        above = cells > threshold
        down = _Positions(y0, y1, np.asarray(above.any(axis=2)), size[0])
        along = _Positions(x0, x1, np.asarray(above.any(axis=1)), size[1])
        weights = _weights(down, rows)
        following = np.minimum(along.before + 1, columns - 1)
        for i, own in enumerate(cells):
            height, width = down.ends[i] - down.ends[i - 1], along.ends[i] - along.ends[i - 1]
            if not height or not width:
                yield None
                continue
            part = slice(along.ends[i - 1], along.ends[i])
            lines = own.take(along.before[part], axis=1)
            lines += (own.take(following[part], axis=1) - lines) * along.share[part]  # (rows, pixels along)
            part = slice(down.ends[i - 1], down.ends[i])
            bits = _above(weights[part], down.before[part], lines, threshold, (y1[i] - y0[i]) / rows)
            x, y, w, h = cv2.boundingRect(bits.view(np.uint8))
            left, top = along.begin[i] + x, down.begin[i] + y
            yield RoiMask(left, top, bits[y : y + h, x : x + w]) if w else None


class _Positions:
    """Where the pixel centres along one axis lie between the centres of the cells, for n masks at once.

    Of each mask only the pixels that its set cells can reach, inside the image: a cell reaches the centres
    of its neighbours, an outermost cell also its own outer edge.

    begin: (n,) the first of these pixels. before, share: of all their pixels, one mask after the other: the
    cell before the pixel, and how far the pixel is from there to the next one, 0..1. ends: where the masks
    end in these two; ends[-1] is 0, so that mask i begins at ends[i - 1].
    """

    def __init__(
        self, start: NDArray[np.float64], stop: NDArray[np.float64], on: NDArray[np.bool_], size: int
    ) -> None:
        """start, stop: (n,) what the cells tile [pixels]; on: (n, cells) which are set; size: the image's."""
        cells = on.shape[1]
        cell = (stop - start) / cells
        first, last = on.argmax(axis=1), cells - 1 - on[:, ::-1].argmax(axis=1)
        begin = np.ceil(np.maximum(np.maximum(start, start + (first - 0.5) * cell), 0) - 0.5)
        end = np.ceil(np.minimum(np.minimum(stop, start + (last + 1.5) * cell), size) - 0.5)
        some = on.any(axis=1) & (begin < end)
        whole = np.where(some, begin, 0).astype(np.intp)
        counts = np.where(some, end, 0).astype(np.intp) - whole
        ends = counts.cumsum()
        at = np.arange(counts.sum(), dtype=np.float64)
        at += np.repeat(whole - ends + counts + 0.5 - start, counts)
        at *= np.repeat(1 / cell, counts)
        at -= 0.5
        np.clip(at, 0, cells - 1, out=at)
        self.before = at.astype(np.intp)
        self.share = (at - self.before).astype(np.float32)
        self.begin = whole.tolist()
        self.ends = [*ends.tolist(), 0]


def _weights(down: _Positions, cells: int) -> Float32Array:
    """(pixels, cells): how much each cell counts at each pixel; two of a row are not 0."""
    weights = np.zeros((len(down.before), cells), np.float32)
    every = np.arange(len(down.before))
    weights[every, down.before] = 1 - down.share
    weights[every, np.minimum(down.before + 1, cells - 1)] += down.share
    return weights


def _above(
    weights: Float32Array, before: NDArray[np.intp], lines: NDArray[Any], threshold: float, cell: float
) -> NDArray[np.bool_]:
    """weights (height, cells) @ lines (cells, width) > threshold, in blocks of rows that touch few cells.

    before: (height,) the first cell that counts in each row; cell: height of one, in pixels.
    """
    height, width = len(weights), lines.shape[1]
    bits = np.empty((height, width), np.bool_)
    # rows * (rows / cell + 2) * width = _BLOCK
    step = max(1, int(cell * (math.sqrt(1 + _BLOCK / (width * cell)) - 1)))
    for begin in range(0, height, step):
        end = min(begin + step, height)
        used = slice(before[begin], before[end - 1] + 2)
        np.greater(weights[begin:end, used] @ lines[used], threshold, out=bits[begin:end])
    return bits
