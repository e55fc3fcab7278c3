"""ResNet-50 (He et al. 2016) with a feature pyramid (Lin et al. 2017): the paper's larger backbone.

The stride of a stage sits in its first 3x3 convolution ("v1.5"), as torchvision's weights expect;
modules have torchvision's names. BatchNorm is folded in, as in the other backbones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fassst_ros.networks.base import Backbone, Features

# Of ImageNet, as torchvision's weights expect; there for RGB in 0..1, here in 0..255.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Bottleneck(nn.Module):
    """1x1 to `width`, 3x3 with the stride, 1x1 to 4 * width; a 1x1 shortcut where shapes differ."""

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        cout = 4 * width
        self.conv1 = nn.Conv2d(cin, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1)
        self.conv3 = nn.Conv2d(width, cout, 1)
        self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride)) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.conv1(x))
        y = F.relu(self.conv2(y))
        return F.relu(shortcut + self.conv3(y))


def stage(cin: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """The first block has the stride and takes `cin` channels."""
    first = Bottleneck(cin, width, stride)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)))


class Pyramid(nn.Module):
    """P3, P4, P5 of C3, C4, C5: 1x1 to 256, nearest top-down sums, 3x3."""

    def __init__(self, channels: tuple[int, int, int], width: int = 256) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in channels)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m5 = self.lateral[2](c5)
        m4 = self.lateral[1](c4) + F.interpolate(m5, scale_factor=2.0)
        m3 = self.lateral[0](c3) + F.interpolate(m4, scale_factor=2.0)
        return self.smooth[0](m3), self.smooth[1](m4), self.smooth[2](m5)


class ResNet50Fpn(Backbone):
    """ResNet-50 and its pyramid. head_depth 4, 5, 6: E is C3, C4, C5, with the max-pool as stage 2.

    The paper puts E behind the first five stages and does not count them for ResNet: conv1, pool,
    conv2_x to conv4_x make five, and give the stride of MobileNetV2 at each depth.
    E: 512 channels at stride 8, 1024 at 16, 2048 at 32 doubled to 16. Levels: 256 channels.
    """

    channels = (256, 256, 256)
    new_parts = ("pyramid.",)
    mean: Tensor
    deviation: Tensor

    def __init__(self, head_depth: int = 5) -> None:
        super().__init__()
        if head_depth not in (4, 5, 6):
            raise ValueError(f"head_depth is {head_depth}; expected 4, 5 or 6")
        self.head_depth = head_depth
        self.raw_channels, self.raw_stride = {4: (512, 8), 5: (1024, 16), 6: (2048, 16)}[head_depth]
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.layer1 = stage(64, 64, 3, 1)
        self.layer2 = stage(256, 128, 4, 2)
        self.layer3 = stage(512, 256, 6, 2)
        self.layer4 = stage(1024, 512, 3, 2)
        self.pyramid = Pyramid((512, 1024, 2048))

    def forward(self, images: Tensor) -> Features:
        x = F.relu(self.conv1((images - self.mean) / self.deviation))
        c3 = self.layer2(self.layer1(F.max_pool2d(x, 3, 2, 1)))
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        # The IAM reads E at stride 16 at the coarsest.
        raw = F.interpolate(c5, scale_factor=2.0) if self.head_depth == 6 else (c3, c4)[self.head_depth - 4]
        return Features(raw, self.pyramid(c3, c4, c5))
