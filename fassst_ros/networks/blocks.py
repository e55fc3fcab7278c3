"""Pieces that several networks share. All shapes are static under export."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm, ReLU: the norm folds into the convolution at export."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(cout, momentum=0.03),
            nn.ReLU(inplace=True),
        )


def fixed_pool(size: int, cells: int) -> tuple[int, int]:
    """(kernel, stride) of the pooling window that maps `size` positions to `cells`.

    Stands for AdaptiveAvgPool, which exports as one Gather a cell.
    """
    if size < cells:
        raise ValueError(f"a map of {size} positions cannot be pooled to {cells} cells; enlarge the input")
    stride = size // cells
    return size - (cells - 1) * stride, stride


def replace_silu(module: nn.Module, by: type[nn.Hardswish] | type[nn.ReLU]) -> int:
    """Put `by` in the place of every x * sigmoid(x); returns how many there were.

    Hardswish: x * relu6(x + 3) / 6 (Howard et al. 2019, section 5.2). ReLU is what INT8 runtimes fuse.
    """
    found = [
        (parent, name)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.SiLU)
    ]
    for parent, name in found:
        setattr(parent, name, by(inplace=True))
    return len(found)


def cell_centres(rows: int, columns: int) -> Tensor:
    """(rows * columns, 2) x, y of a grid's cell centres in [0, 1], row-major."""
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    return torch.stack((x.repeat(rows), y.repeat_interleave(columns)), 1)


def pad_boxes(boxes: Tensor, padding: float) -> Tensor:
    """Boxes (..., 4) xyxy grown by `padding` of their width and height on each side."""
    low, high = boxes[..., :2], boxes[..., 2:]
    margin = (high - low) * padding
    return torch.cat((low - margin, high + margin), -1)


def roi_crop(features: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """Bilinear samples of each box on a `cells` x `cells` grid, zeros outside the map.

    features (B, C, H, W); boxes (B, n, 4) xyxy in [0, 1] of the map -> (B * n, C, cells, cells).
    The grid is folded to (B, n * cells, cells, 2): the form that GridSample runs fastest on.
    """
    batch, count = boxes.shape[:2]
    channels = features.shape[1]
    step = (torch.arange(cells, device=boxes.device, dtype=boxes.dtype) * 2 + 1) / cells
    steps = torch.stack((step.expand(cells, cells), step[:, None].expand(cells, cells)), -1)
    low, high = boxes[..., None, None, :2], boxes[..., None, None, 2:]
    grid = ((2 * low - 1) + (high - low) * steps).reshape(batch, count * cells, cells, 2)
    samples = F.grid_sample(features, grid, "bilinear", "zeros", align_corners=False)
    samples = samples.reshape(batch, channels, count, cells * cells).transpose(1, 2)
    return samples.reshape(batch * count, channels, cells, cells)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Box IoU of every pair: a (..., n, 4), b (..., m, 4) xyxy -> (..., n, m)."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    side = (high - low).clamp(min=0)
    overlap = side[..., 0] * side[..., 1]
    area_a = ((a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1]))[..., :, None]
    area_b = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]))[..., None, :]
    return overlap / (area_a + area_b - overlap + 1e-9)


def matrix_nms(scores: Tensor, boxes: Tensor, sigma: float = 0.5, ramp: float = 0.01) -> Tensor:
    """Scores (B, n) decayed by better-scored overlapping boxes (SOLOv2, eq. 4, Gaussian kernel).

    boxes (B, n, 4); without loops or dynamic shapes. Class-agnostic: two labels on the same
    pixels are of no use to a planner. "Better" rises over a `ramp` of scores instead of jumping at a
    tie: rounding, which differs between runtimes, must not decide which of two stays.
    """
    others = 1 - torch.eye(scores.shape[1], device=scores.device, dtype=scores.dtype)
    lead = scores[:, None, :] - scores[:, :, None]  # [b, i, j]: by how much j is better than i
    better = (lead / ramp + 0.5).clamp(0, 1) * others
    iou = pairwise_iou(boxes, boxes) * better
    covered = iou.amax(2)  # how much each j is itself suppressed
    decay = torch.exp((covered[:, None, :] ** 2 - iou**2) / sigma).clamp(max=1.0)
    return scores * decay.amin(2)


def mask_boxes(masks: Tensor, threshold: float) -> Tensor:
    """Tight boxes (B, K, 4) xyxy, in cells, of probabilities (B, K, h, w) above `threshold`.

    The edges are those of the contour between cell centres, constant beyond the outer ones: where
    post-processing sets its pixels. All zeros for a mask without such a cell.
    """
    left, right = _extent(masks.amax(2), threshold)
    top, bottom = _extent(masks.amax(3), threshold)
    return torch.stack((left, top, right, bottom), -1)


def _extent(profile: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """First and last crossing of `threshold` along profiles (..., n), in cells; 0, 0 where there is none.

    Every cell above the threshold offers the crossing on its outer side, at most half a cell away.
    """
    cells = profile.shape[-1]
    above = profile > threshold
    centres = torch.arange(cells, device=profile.device, dtype=profile.dtype) + 0.5
    height = profile - threshold
    step = (profile[..., 1:] - profile[..., :-1]).abs().clamp(min=1e-6)
    edge = torch.full_like(profile[..., :1], 0.5)  # the outermost cells reach their own outer edge
    before = torch.cat((edge, (height[..., 1:] / step).clamp(0, 1)), -1)
    after = torch.cat(((height[..., :-1] / step).clamp(0, 1), edge), -1)
    first = torch.where(above, centres - before, float(cells)).amin(-1)
    last = torch.where(above, centres + after, 0.0).amax(-1)
    return torch.minimum(first, last), last
