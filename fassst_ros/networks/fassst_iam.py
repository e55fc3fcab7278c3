"""FASSST's instance attention module (IAM), section 3.2: from E to n = S * S slots by nine convolutions.

Two readings of how a slot finds its object share the first five convolutions: `PeakSlots` regresses
at every stride-16 position and makes the n surest peaks the slots; `GridSlots` pools to an S x S grid
of which each cell is a slot. What each is worth is measured in docs/accuracy.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fassst_ros.networks.blocks import ConvNorm, cell_centres, fixed_pool

PRIOR = -math.log((1 - 0.01) / 0.01)  # bias for a probability of .01 at the start (RetinaNet, 4.1)


class Slots(NamedTuple):
    """n slots: class logits (B, n, C), quality logits (B, n), boxes (B, n, 4) xyxy in [0, 1]."""

    logits: Tensor
    quality: Tensor
    boxes: Tensor


class Dense(NamedTuple):
    """What every stride-16 position states: logits (B, P, C), boxes (B, P, 4) xyxy in [0, 1]."""

    logits: Tensor
    boxes: Tensor


class Trunk(nn.Module):
    """The first five convolutions, and the boxes that positions of the stride-16 map state.

    size: (H, W) of the input; stride: that of E.
    """

    CONTEXT = 128 + 256
    positions: Tensor

    def __init__(self, cin: int, stride: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.rows, self.columns = (s // 16 for s in size)
        self.reduce = nn.Sequential(ConvNorm(cin, 128, 3, 16 // stride), ConvNorm(128, 128, 3))
        self.deepen = nn.Sequential(ConvNorm(128, 256, 3, 2), ConvNorm(256, 256, 3), ConvNorm(256, 256, 3))
        self.register_buffer("positions", cell_centres(self.rows, self.columns), persistent=False)

    def context(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """E -> features (B, 384, H/16, W/16) of both strides, and the stride-32 map (B, 256, H/32, W/32)."""
        near = self.reduce(raw)
        far = self.deepen(near)
        return torch.cat((near, F.interpolate(far, size=near.shape[2:])), 1), far

    def state(self, out: Tensor) -> Dense:
        """(B, C + 4, H/16, W/16): logits, and log distances to left, top, right, bottom -> Dense."""
        out = out.float().flatten(2).transpose(1, 2)  # B, P, C + 4
        reach = 0.1 * out[..., self.classes :].clamp(-4, 2.3).exp()
        boxes = torch.cat((self.positions - reach[..., :2], self.positions + reach[..., 2:]), -1)
        return Dense(out[..., : self.classes], boxes)


def stating(cin: int, classes: int) -> nn.Conv2d:
    """The 1x1 convolution to C + 4 values a position: rare objects of a tenth of the image each way."""
    conv = nn.Conv2d(cin, classes + 4, 1)
    nn.init.normal_(conv.weight, std=0.01)
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([PRIOR] * classes + [0.0] * 4))  # type: ignore[union-attr]
    return conv


class PeakSlots(Trunk):
    """Every position states classes and box; the n surest local maxima are the slots.

    Supervised one-to-many; class scores learn the overlap of their box, so quality needs no logit.
    """

    def __init__(self, cin: int, stride: int, size: tuple[int, int], grid: int, classes: int) -> None:
        super().__init__(cin, stride, size, classes)
        self.slots = grid * grid
        if self.slots > self.rows * self.columns:
            raise ValueError(
                f"grid {grid} makes {self.slots} slots, more than {self.rows}x{self.columns} positions"
            )
        self.tower = nn.Sequential(
            ConvNorm(self.CONTEXT, 128, 1), ConvNorm(128, 128, 3), ConvNorm(128, 128, 3)
        )
        self.answer = stating(128, classes)

    def forward(self, raw: Tensor) -> Dense:
        return self.state(self.answer(self.tower(self.context(raw)[0])))

    def select(self, dense: Dense) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, n), labels (B, n), boxes (B, n, 4) of the n surest 3x3 maxima."""
        best = dense.logits.sigmoid().max(-1)
        plane = best.values.reshape(-1, 1, self.rows, self.columns)
        plane = plane * (plane == F.max_pool2d(plane, 3, 1, 1)).to(plane.dtype)
        scores, order = plane.flatten(1).topk(self.slots, dim=1)
        boxes = dense.boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return scores, best.indices.gather(1, order), boxes


class GridSlots(Trunk):
    """The grid's cells are the slots: four more convolutions on the pooled map.

    With `attention` each slot also looks at the stride-16 map: softmax weights over positions, near
    its cell first, give it features and the mean position that it looked at, which restores the
    place that pooling has lost. With `dense` the positions are supervised too, in training only.
    """

    HEADS, KEY = 4, 32
    centres: Tensor
    relative: Tensor

    def __init__(
        self,
        cin: int,
        stride: int,
        size: tuple[int, int],
        grid: int,
        classes: int,
        attention: bool,
        dense: bool,
    ) -> None:
        super().__init__(cin, stride, size, classes)
        self.grid, self.attention = grid, attention
        windows = [fixed_pool((s + 1) // 2, grid) for s in (self.rows, self.columns)]
        self.pool = nn.MaxPool2d((windows[0][0], windows[1][0]), (windows[0][1], windows[1][1]))
        self.slots = nn.Sequential(ConvNorm(256, 256, 3), ConvNorm(256, 256, 3), ConvNorm(256, 256, 1))
        extra = 0
        if attention:
            self.query: nn.Module = nn.Linear(256, self.HEADS * self.KEY)
            self.key = nn.Conv2d(self.CONTEXT, self.HEADS * self.KEY, 1)
            self.value = nn.Conv2d(self.CONTEXT, 256, 1)
            self.mix = nn.Sequential(nn.Linear(256 + 256, 256), nn.ReLU(inplace=True))
            extra = 2 * self.HEADS
        self.answer = nn.Linear(256 + extra, 4 + classes + 1)  # conv1x1 on the grid, kept as a matrix
        nn.init.normal_(self.answer.weight, std=0.01)
        nn.init.zeros_(self.answer.bias)
        self.answer.bias.data[4:-1] = PRIOR
        self.answer.bias.data[2:4] = -1.5  # boxes start at about a fifth of the image
        self.dense = stating(self.CONTEXT, classes) if dense else None
        centres = cell_centres(grid, grid)
        self.register_buffer("centres", centres, persistent=False)
        # From each slot to each position, in cells. Kept relative: what is small stays exact in bf16.
        relative = (self.positions[None] - centres[:, None]) * grid  # n, P, 2
        self.register_buffer("relative", relative, persistent=False)

    def forward(self, raw: Tensor) -> tuple[Slots, Dense | None]:
        """E -> the slots, and in training what the positions state."""
        context, far = self.context(raw)
        slots = self.slots(self.pool(far)).flatten(2).transpose(1, 2)  # B, n, 256
        offset = self.centres.new_zeros(())
        if self.attention:
            slots, offset = self._attend(slots, context)
        out = self.answer(slots).float()
        # centre: cell centre (+ where it looked) + an offset within 1.5 cells
        centre = self.centres + (offset + 1.5 * torch.tanh(out[..., :2])) / self.grid
        side = torch.sigmoid(out[..., 2:4])
        boxes = torch.cat((centre - side / 2, centre + side / 2), -1)
        dense = self.state(self.dense(context)) if self.dense is not None and self.training else None
        return Slots(out[..., 4:-1], out[..., -1], boxes), dense

    def _attend(self, slots: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Slots enriched by what they see (B, n, 256 + 2 heads); where the first head looks (B, n, 2)."""
        batch, count = slots.shape[:2]
        query = self.query(slots).reshape(batch, count, self.HEADS, self.KEY).transpose(1, 2)
        key = self.key(context).reshape(batch, self.HEADS, self.KEY, -1)
        near_first = -self.relative.square().sum(-1)  # one unit of logit at one cell's distance
        weights = torch.matmul(query, key).float() / math.sqrt(self.KEY) + near_first
        weights = weights.softmax(-1)  # B, heads, n, P
        value = self.value(context).reshape(batch, self.HEADS, 256 // self.HEADS, -1)
        seen = torch.matmul(weights.to(value.dtype), value.transpose(2, 3))  # B, heads, n, 64
        seen = seen.transpose(1, 2).reshape(batch, count, 256)
        where = torch.matmul(weights.transpose(1, 2), self.relative).float()  # B, n, heads, 2 in cells
        place = where.reshape(batch, count, 2 * self.HEADS).to(slots.dtype)
        return torch.cat((slots + self.mix(torch.cat((slots, seen), -1)), place), -1), where[:, :, 0]
