"""How the network's cost grows with the input size and with the number of slots."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fassst_ros.bench.exports import export_changed
from fassst_ros.bench.graph_cost import graph_cost
from fassst_ros.bench.laws import fit_line
from fassst_ros.bench.measure import Timing, take_turns, timing
from fassst_ros.bench.network import feed_for
from fassst_ros.bench.report import Cell, Plot, Suite, Table
from fassst_ros.card import ModelCard, load_card
from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes import Runtime, create_runtime
from fassst_ros.types import FassstError, UInt8Array

_SECONDS = 4.0  # of one variant; a slow one then sits out rounds
_WARM_UP = 5


@dataclass(frozen=True, slots=True)
class Axis:
    """Along what the network is changed.

    values: in their column; change: a value -> arguments of the network; amount: a value -> what the cost is
    fitted to, `unit` in words; own: the model's own value, None if it has none.
    """

    title: str
    column: str
    unit: str
    values: tuple[int, ...]
    change: Callable[[int], dict[str, Any]]
    amount: Callable[[int], int]
    own: Callable[[ModelCard], int | None]


#: Sides are multiples of 64, as a network of two scales needs.
AXES = (
    Axis(
        "Cost against input size",
        "side of the square input",
        "input pixel",
        (384, 512, 768, 1024),
        lambda side: {"input_size": [side, side]},
        lambda side: side * side,
        lambda card: card.input_height if card.input_height == card.input_width else None,
    ),
    Axis(
        "Cost against slots",
        "slots",
        "slot",
        (25, 49, 100),
        lambda slots: {"grid": math.isqrt(slots)},
        lambda slots: slots,
        lambda card: card.slots,
    ),
)


def growth_suite(
    model: Path,
    image: UInt8Array,
    settings: Sequence[RuntimeOptions],
    repeats: int,
    note: Callable[[str], None],
    say: Callable[[str], None],
) -> Suite:
    """A table and a plot for each axis, in each of `settings`. Needs torch and the weights beside the model.

    note: is told what was not measured, and why.
    """
    tables, plots = [], []
    with tempfile.TemporaryDirectory(prefix="fassst_bench_") as folder:
        for axis in AXES:
            files = _files(axis, model, Path(folder), note, say)
            if len(files) < 2:
                continue
            found = {}
            for options in settings:
                try:
                    name, times = _measure(list(files.values()), image, options, repeats)
                except FassstError as err:
                    note(f"growth in {options.runtime} {options.precision}: not measured: {err}")
                else:
                    found[name] = times
            if found:
                tables.append(_table(axis, files, found))
                plots.append(_plot(axis, list(files), found))
    return Suite("How the network's cost grows", tuple(tables), tuple(plots))


def _files(
    axis: Axis, model: Path, folder: Path, note: Callable[[str], None], say: Callable[[str], None]
) -> dict[int, Path]:
    """Value -> model file; the model itself where it has that value."""
    card = load_card(model)
    files = {}
    for value in axis.values:
        if value == axis.own(card):
            files[value] = model
            continue
        say(f"exporting: {axis.column} {value}")
        try:
            files[value] = export_changed(model, folder, f"{axis.unit[:5]}_{value}", **axis.change(value))
        except FassstError as err:
            note(f"{axis.column} {value}: not measured: {err}")
    return files


def _measure(
    files: Sequence[Path], image: UInt8Array, options: RuntimeOptions, repeats: int
) -> tuple[str, list[Timing]]:
    """Runtime with precision, and the times of the files, which take turns."""
    times: list[list[float]] = [[] for _ in files]
    with contextlib.ExitStack() as stack:
        runtimes = [stack.enter_context(create_runtime(file, options, lambda _: None)) for file in files]
        calls = [_call(runtime, image, own) for runtime, own in zip(runtimes, times, strict=True)]
        for call, own in zip(calls, times, strict=True):
            for _ in range(_WARM_UP):
                call()
            own.clear()
        take_turns(calls, repeats, _SECONDS)
        name = f"{runtimes[0].name} {runtimes[0].precision}"
    return name, [timing(file.stem, own) for file, own in zip(files, times, strict=True)]


def _call(runtime: Runtime, image: UInt8Array, milliseconds: list[float]) -> Callable[[], None]:
    feed = feed_for(runtime, image)

    def call() -> None:
        start = time.perf_counter()
        runtime.infer(feed)
        milliseconds.append((time.perf_counter() - start) * 1e3)

    return call


def _table(axis: Axis, files: Mapping[int, Path], found: Mapping[str, Sequence[Timing]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for place, (value, file) in enumerate(files.items()):
        times = [t for timings in found.values() for t in (timings[place].p50, timings[place].p90)]
        rows.append((value, graph_cost(file).macs / 1e9, *times))
    columns = [f"{name} {key}" for name in found for key in ("p50", "p90")]
    return Table(f"{axis.title} [ms]", (axis.column, "GMAC", *columns), tuple(rows))


def _plot(axis: Axis, values: Sequence[int], found: Mapping[str, Sequence[Timing]]) -> Plot:
    """Medians over the amount, and the line that fits them."""
    amounts = [float(axis.amount(value)) for value in values]
    series, words = {}, []
    for name, timings in found.items():
        medians = [t.p50 for t in timings]
        series[name] = list(zip(amounts, medians, strict=True))
        if len(medians) > 2:
            words.append(f"{name}: {fit_line(amounts, medians).words(axis.unit)}.")
    return Plot(axis.title, f"{axis.unit}s", "p50 [ms]", series, tuple(words))
