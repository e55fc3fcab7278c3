"""An instance attention module that looks at three strides, and can start from COCO-trained weights.

`PeakSlots` regresses from E, at stride 16 alone: small objects fall between its positions. Here each
pyramid level has the nine convolutions of section 3.2 for itself, in the form of YOLOX-nano's
decoupled head (Ge et al. 2021, section 2.2): a 1x1 stem, then two depthwise separable 3x3 for the
classes and two for the box. So the published COCO weights of that head fit, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fassst_ros.networks.backbones import ConvAct
from fassst_ros.networks.blocks import cell_centres
from fassst_ros.networks.fassst_iam import PRIOR, Dense

STRIDES = (8, 16, 32)


def _separable(channels: int) -> nn.Sequential:
    return nn.Sequential(ConvAct(channels, channels, 3, groups=channels), ConvAct(channels, channels, 1))


def joint_logit(a: Tensor, b: Tensor) -> Tensor:
    """The logit of sigmoid(a) * sigmoid(b), exact where the product underflows.

    It is -log(e^-a + e^-b + e^(-a-b)), in operations that every runtime has.
    """
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return low - torch.log(1 + torch.exp(low - high) + torch.exp(-high.clamp(min=-30)))


class LevelHead(nn.Module):
    """One level's nine convolutions and its three predictions: classes, box, objectness.

    The order of the attributes is the running order of YOLOX's file.
    """

    def __init__(self, cin: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.stem = ConvAct(cin, width, 1)
        self.class_tower = nn.Sequential(_separable(width), _separable(width))
        self.classify = nn.Conv2d(width, classes, 1)
        self.box_tower = nn.Sequential(_separable(width), _separable(width))
        self.locate = nn.Conv2d(width, 4, 1)
        self.object = nn.Conv2d(width, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # no norms: the signal must keep its size by itself
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for conv in (self.classify, self.locate, self.object):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.constant_(conv.bias, 0.0 if conv is self.locate else PRIOR / 2)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, C + 5, h, w): class logits, coded box, objectness logit."""
        x = self.stem(level)
        weight = torch.cat((self.locate.weight, self.object.weight))
        bias = torch.cat((self.locate.bias, self.object.bias))  # type: ignore[arg-type]
        return torch.cat((self.classify(self.class_tower(x)), F.conv2d(self.box_tower(x), weight, bias)), 1)


class LevelSlots(nn.Module):
    """Every position of three levels states classes and box; the n surest peaks are the slots.

    channels: of the levels at strides 8, 16, 32. size: (H, W) of the input. scales: 2 if three levels
    of the image at half size follow; they share the heads. Supervised one-to-many as PeakSlots.
    A class probability is the product of the class's and the objectness's.
    """

    positions: Tensor
    origins: Tensor
    strides: Tensor

    def __init__(
        self, channels: Sequence[int], size: tuple[int, int], slots: int, classes: int, scales: int = 1
    ) -> None:
        super().__init__()
        self.slots, self.size = slots, size
        self.heads = nn.ModuleList(LevelHead(c, classes) for c in channels)
        strides = [s << scale for scale in range(scales) for s in STRIDES]
        self.shapes = [(size[0] // s, size[1] // s) for s in strides]
        centres = [cell_centres(*shape) for shape in self.shapes]
        self.register_buffer("positions", torch.cat(centres), persistent=False)
        steps = [torch.full((r * c, 1), float(s)) for s, (r, c) in zip(strides, self.shapes, strict=True)]
        pixels = torch.tensor([size[1], size[0]], dtype=torch.float32)
        # Boxes are coded as in YOLOX: centre from the cell's corner, in strides; log of the sides.
        self.register_buffer("strides", torch.cat(steps) / pixels, persistent=False)
        self.register_buffer("origins", self.positions - self.strides / 2, persistent=False)

    def state(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Levels (B, c, H/s, W/s) -> (B, P, C + 5), what all positions state, level after level."""
        stated = [self.heads[i % len(STRIDES)](level) for i, level in enumerate(levels)]
        return torch.cat([x.float().permute(0, 2, 3, 1).flatten(1, 2) for x in stated], 1)

    def forward(self, levels: tuple[Tensor, ...]) -> Dense:
        """Class logits and boxes of all positions."""
        stated = self.state(levels)
        logits = joint_logit(stated[..., :-5], stated[..., -1:])
        return Dense(logits, decode(stated, self.origins, self.strides))

    def choose(self, stated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels (B, m) and boxes (B, m, 4) of the m = 3n surest 3x3 maxima of all levels.

        An object may be a maximum of several levels; matrix NMS is to leave n of them. Only what is needed is
        computed of all positions: the best class, and its probability.
        """
        best = stated[..., :-5].amax(-1).sigmoid() * stated[..., -1].sigmoid()
        peaks, start = [], 0
        for rows, columns in self.shapes:
            plane = best[:, start : start + rows * columns].reshape(-1, 1, rows, columns)
            peaks.append((plane * (plane == F.max_pool2d(plane, 3, 1, 1)).to(plane.dtype)).flatten(1))
            start += rows * columns
        scores, order = torch.cat(peaks, 1).topk(min(3 * self.slots, start), dim=1)
        chosen = stated.gather(1, order[..., None].expand(-1, -1, stated.shape[2]))
        boxes = decode(chosen, self.origins[order], self.strides[order])
        return scores, chosen[..., :-5].argmax(-1), boxes


def decode(stated: Tensor, origins: Tensor, strides: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy in [0, 1] of statements (..., C + 5) at positions of these origins and strides."""
    centre = origins + stated[..., -5:-3] * strides
    half = stated[..., -3:-1].clamp(max=5.0).exp() * strides / 2
    return torch.cat((centre - half, centre + half), -1)
