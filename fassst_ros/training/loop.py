"""The training loop, visible from top to bottom."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fassst_ros import __version__
from fassst_ros.card import MaskInfo, ModelCard
from fassst_ros.export import save_weights
from fassst_ros.labels import CLASS_LISTS
from fassst_ros.networks import build_network
from fassst_ros.networks.base import SegmentationNetwork
from fassst_ros.training.augment import AugmentOptions
from fassst_ros.training.loader import Batch, make_loader
from fassst_ros.training.options import Optimisation, Recipe, Schedule
from fassst_ros.training.pretrained import load_initial, load_published
from fassst_ros.training.sources import open_source
from fassst_ros.types import FassstError

log = logging.getLogger(__name__)


class TrainingError(FassstError):
    """A run that cannot go on; its folder holds what is needed to see why."""


def train(recipe: Recipe, data_root: Path, run: Path, *, workers: int = 1, save_every: int = 250) -> Path:
    """Train as the recipe says; returns the .safetensors with the averaged weights.

    The run folder gets log.jsonl (one line each 20 steps), checkpoint.pt (everything to go on from:
    calling again continues there) and NAME.safetensors with its card.
    Raises TrainingError when a loss stops being finite, after saving the batch that did it.
    """
    run.mkdir(parents=True, exist_ok=True)
    classes = CLASS_LISTS[recipe.classes]
    datasets = [open_source(source, data_root, classes) for source in recipe.data]
    torch.manual_seed(recipe.seed)
    network = _network(recipe, recipe.schedule[0])
    if recipe.backbone_weights:
        load_published(network, data_root / recipe.backbone_weights, [c.name for c in classes])
    if recipe.initial_weights:
        load_initial(network, data_root / recipe.initial_weights)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimiser = _optimiser(network, recipe.optimisation)
    done = _resume(run / "checkpoint.pt", network, average, optimiser)
    weights = run / f"{recipe.name}.safetensors"
    started, first = time.time(), done
    end = 0
    for schedule in recipe.schedule:
        end += schedule.steps
        if done >= end:
            continue
        network, average, optimiser = _at_size(recipe, schedule, network, average, optimiser)
        batch = recipe.optimisation.batch
        loader = make_loader(
            datasets,
            [d.weight for d in recipe.data],
            (schedule.input_height, schedule.input_width),
            batch,
            (end - done) * batch,
            workers=workers,
            seed=recipe.seed,
            options=AugmentOptions(mosaic=schedule.mosaic, scale=(0.7, 2.0)),
            first=done * batch,  # a resumed run goes on with the images that it would have seen
        )
        for images, targets, _ in loader:
            _set_rate(optimiser, recipe, done)
            torch.manual_seed(recipe.seed * 1_000_003 + done)  # the same jitter after a resume
            losses = _step(network, optimiser, images, targets, done / recipe.steps, recipe, run)
            _average(average, network, min(recipe.optimisation.ema, (1 + done) / (10 + done)))
            done += 1
            if done % 20 == 0 or done == recipe.steps:
                _report(
                    run / "log.jsonl",
                    losses,
                    done,
                    recipe,
                    optimiser,
                    (time.time() - started) / (done - first),
                )
            if done % save_every == 0 or done == recipe.steps:
                _save(run / "checkpoint.pt", network, average, optimiser, done)
                save_weights(average, _card(recipe, average, done), weights)
    return weights


def _network(recipe: Recipe, schedule: Schedule) -> SegmentationNetwork:
    config = {**recipe.config, "input_size": [schedule.input_height, schedule.input_width]}
    network = build_network(recipe.network, num_classes=len(CLASS_LISTS[recipe.classes]), **config)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _at_size(
    recipe: Recipe,
    schedule: Schedule,
    network: SegmentationNetwork,
    average: SegmentationNetwork,
    optimiser: Any,
) -> tuple[SegmentationNetwork, SegmentationNetwork, torch.optim.Optimizer]:
    """The same weights and optimiser state in networks for this phase's input size."""
    if network.input_size == (schedule.input_height, schedule.input_width):
        return network.train(), average, optimiser
    resized, averaged = _network(recipe, schedule), _network(recipe, schedule)
    resized.load_state_dict(network.state_dict())
    averaged.load_state_dict(average.state_dict())
    fresh = _optimiser(resized, recipe.optimisation)
    fresh.load_state_dict(optimiser.state_dict())
    return resized.train(), averaged.eval().requires_grad_(False), fresh


def _optimiser(network: SegmentationNetwork, options: Optimisation) -> torch.optim.Optimizer:
    groups = network.parameter_groups(options.lr, options.weight_decay, options.backbone_scale)
    for group in groups:
        group["peak"] = group["lr"]
    if options.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    return torch.optim.AdamW(groups, foreach=True)


def _set_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    """Linear warm-up, then cosine to a hundredth of the peak."""
    warmup = recipe.optimisation.warmup
    part = max(0.0, step - warmup) / max(1, recipe.steps - warmup)
    factor = min(1.0, (step + 1) / max(1, warmup)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def _step(
    network: SegmentationNetwork,
    optimiser: torch.optim.Optimizer,
    images: torch.Tensor,
    targets: Any,
    progress: float,
    recipe: Recipe,
    run: Path,
) -> dict[str, float]:
    with torch.autocast(images.device.type, torch.bfloat16):
        terms = network.loss(images, targets, progress)
    total = torch.stack(list(terms.values())).sum()
    losses = {name: float(value.detach()) for name, value in terms.items()}
    if not math.isfinite(float(total.detach())):
        torch.save(Batch(images, targets)._asdict(), run / "bad_batch.pt")
        raise TrainingError(
            f"loss is not finite: {losses}. The batch is in {run / 'bad_batch.pt'}; try a lower lr"
        )
    optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), recipe.optimisation.clip)
    optimiser.step()
    return losses


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of weights; running statistics are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)


def _report(
    path: Path, losses: dict[str, float], done: int, recipe: Recipe, optimiser: Any, seconds: float
) -> None:
    line = {
        "step": done,
        "loss": round(sum(losses.values()), 4),
        **{k: round(v, 4) for k, v in losses.items()},
        "lr": optimiser.param_groups[0]["lr"],
        "seconds_a_step": round(seconds, 3),
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    left = seconds * (recipe.steps - done) / 60
    terms = " ".join(f"{k} {v:.3f}" for k, v in losses.items())
    log.info(
        "step %d/%d  loss %.3f (%s)  %.2f s a step, %.0f min left",
        done,
        recipe.steps,
        line["loss"],
        terms,
        seconds,
        left,
    )


def _save(path: Path, network: nn.Module, average: nn.Module, optimiser: Any, done: int) -> None:
    state = {
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "done": done,
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)  # a kill while writing leaves the former one


def _resume(path: Path, network: nn.Module, average: nn.Module, optimiser: Any) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    log.info("going on from step %d of %s", state["done"], path)
    return int(state["done"])


def _card(recipe: Recipe, network: SegmentationNetwork, done: int) -> ModelCard:
    classes = CLASS_LISTS[recipe.classes]
    height, width = network.input_size
    return ModelCard(
        name=recipe.name,
        network=recipe.network,
        version=__version__,
        input_height=height,
        input_width=width,
        classes=classes,
        masks=MaskInfo(network.mask_kind, *network.mask_size, padding=network.mask_padding),
        slots=network.slots,
        licence=recipe.licence,
        config={**recipe.config, "num_classes": len(classes), "input_size": [height, width]},
        training={"data": [d.name for d in recipe.data], "steps": done, "of": recipe.steps},
    )
