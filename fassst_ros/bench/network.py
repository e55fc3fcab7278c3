"""The network alone: every runtime, precision and number of threads, against what the machine can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.bench.graph_cost import GraphCost, graph_cost
from fassst_ros.bench.laws import fit_line
from fassst_ros.bench.measure import Timing, measure
from fassst_ros.bench.peak import measure_peaks
from fassst_ros.bench.report import Plot, Suite, Table
from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes import Runtime, create_runtime
from fassst_ros.runtimes.base import usable_cores
from fassst_ros.runtimes.model_file import is_quantised
from fassst_ros.types import FassstError, UInt8Array

#: What is measured of a model in f32; int8 is a model file of its own.
PRECISIONS = {
    "tensorrt": ("default",),
    "openvino": ("f32", "bf16"),
    "onnxruntime": ("f32",),
    "torch": ("f32",),
}
_WARM_UP = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table. runtime, precision: as the runtime names them."""

    runtime: str
    precision: str
    threads: int
    time: Timing

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.precision}"


def network_suite(
    model: Path,
    image: UInt8Array,
    names: Sequence[str],
    options: RuntimeOptions,
    repeats: int,
    note: Callable[[str], None],
) -> Suite:
    """One inference in each runtime of `names` that works, in all its precisions, and with fewer threads.

    Runs with fewer threads are a quarter of `repeats`. `note` is told what was not measured, and why.
    """
    found: list[Measured] = []
    told: set[tuple[str, str]] = set()
    most = options.threads or usable_cores()
    for path, chosen in _variants(model, names, options, note):
        fewer = [] if options.threads else thread_counts(most)[:-1]
        try:
            found.append(_measure(path, chosen, image, most, repeats))
            for threads in fewer:
                found.append(_measure(path, chosen, image, threads, max(1, repeats // 4)))
        except FassstError as err:
            if (chosen.runtime, str(err)) not in told:  # a missing device is so in every precision
                note(f"network in {chosen.runtime} {chosen.precision}: not measured: {err}")
            told.add((chosen.runtime, str(err)))
    title = "Network alone: one inference of one image"
    if not found:
        return Suite(title)
    cost = _cost(model, note)
    peaks = measure_peaks(options, note)
    best = min(found, key=lambda m: m.time.p50)
    tables = [_table(found, most, cost, peaks)]
    if peaks:
        tables.append(_peak_table(peaks))
    return Suite(
        title,
        tuple(tables),
        _thread_plots(found),
        ((f"network alone, fastest: {best.name}", _result(best, cost)),),
    )


def thread_counts(cores: int) -> list[int]:
    """1, 2, 4, ... and all cores."""
    counts = [1 << i for i in range(cores.bit_length()) if 1 << i < cores]
    return [*counts, cores]


def feed_for(runtime: Runtime, image: UInt8Array) -> dict[str, NDArray[Any]]:
    """The image (H, W, 3) as the one input of a graph, (1, h, w, 3) or (1, 3, h, w), in its type."""
    spec = runtime.inputs[0]
    planes = spec.shape[1] == 3
    height, width = spec.shape[2:4] if planes else spec.shape[1:3]
    small: Any = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    array = np.ascontiguousarray(small.transpose(2, 0, 1) if planes else small)[None]
    return {spec.name: array.astype(spec.dtype)}


def _variants(
    model: Path, names: Sequence[str], options: RuntimeOptions, note: Callable[[str], None]
) -> Iterator[tuple[Path, RuntimeOptions]]:
    """Files and options that are to be measured."""
    quantised = int8_model(model)
    if quantised is None:
        note(f"int8: not measured: there is no {model.stem}_int8.onnx beside {model.name}")
    for name in names:
        if name == "auto":
            with create_runtime(model, options, lambda _: None) as runtime:
                name = runtime.name
        asked = PRECISIONS[name] if options.precision == "default" else (options.precision,)
        if quantised != model:
            for precision in asked:
                yield model, dataclasses.replace(options, runtime=name, precision=precision)
        if quantised is not None and options.precision in ("default", "int8") and name != "torch":
            yield quantised, dataclasses.replace(options, runtime=name, precision="int8")


def int8_model(model: Path) -> Path | None:
    """The model in int8: itself, or NAME_int8.onnx beside it; None if there is none."""
    if is_quantised(model.read_bytes()):
        return model
    beside = model.with_name(f"{model.stem}_int8.onnx")
    return beside if beside.is_file() else None


def _measure(path: Path, options: RuntimeOptions, image: UInt8Array, threads: int, repeats: int) -> Measured:
    with create_runtime(path, dataclasses.replace(options, threads=threads), lambda _: None) as runtime:
        feed = feed_for(runtime, image)
        found = measure(runtime.name, lambda: runtime.infer(feed), repeats, _WARM_UP, runtime.device)
        return Measured(runtime.name, runtime.precision, threads, found)


def _cost(model: Path, note: Callable[[str], None]) -> GraphCost | None:
    try:
        return graph_cost(model)
    except ImportError as err:
        note(f"multiply-adds: not counted: {err}. Install it: pip install onnx")
    except FassstError as err:
        note(f"multiply-adds: not counted: {err}")
    return None


def _table(
    found: Sequence[Measured], threads: int, cost: GraphCost | None, peaks: dict[str, tuple[float, str]]
) -> Table:
    rows = []
    for m in found:
        speed = None if cost is None else cost.macs / (m.time.p50 * 1e-3)
        peak = peaks.get(m.precision) if m.threads == threads else None
        share = None if speed is None or peak is None else 100 * speed / peak[0]
        rows.append(
            (m.name, m.threads, m.time.p50, m.time.p90, m.time.p99, m.time.cpu, 1e3 / m.time.p50, share)
        )
    columns = ("runtime", "threads", "p50", "p90", "p99", "cpu", "images/s", "% of peak")
    words = []
    if cost is not None:
        words.append(
            f"The graph: {cost.macs / 1e9:.2f} G multiply-adds in convolutions and matrix products, "
            f"{cost.parameters / 1e6:.2f} M parameters, {cost.operations} operations, "
            f"{cost.file_bytes / 1e6:.1f} MB. % of peak: these multiply-adds a second against those of the "
            "matrix products below in the same precision, with all threads."
        )
    return Table("Runtimes, precisions, threads [ms]", columns, tuple(rows), tuple(words))


def _peak_table(peaks: dict[str, tuple[float, str]]) -> Table:
    return Table(
        "What the machine reaches in matrix products",
        ("precision", "G multiply-adds/s", "runtime"),
        tuple((precision, speed / 1e9, runtime) for precision, (speed, runtime) in peaks.items()),
        ("Best run of a chain of eight products of 1024x1024 matrices, in the runtime that was fastest.",),
    )


def _thread_plots(found: Sequence[Measured]) -> tuple[Plot, ...]:
    """Latency over threads, where there was more than one number of them."""
    series: dict[str, list[tuple[float, float]]] = {}
    for m in sorted(found, key=lambda m: m.threads):
        series.setdefault(m.name, []).append((float(m.threads), m.time.p50))
    series = {name: points for name, points in series.items() if len(points) > 1}
    if not series:
        return ()
    words = tuple(f"{name}: {_thread_law(points)}." for name, points in series.items())
    return (Plot("Latency against threads", "threads", "p50 [ms]", series, words),)


def _thread_law(points: Sequence[tuple[float, float]]) -> str:
    """Amdahl's law as found: what no thread shares, and what all do."""
    (one, alone), (most, together) = points[0], points[-1]
    words = f"{most:g} threads take {together / alone:.2f} of the time of {one:g}"
    if len(points) < 3:
        return words
    law = fit_line([1 / threads for threads, _ in points], [time for _, time in points])
    return f"{words}; {law.constant:.3g} ms + {law.slope:.3g} ms / threads"


def _result(best: Measured, cost: GraphCost | None) -> str:
    words = f"{best.time.p50:.1f} ms, {1e3 / best.time.p50:.0f} images/s, {best.threads} threads"
    return words if cost is None else f"{words}; {cost.macs / 1e9:.2f} G multiply-adds"
