"""FASSST: the contract of its outputs, every ablation, and what its loss teaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scenes import scene
from torch.nn import functional as F

from fassst_ros.networks import build_network, fassst_loss
from fassst_ros.networks.fassst import FASSST, PRESETS, PyramidMask
from fassst_ros.networks.fassst_iam import Dense, PeakSlots
from fassst_ros.networks.fassst_loss import _sample_masks
from fassst_ros.types import ConfigError

SMALL: dict[str, Any] = {"num_classes": 3, "input_size": (128, 160), "grid": 4, "width": 16, "roi_size": 8}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_obey_the_contract(preset: str) -> None:
    network = build_network("fassst", num_classes=8, **PRESETS[preset]).eval()
    height, width = PRESETS[preset]["input_size"]
    slots = PRESETS[preset]["grid"] ** 2
    with torch.no_grad():
        out = network(torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8))
    assert network.slots == slots
    assert out.scores.shape == (1, slots)
    assert out.scores.dtype == torch.float32
    assert out.labels.shape == (1, slots)
    assert out.labels.dtype == torch.int32
    assert out.boxes.shape == (1, slots, 4)
    assert out.masks.shape == (1, slots, *network.mask_size)
    assert ((out.scores >= 0) & (out.scores <= 1)).all()
    assert ((out.masks >= 0) & (out.masks <= 1)).all()
    assert (out.scores.diff() <= 0).all(), "slots must come best first"
    assert (out.boxes[..., 2:] > out.boxes[..., :2]).all()
    assert out.boxes.max() <= 1.5 * max(height, width)  # pixels of the input, not fractions of it
    assert out.boxes.max() > 2


def test_the_papers_numbers_of_slots() -> None:
    assert [PRESETS[p]["grid"] ** 2 for p in ("FASSST-416", "FASSST-768")] == [36, 49]


GRID_TERMS = {"class", "box", "quality", "mask"}


@pytest.mark.parametrize(
    ("change", "terms"),
    [
        ({"backbone": "cspdarknet_nano"}, {"class", "box", "mask"}),
        ({"backbone": "cspdarknet_nano", "peaks": "levels"}, {"class", "box", "mask"}),
        ({"peaks": "levels"}, {"class", "box", "mask"}),
        ({"head_depth": 4}, {"class", "box", "mask"}),
        ({"head_depth": 6}, {"class", "box", "mask"}),
        ({"width": 32}, {"class", "box", "mask"}),
        ({"fusion": False}, {"class", "box", "mask"}),
        ({"grid": 3}, {"class", "box", "mask"}),
        ({"nms": "none"}, {"class", "box", "mask"}),
        ({"matching": "cell"}, GRID_TERMS),
        ({"matching": "hungarian"}, GRID_TERMS),
        ({"matching": "hungarian", "attention": False}, GRID_TERMS),
        ({"matching": "hungarian_dense"}, GRID_TERMS | {"dense"}),
    ],
)
def test_every_ablation_trains_and_answers(change: dict[str, Any], terms: set[str]) -> None:
    torch.manual_seed(0)
    network = build_network("fassst", **{**SMALL, **change})
    images, targets = scene()
    losses = network.loss(images, targets, 0.5)
    assert set(losses) == terms
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    unused = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    if not change.get("fusion", True):  # only the finest layer is cropped
        unused = [n for n in unused if not n.startswith(("pyramid.smooth.1", "pyramid.smooth.2"))]
    if change.get("peaks") == "levels":  # two objects may have no position on one of three levels
        unused = [n for n in unused if ".locate." not in n]
    assert not unused
    out = network.eval()(images)
    assert out.masks.shape[1] == network.slots


@pytest.mark.parametrize("change", [{}, {"peaks": "levels"}, {"matching": "hungarian"}])
def test_learns_one_scene(change: dict[str, Any]) -> None:
    """Boxes, classes and masks of two rectangles are found again after a few steps on them."""
    torch.manual_seed(0)
    network = build_network("fassst", **SMALL, **change)
    images, targets = scene()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(60):
        loss = torch.stack(list(network.loss(images, targets, step / 60).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
    with torch.no_grad():
        network.train()  # batch statistics: the running ones lag behind on so few steps
        out = network(images)
    for i in range(2):
        assert sorted(out.labels[i, :2].tolist()) == [0, 2]
        assert out.scores[i, 1] > 2 * out.scores[i, 2], "the two objects must stand out"
        for slot in (0, 1):
            truth = targets[i]["boxes"][0 if out.labels[i, slot] == 0 else 1]
            assert (out.boxes[i, slot] - truth).abs().max() < 16
            inside, padding = out.masks[i, slot, 4:-4, 4:-4].mean(), out.masks[i, slot, 0].mean()
            assert inside > 0.7
            assert padding < inside - 0.2, "the outermost cells are background"


def class_gradient(matching: str, **changes: Any) -> torch.Tensor:
    """Gradient of the class loss with respect to the bias of each class; `changes` go to the targets."""
    torch.manual_seed(0)
    network = build_network("fassst", **SMALL, matching=matching)
    images, targets = scene()
    for target in targets:
        target.update(changes)  # type: ignore[typeddict-item]
    network.loss(images, targets, 0.0)["class"].backward()
    gradient = network.iam.answer.bias.grad  # type: ignore[union-attr]
    return gradient[:3] if matching == "task_aligned" else gradient[4:-1]  # type: ignore[index, return-value]


@pytest.mark.parametrize("matching", ["task_aligned", "hungarian"])
def test_unlabelled_classes_are_not_taught_as_background(matching: str) -> None:
    assert class_gradient(matching)[1] > 0, "a labelled class without objects is pushed down"
    gradient = class_gradient(matching, labelled=torch.tensor([True, False, True]))
    assert gradient[1] == 0
    assert (gradient[[0, 2]] != 0).all()


@pytest.mark.parametrize("matching", ["task_aligned", "hungarian"])
def test_crowd_regions_are_not_taught_as_background(matching: str) -> None:
    assert class_gradient(matching, ignore=torch.tensor([[-50.0, -50.0, 300.0, 300.0]]))[1] == 0


def losses_with(matching: str, progress: float, **changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A network, and its losses on the scene; `changes` go to the targets."""
    torch.manual_seed(0)
    network = build_network("fassst", **SMALL, matching=matching)
    images, targets = scene()
    for target in targets:
        target.update(changes)  # type: ignore[typeddict-item]
    return network, network.loss(images, targets, progress)


@pytest.mark.parametrize("matching", ["task_aligned", "hungarian"])
def test_an_object_without_a_mask_trains_class_and_box_only(matching: str) -> None:
    network, losses = losses_with(matching, 0.0, masks=torch.zeros(2, 64, 80, dtype=torch.uint8))
    assert losses["mask"].item() == 0
    assert losses["class"].item() > 0
    assert losses["box"].item() > 0
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in network.pyramid.parameters()]
    assert all(g is None or not g.any() for g in gradients)
    assert network.iam.answer.bias.grad.any()


@pytest.mark.parametrize("matching", ["task_aligned", "hungarian"])
def test_an_object_without_a_mask_leaves_the_masks_of_others_alone(matching: str) -> None:
    _, targets = scene()
    masks = targets[0]["masks"].clone()
    masks[1] = 0
    _, unknown = losses_with(matching, 0.0, masks=masks)
    first = {"boxes": targets[0]["boxes"][:1], "labels": targets[0]["labels"][:1], "masks": masks[:1]}
    _, alone = losses_with(matching, 0.0, **first)
    assert unknown["mask"].item() > 0
    torch.testing.assert_close(unknown["mask"], alone["mask"])
    assert not torch.allclose(unknown["box"], alone["box"])


@pytest.mark.parametrize(("elsewhere", "calls"), [(0, 0), (3, 5)])
def test_a_process_without_masks_draws_where_others_do(
    monkeypatch: pytest.MonkeyPatch, elsewhere: int, calls: int
) -> None:
    """SyncBatchNorm meets the other processes in the forward and the backward pass of every layer."""
    total = fassst_loss.batch_total
    monkeypatch.setattr(fassst_loss, "batch_total", lambda *args: total(*args) + elsewhere)
    network = build_network("fassst", **SMALL)
    forward: list[torch.Tensor] = []
    backward: list[torch.Tensor] = []

    def met(_module: torch.nn.Module, _given: Any, normed: torch.Tensor) -> None:
        forward.append(normed)
        normed.register_hook(backward.append)

    for module in network.pyramid.tail.modules():  # type: ignore[union-attr]
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(met)
    images, targets = scene()
    for target in targets:
        target["masks"] = torch.zeros_like(target["masks"])
    losses = network.loss(images, targets, 0.5)
    torch.stack(list(losses.values())).sum().backward()
    assert losses["mask"].item() == 0
    assert (len(forward), len(backward)) == (calls, calls)
    assert all(p.grad is None or not p.grad.any() for p in network.pyramid.parameters())  # type: ignore[union-attr]


def test_masks_of_a_crowd_are_drawn_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("fassst", **SMALL)
    images, targets = scene()
    crowd = targets[0]
    crowd["boxes"] = crowd["boxes"].repeat(30, 1) + torch.arange(60)[:, None] / 10
    crowd["labels"], crowd["masks"] = crowd["labels"].repeat(30), crowd["masks"].repeat(30, 1, 1)
    drawn: list[int] = []
    draw = network.pyramid.draw  # type: ignore[union-attr]
    monkeypatch.setattr(network.pyramid, "draw", lambda crops: (drawn.append(len(crops)), draw(crops))[1])
    network.loss(images, targets, 0.0)
    monkeypatch.setattr(fassst_loss, "ROIS_PER_IMAGE", 3)
    assert network.loss(images, targets, 0.0)["mask"].item() > 0
    assert drawn[1] <= 6 < drawn[0]


def test_slots_are_the_surest_peaks() -> None:
    network = build_network("fassst", **SMALL)
    assert isinstance(network.iam, PeakSlots)  # type: ignore[union-attr]
    logits = torch.full((1, 80, 3), -6.0)  # 8 x 10 positions
    logits[0, 33, 2], logits[0, 34, 2], logits[0, 71, 0] = 3.0, 2.0, 1.0  # 34 is the neighbour of 33
    boxes = torch.rand(1, 80, 4)
    scores, labels, kept = network.iam.select(Dense(logits, boxes))  # type: ignore[union-attr, operator]
    assert labels[0, :2].tolist() == [2, 0]
    torch.testing.assert_close(scores[0, :2], torch.tensor([3.0, 1.0]).sigmoid())
    torch.testing.assert_close(kept[0, :2], boxes[0, [33, 71]])
    assert scores[0, 2] < 0.01, "the neighbour of a peak is no slot of its own"


def test_images_without_objects_train() -> None:
    network = build_network("fassst", **SMALL)
    images, targets = scene()
    for target in targets:
        target.update(
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.long),
            masks=torch.zeros(0, 64, 80, dtype=torch.uint8),
        )
    losses = network.loss(images, targets, 0.5)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert float(losses["box"]) == 0


def test_roi_feature_fusion_is_equation_4() -> None:
    torch.manual_seed(0)
    pyramid = PyramidMask((4, 4, 4), 8, 8, fusion=True)
    layers = [torch.randn(1, 8, 32 >> i, 32 >> i) for i in range(3)]
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    fused = pyramid.crop(layers, whole)

    def at(layer: torch.Tensor, cells: int) -> torch.Tensor:  # means of 4 neighbours: cells are 4 pixels wide
        return F.interpolate(layer, size=(cells, cells), mode="bilinear", align_corners=False)

    r1, r2, r3 = at(layers[0], 8), at(layers[1], 4), at(layers[2], 2)
    up = torch.nn.Upsample(scale_factor=2, mode="bilinear")
    torch.testing.assert_close(fused, F.relu(r1 + up(r2 + up(r3))), atol=1e-5, rtol=1e-5)
    assert len([m for m in pyramid.tail if isinstance(m[0], torch.nn.Conv2d)]) == 5  # type: ignore[index]


def test_mask_targets_are_cut_where_the_box_is() -> None:
    masks = torch.zeros(1, 64, 80, dtype=torch.uint8)
    masks[0, 16:32, 20:40] = 255
    target = _sample_masks(masks, torch.tensor([[0.25, 0.25, 0.75, 0.75]]), (8, 8))
    expected = torch.zeros(8, 8)
    expected[:4, :4] = 1
    torch.testing.assert_close(target[0], expected, atol=0.01, rtol=0)


def test_wrong_arguments_are_named() -> None:
    for change, words in (
        ({"backbone": "resnet"}, "mobilenet_v2"),
        ({"input_size": (100, 128)}, "multiples of 32"),
        ({"roi_size": 6}, "multiple of 4"),
        ({"grid": 9}, "81 slots, more than 8x10"),
        ({"grid": 9, "matching": "hungarian"}, "cannot be pooled"),
        ({"matching": "nearest"}, "hungarian"),
        ({"peaks": "far"}, "levels"),
        ({"scales": 2}, "peaks levels"),
        ({"head_depth": 4, "peaks": "levels"}, "chooses E"),
        ({"activation": "gelu"}, "silu, hardswish, relu"),
        ({"activation": "relu"}, "no SiLU to replace"),
        ({"scales": 3, "peaks": "levels"}, "expected 1, or 2"),
        ({"scales": 2, "peaks": "levels", "input_size": (96, 128)}, "multiples of 64"),
    ):
        with pytest.raises(ValueError, match=words):
            FASSST(**{**SMALL, **change})
    with pytest.raises(ConfigError, match="unknown network"):
        build_network("fast")
    with pytest.raises(ConfigError, match="colour"):
        build_network("fassst", num_classes=3, colour="rgb")


def test_masks_are_drawn_as_the_layers_say() -> None:
    """`draw` runs the transposed convolution and the prediction in another order of memory."""
    torch.manual_seed(0)
    pyramid = PyramidMask((4, 4, 4), 8, 8, fusion=True).eval()
    rois = torch.randn(3, 8, 8, 8)
    with torch.no_grad():
        expected = pyramid.predict(F.relu(pyramid.up(pyramid.tail(rois))))[:, 0]
        torch.testing.assert_close(pyramid.draw(rois), expected)
