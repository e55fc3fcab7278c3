"""Backbones: an image in, the raw features E and three pyramid levels out.

Convolutions carry a bias and no norm: BatchNorm is folded into the pre-trained weights, in their
files or when they are read. It is the "frozen BatchNorm" customary when a detector is fine-tuned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fassst_ros.networks.base import Backbone, Features
from fassst_ros.networks.resnet import ResNet50Fpn


class ConvAct(nn.Sequential):
    """Convolution with bias, then an activation."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, kernel, stride, (kernel - 1) // 2, groups=groups), act(inplace=True)
        )


class InvertedResidual(nn.Module):
    """MobileNetV2 block: 1x1 expand, 3x3 depthwise, linear 1x1 (Sandler et al. 2018, fig. 4d).

    Stride-2 layers pad right and bottom only, as the TensorFlow-trained weights expect.
    """

    def __init__(self, cin: int, cout: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = cin * expand
        self.expand = nn.Conv2d(cin, hidden, 1) if expand != 1 else None
        self.stride = stride
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1 if stride == 1 else 0, groups=hidden)
        self.project = nn.Conv2d(hidden, cout, 1)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = F.relu6(self.depthwise(F.pad(y, (0, 1, 0, 1)) if self.stride == 2 else y))
        y = self.project(y)
        out: Tensor = x + y if self.residual else y
        return out


class MobileNetV2(Backbone):
    """MobileNetV2 1.0 (the paper's MobileNet-54-V2). head_depth 4, 5, 6: E at the end of stage 3, 4, 5.

    E: 32 channels at stride 8, 64 at 16, 96 at 16. Levels: 32, 96, 320 channels.
    """

    # expansion, channels, blocks, stride of each bottleneck stage (Sandler et al. 2018, table 2)
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    channels = (32, 96, 320)

    def __init__(self, head_depth: int = 5) -> None:
        super().__init__()
        if head_depth not in (4, 5, 6):
            raise ValueError(f"head_depth is {head_depth}; expected 4, 5 or 6")
        self.head_depth = head_depth
        self.raw_channels, self.raw_stride = {4: (32, 8), 5: (64, 16), 6: (96, 16)}[head_depth]
        self.stem = nn.Conv2d(3, 32, 3, 2)
        self.stages = nn.ModuleList()
        cin = 32
        for expand, cout, blocks, stride in self.STAGES:
            layers = [
                InvertedResidual(cin if i == 0 else cout, cout, stride if i == 0 else 1, expand)
                for i in range(blocks)
            ]
            self.stages.append(nn.Sequential(*layers))
            cin = cout

    def forward(self, images: Tensor) -> Features:
        x = F.relu6(self.stem(F.pad(images / 127.5 - 1.0, (0, 1, 0, 1))))
        ends = []
        for stage in self.stages:
            x = stage(x)
            ends.append(x)
        return Features(ends[self.head_depth - 2], (ends[2], ends[4], ends[6]))


class CspLayer(nn.Module):
    """Cross-stage-partial layer of YOLOX-nano: depthwise bottlenecks on half of the channels."""

    def __init__(self, cin: int, cout: int, blocks: int, shortcut: bool) -> None:
        super().__init__()
        half = cout // 2
        self.main = ConvAct(cin, half, 1)
        self.side = ConvAct(cin, half, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(ConvAct(half, half, 1), ConvAct(half, half, 3, groups=half), ConvAct(half, half, 1))
            for _ in range(blocks)
        )
        self.merge = ConvAct(cout, cout, 1)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y, side = self.main(x), self.side(x)
        for block in self.blocks:
            y = y + block(y) if self.shortcut else block(y)
        merged: Tensor = self.merge(torch.cat((y, side), 1))
        return merged


def downsample(cin: int, cout: int) -> nn.Sequential:
    """3x3 depthwise at stride 2, then 1x1."""
    return nn.Sequential(ConvAct(cin, cin, 3, 2, groups=cin), ConvAct(cin, cout, 1))


class CspDarknetNano(Backbone):
    """Body and path-aggregation neck of YOLOX-nano (Ge et al. 2021), COCO weights available.

    E is the neck's three outputs brought to stride 16 and concatenated (448 channels): the neck is
    where its pre-training reads objects of all sizes. So there is no head_depth but 5.
    """

    raw_channels, raw_stride = 448, 16
    channels = (64, 128, 256)

    def __init__(self, head_depth: int = 5) -> None:
        super().__init__()
        if head_depth != 5:
            raise ValueError(f"head_depth is {head_depth}; cspdarknet_nano has E at depth 5 only")
        # YOLOX's space-to-depth followed by 3x3 is a 6x6 convolution of stride 2.
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 6, 2, 2), nn.SiLU(inplace=True))
        self.dark2 = nn.Sequential(downsample(16, 32), CspLayer(32, 32, 1, True))
        self.dark3 = nn.Sequential(downsample(32, 64), CspLayer(64, 64, 3, True))
        self.dark4 = nn.Sequential(downsample(64, 128), CspLayer(128, 128, 3, True))
        self.down5 = downsample(128, 256)
        self.spp_in, self.spp_out = ConvAct(256, 128, 1), ConvAct(512, 256, 1)
        self.dark5 = CspLayer(256, 256, 1, False)
        self.lateral5, self.top4 = ConvAct(256, 128, 1), CspLayer(256, 128, 1, False)
        self.lateral4, self.top3 = ConvAct(128, 64, 1), CspLayer(128, 64, 1, False)
        self.down3, self.bottom4 = downsample(64, 64), CspLayer(128, 128, 1, False)
        self.down4, self.bottom5 = downsample(128, 128), CspLayer(256, 256, 1, False)

    def forward(self, images: Tensor) -> Features:
        c3 = self.dark3(self.dark2(self.stem(images)))
        c4 = self.dark4(c3)
        x = self.spp_in(self.down5(c4))
        pools = [x]
        for _ in range(3):  # windows of 5, 9 and 13: each is the one before it, 4 wider
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        c5 = self.dark5(self.spp_out(torch.cat(pools, 1)))
        f5 = self.lateral5(c5)
        f4 = self.lateral4(self.top4(torch.cat((F.interpolate(f5, scale_factor=2.0), c4), 1)))
        p3 = self.top3(torch.cat((F.interpolate(f4, scale_factor=2.0), c3), 1))
        p4 = self.bottom4(torch.cat((self.down3(p3), f4), 1))
        p5 = self.bottom5(torch.cat((self.down4(p4), f5), 1))
        raw = torch.cat((F.max_pool2d(p3, 2), p4, F.interpolate(p5, scale_factor=2.0)), 1)
        return Features(raw, (p3, p4, p5))


BACKBONES: dict[str, Callable[[int], Backbone]] = {
    "mobilenet_v2": MobileNetV2,
    "cspdarknet_nano": CspDarknetNano,
    "resnet50_fpn": ResNet50Fpn,
}


def load_convolutions(backbone: Backbone, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Fill a backbone from (weight, bias) pairs in running order.

    YOLOX's stem arrives as BGR on space-to-depth input and is rewritten. Raises ValueError if the
    pairs do not fit.
    """
    targets = backbone.convolutions()
    if len(pairs) < len(targets):
        raise ValueError(f"{len(pairs)} convolutions came; {type(backbone).__name__} has {len(targets)}")
    for (name, conv), (weight, bias) in zip(targets.items(), pairs, strict=False):
        if name == "stem.0" and isinstance(backbone, CspDarknetNano):
            weight = _unfold_focus(weight)
        if weight.shape != conv.weight.shape:
            raise ValueError(f"{name}: {tuple(weight.shape)} came, {tuple(conv.weight.shape)} expected")
        with torch.no_grad():
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)  # type: ignore[union-attr]


def _unfold_focus(weight: Tensor) -> Tensor:
    """(16, 12, 3, 3) on space-to-depth BGR -> (16, 3, 6, 6) on RGB."""
    # groups of the 12 channels: (row, column) offsets (0,0) (1,0) (0,1) (1,1), each B, G, R
    w = weight.reshape(-1, 2, 2, 3, 3, 3)  # out, column offset, row offset, BGR, ky, kx
    w = w.permute(0, 3, 4, 2, 5, 1).flip(1)  # out, RGB, ky, row offset, kx, column offset
    return w.reshape(-1, 3, 6, 6)
