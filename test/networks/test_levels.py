"""FASSST with slots from three levels, and its start from YOLOX-nano's published head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import scene
from torch import nn
from torch.nn import functional

from fassst_ros.labels import CLASS_LISTS, STREET
from fassst_ros.networks import build_network
from fassst_ros.networks.fassst import FASSST
from fassst_ros.networks.fassst_levels import LevelSlots, decode, joint_logit
from fassst_ros.training.pretrained import load_head, load_published
from fassst_ros.types import ModelError

YOLOX = Path(__file__).parents[3] / "shared" / "weights" / "yolox_nano.onnx"
NAMES = [c.name for c in STREET]
needs_weights = pytest.mark.skipif(not YOLOX.is_file(), reason="../shared/weights is not here")


def make(size: int = 128, classes: int = 7, scales: int = 1) -> FASSST:
    torch.manual_seed(0)
    network = build_network(
        "fassst",
        num_classes=classes,
        backbone="cspdarknet_nano",
        input_size=(size, size),
        peaks="levels",
        scales=scales,
    )
    assert isinstance(network, FASSST)
    assert isinstance(network.iam, LevelSlots)
    return network


def test_probability_is_class_times_objectness() -> None:
    network = make().eval()
    levels = tuple(torch.randn(1, c, 128 // s, 128 // s) for c, s in ((64, 8), (128, 16), (256, 32)))
    with torch.no_grad():
        for head in network.iam.heads:  # type: ignore[union-attr]
            head.object.bias += 3  # type: ignore[operator, union-attr]
        dense = network.iam(levels)
        stated = [head(x) for head, x in zip(network.iam.heads, levels, strict=True)]  # type: ignore[union-attr, arg-type]
    parts = [x[:, :-5].sigmoid() * x[:, -1:].sigmoid() for x in stated]
    product = torch.cat([part.flatten(2) for part in parts], 2).transpose(1, 2)
    torch.testing.assert_close(dense.logits.sigmoid(), product)
    assert dense.boxes.shape == (1, 16 * 16 + 8 * 8 + 4 * 4, 4)


@pytest.mark.parametrize(("name", "kind", "far"), [("hardswish", nn.Hardswish, 0.5), ("relu", nn.ReLU, 2)])
def test_another_activation_takes_the_weights_of_silu(name: str, kind: type[nn.Module], far: float) -> None:
    torch.manual_seed(0)
    config = {"num_classes": 7, "backbone": "cspdarknet_nano", "input_size": (128, 128), "peaks": "levels"}
    network = build_network("fassst", **config, activation=name).eval()
    smooth = make().eval()
    smooth.load_state_dict(network.state_dict())
    kinds, before = ([type(module) for module in n.modules()] for n in (network, smooth))
    assert nn.SiLU not in kinds
    assert kinds.count(kind) - before.count(kind) == before.count(nn.SiLU)
    image = torch.randint(0, 256, (1, 128, 128, 3), dtype=torch.uint8)
    with torch.no_grad():
        near, exact = network.features(image).levels[0], smooth.features(image).levels[0]
    assert 0 < (near - exact).abs().mean() < far * exact.abs().mean()


def test_joint_logit_is_exact_far_out() -> None:
    a, b = torch.tensor([0.3, -40.0, -20.0, 25.0, 9.0]), torch.tensor([-1.2, 0.0, -20.0, 25.0, -9.0])
    p = a.double().sigmoid() * b.double().sigmoid()
    torch.testing.assert_close(joint_logit(a, b).double(), torch.logit(p), rtol=1e-5, atol=1e-5)


def test_slots_are_the_surest_peaks_of_all_levels() -> None:
    iam = LevelSlots((8, 8, 8), (128, 128), 4, 2)
    stated = torch.rand(1, 336, 7)  # two class logits, the coded box, objectness
    stated[..., :2] = -9.0
    stated[..., 6] = 0.5
    for position, label, value in ((17, 0, 2.0), (18, 0, 1.0), (256 + 9, 1, 3.0), (320 + 5, 0, 0.5)):
        stated[0, position, label] = value
    scores, labels, chosen = iam.choose(stated)
    assert scores.shape == (1, 12)
    # 18 stands beside 17 and is no peak
    expected = torch.tensor([3.0, 2.0, 0.5]).sigmoid() * torch.tensor(0.5).sigmoid()
    torch.testing.assert_close(scores[0, :3], expected)
    assert labels[0, :3].tolist() == [1, 0, 0]
    boxes = decode(stated, iam.origins, iam.strides)
    torch.testing.assert_close(chosen[0, :3], boxes[0, [265, 17, 325]])


def test_chosen_slots_are_what_training_sees() -> None:
    """Scores, labels and boxes of the slots stand among those of all positions, whose loss is computed."""
    network = make().eval()
    features = network.features(torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8))
    with torch.no_grad():
        for head in network.iam.heads:  # type: ignore[union-attr]
            nn.init.normal_(head.classify.weight)  # type: ignore[union-attr, arg-type]
        dense = network.dense(features)
        scores, labels, boxes = network.iam.choose(network.iam.state(features.levels))  # type: ignore[union-attr, operator]
    best = dense.logits.sigmoid().max(-1)
    for image in range(2):
        for score, label, box in zip(scores[image, :20], labels[image], boxes[image], strict=False):
            at = (dense.boxes[image] - box).abs().sum(1).argmin()
            torch.testing.assert_close(best.values[image, at], score)
            assert best.indices[image, at] == label


def test_two_scales_state_what_one_states_of_the_image_and_of_its_half() -> None:
    both, full, half = make(scales=2).eval(), make().eval(), make(64).eval()
    for one in (full, half):
        one.load_state_dict({n: t for n, t in both.state_dict().items() if "coarse" not in n})
    image = torch.randint(0, 256, (1, 128, 128, 3), dtype=torch.uint8)
    # Pairs of equal pixels: the half is exact in uint8.
    image = image[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2)
    with torch.no_grad():
        features = both.features(image)
        dense = both.dense(features)
        parts = [full.dense(full.features(image)), half.dense(half.features(image[:, ::2, ::2]))]
        layers = both.pyramid.layers(features.levels), full.pyramid.layers(features.levels[:3])
    torch.testing.assert_close(dense.logits, torch.cat([p.logits for p in parts], 1))
    torch.testing.assert_close(dense.boxes, torch.cat([p.boxes for p in parts], 1))
    assert len(both.iam.positions) == dense.boxes.shape[1] == 336 + 84  # type: ignore[arg-type]
    for one, other in zip(*layers, strict=True):  # untrained, the second scale adds nothing to the masks
        torch.testing.assert_close(one, other)


def test_masks_read_both_scales() -> None:
    network = make(scales=2).eval()
    levels = network.features(torch.zeros(1, 128, 128, 3, dtype=torch.uint8)).levels
    before = network.pyramid.layers(levels)
    torch.nn.init.normal_(network.pyramid.coarse[2].bias)  # type: ignore[arg-type]
    changed = [not torch.equal(a, b) for a, b in zip(before, network.pyramid.layers(levels), strict=True)]
    assert changed == [True] * 3  # stride 64 reaches all layers


def test_two_scales_train_together() -> None:
    torch.manual_seed(0)
    network = build_network(
        "fassst", num_classes=3, input_size=(128, 192), peaks="levels", scales=2, width=16, roi_size=8
    )
    images, targets = scene()
    images = functional.pad(images, (0, 0, 0, 32))  # 160 pixels wide
    for target in targets:
        target["masks"] = functional.pad(target["masks"], (0, 16))
    losses = network.loss(images, targets, 0.5)
    torch.stack(list(losses.values())).sum().backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(".locate." in n for n in unused)  # two objects may have no position on a level
    assert network.eval()(images).masks.shape == (2, network.slots, *network.mask_size)


def test_the_head_learns_at_the_rate_of_the_backbone() -> None:
    network = make()
    groups = network.parameter_groups(1.0, 0.1, 0.25)
    slow = {id(p) for g in groups if g["lr"] == 0.25 for p in g["params"]}  # type: ignore[attr-defined]
    expected = {id(p) for n, p in network.named_parameters() if n.startswith(("backbone.", "iam."))}
    assert slow == expected


@needs_weights
def test_published_head_states_what_its_own_file_states() -> None:
    """Every position's boxes and probabilities equal those of the .onnx in ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    network = make(416).eval()
    load_published(network, YOLOX, NAMES)
    image = np.random.default_rng(0).integers(0, 256, (1, 416, 416, 3), np.uint8)
    image[:, 100:300, 150:250] //= 4
    with torch.no_grad():
        dense = network.dense(network.features(torch.from_numpy(image)))
    session = onnxruntime.InferenceSession(str(YOLOX), providers=["CPUExecutionProvider"])
    blob = np.ascontiguousarray(image[..., ::-1].transpose(0, 3, 1, 2), np.float32)
    raw = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: blob})[0])[0]
    rows = [i for i, c in enumerate(CLASS_LISTS["coco"]) if c.name in NAMES]
    torch.testing.assert_close(
        dense.logits[0].sigmoid(), raw[:, 4:5] * raw[:, 5:][:, rows], rtol=1e-3, atol=1e-5
    )
    steps = [(s, 416 // s) for s in (8, 16, 32)]
    corner = torch.cat([torch.cartesian_prod(torch.arange(n), torch.arange(n)).flip(1) for _, n in steps])
    stride = torch.cat([torch.full((n * n, 1), s) for s, n in steps])
    centre, side = (raw[:, :2] + corner) * stride, raw[:, 2:4].exp() * stride
    expected = torch.cat((centre - side / 2, centre + side / 2), 1)
    torch.testing.assert_close(dense.boxes[0] * 416, expected, rtol=1e-3, atol=0.05)


@needs_weights
def test_classes_that_coco_does_not_have() -> None:
    network = make(classes=3)
    before = network.iam.heads[0].classify.weight.clone()  # type: ignore[union-attr]
    load_published(network, YOLOX, ["rider", "tram", "person"])
    after = network.iam.heads[0].classify.weight  # type: ignore[union-attr]
    torch.testing.assert_close(after[0], after[2])  # a rider starts as a person
    torch.testing.assert_close(after[1], before[1])
    assert not torch.equal(after[2], before[2])


@needs_weights
def test_a_file_without_such_a_head_is_refused() -> None:
    network = make()
    with pytest.raises(ModelError, match="expected YOLOX-nano"):
        load_head(network.iam, 10, YOLOX, NAMES)  # type: ignore[arg-type]
