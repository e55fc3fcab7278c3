"""SparseInst: sparse instance activation for real-time instance segmentation (Cheng et al., CVPR 2022).

An encoder brings three levels to one map at stride 8. Instance activation maps (IAM), a softmax over
the positions of that map, gather one feature vector a slot; it states class, objectness and a kernel,
whose product with the mask features is the slot's mask over the whole input. Slots answer for objects
one-to-one, so no NMS. What deviates from the paper, and why: docs/networks.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fassst_ros.networks.backbones import BACKBONES
from fassst_ros.networks.base import Backbone, RawOutputs, SegmentationNetwork, Target
from fassst_ros.networks.blocks import ConvNorm, cell_centres, fixed_pool, mask_boxes
from fassst_ros.networks.sparseinst_loss import SlotLogits, sparseinst_loss

PRIOR = -math.log((1 - 0.01) / 0.01)  # bias for a probability of .01 at the start (RetinaNet, 4.1)


class PyramidPooling(nn.Module):
    """Pyramid pooling (Zhao et al. 2017, fig. 3): means over 1, 2, 3 and 6 cells a side beside the map.

    size: (rows, columns) of the map. A side of fewer cells is not pooled further. Convolutions with a
    bias and no norm: a norm over one cell of a small batch would be noise.
    """

    CELLS = (1, 2, 3, 6)

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.windows = []
        for cells in self.CELLS:
            rows, columns = (fixed_pool(side, min(cells, side)) for side in size)
            self.windows.append(((rows[0], columns[0]), (rows[1], columns[1])))
        part = channels // len(self.CELLS)
        self.parts = nn.ModuleList(nn.Conv2d(channels, part, 1) for _ in self.CELLS)
        self.merge = nn.Conv2d(channels + part * len(self.CELLS), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for (kernel, stride), part in zip(self.windows, self.parts, strict=True):
            pooled = F.relu(part(F.avg_pool2d(x, kernel, stride)))
            maps.append(F.interpolate(pooled, size=x.shape[2:], mode="bilinear"))
        return F.relu(self.merge(torch.cat(maps, 1)))


class Encoder(nn.Module):
    """Instance context encoder (section 3.3): levels at strides 8, 16, 32 -> (B, hidden, H/8, W/8)."""

    def __init__(self, channels: tuple[int, int, int], hidden: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, hidden, 1) for c in channels)
        self.context = PyramidPooling(hidden, (size[0] // 32, size[1] // 32))
        self.smooth = nn.ModuleList(ConvNorm(hidden, hidden, 3) for _ in channels)
        self.fuse = ConvNorm(hidden * len(channels), hidden, 1)

    def forward(self, levels: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        sums = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        sums[2] = self.context(sums[2])
        for i in (1, 0):  # top-down
            sums[i] = sums[i] + F.interpolate(sums[i + 1], size=sums[i].shape[2:])
        maps = [smooth(x) for smooth, x in zip(self.smooth, sums, strict=True)]
        size = maps[0].shape[2:]
        wide = [maps[0], *(F.interpolate(x, size=size, mode="bilinear") for x in maps[1:])]
        fused: Tensor = self.fuse(torch.cat(wide, 1))
        return fused


def _tower(cin: int, width: int) -> nn.Sequential:
    return nn.Sequential(*(ConvNorm(cin if i == 0 else width, width, 3) for i in range(4)))


class InstanceBranch(nn.Module):
    """Group-IAM (section 3.2, table 6): what every slot looks at, and what it states.

    `groups` activation maps a slot, each a softmax over the positions. logits come out as float32.
    """

    def __init__(self, hidden: int, slots: int, groups: int, kernel: int, classes: int) -> None:
        super().__init__()
        self.slots, self.groups = slots, groups
        self.tower = _tower(hidden + 2, hidden)
        self.attend = nn.Conv2d(hidden, slots * groups, 3, padding=1, groups=groups, bias=False)
        self.mix = nn.Linear(hidden * groups, hidden * groups)
        self.classify = nn.Linear(hidden * groups, classes)
        self.object = nn.Linear(hidden * groups, 1)
        self.kernel = nn.Linear(hidden * groups, kernel)
        # Attention logits of about unit variance: at .01, as published, all slots start as one mean.
        nn.init.normal_(self.attend.weight, std=(9 * hidden / groups) ** -0.5)
        for layer, std in ((self.classify, 0.01), (self.object, 0.01), (self.kernel, 0.01)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.constant_(layer.bias, PRIOR if layer is self.classify else 0.0)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features (B, hidden + 2, h, w) -> class logits (B, K, C), objectness (B, K), kernels (B, K, D)."""
        features = self.tower(features)
        weights = self.attend(features).flatten(2).float().softmax(-1)  # B, groups * K, hw
        values = features.flatten(2).transpose(1, 2)
        seen = torch.bmm(weights.to(values.dtype), values)  # B, groups * K, hidden
        seen = seen.reshape(seen.shape[0], self.groups, self.slots, -1).transpose(1, 2)
        slots = F.relu(self.mix(seen.reshape(seen.shape[0], self.slots, -1)))
        return self.classify(slots).float(), self.object(slots).squeeze(-1).float(), self.kernel(slots)


class SparseInst(SegmentationNetwork):
    """The whole network.

    num_classes: C. input_size: (H, W), multiples of 32. backbone, head_depth: as in FASSST. hidden: width
    of encoder and branches (256 in the paper), a multiple of 4 and of `groups`. slots: N instance
    activation maps, each in `groups` groups. kernel: D, channels of the mask features.
    """

    mask_kind, mask_padding, mask_threshold = "frame", 0.0, 0.45
    coordinates: Tensor

    def __init__(
        self,
        num_classes: int,
        input_size: tuple[int, int] | list[int] = (768, 768),
        backbone: str = "resnet50_fpn",
        head_depth: int = 5,
        hidden: int = 256,
        slots: int = 100,
        groups: int = 4,
        kernel: int = 128,
    ) -> None:
        super().__init__()
        height, width = input_size
        if height % 32 or width % 32:
            raise ValueError(f"input_size is {tuple(input_size)}; expected multiples of 32")
        if backbone not in BACKBONES:
            raise ValueError(f"backbone is {backbone!r}; expected one of {', '.join(BACKBONES)}")
        if hidden % 4 or hidden % groups:
            raise ValueError(f"hidden is {hidden}; expected a multiple of 4 and of groups, {groups}")
        self.input_size, self.num_classes, self.slots = (height, width), num_classes, slots
        self.mask_size = (height // 4, width // 4)
        self.backbone: Backbone = BACKBONES[backbone](head_depth)
        self.encoder = Encoder(self.backbone.channels, hidden, self.input_size)
        self.instances = InstanceBranch(hidden, slots, groups, kernel, num_classes)
        self.mask_features = nn.Sequential(*_tower(hidden + 2, hidden), nn.Conv2d(hidden, kernel, 1))
        grid = 2 * cell_centres(height // 8, width // 8) - 1
        grid = grid.T.reshape(1, 2, height // 8, width // 8)
        self.register_buffer("coordinates", grid, persistent=False)

    def state(self, images: Tensor) -> SlotLogits:
        """(B, H, W, 3) uint8 RGB -> the logits of every slot; masks at stride 8."""
        levels = self.backbone(images.float().permute(0, 3, 1, 2)).levels  # TensorRT transposes no uint8
        features = self.encoder(levels)
        coordinates = self.coordinates.to(features.dtype).expand(features.shape[0], -1, -1, -1)
        features = torch.cat((features, coordinates), 1)
        classes, objectness, kernels = self.instances(features)
        maps = self.mask_features(features)
        masks = torch.bmm(kernels.to(maps.dtype), maps.flatten(2)).float()
        return SlotLogits(classes, objectness, masks.reshape(-1, self.slots, *maps.shape[2:]))

    def forward(self, images: Tensor) -> RawOutputs:
        stated = self.state(images)
        masks = F.interpolate(stated.masks, scale_factor=2.0, mode="bilinear").sigmoid()
        best = stated.classes.sigmoid().max(-1)
        # Maskness (section 3.4): the mean probability of the pixels in the mask; none of an empty mask.
        inside = (masks > self.mask_threshold).to(masks.dtype)
        maskness = (masks * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
        scores = torch.sqrt(best.values * stated.objectness.sigmoid()) * maskness
        scores, order = scores.topk(self.slots, dim=1)
        masks = masks.gather(1, order[..., None, None].expand(-1, -1, *self.mask_size))
        boxes = mask_boxes(masks, self.mask_threshold) * 4.0  # cells of stride 4
        return RawOutputs(scores, best.indices.gather(1, order).int(), boxes, masks)

    def loss(self, images: Tensor, targets: list[Target], progress: float) -> dict[str, Tensor]:
        return sparseinst_loss(self.state(images), targets, self.mask_threshold)
