"""Which prediction answers for which object. No gradients flow here."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fassst_ros.networks.blocks import pairwise_iou
from fassst_ros.networks.losses import sigmoid_focal


@torch.no_grad()
def match_slots(
    logits: Tensor, boxes: Tensor, centres: Tensor, gt_labels: Tensor, gt_boxes: Tensor, method: str
) -> tuple[Tensor, Tensor]:
    """One slot for each object of one image: (slot indices, object indices).

    logits (n, C); boxes, gt_boxes (., 4) xyxy in [0, 1]; centres (n, 2) the slots' cell centres.
    method "cell": the slot whose cell holds the object's centre, the larger object first;
    "hungarian": least total cost of class, L1, GIoU and a soft distance from the cell. With more
    objects than slots the costliest are left out.
    """
    if gt_boxes.shape[0] == 0:
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing
    middle = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    distance = torch.cdist(centres, middle)  # n, m
    if method == "cell":
        return _match_cells(distance, gt_boxes)
    classes = sigmoid_focal(logits, torch.ones_like(logits)) - sigmoid_focal(logits, torch.zeros_like(logits))
    l1 = torch.cdist(boxes, gt_boxes, p=1)
    cost = 2.0 * classes[:, gt_labels] + 2.0 * l1 - 2.0 * _pairwise_giou(boxes, gt_boxes)
    # The prior keeps each slot near its cell; without it the assignment wanders early on.
    cost = cost + 3.0 * (distance / 0.2) ** 2
    # Non-finite predictions must reach the loss, which says so; the solver would only raise.
    rows, columns = linear_sum_assignment(cost.nan_to_num(1e4).clamp(-1e4, 1e4).cpu().numpy())
    return torch.from_numpy(rows), torch.from_numpy(columns)


def _match_cells(distance: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
    areas = (gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(1)
    slots: dict[int, int] = {}
    for obj in areas.argsort(descending=True).tolist():
        slots.setdefault(int(distance[:, obj].argmin()), obj)
    return torch.tensor(list(slots.keys())), torch.tensor(list(slots.values()))


def _pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    low = torch.minimum(a[:, None, :2], b[None, :, :2])
    high = torch.maximum(a[:, None, 2:], b[None, :, 2:])
    hull = (high - low).prod(2)
    iou = pairwise_iou(a, b)
    area = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)[None]
    union = area / (1 + iou)  # as iou = (area - union) / union
    return iou - (hull - union) / (hull + 1e-9)


@torch.no_grad()
def align_tasks(
    scores: Tensor, boxes: Tensor, centres: Tensor, gt_labels: Tensor, gt_boxes: Tensor, topk: int = 9
) -> tuple[Tensor, Tensor, Tensor]:
    """One-to-many task-aligned assignment of one image (Feng et al. 2021, TOOD, section 3.2).

    scores (P, C) and boxes (P, 4) predicted at P positions with centres (P, 2); all in [0, 1].
    Returns positions (k,), their objects (k,) and normalised qualities (k,). A position within
    several objects goes to the one that it overlaps best.
    """
    inside = (
        torch.cat(
            (centres[:, None] - gt_boxes[None, :, :2], gt_boxes[None, :, 2:] - centres[:, None]), 2
        ).amin(2)
        > 0
    )
    middle = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    nearest = torch.cdist(centres, middle).argmin(0)  # an object between positions has its nearest
    inside[nearest, torch.arange(gt_boxes.shape[0])] = True
    iou = pairwise_iou(boxes, gt_boxes)
    metric = scores[:, gt_labels].sqrt() * iou**4 + 1e-6
    metric = metric * inside
    top = metric.topk(min(topk, metric.shape[0]), 0).indices
    chosen = torch.zeros_like(inside).scatter_(0, top, True) & inside
    best = torch.where(chosen, iou + 1e-6, iou.new_zeros(())).max(1)
    positions = (best.values > 0).nonzero().flatten()
    objects = best.indices[positions]
    quality = metric / (metric.amax(0) + 1e-9) * iou.amax(0)
    return positions, objects, quality[positions, objects]
