"""The loss of SparseInst: who is matched, and what is not punished."""

from __future__ import annotations

from typing import Any

import torch
from scenes import scene

from fassst_ros.networks.base import Target
from fassst_ros.networks.sparseinst_loss import SlotLogits, match_masks, sparseinst_loss

SLOTS, CLASSES = 6, 3
WHOLE = torch.tensor([[-50.0, -50.0, 300.0, 300.0]])


def logits(seed: int = 0) -> SlotLogits:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, SLOTS, CLASSES), (2, SLOTS), (2, SLOTS, 16, 20))
    return SlotLogits(*(torch.randn(s, generator=generator).requires_grad_() for s in shapes))


def targets(**changes: Any) -> list[Target]:
    both = scene()[1]
    for target in both:
        target.update(changes)  # type: ignore[typeddict-item]
    return both


def class_gradient(**changes: Any) -> torch.Tensor:
    """(2, SLOTS, CLASSES) gradient of the class loss."""
    given = logits()
    sparseinst_loss(given, targets(**changes), 0.45)["class"].backward()
    assert given.classes.grad is not None
    return given.classes.grad


def nothing() -> dict[str, torch.Tensor]:
    return {key: scene()[1][0][key][:0] for key in ("boxes", "labels", "masks")}  # type: ignore[literal-required]


def test_each_object_gets_the_slot_that_draws_it() -> None:
    torch.manual_seed(0)
    truth = torch.zeros(4, 16, 20)
    for i in range(4):
        truth[i, 3 * i : 3 * i + 4, 2 * i : 2 * i + 9] = 1
    order = torch.tensor([5, 0, 3, 2])
    masks = torch.full((SLOTS, 16, 20), -4.0)
    masks[order] = 8 * truth - 4
    slot, obj = match_masks(torch.zeros(SLOTS, CLASSES), masks, torch.tensor([0, 1, 2, 0]), truth)
    assert dict(zip(obj.tolist(), slot.tolist(), strict=True)) == dict(enumerate(order.tolist()))


def test_class_decides_between_equal_masks() -> None:
    truth = torch.zeros(2, 16, 20)
    truth[:, 3:9, 4:12] = 1
    classes = torch.zeros(SLOTS, CLASSES)
    classes[4, 0] = classes[1, 2] = 3.0
    slot, obj = match_masks(classes, (8 * truth[:1] - 4).repeat(SLOTS, 1, 1), torch.tensor([0, 2]), truth)
    assert dict(zip(obj.tolist(), slot.tolist(), strict=True)) == {0: 4, 1: 1}


def test_no_slot_and_no_object_twice_and_crowds_are_cut() -> None:
    torch.manual_seed(0)
    truth = (torch.rand(9, 16, 20) > 0.5).float()
    slot, obj = match_masks(
        torch.randn(SLOTS, CLASSES), torch.randn(SLOTS, 16, 20), torch.arange(9) % 3, truth
    )
    assert sorted(slot.tolist()) == list(range(SLOTS))
    assert len(set(obj.tolist())) == SLOTS


def test_order_of_the_objects_does_not_matter() -> None:
    swapped = targets()
    for target in swapped:
        for key in ("boxes", "labels", "masks"):
            target[key] = target[key].flip(0)  # type: ignore[literal-required]
    given = sparseinst_loss(logits(), targets(), 0.45)
    for name, value in sparseinst_loss(logits(), swapped, 0.45).items():
        torch.testing.assert_close(value, given[name])


def perfect() -> SlotLogits:
    """Slots 1 and 2 state the two objects, so far as stride 8 can; the others nothing."""
    masks = torch.full((2, SLOTS, 16, 20), -12.0)
    classes, objectness = torch.full((2, SLOTS, CLASSES), -12.0), torch.zeros((2, SLOTS))
    for i, target in enumerate(targets()):
        cells = torch.nn.functional.avg_pool2d(target["masks"][:, None].float() / 255, 4)[:, 0]
        masks[i, 1:3] = 24 * cells - 12
        classes[i, 1, 0] = classes[i, 2, 2] = 12.0
    return SlotLogits(*(x.requires_grad_() for x in (classes, objectness, masks)))


def test_a_perfect_answer_costs_next_to_nothing() -> None:
    right, wrong = (sparseinst_loss(given, targets(), 0.45) for given in (perfect(), logits()))
    assert right["class"] < 1e-3
    assert right["mask"] < 0.1 * wrong["mask"]
    assert right["dice"] < 0.1 * wrong["dice"]


def test_objectness_learns_the_overlap_of_the_mask() -> None:
    given = perfect()
    with torch.no_grad():
        given.masks[0, 1, :, :4] = -12.0  # about half of the first object is missed
    sparseinst_loss(given, targets(), 0.45)["object"].backward()
    assert given.objectness.grad is not None
    iou = 0.5 - 4 * given.objectness.grad  # of a mean over 4 objects: (sigmoid(0) - IoU) / 4
    assert 0.3 < iou[0, 1] < 0.6
    assert iou[0, 2] > 0.75
    assert (iou[1, 1:3] > 0.75).all()
    assert (given.objectness.grad[:, [0, 3, 4, 5]] == 0).all()


def test_unlabelled_classes_are_not_taught_as_background() -> None:
    assert (class_gradient()[..., 1] > 0).all()
    gradient = class_gradient(labelled=torch.tensor([True, False, True]))
    assert (gradient[..., 1] == 0).all()
    assert (gradient[..., [0, 2]] != 0).all()


def test_slots_in_crowd_regions_are_not_punished_unless_matched() -> None:
    gradient = class_gradient(ignore=WHOLE)
    assert ((gradient != 0).any(-1).sum(1) == 2).all(), "the two matched slots of each image learn"
    assert (class_gradient(ignore=torch.tensor([[0.0, 0.0, 16.0, 16.0]])) == class_gradient()).all()


def test_objects_without_a_mask_teach_nothing_and_spare_their_place() -> None:
    unknown = scene()[1][0]["masks"].clone()
    unknown[1] = 0
    boxes = scene()[1][0]["boxes"].clone()
    boxes[1] = WHOLE[0]
    gradient = class_gradient(masks=unknown, boxes=boxes)
    assert ((gradient != 0).any(-1).sum(1) == 1).all(), "one object is matched; its slot alone learns"
    assert (gradient[..., 2] >= 0).all(), "the class of the other is stated by no slot"


def test_images_without_objects() -> None:
    given = logits()
    losses = sparseinst_loss(given, targets(**nothing()), 0.45)
    torch.stack(list(losses.values())).sum().backward()
    assert torch.isfinite(losses["class"])
    assert all(losses[name] == 0 for name in ("mask", "dice", "object"))
    assert given.classes.grad is not None
    assert (given.classes.grad > 0).all(), "nothing is there, of any class"


def test_numbers_that_are_not_finite_reach_the_loss() -> None:
    given = logits()
    with torch.no_grad():
        given.masks[0, :] = float("nan")
    assert not torch.isfinite(sparseinst_loss(given, targets(), 0.45)["mask"])
