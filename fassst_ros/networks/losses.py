"""Losses shared by the networks, and how several processes divide them. Sums and means are left to the
caller where noted."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.nn import functional as F


def sigmoid_focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017, eq. 5), element by element; targets in {0, 1}."""
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * cross_entropy * (1 - p_t) ** gamma


def quality_focal(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss (Li et al. 2020, eq. 5), element by element; targets in [0, 1]."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return cross_entropy * (targets - logits.sigmoid()).abs() ** beta


def paired_giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(IoU, GIoU) of boxes a[i], b[i]: (n, 4) xyxy -> two (n,) (Rezatofighi et al. 2019)."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = overlap / (union + 1e-9)
    return iou, iou - (hull - union) / (hull + 1e-9)


def box_loss(predicted: Tensor, target: Tensor, gamma: float = 0.5) -> Tensor:
    """Ll: focal-weighted GIoU plus L1, per box (n,). Boxes xyxy in [0, 1] of the input.

    Poor boxes weigh more, by (1 - IoU)^gamma with the weight held constant.
    """
    iou, giou = paired_giou(predicted, target)
    weight = (1 - iou.detach()).clamp(min=0) ** gamma
    return weight * (1 - giou) + (predicted - target).abs().sum(1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Lm = 1 - Dice, per mask (n,) (FASSST, section 3.4; Milletari et al. 2016). Inputs (n, h, w)."""
    p, t = logits.sigmoid().flatten(1), target.flatten(1)
    return 1 - (2 * (p * t).sum(1) + 1) / ((p * p).sum(1) + (t * t).sum(1) + 1)


def processes() -> tuple[int, int]:
    """(rank, number) of the processes that share a batch; (0, 1) for one alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def batch_total(count: float, device: torch.device) -> float:
    """The sum of `count` over all processes, each of which must ask."""
    if processes()[1] == 1:
        return float(count)
    total = torch.tensor(float(count), device=device)
    distributed.all_reduce(total)
    return float(total)


def normaliser(count: float, device: torch.device) -> float:
    """What a process divides its sum of losses by, of which `count` objects are its own.

    Gradients are averaged over the processes. Dividing by the average count (1 in all at least) makes
    that the gradient of the whole batch's sum over the whole batch's count.
    """
    return max(1.0, batch_total(count, device)) / processes()[1]


def image_generators(count: int) -> list[torch.Generator]:
    """Random numbers for each image of this process's part of a batch.

    Image i of process r is number i * processes + r of the batch: its numbers are the same however
    many processes share the batch, if all of them are seeded alike.
    """
    rank, size = processes()
    base = int(torch.randint(2**62, ()))
    return [torch.Generator().manual_seed(base + i * size + rank) for i in range(count)]
