"""FASSST: the contract of its outputs, every ablation, and what its loss teaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fassst_ros.networks import NETWORKS, build_network
from fassst_ros.networks.base import Target
from fassst_ros.networks.fassst import FASSST, PRESETS, PyramidMask
from fassst_ros.networks.fassst_loss import _sample_masks
from fassst_ros.types import ConfigError

SMALL: dict[str, Any] = {"num_classes": 3, "input_size": (128, 160), "grid": 4, "width": 16, "roi_size": 8}


def scene(
    seed: int = 0, labelled: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[torch.Tensor, list[Target]]:
    """Two images of 128 x 160 with bright rectangles: class 0 is red, class 2 is blue."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(90, 130, (2, 128, 160, 3), generator=generator, dtype=torch.uint8)
    targets: list[Target] = []
    for image in images:
        boxes = torch.tensor([[10.0, 20.0, 60.0, 100.0], [90.0, 40.0, 150.0, 90.0]])
        masks = torch.zeros(2, 64, 80, dtype=torch.uint8)
        for i, (box, colour) in enumerate(zip(boxes.int().tolist(), ((255, 0, 0), (0, 0, 255)), strict=True)):
            image[box[1] : box[3], box[0] : box[2]] = torch.tensor(colour, dtype=torch.uint8)
            masks[i, box[1] // 2 : box[3] // 2, box[0] // 2 : box[2] // 2] = 255
        targets.append(
            Target(
                boxes=boxes,
                labels=torch.tensor([0, 2]),
                masks=masks,
                labelled=torch.tensor(labelled),
                ignore=torch.zeros(0, 4),
            )
        )
    return images, targets


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


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "cspdarknet_nano"},
        {"head_depth": 4},
        {"head_depth": 6},
        {"width": 32},
        {"fusion": False},
        {"attention": False},
        {"grid": 3},
        {"nms": "none"},
        {"matching": "cell"},
        {"matching": "hungarian"},
    ],
)
def test_every_ablation_trains_and_answers(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build_network("fassst", **{**SMALL, **change})
    images, targets = scene()
    losses = network.loss(images, targets, 0.5)
    assert ("auxiliary" in losses) == ("matching" not in change)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    unused = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    expected = ("dense.",) if "matching" in change else ()
    if not change.get("fusion", True):  # only the finest layer is cropped
        expected = ("pyramid.smooth.1", "pyramid.smooth.2")
    assert all(n.startswith(expected) if expected else False for n in unused), unused
    out = network.eval()(images)
    assert out.masks.shape[1] == network.slots


def test_learns_one_scene() -> None:
    """Boxes, classes and masks of two rectangles are found again after a few steps on them."""
    torch.manual_seed(0)
    network = build_network("fassst", **SMALL)
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


def class_gradient(network: torch.nn.Module, images: torch.Tensor, targets: list[Target]) -> torch.Tensor:
    network.zero_grad()
    losses = network.loss(images, targets, 0.0)  # type: ignore[operator]
    losses["class"].backward()
    gradient = network.iam.answer.bias.grad  # type: ignore[union-attr]
    return gradient[4:-1]  # type: ignore[index, return-value]


def test_unlabelled_classes_are_not_taught_as_background() -> None:
    torch.manual_seed(0)
    network = build_network("fassst", **SMALL)
    images, targets = scene()
    assert class_gradient(network, images, targets)[1] > 0, "a labelled class without objects is pushed down"
    images, targets = scene(labelled=(True, False, True))
    gradient = class_gradient(network, images, targets)
    assert gradient[1] == 0
    assert (gradient[[0, 2]] != 0).all()


def test_crowd_regions_are_not_taught_as_background() -> None:
    torch.manual_seed(0)
    network = build_network("fassst", **SMALL)
    images, targets = scene()
    for target in targets:
        target["ignore"] = torch.tensor([[-50.0, -50.0, 300.0, 300.0]])
    assert class_gradient(network, images, targets)[1] == 0


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
        ({"grid": 9}, "cannot be pooled"),
        ({"matching": "nearest"}, "hungarian"),
    ):
        with pytest.raises(ValueError, match=words):
            FASSST(**{**SMALL, **change})
    with pytest.raises(ConfigError, match="unknown network"):
        build_network("fast")
    with pytest.raises(ConfigError, match="colour"):
        build_network("fassst", num_classes=3, colour="rgb")
    assert list(NETWORKS) == ["fassst"]
