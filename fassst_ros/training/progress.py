"""What a run tells while it goes on: a bar or plain lines, log.jsonl, TensorBoard."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fassst_ros.training.run_folder import LOG
from fassst_ros.types import UInt8Array

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)


class Speed:
    """Images a second of the step and of the loader, since the last `read`."""

    def __init__(self, batch: int, workers: int) -> None:
        """batch: images a step; workers: processes that make them."""
        self._batch, self._workers = batch, max(1, workers)
        self._reset()

    def _reset(self) -> None:
        self._steps = 0
        self._waited = self._computed = self._loading = 0.0

    def add(self, waited: float, computed: float, loading: float) -> None:
        """One step, in seconds: waiting for its images, computing, and what one worker needs to make them."""
        self._steps += 1
        self._waited += waited
        self._computed += computed
        self._loading += loading

    def read(self) -> dict[str, float]:
        """seconds_a_step; images_a_second; loader_images_a_second: what the loader could deliver;
        waiting: share of the time in which the step had no images, 0..1."""
        elapsed, images = self._waited + self._computed, self._steps * self._batch
        numbers = {
            "seconds_a_step": elapsed / self._steps,
            "images_a_second": images / elapsed,
            "loader_images_a_second": images * self._workers / max(self._loading, 1e-9),
            "waiting": self._waited / elapsed,
        }
        self._reset()
        return {name: round(number, 3) for name, number in numbers.items()}


class Reporter:
    """Writes down the progress of a run; a context manager.

    console: a terminal gets a bar; without one there are plain lines in the log. active: False in all
    processes but the first, which then say nothing.
    TensorBoard is left out, and said to be, where its package is missing.
    """

    def __init__(
        self, run: Path, steps: int, done: int, console: Console | None = None, active: bool = True
    ) -> None:
        self._run, self._steps, self._active = run, steps, active
        self._events = _events(run, done) if active else None
        self._bar: Progress | None = None
        if active and console is not None and console.is_terminal:
            self._bar = Progress(
                BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
                console=console, speed_estimate_period=120,
            )  # fmt: skip
            self._task = self._bar.add_task("starting", total=steps, completed=done)

    def step(self, done: int) -> None:
        """So many steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def numbers(self, done: int, losses: Mapping[str, float], lr: float, speed: Mapping[str, float]) -> None:
        """Losses and speed after a step, for all who look."""
        if not self._active:
            return
        total = sum(losses.values())
        rounded = {name: round(value, 4) for name, value in losses.items()}
        self._write({"step": done, "loss": round(total, 4), **rounded, "lr": lr, **speed})
        self._scalars("loss", {"total": total, **losses}, done)
        self._scalars("train", {"lr": lr, **speed}, done)
        terms = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        rates = (
            f"{speed['images_a_second']:.1f} images/s (loader {speed['loader_images_a_second']:.1f}, "
            f"{100 * speed['waiting']:.0f} % waiting)"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=f"loss {total:.3f}  {rates}")
            return
        left = speed["seconds_a_step"] * (self._steps - done) / 60
        log.info(
            "step %d/%d  loss %.3f (%s)  %s, %.0f min left", done, self._steps, total, terms, rates, left
        )

    def metrics(self, done: int, metrics: Mapping[str, float]) -> None:
        """What an evaluation after step `done` gave."""
        self._write({"step": done, **{name: round(value, 5) for name, value in metrics.items()}})
        self._scalars("val", metrics, done)
        log.info("step %d  %s", done, "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def picture(self, done: int, picture: UInt8Array) -> None:
        """A picture (H, W, 3) uint8 RGB of what the network sees; kept as a file, too."""
        import cv2

        folder = self._run / "pictures"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{done:07d}.jpg"), picture[..., ::-1])
        if self._events is not None:
            self._events.add_image("truth_and_prediction", picture, done, dataformats="HWC")

    def _write(self, line: Mapping[str, Any]) -> None:
        with (self._run / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _scalars(self, group: str, values: Mapping[str, float], done: int) -> None:
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._events is not None:
            self._events.close()


def _events(run: Path, done: int) -> Any:
    """A TensorBoard writer, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("no TensorBoard curves: pip install tensorboard gives them; log.jsonl has the numbers")
        return None
    return SummaryWriter(str(run), purge_step=done + 1 if done else None)
