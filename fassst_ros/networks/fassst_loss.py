"""The training side of FASSST: 5.75 Lm + 3 Ll + 1.25 Lc (section 3.4), quality and dense terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from fassst_ros.networks.base import Target
from fassst_ros.networks.blocks import cell_centres, pad_boxes
from fassst_ros.networks.fassst_iam import Dense, GridSlots, Slots
from fassst_ros.networks.losses import (
    batch_total,
    box_loss,
    dice_loss,
    image_generators,
    normaliser,
    paired_giou,
    quality_focal,
    sigmoid_focal,
)
from fassst_ros.networks.matching import align_tasks, match_slots

if TYPE_CHECKING:
    from fassst_ros.networks.fassst import FASSST

#: Default weights: the paper's Lm, Ll and Lc (section 3.4), then terms that it does not have.
LOSS_WEIGHTS = {"mask": 5.75, "box": 3.0, "class": 1.25, "quality": 1.0, "dense": 1.0}
ROIS_PER_IMAGE = 16  # on the average of a batch over all processes; bounds memory on crowds


def fassst_loss(network: FASSST, images: Tensor, targets: list[Target], progress: float) -> dict[str, Tensor]:
    """The weighted terms of a batch: class, box and mask; quality and dense where slots are a grid.

    progress 0..1: masks learn on jittered true boxes during the first third, then half of them on
    the boxes that the network itself predicts.
    """
    generators = image_generators(len(targets))
    features = network.features(images)
    gt_boxes = [t["boxes"] / network.scale for t in targets]
    if not isinstance(network.iam, GridSlots):
        dense = network.dense(features)
        losses, matches = _dense_losses(network, dense, targets, gt_boxes)
        boxes = dense.boxes
    else:
        slots, stated = network.iam(features.raw)
        centres, method = network.iam.centres, network.matching
        matches = [
            match_slots(slots.logits[i], slots.boxes[i], centres, t["labels"], gt_boxes[i], method)
            for i, t in enumerate(targets)
        ]
        losses, boxes = _slot_losses(network, slots, targets, gt_boxes, matches), slots.boxes
        if stated is not None:
            terms, _ = _dense_losses(network, stated, targets, gt_boxes)
            losses["dense"] = network.loss_weights["dense"] * torch.stack(list(terms.values())).sum()
    rois = [
        _choose_rois(boxes[i], gt_boxes[i], *match, progress, generator)
        for i, (match, generator) in enumerate(zip(_with_masks(matches, targets), generators, strict=True))
    ]
    losses["mask"] = _mask_loss(network, features.levels, rois, targets, generators)
    return losses


def _slot_losses(
    network: FASSST,
    slots: Slots,
    targets: list[Target],
    gt_boxes: list[Tensor],
    matches: list[tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    count = normaliser(sum(len(slot) for slot, _ in matches), slots.boxes.device)
    classes = torch.zeros_like(slots.logits)
    weight = torch.zeros_like(slots.logits)
    box, quality = slots.boxes.new_zeros(()), slots.boxes.new_zeros(())
    for i, (target, (slot, obj)) in enumerate(zip(targets, matches, strict=True)):
        centres = (slots.boxes[i, :, :2] + slots.boxes[i, :, 2:]).detach() / 2
        weight[i] = _negative_weight(centres, target, network.scale)
        if len(slot):
            classes[i, slot, target["labels"][obj]] = 1.0
            weight[i, slot, target["labels"][obj]] = 1.0
            predicted, truth = slots.boxes[i, slot], gt_boxes[i][obj]
            box = box + box_loss(predicted, truth).sum()
            iou = paired_giou(predicted.detach(), truth)[0]
            quality = quality + F.binary_cross_entropy_with_logits(
                slots.quality[i, slot], iou, reduction="sum"
            )
    cls = (sigmoid_focal(slots.logits, classes) * weight).sum()
    terms = {"class": cls, "box": box, "quality": quality}
    return {name: network.loss_weights[name] * term / count for name, term in terms.items()}


def _negative_weight(centres: Tensor, target: Target, scale: Tensor) -> Tensor:
    """(n, C): 0 where finding nothing must not be punished: unlabelled classes, crowd regions."""
    weight = target["labelled"].float().expand(len(centres), -1)
    if len(target["ignore"]):
        ignore = target["ignore"] / scale
        inside = torch.cat(
            (centres[:, None] - ignore[None, :, :2], ignore[None, :, 2:] - centres[:, None]), 2
        )
        weight = weight * (inside.amin(2) <= 0).all(1, keepdim=True)
    return weight


def _with_masks(
    matches: list[tuple[Tensor, Tensor]], targets: list[Target]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The matches of objects whose mask is known."""
    known = torch.cat([t["masks"].flatten(1).amax(1) > 0 for t in targets]).cpu()  # one copy from a GPU
    by_image = torch.split(known, [len(t["labels"]) for t in targets])
    for (slot, obj), own in zip(matches, by_image, strict=True):
        kept = own[obj.cpu()]
        yield slot[kept], obj[kept]


def _choose_rois(
    boxes: Tensor,
    gt_boxes: Tensor,
    slot: Tensor,
    obj: Tensor,
    progress: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Boxes to draw masks in, and the object of each; no gradient reaches a box."""
    truth = gt_boxes[obj]
    if len(obj) == 0:
        return truth, obj
    side = (truth[:, 2:] - truth[:, :2]).repeat(1, 2)
    rois = truth + side * (torch.rand(truth.shape, generator=generator) * 0.2 - 0.1).to(truth.device)
    if progress > 1 / 3:
        predicted = boxes[slot].detach()
        good = paired_giou(predicted, truth)[0] > 0.5
        use = good & (torch.rand(len(good), generator=generator) < 0.5).to(good.device)
        rois = torch.where(use[:, None], predicted, rois)
    return rois, obj


def _mask_loss(
    network: FASSST,
    levels: tuple[Tensor, ...],
    rois: list[tuple[Tensor, Tensor]],
    targets: list[Target],
    generators: list[torch.Generator],
) -> Tensor:
    layers = network.pyramid.layers(levels)
    total = batch_total(sum(len(obj) for _, obj in rois), layers[0].device)
    images = batch_total(len(targets), layers[0].device)
    keep = min(1.0, ROIS_PER_IMAGE * images / max(1.0, total))
    crops, truths = [], []
    for i, (boxes, obj) in enumerate(rois):
        if keep < 1.0:
            chosen = torch.randperm(len(obj), generator=generators[i])[: max(1, int(len(obj) * keep))]
            boxes, obj = boxes[chosen], obj[chosen]
        if len(obj) == 0:
            continue
        padded = pad_boxes(boxes, network.mask_padding)
        crops.append(network.pyramid.crop([layer[i : i + 1] for layer in layers], padded[None]))
        truths.append(_sample_masks(targets[i]["masks"][obj], padded, network.mask_size))
    count = normaliser(sum(len(truth) for truth in truths), layers[0].device)
    if not crops:
        zero = sum((layer.sum() for layer in layers), layers[0].new_zeros(())) * 0.0
        if not total:
            return zero
        # Other processes draw: a BatchNorm over all of them would wait for this one for ever.
        whole = layers[0].new_tensor([[[0.0, 0.0, 1.0, 1.0]]])
        drawn = network.pyramid.draw(network.pyramid.crop([layer[:1] for layer in layers], whole))
        return zero + drawn.float().sum() * 0.0
    logits, truth = network.pyramid.draw(torch.cat(crops)).float(), torch.cat(truths)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2))
    return network.loss_weights["mask"] * (dice_loss(logits, truth) + cross_entropy).sum() / count


def _sample_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """masks (n, h, w) uint8 over the input, boxes (n, 4) in [0, 1] -> (n, *size) float in [0, 1]."""
    low, extent = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    at = low + cell_centres(*size).to(boxes)[None] * extent
    grid = (2 * at - 1).reshape(len(boxes), *size, 2)
    sampled = F.grid_sample(masks[:, None].float() / 255, grid, "bilinear", "zeros", align_corners=False)
    return sampled[:, 0]


def _dense_losses(
    network: FASSST, dense: Dense, targets: list[Target], gt_boxes: list[Tensor]
) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """One-to-many supervision of every position; and each image's (best position, object) pairs."""
    centres = network.iam.positions
    quality, weight = torch.zeros_like(dense.logits), torch.zeros_like(dense.logits)
    box, total = dense.boxes.new_zeros(()), 0.0
    matches = []
    for i, target in enumerate(targets):
        weight[i] = _negative_weight(centres, target, network.scale)
        labels, truth = target["labels"], gt_boxes[i]
        if len(truth) == 0:
            matches.append((labels, labels))
            continue
        scores, boxes = dense.logits[i].detach().sigmoid(), dense.boxes[i]
        position, obj, q = align_tasks(scores, boxes.detach(), centres, labels, truth)
        quality[i, position, labels[obj]] = q
        weight[i, position, labels[obj]] = 1.0
        box = box + (box_loss(boxes[position], truth[obj]) * q).sum()
        total += float(q.sum())
        matches.append(_best_of_each(position, obj, q))
    cls = (quality_focal(dense.logits, quality) * weight).sum()
    total = normaliser(total, dense.boxes.device)
    terms = {"class": cls, "box": box}
    return {name: network.loss_weights[name] * term / total for name, term in terms.items()}, matches


def _best_of_each(position: Tensor, obj: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Of the positions of each object the one of best quality."""
    order = quality.argsort(descending=True)
    best: dict[int, int] = {}
    for o, p in zip(obj[order].tolist(), position[order].tolist(), strict=True):  # one copy from a GPU each
        best.setdefault(o, p)
    positions, objects = (torch.tensor(list(v), dtype=torch.long) for v in (best.values(), best.keys()))
    return positions, objects
