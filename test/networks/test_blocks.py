"""Shared blocks against slow, independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fassst_ros.networks.blocks import (
    cell_centres,
    fixed_pool,
    mask_boxes,
    matrix_nms,
    pad_boxes,
    pairwise_iou,
    roi_crop,
)


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """image (C, H, W) at pixel-edge coordinates x, y; zeros outside."""
    channels, height, width = image.shape
    u, v = x - 0.5, y - 0.5
    result = np.zeros(channels)
    for j in (int(np.floor(v)), int(np.floor(v)) + 1):
        for i in (int(np.floor(u)), int(np.floor(u)) + 1):
            if 0 <= i < width and 0 <= j < height:
                result += image[:, j, i] * (1 - abs(u - i)) * (1 - abs(v - j))
    return result


def test_roi_crop_samples_cell_centres() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(2, 3, 9, 14)).astype(np.float32)
    boxes = random.uniform(-0.2, 1.2, (2, 4, 4)).astype(np.float32)
    boxes = np.concatenate(
        (np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])), -1
    )
    got = roi_crop(torch.from_numpy(features), torch.from_numpy(boxes), 5).numpy().reshape(2, 4, 3, 5, 5)
    for b in range(2):
        for n in range(4):
            x0, y0, x1, y1 = boxes[b, n].astype(float)
            for i in range(5):
                for j in range(5):
                    x, y = x0 + (j + 0.5) / 5 * (x1 - x0), y0 + (i + 0.5) / 5 * (y1 - y0)
                    np.testing.assert_allclose(
                        got[b, n, :, i, j], bilinear(features[b], x * 14, y * 9), atol=2e-5
                    )


def slow_matrix_nms(scores: list[float], boxes: Tensor, sigma: float) -> list[float]:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    iou = pairwise_iou(boxes, boxes)
    result = list(scores)
    for rank, i in enumerate(order):
        decay = 1.0
        for k, j in enumerate(order[:rank]):
            covered = max((float(iou[j, m]) for m in order[:k]), default=0.0)
            decay = min(decay, float(np.exp((covered**2 - float(iou[i, j]) ** 2) / sigma)))
        result[i] = scores[i] * decay
    return result


def test_matrix_nms_equals_the_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(12, 2, generator=generator)
    boxes = torch.cat((low, low + 0.3 + torch.rand(12, 2, generator=generator)), 1)
    scores = torch.rand(12, generator=generator)
    got = matrix_nms(scores[None], boxes[None], ramp=1e-6)[0]
    expected = slow_matrix_nms(scores.tolist(), boxes, 0.5)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
    assert got.argmax() == scores.argmax()
    assert (got < scores - 1e-3).any()


def test_rounding_does_not_decide_between_equals() -> None:
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52], [0.12, 0.1, 0.5, 0.5]]])
    a = matrix_nms(torch.tensor([[0.5, 0.5 + 1e-6, 0.3]]), boxes)
    b = matrix_nms(torch.tensor([[0.5 + 1e-6, 0.5, 0.3]]), boxes)
    assert (a - b).abs().max() < 1e-3


def test_twins_leave_one() -> None:
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]]])
    kept = matrix_nms(torch.tensor([[0.9, 0.8, 0.7]]), boxes)[0]
    assert kept[0] == pytest.approx(0.9)
    assert kept[2] == pytest.approx(0.7)
    assert kept[1] < 0.12


@pytest.mark.parametrize(("size", "cells"), [(24, 7), (13, 6), (16, 7), (32, 7), (7, 7), (24, 9)])
def test_fixed_pool_gives_exactly_the_cells(size: int, cells: int) -> None:
    kernel, stride = fixed_pool(size, cells)
    assert torch.nn.MaxPool1d(kernel, stride)(torch.zeros(1, 1, size)).shape[-1] == cells
    with pytest.raises(ValueError, match="cannot be pooled"):
        fixed_pool(cells - 1, cells)


def test_boxes_are_padded_on_each_side_and_centres_are_row_major() -> None:
    padded = pad_boxes(torch.tensor([[0.2, 0.4, 0.6, 0.5]]), 0.1)
    torch.testing.assert_close(padded, torch.tensor([[0.16, 0.39, 0.64, 0.51]]))
    assert cell_centres(2, 4)[1].tolist() == [0.375, 0.25]


def test_mask_boxes_are_the_contour_between_cells() -> None:
    masks = torch.zeros(1, 3, 6, 8)
    masks[0, 0, 2:4, 3:7] = 1.0
    masks[0, 1, 0:2, 5:8] = 0.9  # reaches the border
    boxes = mask_boxes(masks, 0.5)[0]
    torch.testing.assert_close(boxes[0], torch.tensor([3.0, 2.0, 7.0, 4.0]))
    torch.testing.assert_close(boxes[1], torch.tensor([5 + 1 / 18, 0, 8, 2 - 1 / 18]), atol=1e-5, rtol=0)
    assert boxes[2].tolist() == [0, 0, 0, 0]


def test_mask_boxes_do_not_jump_with_a_cell_at_the_threshold() -> None:
    masks = torch.zeros(1, 2, 4, 6)
    masks[:, :, 1:3, 2:4] = 0.9
    masks[0, 0, 1, 4], masks[0, 1, 1, 4] = 0.5 - 1e-4, 0.5 + 1e-4
    first, second = mask_boxes(masks, 0.5)[0]
    assert (first - second).abs().max() < 1e-3
