"""FASSST beside other networks in one run: the same image, runtime, precision and threads, taking turns."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fassst_ros.bench.exports import export_untrained, resized
from fassst_ros.bench.graph_cost import graph_cost
from fassst_ros.bench.measure import take_turns
from fassst_ros.bench.network import int8_model
from fassst_ros.bench.report import Cell, Suite, Table
from fassst_ros.bench.scenes import OBJECTS, made_up_objects
from fassst_ros.card import ModelCard, load_card
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.postprocess import postprocess
from fassst_ros.preprocess import input_buffer, prepare
from fassst_ros.runtimes import Runtime, create_runtime
from fassst_ros.runtimes.base import INPUT_NAME
from fassst_ros.runtimes.model_file import is_quantised
from fassst_ros.types import FassstError, Frame, UInt8Array
from fassst_ros.yolox import YoloxDetector

#: Name -> arguments of our SparseInst: one as small as FASSST on the same body, and the published one.
SPARSEINST = {
    "SparseInst, same body": {"backbone": "cspdarknet_nano", "hidden": 64, "kernel": 64},
    "SparseInst, as published (ResNet-50)": {},
}
_SECONDS = 5.0  # of one network; a slow one then sits out rounds
_KEEP_ALL = SegmentOptions(score_threshold=0.0)
_WORDS = (
    "`complete`: image in memory to instances: resize, network, and post-processing. Every network with "
    f"masks is given the same {OBJECTS} made-up objects to post-process, in its own form of masks, as the "
    "weights of SparseInst are random (its cost does not depend on them). SparseInst is our own, from this "
    "repository. YOLOX-nano finds boxes only: a lower bound of what a network costs, not a peer.",
    "Ratios: median over the rounds of its time to that of the first line in the same round; in brackets "
    "the 10th and 90th percentile. All take turns, round after round, and who begins changes.",
)


@dataclass(slots=True)
class Contender:
    """One line of a table. step: one frame -> milliseconds of (network alone, all)."""

    name: str
    step: Callable[[], tuple[float, float]]
    network_ms: list[float] = field(default_factory=list)
    complete_ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        """One frame."""
        network, complete = self.step()
        self.network_ms.append(network)
        self.complete_ms.append(complete)


def peers_suite(
    model: Path,
    image: UInt8Array,
    settings: Sequence[RuntimeOptions],
    repeats: int,
    note: Callable[[str], None],
    say: Callable[[str], None],
    yolox: Path | None = None,
) -> Suite:
    """One table for each of `settings`; note: is told which network is missing, and why.

    yolox: raw YOLOX detector (.onnx), measured at its own input size and at that of the model.
    """
    tables, summary = [], []
    with tempfile.TemporaryDirectory(prefix="fassst_bench_") as name:
        models = _models(model, Path(name), note, say)
        detectors = _detectors(model, yolox, Path(name), note)
        facts = _facts({**models, **detectors})
        for options in settings:
            with contextlib.ExitStack() as stack:
                contenders, title = _open(models, detectors, image, options, stack, note)
                if not contenders:
                    continue
                for contender in contenders:
                    for _ in range(3):
                        contender.step()
                take_turns([c.run for c in contenders], repeats, _SECONDS)
            tables.append(_table(contenders, title))
            summary += _summary(contenders, title)
    if tables:
        tables.insert(0, facts)
    return Suite("Peers, side by side in one run", tuple(tables), (), tuple(summary), _WORDS)


def _models(
    model: Path, folder: Path, note: Callable[[str], None], say: Callable[[str], None]
) -> dict[str, Path]:
    """Name -> model file with its card; the first is what the others are compared with."""
    card = load_card(model)
    found = {card.name: model}
    quantised = int8_model(model)
    if quantised is not None and quantised != model:
        found[load_card(quantised).name] = quantised
    for number, (name, config) in enumerate(SPARSEINST.items()):
        say(f"exporting {name}")
        try:
            found[name] = export_untrained("sparseinst", card, folder, f"sparseinst_{number}", **config)
        except FassstError as err:
            note(f"{name}: not measured: {err}")
    return found


def _detectors(model: Path, yolox: Path | None, folder: Path, note: Callable[[str], None]) -> dict[str, Path]:
    """Name -> YOLOX at its own size and at the model's."""
    if yolox is None:
        note("YOLOX-nano: not measured: its file was not given (--yolox; it is not part of this package)")
        return {}
    card = load_card(model)
    found = {f"{yolox.stem}, boxes only": yolox}
    side = max(card.input_height, card.input_width)
    try:
        found[f"{yolox.stem} at {side}, boxes only"] = resized(yolox, side, folder)
    except FassstError as err:
        note(f"{yolox.stem} at {side}: not measured: {err}")
    return found


def _open(
    models: dict[str, Path],
    detectors: dict[str, Path],
    image: UInt8Array,
    options: RuntimeOptions,
    stack: contextlib.ExitStack,
    note: Callable[[str], None],
) -> tuple[list[Contender], str]:
    """All that work in this runtime and precision, and the title of their table."""
    found: list[Contender] = []
    title = ""
    for name, file in models.items():
        precision = "int8" if is_quantised(file.read_bytes()) else options.precision
        chosen = dataclasses.replace(options, precision=precision)
        try:
            runtime = stack.enter_context(create_runtime(file, chosen, lambda _: None))
            found.append(_segmenting(name, runtime, load_card(file), image))
        except FassstError as err:
            note(f"{name} in {options.runtime} {options.precision}: not measured: {err}")
            if not title:
                return [], ""  # without the first there is nothing to compare with
            continue
        if not title:
            title = f"{runtime.name} {runtime.precision}, {runtime.device}"
            options = dataclasses.replace(options, runtime=runtime.name)
    for name, file in detectors.items():
        try:
            detector = YoloxDetector(file, options.threads, options.runtime, options.precision)
        except FassstError as err:
            note(f"{name} in {options.runtime}: not measured: {err}")
            continue
        stack.enter_context(detector)
        found.append(_detecting(name, detector, image))
    return found, title


def _segmenting(name: str, runtime: Runtime, card: ModelCard, image: UInt8Array) -> Contender:
    frame, buffer = Frame(image, "bgr"), input_buffer(card.input_height, card.input_width)
    objects = made_up_objects(OBJECTS, card)

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        geometry = prepare(frame, card.input_height, card.input_width, buffer)
        prepared = time.perf_counter()
        runtime.infer({INPUT_NAME: buffer})
        inferred = time.perf_counter()
        postprocess(objects, geometry, card, _KEEP_ALL)
        return (inferred - prepared) * 1e3, (time.perf_counter() - start) * 1e3

    return Contender(name, step)


def _detecting(name: str, detector: YoloxDetector, image: UInt8Array) -> Contender:
    rgb = np.ascontiguousarray(image[..., ::-1])

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        detector.detect(rgb)
        return detector.infer_ms, (time.perf_counter() - start) * 1e3

    return Contender(name, step)


def _facts(files: Mapping[str, Path]) -> Table:
    """What does not depend on the machine."""
    rows: list[tuple[Cell, ...]] = []
    for name, file in files.items():
        cost = graph_cost(file)
        rows.append((name, cost.macs / 1e9, cost.parameters / 1e6, cost.operations))
    return Table("The graphs", ("network", "G multiply-adds", "M parameters", "operations"), tuple(rows))


def _table(contenders: Sequence[Contender], title: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for c in contenders:
        alone, complete = float(np.median(c.network_ms)), float(np.median(c.complete_ms))
        ratios = (_spread(_ratios(c, contenders[0], key)) for key in ("network_ms", "complete_ms"))
        rows.append((c.name, alone, complete, *ratios))
    columns = ("network", "alone", "complete", "ratio alone", "ratio complete")
    return Table(f"{title} [ms, p50]", columns, tuple(rows))


def _ratios(contender: Contender, first: Contender, key: str) -> list[float]:
    """Its time to that of the first in each round that both took part in: those of the one with fewer."""
    own, other = getattr(contender, key), getattr(first, key)
    return [a / b for a, b in zip(own, other, strict=False)]


def _spread(ratios: Sequence[float]) -> str:
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _summary(contenders: Sequence[Contender], title: str) -> list[tuple[str, str]]:
    """How each compares with the first, in the words of the top table."""
    used = title.partition(",")[0]
    first = contenders[0]
    rows = []
    for c in contenders[1:]:
        alone, complete = (float(np.median(_ratios(c, first, key))) for key in ("network_ms", "complete_ms"))
        what = f"time of {c.name} to that of {first.name} ({used})"
        rows.append((what, f"{alone:.2f} alone, {complete:.2f} complete"))
    return rows
