"""TensorRT on a GPU beside torch, torch.compile and ONNX Runtime on the same one, and beside its roofline."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fassst_ros.bench.graph_cost import graph_cost, layer_costs
from fassst_ros.bench.measure import Timing, measure, timing
from fassst_ros.bench.network import feed_for, int8_model
from fassst_ros.bench.report import Cell, Suite, Table
from fassst_ros.bench.roofline import Peaks, Roofline, measure_peaks, roofline
from fassst_ros.card import load_card
from fassst_ros.config import RuntimeOptions
from fassst_ros.pipeline import Segmenter
from fassst_ros.runtimes import Runtime, create_runtime
from fassst_ros.runtimes.cuda_driver import Driver
from fassst_ros.types import FassstError, Frame, RuntimeUnavailable, UInt8Array

TITLE = "GPU: TensorRT and others on one device"
_WARM_UP = 20
_WORDS = (
    "`network`: a prepared image in the host's memory to outputs in the host's memory, copies included. "
    "`complete`: a camera image to instances, by the same pre- and post-processing for all.",
    "`roofline`: the least time by this device's measured peaks of matrix products and of copying, in the "
    "precision of the row, where intermediate results never leave the chip; `layers`: where each convolution "
    "and matrix product reads and writes memory. `of it`: roofline / network, 100 % at best.",
)


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of the table. file: what is executed, for its cost. open: makes the runtime."""

    name: str
    file: Path
    open: Callable[[], Runtime]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one contender took."""

    contender: Contender
    precision: str
    network: Timing
    complete: Timing


def cuda_devices() -> int:
    """How many GPUs CUDA shows. Raises RuntimeUnavailable, with what to do, where there is none."""
    count = Driver().device_count
    if count == 0:
        raise RuntimeUnavailable("CUDA shows no GPU. Look at CUDA_VISIBLE_DEVICES")
    return count


def gpu_suite(
    model: Path,
    image: UInt8Array,
    options: RuntimeOptions,
    repeats: int,
    note: Callable[[str], None],
    device: str = "cuda",
) -> Suite:
    """Network and complete frames in each contender that works; `note` is told of the others.

    options: device_id and cache_dir. device: "cpu" runs what there is of it without a GPU, to test it.
    Raises RuntimeUnavailable where there is no CUDA device.
    """
    if device == "cuda":
        cuda_devices()
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="fassst_bench_") as folder:
        for contender in contenders(model, image.shape[:2], options, Path(folder), note, device):
            try:
                found.append(_measure(contender, image, repeats))
            except (FassstError, ImportError, RuntimeError) as err:  # torch raises RuntimeError for all
                reason = " ".join(str(err).split())[:300]
                note(f"gpu: {contender.name}: not measured: {reason}")
        if not found:
            return Suite(TITLE)
        peaks = _peaks(device, note)
        limits = {m: _limit(m, peaks, note) for m in found}
    tables = [_table(found, limits)]
    if peaks is not None:
        tables.append(_peak_table(peaks))
    best = min(found, key=lambda m: m.complete.p50)
    result = f"{best.network.p50:.2f} ms network, {best.complete.p50:.2f} ms complete"
    return Suite(TITLE, tuple(tables), summary=((f"GPU, fastest: {best.contender.name}", result),))


def contenders(
    model: Path,
    frame_size: tuple[int, int],
    options: RuntimeOptions,
    folder: Path,
    note: Callable[[str], None],
    device: str,
) -> Iterator[Contender]:
    """All that are compared. folder: for the model that takes whole frames; `note` is told without it.

    torch.compile is left out on a CPU, where it compiles for minutes.
    """

    def tensorrt(file: Path, precision: str) -> Callable[[], Runtime]:
        chosen = dataclasses.replace(options, runtime="tensorrt", precision=precision)
        return lambda: create_runtime(file, chosen, lambda _: None)

    def torch(precision: str, compiled: bool) -> Callable[[], Runtime]:
        chosen = dataclasses.replace(options, precision=precision)

        def open_it() -> Runtime:
            from fassst_ros.bench.gpu_runtimes import TorchOn

            return TorchOn(model, chosen, device, compiled)

        return open_it

    def onnxruntime(precision: str) -> Callable[[], Runtime]:
        chosen = dataclasses.replace(options, precision=precision)

        def open_it() -> Runtime:
            from fassst_ros.bench.gpu_runtimes import OnnxRuntimeOn

            return OnnxRuntimeOn(model, chosen, device)

        return open_it

    files = {"TensorRT": model}
    whole = _whole_frames(model, frame_size, folder, note)
    if whole is not None:
        files["TensorRT, resize inside"] = whole
    for name, file in files.items():
        for precision in ("fp16", "f32"):
            yield Contender(f"{name}, {precision}", file, tensorrt(file, precision))
    quantised = int8_model(model)
    if quantised is None:
        note(f"gpu: int8: not measured: there is no {model.stem}_int8.onnx beside {model.name}")
    else:
        yield Contender("TensorRT, int8", quantised, tensorrt(quantised, "int8"))
    for precision in ("fp16", "f32"):
        if device == "cuda":
            yield Contender(f"torch.compile, {precision}", model, torch(precision, True))
        yield Contender(f"torch eager, {precision}", model, torch(precision, False))
        yield Contender(f"ONNX Runtime, {precision}", model, onnxruntime(precision))


def _whole_frames(
    model: Path, frame_size: tuple[int, int], folder: Path, note: Callable[[str], None]
) -> Path | None:
    """The model that resizes frames of this size itself, exported from the weights beside it."""
    try:
        from fassst_ros.export import export_model, load_network

        network, card = load_network(model.with_suffix(".safetensors"))
        return export_model(network, card, folder, frame_size)[0]
    except (FassstError, ImportError) as err:
        note(f"gpu: the resize inside: not measured: {err}")
        return None


def _measure(contender: Contender, image: UInt8Array, repeats: int) -> Measured:
    card = load_card(contender.file)
    with Segmenter(contender.open(), card, log=lambda _: None) as segmenter:
        runtime = segmenter.runtime
        lent = runtime.lend()
        for name, array in feed_for(runtime, image).items():
            lent[name][:] = array
        network = measure(contender.name, lambda: runtime.infer(lent), repeats, _WARM_UP, runtime.device)
        frame = Frame(image, "bgr")
        segmenter.warm_up(_WARM_UP)
        times = [sum(segmenter.segment(frame).stages.values()) for _ in range(repeats)]
        return Measured(contender, runtime.precision, network, timing(contender.name, times))


def _peaks(device: str, note: Callable[[str], None]) -> Peaks | None:
    try:
        return measure_peaks(device)
    except (ImportError, RuntimeError) as err:
        note(f"gpu: roofline: not measured: {' '.join(str(err).split())[:300]}")
        return None


def _limit(measured: Measured, peaks: Peaks | None, note: Callable[[str], None]) -> Roofline | None:
    """The roofline of what a contender executed; None where a peak is not known."""
    if peaks is None or measured.precision not in peaks.macs:
        return None
    file = measured.contender.file
    try:
        layers, parameters = layer_costs(file), graph_cost(file).parameters
    except (FassstError, ImportError) as err:
        note(f"gpu: roofline of {measured.contender.name}: not known: {err}")
        return None
    card = load_card(file)
    images = card.input_height * card.input_width * 3
    outputs = 4 * card.slots * (6 + card.masks.height * card.masks.width)
    return roofline(layers, images + outputs, parameters, measured.precision, peaks)


def _table(found: list[Measured], limits: dict[Measured, Roofline | None]) -> Table:
    rows = []
    for m in found:
        limit = limits[m]
        least: tuple[Cell, ...] = (None, None, None)
        if limit is not None:
            least = (limit.fused, limit.layers, 100 * limit.fused / m.network.p50)
        times = (m.network.p50, m.network.p99, m.complete.p50, m.complete.p99)
        rows.append((m.contender.name, *times, *least))
    columns = ("contender", "network p50", "p99", "complete p50", "p99", "roofline", "layers", "of it [%]")
    return Table(f"On {found[0].network.note} [ms]", columns, tuple(rows), _WORDS)


def _peak_table(peaks: Peaks) -> Table:
    rows = [(f"matrix products, {name}: G multiply-adds/s", v / 1e9) for name, v in peaks.macs.items()]
    rows.append(("copying: GB/s, read and written", peaks.copied / 1e9))
    return Table("What the device reaches, by torch", ("what", "best run"), tuple(rows))
