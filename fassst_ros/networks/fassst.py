"""FASSST: fast attention based single-stage segmentation net (Cheng et al., WACV 2022).

The backbone's raw features E feed the instance attention module (IAM), which states n = grid * grid
slots: box, classes, quality. The boxes crop three pyramid mask layers; ROI feature fusion (RFF, eq. 4)
and the mask tail turn each crop into one mask. Where the paper is silent, docs/networks.md gives
our reading.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fassst_ros.networks.backbones import BACKBONES, Backbone, Features
from fassst_ros.networks.base import RawOutputs, SegmentationNetwork, Target
from fassst_ros.networks.blocks import ConvNorm, cell_centres, fixed_pool, matrix_nms, pad_boxes, roi_crop
from fassst_ros.networks.fassst_loss import fassst_loss

PRIOR = -math.log((1 - 0.01) / 0.01)  # bias for a probability of .01 at the start (RetinaNet, 4.1)

#: The paper's two networks, and a 2:1 variant for wide cameras (height, width, grid).
PRESETS = {
    "FASSST-416": {"input_size": (416, 416), "grid": 6},
    "FASSST-768": {"input_size": (768, 768), "grid": 7},
    "FASSST-1024x512": {"input_size": (512, 1024), "grid": 7},
}


class Dense(NamedTuple):
    """One-to-many answer of each stride-16 position: logits (B, P, C), left top right bottom (B, P, 4).

    Distances are fractions of the input, from the position's centre.
    """

    logits: Tensor
    distances: Tensor


class Slots(NamedTuple):
    """What the IAM says: logits (B, n, C), quality logits (B, n), boxes (B, n, 4) xyxy in [0, 1]."""

    logits: Tensor
    quality: Tensor
    boxes: Tensor
    dense: Dense | None


class InstanceAttention(nn.Module):
    """IAM: nine convolutions from E to grid x grid slots, single-stage regression (section 3.2).

    With `attention` each slot also looks at the stride-16 map: softmax weights over positions, near
    its cell first, give it features and the mean position that it looked at, which restores the
    place that pooling to a coarse grid has lost. With `dense` every position also states classes and
    a box, supervised one-to-many; slots look where objects are stated, and refine what they read.
    """

    HEADS, KEY = 4, 32
    centres: Tensor
    relative: Tensor
    prior: Tensor

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
        super().__init__()
        self.grid, self.classes, self.attention = grid, classes, attention
        self.reduce = nn.Sequential(ConvNorm(cin, 128, 3, 16 // stride), ConvNorm(128, 128, 3))
        self.deepen = nn.Sequential(ConvNorm(128, 256, 3, 2), ConvNorm(256, 256, 3), ConvNorm(256, 256, 3))
        rows, columns = (s // 16 for s in size)
        windows = [fixed_pool((s + 1) // 2, grid) for s in (rows, columns)]
        self.pool = nn.MaxPool2d((windows[0][0], windows[1][0]), (windows[0][1], windows[1][1]))
        self.slots = nn.Sequential(ConvNorm(256, 256, 3), ConvNorm(256, 256, 3), ConvNorm(256, 256, 1))
        extra = 0
        if attention:
            self.query: nn.Module = nn.Linear(256, self.HEADS * self.KEY)
            self.key = nn.Conv2d(128 + 256, self.HEADS * self.KEY, 1)
            self.value = nn.Conv2d(128 + 256, 256, 1)
            self.mix = nn.Sequential(nn.Linear(256 + 256, 256), nn.ReLU(inplace=True))
            extra = 2 * self.HEADS
        self.dense = nn.Conv2d(128 + 256, classes + 4, 1) if dense else None
        if self.dense is not None:
            nn.init.normal_(self.dense.weight, std=0.01)
            with torch.no_grad():
                self.dense.bias.copy_(torch.tensor([PRIOR] * classes + [0.0] * 4))  # type: ignore[union-attr]
        self.answer = nn.Linear(256 + extra, 4 + classes + 1)  # conv1x1 on the grid, kept as a matrix
        nn.init.normal_(self.answer.weight, std=0.01)
        nn.init.zeros_(self.answer.bias)
        self.answer.bias.data[4:-1] = PRIOR
        centres = cell_centres(grid, grid)
        positions = cell_centres(rows, columns)
        # From each slot to each position, in cells. Kept relative: what is small stays exact in bf16.
        relative = (positions[None] - centres[:, None]) * grid  # n, P, 2
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("relative", relative, persistent=False)
        # soft prior: one unit of logit at one cell's distance, growing with its square
        self.register_buffer("prior", -relative.square().sum(-1), persistent=False)

    def forward(self, raw: Tensor) -> Slots:
        """E (B, c, h, w) -> the slots."""
        near = self.reduce(raw)  # B, 128, H/16, W/16
        far = self.deepen(near)  # B, 256, H/32, W/32
        slots = self.slots(self.pool(far)).flatten(2).transpose(1, 2)  # B, n, 256
        context = torch.cat((near, F.interpolate(far, size=near.shape[2:])), 1)
        dense = self._state(context) if self.dense is not None else None
        centre, side = self.centres, 0.2 * torch.ones_like(self.centres)
        read: Tensor | float = 0.0
        if self.attention:
            slots, weights, where = self._attend(slots, context, dense)
            centre = self.centres + where / self.grid
            if dense is not None:
                box = torch.matmul(weights, dense.distances).float()  # B, n, 4
                centre = centre + (box[..., 2:] - box[..., :2]) / 2
                side = box[..., :2] + box[..., 2:]
                read = torch.matmul(weights, dense.logits.detach() - PRIOR).float()
        out = self.answer(slots).float()
        centre = centre + torch.tanh(out[..., :2]) * (side / 2 + 0.5 / self.grid)
        side = side * torch.exp(2 * torch.tanh(out[..., 2:4] / 2))
        boxes = torch.cat((centre - side / 2, centre + side / 2), -1)
        return Slots(out[..., 4:-1] + read, out[..., -1], boxes, dense)

    def _state(self, context: Tensor) -> Dense:
        assert self.dense is not None
        out = self.dense(context).float().flatten(2).transpose(1, 2)  # B, P, C + 4
        return Dense(out[..., : self.classes], 0.1 * out[..., self.classes :].clamp(-4, 2.3).exp())

    def _attend(self, slots: Tensor, context: Tensor, dense: Dense | None) -> tuple[Tensor, Tensor, Tensor]:
        """Slots enriched by what they see (B, n, 256 + 2 heads); of the first head: the weights
        (B, n, P) and the mean position (B, n, 2), in cells from the slot's own."""
        batch, count = slots.shape[:2]
        query = self.query(slots).reshape(batch, count, self.HEADS, self.KEY).transpose(1, 2)
        key = self.key(context).reshape(batch, self.HEADS, self.KEY, -1)
        affinity = torch.matmul(query, key).float() / math.sqrt(self.KEY) + self.prior
        if dense is not None:  # objects attract: log-odds of the surest class
            affinity = affinity + dense.logits.detach().amax(2)[:, None, None].clamp(min=-6)
        weights = affinity.softmax(-1)  # B, heads, n, P
        value = self.value(context).reshape(batch, self.HEADS, 256 // self.HEADS, -1)
        seen = torch.matmul(weights.to(value.dtype), value.transpose(2, 3))  # B, heads, n, 64
        seen = seen.transpose(1, 2).reshape(batch, count, 256)
        where = torch.matmul(weights.transpose(1, 2), self.relative).float()  # B, n, heads, 2
        place = where.reshape(batch, count, 2 * self.HEADS).to(slots.dtype)
        slots = torch.cat((slots + self.mix(torch.cat((slots, seen), -1)), place), -1)
        return slots, weights[:, 0], where[:, :, 0]


class PyramidMask(nn.Module):
    """Three mask layers, ROI crops of S, S/2, S/4, RFF (equation 4), tail of 5 conv + 1 deconv."""

    def __init__(self, channels: tuple[int, int, int], width: int, roi_size: int, fusion: bool) -> None:
        super().__init__()
        if roi_size % 4:
            raise ValueError(f"roi_size is {roi_size}; expected a multiple of 4")
        self.roi_size, self.fusion = roi_size, fusion
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(ConvNorm(width, width, 3) for _ in channels)
        self.tail = nn.Sequential(*(ConvNorm(width, width, 3) for _ in range(5)))
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.predict = nn.Conv2d(width, 1, 1)

    def layers(self, levels: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """The pyramid mask layers, finest first."""
        sums = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for i in (1, 0):  # top-down
            sums[i] = sums[i] + F.interpolate(sums[i + 1], size=sums[i].shape[2:])
        return [smooth(x) for smooth, x in zip(self.smooth, sums, strict=True)]

    def crop(self, layers: list[Tensor], boxes: Tensor) -> Tensor:
        """boxes (B, n, 4) padded, xyxy in [0, 1] -> fused ROI features (B * n, d, S, S)."""
        sides = [self.roi_size >> i for i in range(3)]
        # The grid stays FP32: at 8 bits of mantissa a sample would move by several pixels.
        crops = [roi_crop(layer.float(), boxes, side) for layer, side in zip(layers, sides, strict=True)]
        if not self.fusion:
            return crops[0]
        # R = ReLU(R1 + up(R2 + up(R3)))
        coarse = crops[1] + F.interpolate(crops[2], scale_factor=2.0, mode="bilinear")
        return F.relu(crops[0] + F.interpolate(coarse, scale_factor=2.0, mode="bilinear"))

    def draw(self, rois: Tensor) -> Tensor:
        """ROI features (N, d, S, S) -> mask logits (N, 2S, 2S)."""
        logits: Tensor = self.predict(F.relu(self.up(self.tail(rois))))
        return logits.squeeze(1)


class FASSST(SegmentationNetwork):
    """The whole network; arguments are the ablations of the paper's tables 5 to 9.

    num_classes: C. input_size: (H, W), multiples of 32. grid: n = grid^2 slots. backbone:
    mobilenet_v2 | cspdarknet_nano. head_depth: 4 | 5 | 6. width: d of the mask branch (64 | 128 | 256).
    roi_size: S; masks are 2S x 2S. fusion: RFF on. attention: see InstanceAttention.
    matching: cell | hungarian | hungarian_dense. nms: matrix | none.
    """

    mask_kind, mask_padding = "box", 0.1
    scale: Tensor

    def __init__(
        self,
        num_classes: int,
        input_size: tuple[int, int] | list[int] = (768, 768),
        grid: int = 7,
        backbone: str = "mobilenet_v2",
        head_depth: int = 5,
        width: int = 64,
        roi_size: int = 16,
        fusion: bool = True,
        attention: bool = True,
        matching: str = "hungarian_dense",
        nms: str = "matrix",
    ) -> None:
        super().__init__()
        height, columns = input_size
        if height % 32 or columns % 32:
            raise ValueError(f"input_size is {tuple(input_size)}; expected multiples of 32")
        for name, value, known in (
            ("backbone", backbone, tuple(BACKBONES)),
            ("matching", matching, ("cell", "hungarian", "hungarian_dense")),
            ("nms", nms, ("matrix", "none")),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        self.input_size, self.num_classes = (height, columns), num_classes
        self.slots = grid * grid
        self.mask_size = (2 * roi_size, 2 * roi_size)
        self.matching, self.nms = matching, nms
        self.backbone: Backbone = BACKBONES[backbone](head_depth)
        self.iam = InstanceAttention(
            self.backbone.raw_channels,
            self.backbone.raw_stride,
            self.input_size,
            grid,
            num_classes,
            attention,
            matching == "hungarian_dense",
        )
        self.pyramid = PyramidMask(self.backbone.channels, width, roi_size, fusion)
        self.register_buffer(
            "scale", torch.tensor([columns, height] * 2, dtype=torch.float32), persistent=False
        )

    def features(self, images: Tensor) -> Features:
        """(B, H, W, 3) uint8 RGB -> the backbone's features."""
        return self.backbone(images.float().permute(0, 3, 1, 2))  # TensorRT transposes no uint8

    def forward(self, images: Tensor) -> RawOutputs:
        features = self.features(images)
        slots = self.iam(features.raw)
        best = slots.logits.sigmoid().max(-1)
        scores = torch.sqrt(best.values * slots.quality.sigmoid())
        if self.nms == "matrix":
            scores = matrix_nms(scores, slots.boxes)
        scores, order = scores.topk(self.slots, dim=1)
        labels = best.indices.gather(1, order)
        boxes = slots.boxes.gather(1, order[..., None].expand(-1, -1, 4))
        rois = self.pyramid.crop(self.pyramid.layers(features.levels), pad_boxes(boxes, self.mask_padding))
        masks = self.pyramid.draw(rois).float().sigmoid().reshape(-1, self.slots, *self.mask_size)
        return RawOutputs(scores, labels.int(), boxes * self.scale, masks)

    def loss(self, images: Tensor, targets: list[Target], progress: float) -> dict[str, Tensor]:
        return fassst_loss(self, images, targets, progress)
