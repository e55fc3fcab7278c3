"""Copy-paste: real objects of one image pasted in front of another.

Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation"
(arXiv 2012.07177). Other than there, an object stands where the objects of the image say that one of its
size stands.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from fassst_ros.coco_format import Shape
from fassst_ros.training.augment import AugmentOptions
from fassst_ros.training.cut_outs import STANCE, blend, coverage, in_one_piece, shared
from fassst_ros.training.datasets import Sample
from fassst_ros.training.placement import Placement
from fassst_ros.types import Float32Array, RoiMask, UInt8Array

_ERROR = 0.16  # of the image height, what that leaves of 90 in 100 objects
_BORDER = 2.0  # px: a box that comes nearer to its image's border counts as cut there
_OVERLAP = 0.1  # of the smaller box: objects that overlap more are pasted together (rider and bicycle)
_SMALLEST = 24.0  # px of the donor, shorter box side: below, a cut-out is more outline than object
_ATTEMPTS = 8  # places for an object that would cover nearer ones, before it is left out
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
        covered = np.zeros(front.shape, np.uint8)
        for i in cut_out.members:
            box = cut_out.place.clip(cut_out.place.boxes(donor.boxes[i : i + 1]))[0]
            drawn = coverage(donor.shapes[i], cut_out.place, box, front.shape)
            found = _roi_mask(drawn > 127)
            if found is not None:
                objects.append(_Layered(_tight(found, box), donor.labels[i], found, layer))
            np.maximum(covered, drawn, out=covered)
        blend(image, donor.image, cut_out.place, cut_out.box, covered)
        front[covered > 127] = layer
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
    _, group = connected_components(shared(boxes, boxes) > _OVERLAP)
    whole = np.array([in_one_piece(shape) for shape in donor.shapes])
    usable = whole & ~(shared(boxes, donor.ignore) > _OVERLAP).any(1)
    groups = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    return [members for members in groups if usable[members].all()]


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
        stands = np.round(horizon + STANCE * size[1])
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
        if box.min() >= 0 and not shared(box[None], others[others[:, 3] > stands]).any():
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
    return float(np.median((bottom - STANCE * (bottom - top))[known])) if known.any() else None


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
            bits = coverage(item.shape, whole, item.box, front.shape)[y0:y1, x0:x1] > 127
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
