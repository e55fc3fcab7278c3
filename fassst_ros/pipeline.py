"""Segmenter: Frame -> Instances, with the time of each stage. Knows no ROS and no concrete runtime.

Node, replay, `fassst predict` and the accuracy evaluation all go through it, so what is
evaluated is what is deployed.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ModelCard, load_card
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.models import resolve_model
from fassst_ros.postprocess import DEFAULT_OPTIONS, Wanted, postprocess, score_threshold
from fassst_ros.preprocess import Geometry, prepare
from fassst_ros.runtimes import create_runtime
from fassst_ros.runtimes.base import INPUT_NAME, Runtime
from fassst_ros.runtimes.specs import check_specs
from fassst_ros.runtimes.turns import Turns
from fassst_ros.types import ConfigError, Frame, Instances

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_RUNTIME = RuntimeOptions()
_warn = logging.getLogger(__name__).warning


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What one frame gave.

    stages: milliseconds of "resize", "infer" and "postprocess". score_threshold: instances from this
    score on are to be shown; what lies below was kept because it was asked for.
    """

    instances: Instances
    stages: dict[str, float]
    score_threshold: float = 0.0


def check_options(options: SegmentOptions, card: ModelCard) -> SegmentOptions:
    """`options` if they fit the card. Raises ConfigError for an unknown class or a threshold below 0.

    Thresholds of exactly -1 stand for the values of the card.
    """
    names = [c.name for c in card.classes]
    unknown = [name for name in options.classes if name not in names]
    if unknown:
        raise ConfigError(
            f"classes: model {card.name!r} does not know {', '.join(map(repr, unknown))}; "
            f"it knows: {', '.join(names)}"
        )
    for field in ("score_threshold", "mask_threshold"):
        value = getattr(options, field)
        if value != -1 and not 0 <= value <= 1:
            raise ConfigError(f"{field} = {value}; expected a value in [0, 1], or -1 for the card's value")
    return options


class Segmenter:
    """Runs one model on frames.

    Safe to call from several threads; as many frames at once are segmented as the runtime has lanes.
    """

    def __init__(
        self,
        runtime: Runtime,
        card: ModelCard,
        options: SegmentOptions = DEFAULT_OPTIONS,
        log: Callable[[str], None] = _warn,
    ) -> None:
        """Takes over `runtime` and closes it with itself.

        log: is told, once, when the network gives numbers that are not finite, and when frames are resized
        twice because the model was exported for a camera of another size.
        Raises ModelError if the graph does not fit the card, ConfigError if the options do not.
        """
        check_specs(runtime, card)
        self.runtime = runtime
        self.card = card
        self._options = check_options(options, card)
        self._log = log
        self._told: set[str] = set()
        self._turns = Turns(runtime.lanes)
        self._inputs: deque[dict[str, NDArray[Any]]] = deque()  # lent by the runtime, not in use now

    @classmethod
    def open(
        cls,
        runtime_options: RuntimeOptions = DEFAULT_RUNTIME,
        options: SegmentOptions = DEFAULT_OPTIONS,
        log: Callable[[str], None] = _warn,
    ) -> Segmenter:
        """Find, check and load a model. log: is told which runtimes were passed over, and why.

        Raises ModelError, ConfigError or RuntimeUnavailable; nothing stays open then.
        """
        model = resolve_model(runtime_options.model)
        card = load_card(model)
        check_options(options, card)  # before the engine is built, which may take minutes
        runtime = create_runtime(model, runtime_options, log)
        try:
            return cls(runtime, card, options, log)
        except BaseException:
            runtime.close()
            raise

    @property
    def options(self) -> SegmentOptions:
        """What is kept of the network's answer; replace it at any time, from any thread.

        Setting raises ConfigError if the new options do not fit the card; the old ones stay.
        """
        return self._options

    @options.setter
    def options(self, options: SegmentOptions) -> None:
        self._options = check_options(options, self.card)

    def segment(self, frame: Frame, least_score: float = 1.0, wanted: Wanted | None = None) -> Segmentation:
        """Segment one frame. Raises InputError or ModelError; the next frame may be tried then.

        least_score: keep instances from this score on even where the score threshold is higher; of those, the
        ones that are `wanted` (None: all).
        """
        with self._lent() as inputs:
            options = self._options
            t0 = time.perf_counter()
            geometry = prepare(frame, self.card.input_height, self.card.input_width, inputs[INPUT_NAME])
            t1 = time.perf_counter()
            outputs = self.runtime.infer(inputs)
            t2 = time.perf_counter()
            instances = postprocess(
                outputs, geometry, self.card, options, self._tell_not_finite, least_score, wanted
            )
            t3 = time.perf_counter()
        self._check_size(geometry)
        stages = {"resize": (t1 - t0) * 1e3, "infer": (t2 - t1) * 1e3, "postprocess": (t3 - t2) * 1e3}
        return Segmentation(instances, stages, score_threshold(options, self.card))

    @contextmanager
    def _lent(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Input arrays of the runtime that nobody else writes into; waits for them."""
        with self._turns.one():
            try:
                inputs = self._inputs.pop()
            except IndexError:
                inputs = self.runtime.lend()
            try:
                yield inputs
            finally:
                self._inputs.append(inputs)

    def _check_size(self, geometry: Geometry) -> None:
        if self.card.resize is None or geometry.source == geometry.network:
            return
        came, taken = (f"{height}x{width}" for height, width in (geometry.source, geometry.network))
        self._log_once(
            "size",
            f"frames are {came}, model {self.card.name!r} was exported for {taken}: each is resized twice, "
            f"on the CPU and in the model. Export it with --frame-size {came}, or take the model without a "
            "frame size",
        )

    def _tell_not_finite(self, message: str) -> None:
        self._log_once("not finite", message)

    def _log_once(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._log(message)

    def warm_up(self, runs: int = 2) -> None:
        """Run on a grey image, so that the first real frame is not slower than the others."""
        image = np.full((self.card.input_height, self.card.input_width, 3), 114, np.uint8)
        for _ in range(runs):
            self.segment(Frame(image))

    def close(self) -> None:
        """Free the runtime, after the frames in progress. Closing twice does no harm."""
        with self._turns.all():
            self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
