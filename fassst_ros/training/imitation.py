"""Training one network to be like another: the same layers with cheaper activations, taught by the slower.

Layers are compared as in FitNets (Romero et al. 2015, equation 3), answers as in the knowledge distillation
of Hinton et al. 2015, with the teacher's probabilities as targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fassst_ros.export import load_network
from fassst_ros.networks.base import SegmentationNetwork, Target
from fassst_ros.networks.fassst import FASSST
from fassst_ros.networks.fassst_iam import Dense, GridSlots
from fassst_ros.networks.losses import box_loss, normaliser, quality_focal
from fassst_ros.training.distributed import Losses
from fassst_ros.training.options import Teacher
from fassst_ros.types import ConfigError

SURE = 0.05  # boxes of positions that the teacher gives less are not compared


class Imitation(Losses):
    """The network's own losses, and how far its layers and its answers are from the teacher's.

    Raises ConfigError if the two networks do not consist of the same layers.
    """

    def __init__(self, network: SegmentationNetwork, teacher: SegmentationNetwork, options: Teacher) -> None:
        super().__init__(network)
        if not isinstance(network, FASSST) or isinstance(network.iam, GridSlots):
            raise ConfigError("teacher: only fassst with matching task_aligned can be taught")
        same = {k: v.shape for k, v in network.state_dict().items()}
        if not isinstance(teacher, FASSST) or same != {k: v.shape for k, v in teacher.state_dict().items()}:
            raise ConfigError(
                f"teacher: the layers of {options.weights} differ from those of the network in training; "
                "expected the same config and classes but for the activation"
            )
        self.pupil, self.options = network, options
        self.teacher = teacher.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Imitation:
        """As always, but for the teacher, which stays as it is."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, images: Tensor, targets: list[Target], progress: float) -> dict[str, Tensor]:
        with torch.no_grad(), outputs_of(self.teacher) as expected:
            features = self.teacher.features(images)
            self.teacher.dense(features)
            self.teacher.pyramid.layers(features.levels)
        with outputs_of(self.pupil) as got:
            terms = super().forward(images, targets, progress)
        far = [_distance(a, b) for a, b in zip(got["layers"], expected["layers"], strict=True)]
        terms["features"] = self.options.features * torch.stack(far).mean()
        (own,), (given,) = got["answers"], expected["answers"]
        terms["answers"] = self.options.answers * _disagreement(own, given)
        return terms


@contextmanager
def outputs_of(network: FASSST) -> Iterator[dict[str, list[Any]]]:
    """Collects what the parts of the backbone, of the heads and of the pyramid give while it is open."""
    found: dict[str, list[Any]] = {"layers": [], "answers": []}
    parts = [*network.backbone.children(), *network.pyramid.smooth]
    for head in network.iam.modules():
        parts += [m for m in head.children() if isinstance(m, nn.Sequential)]

    def keep(kind: str) -> Any:
        return lambda module, given, output: found[kind].append(output)

    handles = [part.register_forward_hook(keep("layers")) for part in parts]
    handles.append(network.iam.register_forward_hook(keep("answers")))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _distance(own: Tensor, given: Tensor) -> Tensor:
    """Mean squared difference of two (B, C, h, w), relative to the teacher's variance.

    Each channel is compared around its mean: what a channel adds everywhere is the next bias's to undo.
    """
    own, given = (x.float() - x.float().mean((0, 2, 3), keepdim=True) for x in (own, given))
    return (own - given).square().mean() / (given.square().mean() + 1e-6)


def _disagreement(own: Dense, given: Dense) -> Tensor:
    """Of two statements about all positions, per object that the teacher sees.

    Probabilities by quality focal loss; boxes as in the network's own loss, weighted by the teacher's score.
    """
    wanted = given.logits.float().sigmoid()
    best = wanted.max(-1).values
    sure = best > SURE
    weight = best[sure]
    total = normaliser(float(weight.sum()), own.logits.device)
    classes = quality_focal(own.logits.float(), wanted).sum()
    boxes = (box_loss(own.boxes[sure], given.boxes[sure]) * weight).sum()
    return (classes + boxes) / total


def load_teacher(path: Path, size: tuple[int, int], classes: list[str]) -> SegmentationNetwork:
    """The network of a .safetensors for images of this (H, W).

    Raises ModelError if it cannot be read, ConfigError if it knows other classes.
    """
    teacher, card = load_network(path, input_size=list(size))
    if [c.name for c in card.classes] != classes:
        raise ConfigError(f"teacher: {path} knows {[c.name for c in card.classes]}; expected {classes}")
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher
