"""What a run changes: network, averaged network, optimiser and the steps done; kept in one file."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from fassst_ros import __version__
from fassst_ros.card import MaskInfo, ModelCard
from fassst_ros.labels import CLASS_LISTS
from fassst_ros.networks import build_network
from fassst_ros.networks.base import SegmentationNetwork
from fassst_ros.networks.fassst import FASSST
from fassst_ros.training.distributed import Group, Losses
from fassst_ros.training.imitation import Imitation, load_teacher
from fassst_ros.training.options import Optimisation, Recipe, Schedule, Teacher
from fassst_ros.training.pretrained import find_initial, load_initial, load_published
from fassst_ros.training.reactivation import reactivate
from fassst_ros.types import ConfigError, FassstError

log = logging.getLogger(__name__)


class TrainingError(FassstError):
    """A run that cannot go on; its folder holds what is needed to see why."""


@dataclass(slots=True)
class TrainingState:
    """A run between two steps. done: steps; best: highest mask AP so far, -1 before the first."""

    recipe: Recipe
    group: Group
    network: SegmentationNetwork
    average: SegmentationNetwork
    optimiser: torch.optim.Optimizer
    done: int = 0
    best: float = -1.0

    @classmethod
    def start(cls, recipe: Recipe, data_root: Path, group: Group) -> TrainingState:
        """Before the first step, with the published or earlier weights that the recipe names."""
        if recipe.optimisation.precision == "bf16" and group.device.type == "cuda" and not _has_bf16():
            raise ConfigError("this GPU computes no bf16; take --set optimisation.precision=f32")
        for later in recipe.schedule[1:]:  # what the network refuses must not show in the middle of the run
            build(recipe, later)
        torch.manual_seed(recipe.seed)
        phase = recipe.schedule[0]
        network = build(recipe, phase)
        names = [c.name for c in CLASS_LISTS[recipe.classes]]
        if recipe.backbone_weights:
            load_published(network, data_root / recipe.backbone_weights, names)
        if recipe.initial_weights:
            load_initial(network, find_initial(recipe.initial_weights, data_root), names)
        weights = network.state_dict()
        return cls._with(recipe, phase, group, weights, weights)

    @classmethod
    def _with(
        cls,
        recipe: Recipe,
        phase: Schedule,
        group: Group,
        weights: dict[str, Tensor],
        average: dict[str, Tensor],
    ) -> TrainingState:
        """Networks for this phase's input with these weights, on the device, and a fresh optimiser."""
        network, averaged = build(recipe, phase), build(recipe, phase)
        network.load_state_dict(weights)
        averaged.load_state_dict(average)
        averaged.to(group.device).eval().requires_grad_(False)
        network = group.synchronise_norms(network).to(group.device)
        return cls(recipe, group, network, averaged, make_optimiser(network, recipe))

    def enter(self, phase: Schedule) -> None:
        """Go on at this phase's input size, with the same weights and optimiser state."""
        if self.network.input_size != (phase.input_height, phase.input_width):
            weights, average = self.network.state_dict(), self.average.state_dict()
            new = self._with(self.recipe, phase, self.group, weights, average)
            new.optimiser.load_state_dict(self.optimiser.state_dict())
            self.network, self.average, self.optimiser = new.network, new.average, new.optimiser
        self.network.train()
        if self.recipe.optimisation.frozen_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def losses(self, data_root: Path) -> Losses:
        """What a step minimises: the network's own losses, or those with a teacher."""
        options = self.recipe.teacher
        if options is None:
            return Losses(self.network)
        return Imitation(self.network, self._teacher(options, data_root), options)

    def _teacher(self, options: Teacher, data_root: Path) -> SegmentationNetwork:
        path = find_initial(options.weights, data_root, "teacher: weights")
        names = [c.name for c in CLASS_LISTS[self.recipe.classes]]
        return load_teacher(path, self.network.input_size, names).to(self.group.device)

    def reactivate(self, images: Tensor, data_root: Path) -> None:
        """Before the first step: fit weights that the teacher learned with SiLU to a network with ReLU.

        images (B, H, W, 3) uint8 as in training. Nothing happens to networks that do not start as their
        teacher, or have its activation.
        """
        options = self.recipe.teacher
        if options is None or self.recipe.initial_weights != options.weights:
            return
        teacher = self._teacher(options, data_root)
        kinds = [n.activation if isinstance(n, FASSST) else "" for n in (self.network, teacher)]
        if kinds != ["relu", "silu"]:
            return
        log.info("fitting ReLU to the SiLU of %s", options.weights)
        reactivate(self.network.eval(), teacher, images)  # type: ignore[arg-type]
        self.average.load_state_dict(self.network.state_dict())
        self.optimiser = make_optimiser(self.network, self.recipe)

    @property
    def rate(self) -> float:
        """The learning rate of the first group, as of the last step."""
        return float(self.optimiser.param_groups[0]["lr"])

    def set_rate(self) -> None:
        """The learning rates of the next step."""
        factor = rate_factor(self.recipe.optimisation, self.done, self.recipe.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * factor

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential moving average of the weights; running statistics are copied."""
        decay = min(self.recipe.optimisation.ema, (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        for kept, new in zip(self.average.buffers(), self.network.buffers(), strict=True):
            kept.copy_(new)

    def save(self, path: Path) -> None:
        """Write everything to go on from."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
            "best": self.best,
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)  # a kill while writing leaves the former one

    def resume(self, path: Path) -> None:
        """Go on from a file of `save`, if there is one.

        Raises TrainingError if it does not fit, ConfigError if it is beyond the recipe's last step.
        """
        if not path.is_file():
            return
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self._load_optimiser(state["optimiser"], path)
            self.done, self.best = int(state["done"]), float(state.get("best", -1.0))
        except (OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, UnpicklingError) as err:
            reason = " ".join(str(err).split())[:300]
            raise TrainingError(
                f"{path} is damaged or of another network: {reason}. Take another run folder"
            ) from err
        if self.done > self.recipe.steps:
            raise ConfigError(
                f"{path} is of step {self.done}, but the schedule ends after {self.recipe.steps}. Take a "
                "longer schedule or another run folder"
            )
        log.info("going on from step %d of %s", self.done, path)

    def _load_optimiser(self, saved: dict[str, Any], path: Path) -> None:
        """Its moments; what the recipe says of rates and decay stays as it says now."""
        kind = "sgd" if "momentum" in saved["param_groups"][0] else "adamw"
        wanted = self.recipe.optimisation.optimiser
        if kind != wanted:
            raise TrainingError(
                f"{path} holds the state of {kind}, the recipe says {wanted}. Take another run folder, with "
                "the weights of this one as initial_weights"
            )
        names = ("peak", "weight_decay", "momentum")
        own = [{n: group[n] for n in names if n in group} for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(saved)
        for group, settings in zip(self.optimiser.param_groups, own, strict=True):
            group.update(settings)

    def card(self, metrics: dict[str, Any] | None = None) -> ModelCard:
        """The card of the averaged weights as they are now."""
        recipe, network = self.recipe, self.average
        classes = CLASS_LISTS[recipe.classes]
        height, width = network.input_size
        return ModelCard(
            name=recipe.name,
            network=recipe.network,
            version=__version__,
            input_height=height,
            input_width=width,
            classes=classes,
            masks=MaskInfo(
                network.mask_kind, *network.mask_size, network.mask_threshold, network.mask_padding
            ),
            slots=network.slots,
            licence=recipe.licence,
            config={**recipe.config, "num_classes": len(classes), "input_size": [height, width]},
            training={"data": [d.name for d in recipe.data], "steps": self.done, "of": recipe.steps},
            metrics=metrics or {},
        )


def _has_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def build(recipe: Recipe, phase: Schedule) -> SegmentationNetwork:
    """The recipe's network for this phase's input. Raises ConfigError for arguments that it refuses."""
    config = {**recipe.config, "input_size": [phase.input_height, phase.input_width]}
    try:
        network = build_network(recipe.network, num_classes=len(CLASS_LISTS[recipe.classes]), **config)
    except (ValueError, RuntimeError) as err:
        raise ConfigError(f"recipe {recipe.name}: network {recipe.network}: {err}") from err
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def make_optimiser(network: SegmentationNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser with the network's groups; each knows the `peak` of its learning rate.

    What starts from random values learns at the full rate, the backbone, too.
    """
    options = recipe.optimisation
    scale = options.backbone_scale if recipe.backbone_weights or recipe.initial_weights else 1.0
    groups = network.parameter_groups(options.lr, options.weight_decay, scale)
    if options.relative:
        groups = [own for group in groups for own in _relative(group)]
    for group in groups:
        group["peak"] = group["lr"]
    if options.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum)
    return torch.optim.AdamW(groups, foreach=True)


def _relative(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A group for each tensor, with its rate (Adafactor: Shazeer and Stern 2018, section 8).

    Where norms were folded into convolutions, their weights differ in size by a factor of a thousand.
    """
    for tensor in group["params"]:
        size = float(tensor.detach().square().mean().sqrt())
        yield {**group, "params": [tensor], "lr": group["lr"] * max(size, 1e-3)}


def rate_factor(options: Optimisation, step: int, steps: int) -> float:
    """Learning rate relative to its peak: linear warm-up, then cosine to a hundredth, or steps."""
    warm = min(1.0, (step + 1) / max(1, options.warmup))
    if options.decay == "step":
        return warm * options.gamma ** sum(step >= part * steps for part in options.milestones)
    part = max(0.0, step - options.warmup) / max(1, steps - options.warmup)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))
