"""Copy-paste: real objects of one image pasted in front of another.

Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation"
(arXiv 2012.07177). Other than there, an object stands where the objects of the image say that one of its
size stands.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from fassst_ros.coco_format import Shape
from fassst_ros.training.augment import AugmentOptions
from fassst_ros.training.datasets import Sample
from fassst_ros.training.placement import Placement, draw_mask
from fassst_ros.types import Float32Array, RoiMask, UInt8Array

#: Objects stand at y = horizon + _STANCE * own height, in pixels. Fitted within the images of coco_street:
#: 1.0 (person, bicycle) to 1.3 (motorcycle, bus). It predicts the bottom edge to 3 % of the image height
#: (median), where a fixed horizon leaves 16 % and the object's place in its own image 20 %.
_STANCE = 1.1
_ERROR = 0.16  # of the image height, what that leaves of 90 in 100 objects
_BORDER = 2.0  # px: a box that comes nearer to its image's border counts as cut there
_WHOLE = 0.9  # of an object's area that is in one piece; less: something in front splits it
_OVERLAP = 0.1  # of the smaller box: objects that overlap more are pasted together (rider and bicycle)
_SMALLEST = 24.0  # px of the donor, shorter box side: below, a cut-out is more outline than object
_ATTEMPTS = 8  # places for an object that would cover nearer ones, before it is left out
_SOFTNESS = 0.8  # px, sigma of the blended outline
_HALF = 0.5  # of a box without a mask that must stay visible: how much of the object is, nobody knows


class _CutOut(NamedTuple):
    """Objects of the donor that stay together, and where they go."""

    members: NDArray[np.intp]
    place: Placement
    box: Float32Array  # around all, in the image that they are pasted into


class _Layered(NamedTuple):
    """An object of the composed image; layer 0 is what was there, higher ones lie in front."""

    box: Float32Array
    label: np.int64
    shape: Shape
    layer: int


def copy_paste(sample: Sample, donor: Sample, options: AugmentOptions, rng: np.random.Generator) -> Sample:
    """`sample` with up to `options.pasted` objects of `donor` in front; `sample` itself if none fits.

    Masks and boxes of what they cover shrink to what stays visible; below `options.min_visible` of it the
    rest is ignored. Objects whose mask is not known, or which touch a region to ignore, are not pasted.
    """
    cut_outs = _choose(sample, donor, options, rng)
    if not cut_outs:
        return sample
    image = sample.image.copy()
    front = np.zeros(image.shape[:2], np.uint8)  # the layer seen at each pixel
    objects = [_Layered(*o, 0) for o in zip(sample.boxes, sample.labels, sample.shapes, strict=True)]
    for layer, cut_out in enumerate(cut_outs, 1):
        coverage = np.zeros(front.shape, np.uint8)
        for i in cut_out.members:
            box = cut_out.place.clip(cut_out.place.boxes(donor.boxes[i : i + 1]))[0]
            drawn = _coverage(donor.shapes[i], cut_out.place, box, front.shape)
            found = _roi_mask(drawn > 127)
            if found is not None:
                objects.append(_Layered(_tight(found, box), donor.labels[i], found, layer))
            np.maximum(coverage, drawn, out=coverage)
        _blend(image, donor.image, cut_out, coverage)
        front[coverage > 127] = layer
    return _visible(dataclasses.replace(sample, image=image), objects, front, options)


def _choose(
    sample: Sample, donor: Sample, options: AugmentOptions, rng: np.random.Generator
) -> list[_CutOut]:
    """What is pasted where, the farthest first."""
    groups = _groups(donor)
    number = int(rng.integers(1, options.pasted + 1))
    result: list[_CutOut] = []
    for g in rng.permutation(len(groups)):
        if len(groups[g]) > number:
            continue
        placed = _place(sample, donor, groups[g], options, rng)
        if placed is not None:
            result.append(placed)
            number -= len(groups[g])
    return sorted(result, key=lambda c: float(c.box[3]))


def _groups(donor: Sample) -> list[NDArray[np.intp]]:
    """Indices of objects that can be cut out, those that overlap together."""
    boxes = donor.boxes
    if not len(boxes):
        return []
    _, group = connected_components(_shared(boxes, boxes) > _OVERLAP)
    whole = np.array([_in_one_piece(shape) for shape in donor.shapes])
    usable = whole & ~(_shared(boxes, donor.ignore) > _OVERLAP).any(1)
    groups = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    return [members for members in groups if usable[members].all()]


def _in_one_piece(shape: Shape) -> bool:
    """Whether the mask is known and not split by what is in front of the object."""
    if isinstance(shape, RoiMask):
        areas = cv2.connectedComponentsWithStats(shape.bits.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    else:
        areas = np.array([cv2.contourArea(polygon) for polygon in shape])
    return bool(areas.size and areas.max() >= _WHOLE * areas.sum())


def _shared(a: Float32Array, b: Float32Array) -> Float32Array:
    """(n, m) intersections of boxes (n, 4) and (m, 4), relative to the smaller of the two."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b))
    smaller = np.maximum(np.minimum(area_a[:, None], area_b[None]), 1e-6)
    shared: Float32Array = (high - low).clip(0).prod(2) / smaller
    return shared


def _place(
    sample: Sample,
    donor: Sample,
    members: NDArray[np.intp],
    options: AugmentOptions,
    rng: np.random.Generator,
) -> _CutOut | None:
    """A place for a group of objects, or None if none was found.

    Objects keep their size relative to the longer image side, jittered. One that is cut by its image's border
    is cut by the same (or the mirrored) border again. None goes in front of one that stands nearer. Without
    an object to compare with there is no place: such images are often no street at all.
    """
    (height, width), (donor_h, donor_w) = sample.image.shape[:2], donor.image.shape[:2]
    low, high = donor.boxes[members, :2].min(0), donor.boxes[members, 2:].max(0)
    left, top = low < _BORDER
    right, bottom = high > (donor_w - _BORDER, donor_h - _BORDER)
    if top or (left and right) or (high - low).min() < _SMALLEST:
        return None
    tallest = members[np.argmax(donor.boxes[members, 3] - donor.boxes[members, 1])]
    horizon = _horizon(sample, int(donor.labels[tallest]))
    if horizon is None:
        return None
    others = np.concatenate([sample.boxes, sample.ignore])
    mirrored = bool(rng.random() < options.flip)
    for _ in range(_ATTEMPTS):
        spread = float(np.exp(rng.uniform(*np.log(options.paste_scale))))
        factor = max(height, width) / max(donor_h, donor_w) * spread
        size = factor * (high - low)
        stands = np.round(horizon + _STANCE * size[1])
        if (stands > height) != bool(bottom):
            continue
        stands = min(stands, height)
        if stands - size[1] < horizon - _ERROR * height:  # cut, and too near even so
            continue
        room = width - size[0]
        x = np.floor(rng.random() * room)
        if left or right:
            x = room if bool(left) == mirrored else 0.0
        box = np.array([x, stands - size[1], x + size[0], stands], np.float32)
        if box.min() >= 0 and not _shared(box[None], others[others[:, 3] > stands]).any():
            scale_x = -factor if mirrored else factor
            start_x = x - scale_x * (high[0] if mirrored else low[0])
            offset = (float(start_x), float(stands - factor * high[1]))
            return _CutOut(members, Placement((scale_x, factor), offset, (0, 0, width, height)), box)
    return None


def _horizon(sample: Sample, label: int) -> float | None:
    """Where objects of no height would stand, in pixels from the top; None where no object tells.

    Objects of the same class tell best, by half of the error.
    """
    top, bottom = sample.boxes[:, 1], sample.boxes[:, 3]
    whole = (top >= _BORDER) & (bottom <= sample.image.shape[0] - _BORDER)
    alike = whole & (sample.labels == label)
    known = alike if alike.any() else whole
    return float(np.median((bottom - _STANCE * (bottom - top))[known])) if known.any() else None


def _coverage(shape: Shape, place: Placement, box: Float32Array, size: tuple[int, int]) -> UInt8Array:
    """(H, W) coverage of each pixel by an object, 0..255, of which `box` is the clipped box."""
    # draw_mask makes cells of 2 x 2 pixels: at twice the scale, they are the pixels.
    (sx, sy), (ox, oy), (x0, y0, x1, y1) = place.scale, place.offset, place.tile
    double = Placement((2 * sx, 2 * sy), (2 * ox, 2 * oy), (2 * x0, 2 * y0, 2 * x1, 2 * y1))
    out = np.zeros(size, np.uint8)
    draw_mask(shape, double, 2 * box, False, out)
    return out


def _roi_mask(bits: NDArray[np.bool_], x: int = 0, y: int = 0) -> RoiMask | None:
    """The set pixels of an array whose corner is at (x, y), in their bounding rectangle; None without any."""
    columns, rows = np.flatnonzero(bits.any(0)), np.flatnonzero(bits.any(1))
    if not columns.size:
        return None
    inside = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return RoiMask(x + int(columns[0]), y + int(rows[0]), inside.copy())


def _tight(mask: RoiMask, box: Float32Array) -> Float32Array:
    """The box of a mask, inside the box of the whole object, which is known more finely."""
    height, width = mask.bits.shape
    seen = np.array([mask.x, mask.y, mask.x + width, mask.y + height], np.float32)
    return np.concatenate([np.maximum(seen[:2], box[:2]), np.minimum(seen[2:], box[2:])])


def _blend(image: UInt8Array, source: UInt8Array, cut_out: _CutOut, coverage: UInt8Array) -> None:
    """Draw a cut-out into `image`, its outline softened."""
    height, width = image.shape[:2]
    x0, y0 = (int(v) for v in np.maximum(np.floor(cut_out.box[:2]) - 3, 0))
    x1, y1 = (int(v) for v in np.minimum(np.ceil(cut_out.box[2:]) + 3, (width, height)))
    alpha = cv2.GaussianBlur(
        coverage[y0:y1, x0:x1], (5, 5), _SOFTNESS, borderType=cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED
    )
    patch = cv2.warpAffine(
        source, cut_out.place.matrix((x0, y0)), (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    weight = alpha.astype(np.float32) / 255
    under = np.ascontiguousarray(image[y0:y1, x0:x1])
    image[y0:y1, x0:x1] = cv2.blendLinear(patch, under, weight, 1 - weight)


def _visible(sample: Sample, objects: list[_Layered], front: UInt8Array, options: AugmentOptions) -> Sample:
    """The sample with these objects, each without the pixels where a higher layer is in front."""
    kept: list[_Layered] = []
    ignore: list[Float32Array] = []
    height, width = front.shape
    whole = Placement((1.0, 1.0), (0.0, 0.0), (0, 0, width, height))
    for item in objects:
        x0, y0 = (int(v) for v in np.floor(item.box[:2]))
        x1, y1 = (int(v) for v in np.ceil(item.box[2:]))
        hidden = front[y0:y1, x0:x1] > item.layer
        if not hidden.any():
            kept.append(item)
            continue
        if item.shape:
            bits = _coverage(item.shape, whole, item.box, front.shape)[y0:y1, x0:x1] > 127
            least = options.min_visible
        else:
            bits = np.ones(hidden.shape, np.bool_)
            least = max(_HALF, options.min_visible)
        if not (bits & hidden).any():  # a polygon that loses nothing stays one
            kept.append(item)
            continue
        seen = bits & ~hidden
        rest = _roi_mask(seen, x0, y0)
        if rest is None:
            continue
        box = _tight(rest, item.box)
        if seen.sum() < least * bits.sum():
            ignore.append(box)
        else:
            kept.append(item._replace(box=box, shape=rest if item.shape else ()))
    return dataclasses.replace(
        sample,
        boxes=np.array([item.box for item in kept], np.float32).reshape(-1, 4),
        labels=np.array([item.label for item in kept], np.int64),
        shapes=tuple(item.shape for item in kept),
        ignore=np.concatenate([sample.ignore, np.array(ignore, np.float32).reshape(-1, 4)]),
    )
