"""The contracts: of every network, so that one pipeline serves them all, and of backbones."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from torch import Tensor, nn


class RawOutputs(NamedTuple):
    """What a network says about a batch, K slots an image, best score first.

    scores (B, K) float32 in [0, 1]; labels (B, K) int32, indices into the class list;
    boxes (B, K, 4) float32 x_min y_min x_max y_max in network-input pixels;
    masks (B, K, h, w) float32 probabilities, inside the padded box or over the whole input.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor


class Target(TypedDict):
    """Ground truth of one image, in network-input pixels.

    boxes (n, 4) float32 xyxy; labels (n,) int64; masks (n, H/2, W/2) uint8, 255 inside. Where only the
    box of an object is known its mask is empty: it trains class and box, never the mask.
    labelled (C,) bool, classes of which every object is labelled; ignore (m, 4) float32 crowd boxes.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    labelled: Tensor
    ignore: Tensor


class SegmentationNetwork(nn.Module):
    """Base of all networks: one `forward` for evaluation, ONNX and engines, and one `loss`.

    mask_kind, mask_padding, mask_threshold, mask_size, slots: what the model card must say of the outputs.
    input_size: (H, W) of the images in pixels. pretrained: prefixes of the parameters that start from
    published weights and therefore learn at the backbone's rate.
    """

    mask_kind: str
    mask_padding: float
    mask_threshold: float = 0.5
    mask_size: tuple[int, int]
    slots: int
    input_size: tuple[int, int]
    backbone: Backbone
    pretrained: tuple[str, ...] = ("backbone.",)

    def forward(self, images: Tensor) -> RawOutputs:
        """images (B, H, W, 3) uint8 RGB. Normalisation, rescoring and ranking happen inside."""
        raise NotImplementedError

    def loss(self, images: Tensor, targets: list[Target], progress: float) -> dict[str, Tensor]:
        """Named, weighted losses of a batch; their sum is minimised.

        images as in `forward`; progress: part of the training that is done, 0..1, for schedules.
        """
        raise NotImplementedError

    def parameter_groups(
        self, lr: float, weight_decay: float, backbone_scale: float
    ) -> list[dict[str, object]]:
        """Optimiser groups: `pretrained` parts learn at lr * backbone_scale; no decay of biases and norms."""
        new = tuple(f"backbone.{part}" for part in self.backbone.new_parts)
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            pretrained = name.startswith(self.pretrained) and not name.startswith(new)
            groups.setdefault((pretrained, parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": lr * (backbone_scale if pretrained else 1.0),
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (pretrained, decays), parameters in groups.items()
        ]


class Features(NamedTuple):
    """E for the instance attention module, and the levels at strides 8, 16 and 32.

    Where a network looks at the image at half size, too, three levels more: strides 16, 32, 64 of the image.
    """

    raw: Tensor
    levels: tuple[Tensor, ...]


class Backbone(nn.Module):
    """raw_channels, raw_stride describe E; channels the three levels.

    new_parts: prefixes of parameters that no published weights fill; they learn at the full rate.
    The images given to `forward` are (B, 3, H, W) float RGB in 0..255; each backbone normalises
    as its pre-trained weights expect.
    """

    raw_channels: int
    raw_stride: int
    channels: tuple[int, int, int]
    new_parts: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> Features:
        raise NotImplementedError

    def __call__(self, images: Tensor) -> Features:  # narrows nn.Module's Any for callers
        features: Features = super().__call__(images)
        return features

    def convolutions(self) -> dict[str, nn.Conv2d]:
        """The pre-trained convolutions by name, in the order in which they run: that of published files."""
        convolutions = {name: m for name, m in self.named_modules() if isinstance(m, nn.Conv2d)}
        return {name: m for name, m in convolutions.items() if not name.startswith(self.new_parts)}
