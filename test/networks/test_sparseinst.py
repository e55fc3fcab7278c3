"""SparseInst: the parts of its graph, what it learns, and where its masks come to lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scenes import scene

from fassst_ros.card import ClassInfo, MaskInfo, ModelCard
from fassst_ros.networks import build_network
from fassst_ros.networks.base import RawOutputs
from fassst_ros.networks.sparseinst import PyramidPooling, SparseInst
from fassst_ros.networks.sparseinst_loss import SlotLogits
from fassst_ros.postprocess import postprocess
from fassst_ros.preprocess import Geometry
from fassst_ros.runtimes.base import OUTPUT_NAMES

SMALL: dict[str, Any] = {
    "num_classes": 3,
    "input_size": (128, 160),
    "backbone": "cspdarknet_nano",
    "hidden": 32,
    "slots": 12,
    "kernel": 16,
}


def test_defaults_are_the_papers() -> None:
    network = SparseInst(num_classes=80, backbone="mobilenet_v2")
    assert network.slots == 100
    assert network.mask_size == (192, 192)
    assert network.mask_threshold == 0.45
    assert network.instances.attend.weight.shape == (400, 64, 3, 3)
    assert network.instances.kernel.weight.shape == (128, 1024)


def test_learns_one_scene_and_masks_come_to_lie_on_it() -> None:
    torch.manual_seed(0)
    network = build_network("sparseinst", **SMALL)
    images, targets = scene()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(30):
        loss = torch.stack(list(network.loss(images, targets, step / 30).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
    with torch.no_grad():
        out = network(images)  # batch statistics: the running ones lag behind on so few steps
    classes = tuple(ClassInfo(i + 1, name, (0, 0, 0)) for i, name in enumerate(("red", "green", "blue")))
    masks = MaskInfo("frame", *network.mask_size, network.mask_threshold, network.mask_padding)
    card = ModelCard("small", "sparseinst", "1", 128, 160, classes, masks, network.slots)
    for i in range(2):
        raw = {name: tensor[i : i + 1].numpy() for name, tensor in zip(OUTPUT_NAMES, out, strict=True)}
        found = postprocess(raw, Geometry((256, 480), (128, 160)), card)  # a source of 2 x 3 the size
        assert sorted(found.class_ids[:2].tolist()) == [1, 3]
        assert len(found) == 2, "all other slots stay below the score threshold"
        for box, class_id, mask in zip(found.boxes, found.class_ids, found.to_dense(), strict=True):
            x0, y0, x1, y1 = (
                targets[i]["boxes"][0 if class_id == 1 else 1] * torch.tensor([3, 2, 3, 2])
            ).int()
            truth = np.zeros((256, 480), bool)
            truth[y0:y1, x0:x1] = True
            assert (mask & truth).sum() / (mask | truth).sum() > 0.8
            np.testing.assert_allclose(box, [x0, y0, x1, y1], atol=18)  # a cell and a half


def stated(masks: torch.Tensor, classes: torch.Tensor, objectness: torch.Tensor) -> RawOutputs:
    """What `forward` makes of given logits; masks (K, 16, 20)."""
    network = SparseInst(**{**SMALL, "slots": len(masks)})
    network.state = lambda images: SlotLogits(classes[None], objectness[None], masks[None])  # type: ignore[method-assign]
    out: RawOutputs = network(torch.zeros(1, 128, 160, 3, dtype=torch.uint8))
    return out


def test_scores_are_class_and_objectness_times_maskness() -> None:
    masks = torch.full((3, 16, 20), -20.0)
    masks[0, 4:8, 5:10] = 0.8  # unsure of its pixels
    masks[1, 2:9, 5:15] = 20.0
    classes = torch.tensor([[3.0, -9, -9], [-9, -9, 1.0], [9.0, 9.0, 9.0]])
    out = stated(masks, classes, torch.tensor([2.0, 1.0, 9.0]))
    sure = torch.tensor(1.0).sigmoid()
    unsure = (torch.tensor(3.0).sigmoid() * torch.tensor(2.0).sigmoid()).sqrt()
    assert out.labels[0].tolist()[:2] == [2, 0], "better scored before maskness, but not after it"
    assert abs(float(out.scores[0, 0] - sure)) < 0.02
    assert 0.5 * unsure < out.scores[0, 1] < 0.7 * unsure
    assert out.scores[0, 2] == 0, "a slot without a pixel is nothing, however sure of its class"
    assert out.boxes[0, 2].tolist() == [0, 0, 0, 0]
    expected = torch.tensor([5.0, 2.0, 15.0, 9.0]) * 8  # stride 8 -> pixels of the input
    torch.testing.assert_close(out.boxes[0, 0], expected, atol=1.0, rtol=0)


def test_groups_belong_to_their_slot() -> None:
    """The maps of slot k are k, K + k, 2 K + k, ...: changing one changes that slot alone."""
    torch.manual_seed(0)
    branch = SparseInst(**SMALL).instances.eval()
    features = torch.randn(1, 34, 8, 10)
    with torch.no_grad():
        before = branch(features)[2]
        branch.attend.weight[12 * 2 + 5] += 3.0
        changed = (branch(features)[2] - before).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("size", [(4, 5), (16, 16), (24, 48)])
def test_pyramid_pooling_sees_the_whole_map(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pooling = PyramidPooling(8, size)
    x = torch.rand(1, 8, *size, requires_grad=True)
    y = pooling(x)
    assert y.shape == x.shape
    y[0, :, 0, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum(0) > 0).all(), "one answer depends on every position"


def test_wrong_arguments_are_named() -> None:
    for change, words in (
        ({"input_size": (100, 128)}, "multiples of 32"),
        ({"backbone": "resnet"}, "cspdarknet_nano"),
        ({"hidden": 30}, "multiple of 4"),
        ({"groups": 3}, "groups, 3"),
    ):
        with pytest.raises(ValueError, match=words):
            SparseInst(**{**SMALL, **change})
