"""A network that takes whole camera frames: the resize is part of its graph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fassst_ros.networks.base import RawOutputs, SegmentationNetwork


class FrameInput(SegmentationNetwork):
    """`network` behind a bilinear resize from `input_size`, the (H, W) of the frames, to its own input.

    Pixel centres lie at halves and nothing is smoothed, as in cv2.INTER_LINEAR. Against that, which rounds,
    a value differs by less than one of its 256 steps. Boxes come in pixels of the frame.
    For inference only: `network` is trained by itself.
    """

    scale: Tensor

    def __init__(self, network: SegmentationNetwork, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.input_size = network, input_size
        self.slots, self.mask_size = network.slots, network.mask_size
        self.mask_kind, self.mask_padding = network.mask_kind, network.mask_padding
        self.mask_threshold = network.mask_threshold
        (height, width), (own_height, own_width) = input_size, network.input_size
        scale = torch.tensor([width / own_width, height / own_height] * 2)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, images: Tensor) -> RawOutputs:
        """images (B, H, W, 3) uint8 RGB, as large as the frames."""
        x = images.float().permute(0, 3, 1, 2)
        x = F.interpolate(x, size=self.network.input_size, mode="bilinear")
        outputs: RawOutputs = self.network(x.permute(0, 2, 3, 1))
        return outputs._replace(boxes=outputs.boxes * self.scale)
