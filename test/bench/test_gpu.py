"""The GPU suite, as far as it runs on a CPU: contenders, complete frames, rooflines, and what is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fassst_ros.bench import gpu, roofline
from fassst_ros.bench.graph_cost import LayerCost, graph_cost, layer_costs
from fassst_ros.bench.roofline import Peaks, measure_peaks
from fassst_ros.card import MaskInfo, ModelCard
from fassst_ros.cli import main
from fassst_ros.config import RuntimeOptions
from fassst_ros.export import export_model
from fassst_ros.labels import STREET
from fassst_ros.networks import build_network
from fassst_ros.runtimes.cuda_driver import Driver
from fassst_ros.types import RuntimeUnavailable

CONFIG = {"num_classes": 7, "input_size": [128, 160], "grid": 4, "width": 16, "roi_size": 8}


def has_gpu() -> bool:
    try:
        return Driver().device_count > 0
    except RuntimeUnavailable:
        return False


without_gpu = pytest.mark.skipif(
    has_gpu(), reason="this machine has a GPU; the test is about machines without"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with its weights beside it."""
    torch.manual_seed(0)
    network = build_network("fassst", **CONFIG)
    torch.nn.init.normal_(network.iam.answer.weight, std=0.1)  # slots that differ
    card = ModelCard("tiny", "fassst", "0", 1, 1, STREET, MaskInfo("frame", 1, 1), 1, config=CONFIG)
    return export_model(network, card, tmp_path_factory.mktemp("model"))[0]


@without_gpu
def test_without_a_gpu_it_says_so(model: Path) -> None:
    image = np.zeros((256, 320, 3), np.uint8)
    with pytest.raises(RuntimeUnavailable, match=r"CUDA.*NVIDIA driver|CUDA finds no GPU"):
        gpu.gpu_suite(model, image, RuntimeOptions(), 1, print)


@without_gpu
def test_the_command_says_what_is_missing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--suite", "gpu", "--model", str(model), "--repeats", "1"]) == 1
    assert "- gpu: not measured: " in capsys.readouterr().out


@without_gpu
def test_all_but_cuda_runs_on_a_cpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.SIDES, "cpu", 64)
    monkeypatch.setitem(roofline.COPIES, "cpu", 4096)
    image = np.random.default_rng(0).integers(0, 256, (256, 320, 3), np.uint8)
    notes: list[str] = []
    suite = gpu.gpu_suite(model, image, RuntimeOptions(), 2, notes.append, device="cpu")
    times, peaks = suite.tables
    rows = {row[0]: dict(zip(times.columns[5:], row[5:], strict=True)) for row in times.rows}
    assert set(rows) == {f"{name}, {p}" for name in ("torch eager", "ONNX Runtime") for p in ("f32", "fp16")}
    for row in times.rows:
        assert all(isinstance(cell, float) and cell > 0 for cell in row[1:5])
    assert rows["torch eager, fp16"]["roofline"] is None  # the CPU has no such peak
    least = rows["torch eager, f32"]
    assert 0 < least["roofline"] <= least["layers"]
    assert [row[0] for row in peaks.rows] == [
        "matrix products, f32: G multiply-adds/s",
        "copying: GB/s, read and written",
    ]
    told = [note.split(": not measured: ")[0] for note in notes]
    assert told == [
        *("gpu: TensorRT, fp16", "gpu: TensorRT, f32"),
        *("gpu: TensorRT, resize inside, fp16", "gpu: TensorRT, resize inside, f32"),
        "gpu: int8",
    ]
    assert len(suite.summary) == 1


def test_contenders_with_a_gpu(model: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    found = list(gpu.contenders(model, (256, 320), RuntimeOptions(), tmp_path, notes.append, "cuda"))
    names = {contender.name for contender in found}
    kinds = ("TensorRT", "TensorRT, resize inside", "torch.compile", "torch eager", "ONNX Runtime")
    assert names == {f"{kind}, {precision}" for kind in kinds for precision in ("fp16", "f32")}
    whole = {contender.file for contender in found if "resize inside" in contender.name}
    assert whole == {tmp_path / "tiny.onnx"}
    assert len(notes) == 1
    assert notes[0].startswith("gpu: int8: not measured: there is no tiny_int8.onnx")


def test_a_roofline_is_arithmetic_or_memory_whichever_is_longer() -> None:
    peaks = Peaks({"f32": 1e12, "fp16": 4e12}, 1e11)
    layers = [LayerCost(macs=2_000_000_000, numbers=1_000_000), LayerCost(macs=0, numbers=50_000_000)]
    found = roofline.roofline(layers, 1_000_000, 500_000, "f32", peaks)
    assert found.fused == pytest.approx(2.0)  # 2 G at 1 T/s; 3 MB take 0.03 ms
    assert found.layers == pytest.approx(2.0 + 2.0)  # and 200 MB at 100 GB/s
    found = roofline.roofline(layers[1:], 1_000_000, 500_000, "fp16", peaks)
    assert found.fused == pytest.approx(0.02)
    assert found.layers == pytest.approx(1.0)


def test_layers_are_counted_as_the_graph(model: Path) -> None:
    layers = layer_costs(model)
    assert sum(layer.macs for layer in layers) == graph_cost(model).macs
    assert min(layer.numbers for layer in layers) > 0


def test_peaks_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.SIDES, "cpu", 128)
    monkeypatch.setitem(roofline.COPIES, "cpu", 1 << 16)
    peaks = measure_peaks("cpu")
    assert set(peaks.macs) == {"f32"}
    assert peaks.macs["f32"] > 0
    assert peaks.copied > 0
