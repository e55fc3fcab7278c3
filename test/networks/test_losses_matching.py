"""Losses at points where the answer is known, and who is matched to whom."""

from __future__ import annotations

import math

import pytest
import torch

from fassst_ros.networks.blocks import cell_centres
from fassst_ros.networks.losses import box_loss, dice_loss, paired_giou, quality_focal, sigmoid_focal
from fassst_ros.networks.matching import align_tasks, match_slots


def test_focal_loss_at_even_odds() -> None:
    # p = .5: alpha_t * (1 - .5)^2 * ln 2
    got = sigmoid_focal(torch.zeros(2), torch.tensor([1.0, 0.0]))
    assert got.tolist() == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])


def test_quality_focal_vanishes_at_its_target() -> None:
    logits = torch.tensor([0.3, -1.0])
    assert quality_focal(logits, logits.sigmoid()).abs().max() < 1e-12
    assert (quality_focal(logits, torch.tensor([1.0, 0.5])) > 0.01).all()


def test_giou_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
    iou, giou = paired_giou(a, b)
    assert iou.tolist() == pytest.approx([1 / 7, 0.0])
    assert giou.tolist() == pytest.approx([1 / 7 - 2 / 9, -1 / 3])


def test_box_and_dice_loss_vanish_on_the_truth() -> None:
    box = torch.tensor([[0.1, 0.2, 0.4, 0.9]])
    assert float(box_loss(box, box)) == pytest.approx(0.0, abs=1e-6)
    mask = (torch.rand(1, 16, 16) > 0.5).float()
    assert float(dice_loss((mask * 2 - 1) * 30, mask)) == pytest.approx(0.0, abs=1e-4)
    assert float(dice_loss(-(mask * 2 - 1) * 30, mask)) > 0.95


def two_in_one_cell() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    centres = cell_centres(3, 3)
    boxes = torch.cat((centres - 0.1, centres + 0.1), 1)
    gt = torch.tensor([[0.40, 0.40, 0.52, 0.60], [0.48, 0.40, 0.60, 0.60]])  # both in the middle cell
    return centres, boxes, gt


def test_cell_assignment_loses_what_hungarian_keeps() -> None:
    centres, boxes, gt = two_in_one_cell()
    logits, labels = torch.zeros(9, 2), torch.zeros(2, dtype=torch.long)
    slots, objects = match_slots(logits, boxes, centres, labels, gt, "cell")
    assert slots.tolist() == [4]
    assert len(objects) == 1
    slots, objects = match_slots(logits, boxes, centres, labels, gt, "hungarian")
    assert len(set(slots.tolist())) == 2
    assert sorted(objects.tolist()) == [0, 1]
    assert 4 in slots.tolist()


def test_more_objects_than_slots_and_none_at_all() -> None:
    centres, boxes, _ = two_in_one_cell()
    many = torch.rand(20, 2) * 0.8
    gt = torch.cat((many, many + 0.1), 1)
    slots, objects = match_slots(
        torch.zeros(9, 2), boxes, centres, torch.zeros(20, dtype=torch.long), gt, "hungarian"
    )
    assert sorted(slots.tolist()) == list(range(9))
    assert len(set(objects.tolist())) == 9
    slots, objects = match_slots(
        torch.zeros(9, 2), boxes, centres, torch.zeros(0, dtype=torch.long), gt[:0], "hungarian"
    )
    assert len(slots) == len(objects) == 0


def test_class_confidence_decides_between_equal_boxes() -> None:
    centres = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    boxes = torch.tensor([[0.4, 0.4, 0.6, 0.6]] * 2)
    logits = torch.tensor([[-3.0], [3.0]])
    slots, _ = match_slots(logits, boxes, centres, torch.tensor([0]), boxes[:1], "hungarian")
    assert slots.tolist() == [1]


def test_task_alignment_stays_inside_objects_and_forgets_none() -> None:
    centres = cell_centres(12, 12)
    boxes = torch.cat((centres - 0.08, centres + 0.08), 1)
    gt = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.70, 0.70, 0.71, 0.71]])  # the second lies between positions
    scores = torch.full((144, 3), 0.1)
    positions, objects, quality = align_tasks(scores, boxes, centres, torch.tensor([0, 2]), gt)
    for position, obj in zip(positions.tolist(), objects.tolist(), strict=True):
        if obj == 0:
            assert ((centres[position] > gt[0, :2]) & (centres[position] < gt[0, 2:])).all()
    assert set(objects.tolist()) == {0, 1}
    assert len(set(positions.tolist())) == len(positions)
    assert (quality >= 0).all()
    assert (quality <= 1).all()
    assert (objects == 0).sum() == 9
