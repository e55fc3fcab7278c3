"""The training loop, visible from top to bottom."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from fassst_ros.evaluation.dataset import EvaluationSet
from fassst_ros.export import save_weights
from fassst_ros.labels import CLASS_LISTS
from fassst_ros.networks.base import Target
from fassst_ros.training.datasets import SampleSet
from fassst_ros.training.distributed import Group, open_group
from fassst_ros.training.loader import Batch, make_loader
from fassst_ros.training.options import Recipe, Schedule
from fassst_ros.training.progress import Reporter, Speed
from fassst_ros.training.run_folder import CHECKPOINT, check_recipe, make_folder, open_folder
from fassst_ros.training.sources import check_source, open_sources
from fassst_ros.training.state import TrainingError, TrainingState
from fassst_ros.training.stopping import Stopped, StopSignals
from fassst_ros.training.validation import evaluate, open_validation, picture


def train(
    recipe: Recipe,
    data_root: Path,
    run: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    save_every: int = 250,
    log_every: int = 20,
    pictures_every: int = 500,
    changed: bool = False,
    console: Console | None = None,
) -> Path:
    """Train as the recipe says; returns the .safetensors with the averaged weights.

    Calling again continues from the run folder's checkpoint, with the images and losses of a run that
    was never interrupted. Under torchrun each process calls this and takes its share of every batch.

    device: auto, cpu or cuda. workers: processes that make images, for each process that trains.
    save_every, log_every, pictures_every: steps; pictures_every 0: none. changed: continue although the
    recipe is another one now. console: where a progress bar may be drawn.
    Raises TrainingError when a loss or gradient is not finite, after saving the batch that did it; Stopped
    after Ctrl-C or SIGTERM, when all is saved; ConfigError, InputError or ModelError before the first
    step if recipe, data, weights or run folder cannot be used.
    """
    make_folder(run)
    with StopSignals() as stop, open_group(device) as group:
        classes = CLASS_LISTS[recipe.classes]
        # What is quick to check comes before the data, whose reading may take minutes.
        for source in recipe.data:
            check_source(source, data_root)
        state = TrainingState.start(recipe, data_root, group)
        validation = open_validation(recipe.val, data_root, classes) if recipe.val else None
        datasets = open_sources(recipe.data, data_root, classes)
        state.recipe = recipe = recipe.in_steps(sum(map(len, datasets)))
        check_recipe(run, recipe, changed)
        state.resume(run / CHECKPOINT)
        group.wait()  # all have read what the first one goes on to write
        if state.done == 0 and recipe.teacher:
            state.reactivate(_first_images(state, datasets), data_root)
        if group.first:
            open_folder(run, recipe, group, state.done)
        weights = run / f"{recipe.name}.safetensors"
        speed, asked = Speed(recipe.optimisation.batch, workers * group.size), 0
        with Reporter(run, recipe.steps, state.done, console, active=group.first) as reporter:
            for losses_of, batch, waited in _batches(state, datasets, data_root, workers, stop):
                start = time.perf_counter()
                losses = _step(state, losses_of, batch, run)
                asked = group.highest(stop.asked)
                speed.add(waited, time.perf_counter() - start, batch.seconds * group.size)
                reporter.step(state.done)
                last = state.done == recipe.steps
                if state.done % log_every == 0 or last:
                    reporter.numbers(state.done, losses, state.rate, speed.read())
                if asked and not last:
                    break
                if pictures_every and group.first and (state.done % pictures_every == 0 or last):
                    reporter.picture(
                        state.done, picture(state.average, state.card(), batch.images, batch.targets)
                    )
                if validation and recipe.val and (state.done % recipe.val.every == 0 or last):
                    _validate(state, validation, reporter, run)
                if state.done % save_every == 0 or last:
                    _save(state, run, weights)
        if state.done < recipe.steps:
            _save(state, run, weights)
            raise _stopped(state, run, asked or stop.asked)
        group.wait()  # what the first one writes is there when any returns
    return weights


def _batches(
    state: TrainingState, datasets: Sequence[SampleSet], data_root: Path, workers: int, stop: StopSignals
) -> Iterator[tuple[nn.Module, Batch, float]]:
    """What each step that is left works on, phase by phase: the losses to call, a batch for them, and the
    seconds that it was waited for."""
    end = 0
    for phase in state.recipe.schedule:
        end += phase.steps
        if state.done >= end:
            continue
        state.enter(phase)
        losses_of = state.group.wrap(state.losses(data_root))
        batches = _loader(state, phase, datasets, end - state.done, workers)
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches, None)
            except RuntimeError:
                if stop.asked:  # the signal went to the loader's processes, too; all steps taken are whole
                    return
                raise
            if batch is None:
                break
            yield losses_of, _on_device(batch, state.group.device), time.perf_counter() - start


def _loader(
    state: TrainingState, phase: Schedule, datasets: Sequence[SampleSet], steps: int, workers: int
) -> Iterator[Batch]:
    recipe, batch = state.recipe, state.recipe.optimisation.batch
    loader = make_loader(
        datasets,
        [d.weight for d in recipe.data],
        (phase.input_height, phase.input_width),
        batch,
        steps * batch,
        workers=workers,
        seed=recipe.seed,
        options=phase.augment,
        pin_memory=state.group.device.type == "cuda",
        first=state.done * batch,  # a resumed run goes on with the images that it would have seen
        share=(state.group.rank, state.group.size),
    )
    return iter(loader)


def _first_images(state: TrainingState, datasets: Sequence[SampleSet]) -> torch.Tensor:
    """A batch as in the first phase, the same in every process."""
    recipe, phase = state.recipe, state.recipe.schedule[0]
    size, weights = (phase.input_height, phase.input_width), [d.weight for d in recipe.data]
    count = recipe.optimisation.batch
    loader = make_loader(
        datasets, weights, size, count, count, workers=0, seed=recipe.seed, options=phase.augment
    )
    batch: Batch = next(iter(loader))
    return batch.images.to(state.group.device)


def _on_device(batch: Batch, device: torch.device) -> Batch:
    targets: list[Target] = [
        {name: value.to(device, non_blocking=True) for name, value in target.items()}  # type: ignore[misc,attr-defined]
        for target in batch.targets
    ]
    return Batch(batch.images.to(device, non_blocking=True), targets, batch.seconds)


def _step(state: TrainingState, losses_of: nn.Module, batch: Batch, run: Path) -> dict[str, float]:
    """One step of the optimiser; returns the losses of the whole batch."""
    options, group = state.recipe.optimisation, state.group
    state.set_rate()
    torch.manual_seed(state.recipe.seed * 1_000_003 + state.done)  # the same jitter after a resume
    with torch.autocast(group.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        terms = losses_of(batch.images, batch.targets, state.done / state.recipe.steps)
    total = torch.stack(list(terms.values())).sum()
    values = group.mean(torch.stack([value.detach().float() for value in terms.values()])).tolist()
    losses = dict(zip(terms, values, strict=True))
    if not math.isfinite(sum(values)):
        raise _not_finite("loss", losses, batch, run, group)
    state.optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), options.clip or math.inf)
    if not math.isfinite(norm):  # one step with it and all weights are lost
        raise _not_finite("gradient", losses, batch, run, group)
    state.optimiser.step()
    state.update_average()
    state.done += 1
    return losses


def _not_finite(what: str, losses: dict[str, float], batch: Batch, run: Path, group: Group) -> TrainingError:
    path = run / (f"bad_batch_{group.rank}.pt" if group.size > 1 else "bad_batch.pt")
    torch.save(batch._asdict(), path)
    return TrainingError(f"{what} is not finite: losses {losses}. The batch is in {path}; try a lower lr")


def _validate(state: TrainingState, images: EvaluationSet, reporter: Reporter, run: Path) -> None:
    """Measure the averaged weights, and keep them if they are the best so far."""
    scores = evaluate(state.average, state.card(), images, state.group)
    if scores is None:
        return
    reporter.metrics(state.done, scores._asdict())
    if scores.mask_AP > state.best:
        state.best = scores.mask_AP
        mask = {"AP": scores.mask_AP, "AP50": scores.mask_AP50}
        card = state.card({"annotations": images.name, "images": len(images.entries), "mask": mask})
        name = f"{card.name}_best"
        save_weights(state.average, replace(card, name=name), run / f"{name}.safetensors")


def _save(state: TrainingState, run: Path, weights: Path) -> None:
    if state.group.first:
        save_weights(state.average, state.card(), weights)  # first: it refuses weights that are of no use
        state.save(run / CHECKPOINT)


def _stopped(state: TrainingState, run: Path, number: int) -> Stopped:
    return Stopped(
        f"stopped by {signal.Signals(number).name} after step {state.done} of {state.recipe.steps}; all "
        f"is in {run / CHECKPOINT}. The same command goes on from there",
        number,
    )
