"""Weights learned with SiLU -> weights to start from with ReLU, without training.

Channel by channel, a * relu(x + d) + c is fitted to SiLU on real images; a and d go into the convolution,
and what c and all else did to the means of later layers is undone in their biases (bias correction:
Nagel et al. 2019, section 4.2). Without it, channels that live on SiLU's negative side are zero for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fassst_ros.networks.fassst import FASSST

SHIFTS = tuple(i / 4 for i in range(13))  # d; SiLU is nearly a line beyond 3
POSITIONS = 2048  # of each map that are looked at


@torch.no_grad()
def reactivate(network: FASSST, teacher: FASSST, images: Tensor) -> None:
    """Change the weights of `network`, which has ReLU and holds those of `teacher`, in place.

    images (B, H, W, 3) uint8 of the input size, of the kind that the teacher was trained on; four are
    enough. Runs the network once for each of its convolutions.
    """
    convolutions = {
        name: _followed_by_silu(teacher, name)
        for name, module in teacher.named_modules()
        if isinstance(module, nn.Conv2d) and not name.startswith("pyramid.")
    }
    wanted = {}
    for name, x in _outputs(teacher, list(convolutions), images).items():
        gain, shift = _fit(x) if convolutions[name] else (x.new_ones(len(x)), x.new_zeros(len(x)))
        wanted[name] = gain * (x.mean(1) + shift), gain * x.std(1)
    for name, (mean, deviation) in wanted.items():  # in the order in which they run
        conv: Any = network.get_submodule(name)
        x = _outputs(network, [name], images)[name]
        factor = (deviation / x.std(1).clamp(min=1e-6)).clamp(0.25, 4.0)
        conv.weight *= factor[:, None, None, None]
        conv.bias.mul_(factor).add_(mean - factor * x.mean(1))


def _followed_by_silu(network: nn.Module, name: str) -> bool:
    parent, _, last = name.rpartition(".")
    siblings = network.get_submodule(parent)
    return (
        isinstance(siblings, nn.Sequential)
        and last == "0"
        and len(siblings) > 1
        and isinstance(siblings[1], nn.SiLU)
    )


def _fit(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (C, N) -> a, d (C,) of the a * relu(x + d) + c nearest to SiLU(x) in each channel."""
    y = F.silu(x)
    y = y - y.mean(1, keepdim=True)
    least = torch.full_like(x[:, 0], torch.inf)
    gain, shift = torch.ones_like(least), torch.zeros_like(least)
    for d in SHIFTS:
        r = F.relu(x + d)
        r = r - r.mean(1, keepdim=True)
        a = ((r * y).mean(1) / r.square().mean(1).clamp(min=1e-9)).clamp(0.05, 1.5)
        error = (y - a[:, None] * r).square().mean(1)
        gain, shift = torch.where(error < least, a, gain), torch.where(error < least, d, shift)
        least = torch.minimum(error, least)
    return gain, shift


def _outputs(network: FASSST, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """What the named convolutions give at some positions of all images and scales: name -> (C, N).

    In the order in which they first run.
    """
    found: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, output: Tensor) -> None:
            flat = output.transpose(0, 1).flatten(1)
            step = max(1, flat.shape[1] // (POSITIONS * len(images)))
            found.setdefault(name, []).append(flat[:, ::step].clone())

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        network.dense(network.features(images))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(values, 1) for name, values in found.items()}
