"""FASSST: fast attention based single-stage segmentation net (Cheng et al., WACV 2022).

The backbone's raw features E feed the instance attention module (IAM), which states n = grid * grid
slots: box, classes, score. The boxes crop three pyramid mask layers; ROI feature fusion (RFF, eq. 4)
and the mask tail turn each crop into one mask. Where the paper is silent, docs/networks.md gives
our reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fassst_ros.networks.backbones import BACKBONES
from fassst_ros.networks.base import Backbone, Features, RawOutputs, SegmentationNetwork, Target
from fassst_ros.networks.blocks import ConvNorm, matrix_nms, pad_boxes, replace_silu, roi_crop
from fassst_ros.networks.fassst_iam import Dense, GridSlots, PeakSlots
from fassst_ros.networks.fassst_levels import LevelSlots
from fassst_ros.networks.fassst_loss import LOSS_WEIGHTS, fassst_loss

#: The paper's two networks, and a 2:1 variant for wide cameras (height, width, grid).
PRESETS: dict[str, dict[str, Any]] = {
    "FASSST-416": {"input_size": (416, 416), "grid": 6},
    "FASSST-768": {"input_size": (768, 768), "grid": 7},
    "FASSST-1024x512": {"input_size": (512, 1024), "grid": 7},
}

#: What may stand for SiLU.
ACTIVATIONS: dict[str, type[nn.Hardswish] | type[nn.ReLU]] = {"hardswish": nn.Hardswish, "relu": nn.ReLU}

MATCHINGS = ("task_aligned", "hungarian_dense", "hungarian", "cell")


class PyramidMask(nn.Module):
    """Three mask layers, ROI crops of S, S/2, S/4, RFF (equation 4), tail of 5 conv + 1 deconv."""

    def __init__(
        self, channels: tuple[int, int, int], width: int, roi_size: int, fusion: bool, scales: int = 1
    ) -> None:
        super().__init__()
        if roi_size % 4:
            raise ValueError(f"roi_size is {roi_size}; expected a multiple of 4")
        self.roi_size, self.fusion = roi_size, fusion
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.coarse = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[: 3 * (scales - 1)])
        for parameter in self.coarse.parameters():  # the layers start as those of one scale, trained or not
            nn.init.zeros_(parameter)
        self.smooth = nn.ModuleList(ConvNorm(width, width, 3) for _ in channels)
        self.tail = nn.Sequential(*(ConvNorm(width, width, 3) for _ in range(5)))
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.predict = nn.Conv2d(width, 1, 1)

    def layers(self, levels: tuple[Tensor, ...]) -> list[Tensor]:
        """The pyramid mask layers, finest first."""
        sums = [lateral(level) for lateral, level in zip(self.lateral, levels[:3], strict=True)]
        coarse = [lateral(level) for lateral, level in zip(self.coarse, levels[3:], strict=True)]
        if coarse:  # strides 16, 32, 64
            sums[1] = sums[1] + coarse[0]
            sums[2] = sums[2] + coarse[1] + F.interpolate(coarse[2], size=sums[2].shape[2:])
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
        """ROI features (N, d, S, S) -> mask logits (N, 2S, 2S).

        `up` and `predict` by 1x1 convolutions whose channels are the four cells that a position becomes: one
        channel is then taken apart instead of d. ONNX Runtime takes 6 ms less, OpenVINO 0.9 ms.
        """
        width = self.up.out_channels
        weight = self.up.weight.permute(2, 3, 1, 0).reshape(4 * width, -1, 1, 1)
        bias = self.up.bias.repeat(4)  # type: ignore[union-attr]
        x = F.relu(F.conv2d(self.tail(rois), weight, bias))
        four = torch.eye(4, dtype=weight.dtype, device=weight.device)
        weight = (four[..., None] * self.predict.weight.flatten()).reshape(4, -1, 1, 1)
        x = F.conv2d(x, weight, self.predict.bias.repeat(4))  # type: ignore[union-attr]
        count, _, rows, columns = x.shape
        cells = x.reshape(count, 2, 2, rows, columns).permute(0, 3, 1, 4, 2)
        return cells.reshape(count, 2 * rows, 2 * columns)


class FASSST(SegmentationNetwork):
    """The whole network; arguments are the ablations of the paper's tables 5 to 9.

    num_classes: C. input_size: (H, W), multiples of 32. grid: n = grid^2 slots. backbone:
    mobilenet_v2 | resnet50_fpn | cspdarknet_nano. head_depth: 4 | 5 | 6. width: d of the mask branch
    (64 | 128 | 256). roi_size: S; masks are 2S x 2S. fusion: RFF on. matching: task_aligned (slots are
    peaks of the stride-16 map) | hungarian_dense | hungarian | cell (slots are cells of a grid).
    attention: of GridSlots. nms: matrix | none. peaks: raw (of E) | levels (of the pyramid).
    scales: 2 shows the body the image at half size, too, so that it sees large objects whole.
    activation: silu | hardswish | relu, the cheapest, where the layers have SiLU (cspdarknet_nano, levels).
    loss_weights: those that differ from LOSS_WEIGHTS.
    """

    mask_kind, mask_padding = "box", 0.1
    scale: Tensor
    mean: Tensor

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
        matching: str = "task_aligned",
        nms: str = "matrix",
        peaks: str = "raw",
        scales: int = 1,
        activation: str = "silu",
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        height, columns = input_size
        if scales not in (1, 2) or (scales == 2 and peaks != "levels"):
            raise ValueError(f"scales is {scales!r} with peaks {peaks!r}; expected 1, or 2 with peaks levels")
        if peaks == "levels" and head_depth != 5:
            raise ValueError(f"head_depth {head_depth} chooses E, which peaks levels do not read")
        if height % (32 * scales) or columns % (32 * scales):
            raise ValueError(f"input_size is {tuple(input_size)}; expected multiples of {32 * scales}")
        for name, value, known in (
            ("backbone", backbone, tuple(BACKBONES)),
            ("matching", matching, MATCHINGS),
            ("nms", nms, ("matrix", "none")),
            ("peaks", peaks, ("raw", "levels")),
            ("activation", activation, ("silu", *ACTIVATIONS)),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        weights = loss_weights or {}
        if (
            not isinstance(weights, Mapping)
            or set(weights) - set(LOSS_WEIGHTS)
            or not all(isinstance(w, (int, float)) and w >= 0 for w in weights.values())
        ):
            raise ValueError(
                f"loss_weights are {loss_weights}; expected numbers >= 0 for {', '.join(LOSS_WEIGHTS)}"
            )
        self.loss_weights = {**LOSS_WEIGHTS, **weights}
        self.input_size, self.num_classes = (height, columns), num_classes
        self.slots = grid * grid
        self.mask_size = (2 * roi_size, 2 * roi_size)
        self.matching, self.nms, self.scales, self.activation = matching, nms, scales, activation
        self.backbone: Backbone = BACKBONES[backbone](head_depth)
        e = (self.backbone.raw_channels, self.backbone.raw_stride)
        self.iam: PeakSlots | LevelSlots | GridSlots
        if matching == "task_aligned" and peaks == "levels":
            self.iam = LevelSlots(self.backbone.channels, self.input_size, self.slots, num_classes, scales)
            if backbone == "cspdarknet_nano":  # its published weights include this head
                self.pretrained = ("backbone.", "iam.")
        elif matching == "task_aligned":
            self.iam = PeakSlots(*e, self.input_size, grid, num_classes)
        else:
            dense = matching == "hungarian_dense"
            self.iam = GridSlots(*e, self.input_size, grid, num_classes, attention, dense)
        self.pyramid = PyramidMask(self.backbone.channels, width, roi_size, fusion, scales)
        if activation != "silu" and not replace_silu(self, ACTIVATIONS[activation]):
            raise ValueError(f"activation {activation}: {backbone} with peaks {peaks} has no SiLU to replace")
        scale = torch.tensor([columns, height] * 2, dtype=torch.float32)
        self.register_buffer("scale", scale, persistent=False)
        # The mean of 2 x 2 pixels; OpenVINO's pooling of three channels takes 4 ms more.
        mean = torch.eye(3)[:, :, None, None].expand(3, 3, 2, 2) / 4
        self.register_buffer("mean", mean.contiguous(), persistent=False)

    def features(self, images: Tensor) -> Features:
        """(B, H, W, 3) uint8 RGB -> the backbone's features, of both scales if there are two."""
        x = images.float().permute(0, 3, 1, 2)  # TensorRT transposes no uint8
        features = self.backbone(x)
        if self.scales == 1:
            return features
        half = self.backbone(F.conv2d(x, self.mean, stride=2))
        return Features(features.raw, (*features.levels, *half.levels))

    def dense(self, features: Features) -> Dense:
        """What every position states, where slots are peaks."""
        if isinstance(self.iam, LevelSlots):
            return self.iam(features.levels)  # type: ignore[no-any-return]
        return self.iam(features.raw)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> RawOutputs:
        features = self.features(images)
        if isinstance(self.iam, LevelSlots):
            scores, labels, boxes = self.iam.choose(self.iam.state(features.levels))
        elif isinstance(self.iam, PeakSlots):
            scores, labels, boxes = self.iam.select(self.dense(features))
        else:
            slots, _ = self.iam(features.raw)
            best = slots.logits.sigmoid().max(-1)
            scores, labels, boxes = (
                torch.sqrt(best.values * slots.quality.sigmoid()),
                best.indices,
                slots.boxes,
            )
        if self.nms == "matrix":
            scores = matrix_nms(scores, boxes)
        scores, order = scores.topk(self.slots, dim=1)
        labels = labels.gather(1, order)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        rois = self.pyramid.crop(self.pyramid.layers(features.levels), pad_boxes(boxes, self.mask_padding))
        masks = self.pyramid.draw(rois).float().sigmoid().reshape(-1, self.slots, *self.mask_size)
        return RawOutputs(scores, labels.int(), boxes * self.scale, masks)

    def loss(self, images: Tensor, targets: list[Target], progress: float) -> dict[str, Tensor]:
        return fassst_loss(self, images, targets, progress)
