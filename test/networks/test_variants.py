"""Backbone, head depth, slots, fusion and width together; test_fassst.py changes one at a time.

A choice of the 112 combinations in which each two values of two settings meet at least once, so far
as the backbones allow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fassst_ros.card import MaskInfo, ModelCard
from fassst_ros.export import export_model
from fassst_ros.labels import STREET
from fassst_ros.networks import build_network
from fassst_ros.networks.base import Target
from fassst_ros.parity import TOLERANCE

SIZE = 160  # 100 positions at stride 16: the smallest that has 81 slots


def config(backbone: str, head_depth: int, grid: int, fusion: bool, width: int) -> dict[str, Any]:
    return {
        "backbone": backbone, "head_depth": head_depth, "grid": grid, "fusion": fusion, "width": width,
        "num_classes": len(STREET), "input_size": [SIZE, SIZE],
    }  # fmt: skip


def target() -> Target:
    mask = torch.zeros(1, SIZE // 2, SIZE // 2, dtype=torch.uint8)
    mask[0, 20:60, 10:50] = 255
    return Target(
        boxes=torch.tensor([[20.0, 40.0, 100.0, 120.0]]),
        labels=torch.tensor([2]),
        masks=mask,
        labelled=torch.ones(len(STREET), dtype=torch.bool),
        ignore=torch.zeros(0, 4),
    )


@pytest.mark.parametrize(
    "variant",
    [
        ("mobilenet_v2", 4, 4, True, 64),
        ("mobilenet_v2", 5, 9, False, 128),
        ("mobilenet_v2", 6, 6, True, 128),
        ("mobilenet_v2", 6, 7, False, 64),
        ("resnet50_fpn", 4, 6, False, 64),
        ("resnet50_fpn", 5, 7, True, 128),
        ("resnet50_fpn", 6, 9, True, 64),
        ("resnet50_fpn", 6, 4, False, 128),
        ("cspdarknet_nano", 5, 4, False, 128),
        ("cspdarknet_nano", 5, 9, True, 64),
        ("cspdarknet_nano", 5, 6, False, 64),
        ("cspdarknet_nano", 5, 7, True, 64),
    ],
    ids=str,
)
def test_trains_and_answers(variant: tuple[str, int, int, bool, int]) -> None:
    torch.manual_seed(0)
    network = build_network("fassst", **config(*variant))
    images = torch.randint(0, 256, (1, SIZE, SIZE, 3), dtype=torch.uint8)
    total = torch.stack(list(network.loss(images, [target()], 0.5).values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())
    with torch.no_grad():
        out = network.eval()(images)
    slots = variant[2] ** 2
    assert network.slots == slots
    assert [tuple(x.shape) for x in out] == [(1, slots), (1, slots), (1, slots, 4), (1, slots, 32, 32)]
    assert torch.isfinite(out.masks).all()


def adapt_norms(network: torch.nn.Module) -> None:
    """Without training all positions state nearly the same score, and rounding decides which are peaks."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of what comes, not a slow mean
    with torch.no_grad():
        network.train()(torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8))


@pytest.mark.parametrize(
    "variant",
    [
        ("mobilenet_v2", 4, 9, False, 128),
        ("mobilenet_v2", 6, 7, True, 64),
        ("cspdarknet_nano", 5, 6, True, 128),
    ],
    ids=str,
)
def test_export_equals_torch(variant: tuple[str, int, int, bool, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("fassst", **config(*variant))
    torch.nn.init.normal_(network.iam.answer.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    adapt_norms(network)
    card = ModelCard("tiny", "fassst", "0.0.0", 1, 1, STREET, MaskInfo("frame", 1, 1), 1)
    _, errors = export_model(network, card, tmp_path)
    assert all(errors[name] < TOLERANCE[name] for name in TOLERANCE), errors
