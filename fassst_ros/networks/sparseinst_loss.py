"""The training side of SparseInst (section 3.4): one slot an object, found by class and mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from fassst_ros.networks.base import Target
from fassst_ros.networks.losses import dice_loss, normaliser, sigmoid_focal

CLASS, CROSS_ENTROPY, DICE, OBJECT = 2.0, 5.0, 2.0, 1.0  # equation 4
ALPHA = 0.8  # share of the mask in the matching score, equation 3
MASKS_PER_IMAGE = 16  # on the average of a process's images; bounds memory on crowds


class SlotLogits(NamedTuple):
    """What the slots state, float32: classes (B, K, C), objectness (B, K), masks (B, K, H/8, W/8)."""

    classes: Tensor
    objectness: Tensor
    masks: Tensor


class _Image(NamedTuple):
    """One image at stride 8. Objects of which only the box is known (an empty mask) are none here:
    no slot is matched to them, and their boxes join the crowd boxes, where finding something is no error.

    labels (n,), masks (n, h, w) in [0, 1] and fine (n, 2h, 2w) of the objects; spared (h, w) bool.
    """

    labels: Tensor
    masks: Tensor
    fine: Tensor
    spared: Tensor


def sparseinst_loss(stated: SlotLogits, targets: list[Target], threshold: float) -> dict[str, Tensor]:
    """The weighted terms of a batch. threshold: probability from which a pixel is in a mask."""
    images = [_at_stride_8(target) for target in targets]
    matches = [
        match_masks(stated.classes[i], stated.masks[i], image.labels, image.masks)
        for i, image in enumerate(images)
    ]
    count = normaliser(sum(len(slot) for slot, _ in matches), stated.masks.device)
    classes, weight = torch.zeros_like(stated.classes), torch.zeros_like(stated.classes)
    for i, (target, image, (slot, obj)) in enumerate(zip(targets, images, matches, strict=True)):
        weight[i] = target["labelled"].float() * ~_within(stated.masks[i], image.spared, threshold)[:, None]
        weight[i, slot] = target["labelled"].float()
        classes[i, slot, image.labels[obj]] = 1.0
        weight[i, slot, image.labels[obj]] = 1.0
    losses = {"class": CLASS * (sigmoid_focal(stated.classes, classes) * weight).sum() / count}
    losses.update(_mask_losses(stated, images, matches, threshold))
    return losses


def _at_stride_8(target: Target) -> _Image:
    """Means over the cells, so that a thin object keeps its share of each."""
    fine = F.avg_pool2d(target["masks"][:, None].float() / 255, 2)[:, 0]
    masks = F.avg_pool2d(fine[:, None], 2)[:, 0]
    known = target["masks"].flatten(1).amax(1) > 0
    spared = torch.zeros(masks.shape[1:], dtype=torch.bool, device=masks.device)
    for x0, y0, x1, y1 in (torch.cat((target["ignore"], target["boxes"][~known])) / 8).round().int().tolist():
        spared[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = True
    return _Image(target["labels"][known], masks[known], fine[known], spared)


@torch.no_grad()
def match_masks(classes: Tensor, masks: Tensor, gt_labels: Tensor, gt_masks: Tensor) -> tuple[Tensor, Tensor]:
    """One slot for each object of one image: (slot indices, object indices), equation 3.

    classes (K, C) and masks (K, h, w) are logits; gt_masks (n, h, w) in [0, 1]. The assignment has the
    largest sum of p(class)^.2 dice^.8. With more objects than slots the worst are left out.
    """
    p, t = masks.sigmoid().flatten(1), gt_masks.flatten(1)
    dice = 2 * p @ t.T / (p.square().sum(1)[:, None] + t.square().sum(1)[None] + 1e-4)
    score = classes.sigmoid()[:, gt_labels] ** (1 - ALPHA) * dice**ALPHA
    # Predictions that are not finite must reach the loss, which says so; the solver would only raise.
    slots, objects = linear_sum_assignment(score.nan_to_num(0.0).cpu().numpy(), maximize=True)
    return torch.from_numpy(slots).to(masks.device), torch.from_numpy(objects).to(masks.device)


@torch.no_grad()
def _within(masks: Tensor, region: Tensor, threshold: float) -> Tensor:
    """(K,) bool: which of the masks (K, h, w), as logits, lie mostly in `region` (h, w)."""
    inside = (masks.sigmoid() > threshold).flatten(1).float()
    return inside @ region.flatten().float() > 0.5 * inside.sum(1)


def _mask_losses(
    stated: SlotLogits, images: list[_Image], matches: list[tuple[Tensor, Tensor]], threshold: float
) -> dict[str, Tensor]:
    """Cross entropy, dice and objectness of the matched slots, at the stride of the outputs, 4."""
    batch = torch.cat([torch.full_like(slot, i) for i, (slot, _) in enumerate(matches)])
    slots = torch.cat([slot for slot, _ in matches])
    truth = torch.cat([image.fine[obj] for image, (_, obj) in zip(images, matches, strict=True)])
    most = MASKS_PER_IMAGE * len(images)
    if len(slots) > most:
        kept = torch.randperm(len(slots))[:most].to(slots.device)
        batch, slots, truth = batch[kept], slots[kept], truth[kept]
    count = normaliser(len(slots), stated.masks.device)
    # An image without objects leaves its slots out of these losses, but not out of the graph.
    if len(slots) == 0:
        nothing = (stated.masks.sum() + stated.objectness.sum()) * 0.0
        return dict.fromkeys(("mask", "dice", "object"), nothing)
    logits = F.interpolate(stated.masks[batch, slots][:, None], scale_factor=2.0, mode="bilinear")[:, 0]
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2))
    with torch.no_grad():
        predicted, real = logits.sigmoid() > threshold, truth > 0.5
        union = (predicted | real).sum((1, 2)).clamp(min=1)
        iou = (predicted & real).sum((1, 2)) / union
    quality = F.binary_cross_entropy_with_logits(stated.objectness[batch, slots], iou, reduction="sum")
    return {
        "mask": CROSS_ENTROPY * cross_entropy.sum() / count,
        "dice": DICE * dice_loss(logits, truth).sum() / count,
        "object": OBJECT * quality / count,
    }
