"""The suites that export networks of their own, on small ones. Nothing here depends on speed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_yolox import write_graph
from tiny_model import make_tiny_model, tiny_card

from fassst_ros.bench import growth, peers
from fassst_ros.bench.exports import export_changed, resized
from fassst_ros.bench.growth import growth_suite
from fassst_ros.bench.peers import peers_suite
from fassst_ros.card import load_card
from fassst_ros.config import RuntimeOptions
from fassst_ros.export import save_weights
from fassst_ros.networks import build_network
from fassst_ros.types import ModelError

ORT = RuntimeOptions(runtime="onnxruntime", threads=1)
IMAGE = np.full((128, 256, 3), 90, np.uint8)
SMALL = {"grid": 2, "width": 16, "roi_size": 4, "input_size": [64, 64], "num_classes": 2}


def ignore(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small FASSST with its weights beside it."""
    folder = tmp_path_factory.mktemp("small")
    card = dataclasses.replace(tiny_card(64, 64, 4, 8), name="small", network="fassst", config=SMALL)
    save_weights(build_network("fassst", **SMALL), card, folder / "small.safetensors")
    return export_changed(folder / "small.onnx", folder, "small")


def test_peers_are_compared_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"backbone": "cspdarknet_nano", "hidden": 16, "kernel": 8, "slots": 8, "groups": 2}
    monkeypatch.setattr(peers, "SPARSEINST", {"SparseInst": sizes})
    card = tiny_card(64, 64, 2, 8)
    boxes = np.float32([[8, 6, 40, 30], [30, 20, 60, 46]])
    model = make_tiny_model(tmp_path, boxes, np.int32([1, 0]), np.float32([1.0, 0.5]), card=card)
    notes: list[str] = []
    yolox = write_graph(tmp_path, [])
    suite = peers_suite(model, IMAGE, [ORT], 3, notes.append, ignore, yolox)
    facts, table = suite.tables
    assert [row[0] for row in facts.rows] == [row[0] for row in table.rows]
    assert facts.rows[1][1] > 0.001  # G multiply-adds
    assert table.title.startswith("onnxruntime f32")
    names = [row[0] for row in table.rows]
    assert names[:3] == ["tiny", "SparseInst", "yolox, boxes only"]
    assert table.rows[0][3:] == ("1.00 (1.00 to 1.00)", "1.00 (1.00 to 1.00)")
    assert all(0 < row[1] <= row[2] for row in table.rows)  # alone, complete
    assert suite.summary[0][0] == "time of SparseInst to that of tiny (onnxruntime f32)"
    assert len(suite.summary) == len(names) - 1


def test_a_missing_detector_and_a_runtime_that_fails_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "SPARSEINST", {})
    boxes = np.float32([[8, 6, 40, 30]])
    model = make_tiny_model(tmp_path, boxes, np.int32([1]), np.float32([1.0]))
    notes: list[str] = []
    wrong = dataclasses.replace(ORT, precision="bf16")
    suite = peers_suite(model, IMAGE, [wrong], 1, notes.append, ignore)
    assert suite.tables == ()
    assert "YOLOX-nano: not measured: its file was not given" in notes[0]
    assert "tiny in onnxruntime bf16: not measured" in notes[1]


def test_growth_over_two_axes(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, slots = growth.AXES
    axes = (dataclasses.replace(size, values=(64, 96)), dataclasses.replace(slots, values=(4,)))
    monkeypatch.setattr(growth, "AXES", axes)
    notes: list[str] = []
    suite = growth_suite(small, IMAGE, [ORT], 2, notes.append, ignore)
    assert notes == []
    (table,), (plot,) = suite.tables, suite.plots  # one number of slots is no growth
    assert [row[0] for row in table.rows] == [64, 96]
    assert table.rows[0][1] < table.rows[1][1]  # multiply-adds
    assert [x for x, _ in plot.series["onnxruntime f32"]] == [64**2, 96**2]
    assert plot.words == ()  # two points are no law


def test_growth_without_weights_says_what_is_missing(small: Path, tmp_path: Path) -> None:
    alone = tmp_path / small.name
    for suffix in (".onnx", ".json"):
        shutil.copy(small.with_suffix(suffix), tmp_path)
    notes: list[str] = []
    suite = growth_suite(alone, IMAGE, [ORT], 1, notes.append, ignore)
    assert (suite.tables, suite.plots) == ((), ())
    assert all("small.safetensors is not beside small.onnx" in note for note in notes)
    assert len(notes) == 7


def test_an_exported_variant_is_what_its_card_says(small: Path, tmp_path: Path) -> None:
    card = load_card(small)
    assert (card.name, card.input_height, card.input_width, card.slots) == ("small", 64, 64, 4)
    (taken,) = onnx.load(small).graph.input
    assert [d.dim_value for d in taken.type.tensor_type.shape.dim] == [1, 64, 64, 3]
    with pytest.raises(ModelError, match="does not fit"):
        export_changed(small, tmp_path, "odd", input_size=[65, 65])


def test_a_graph_that_depends_on_its_size_is_not_resized(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"no\.onnx cannot be resized to 64x64"):
        resized(path, 64, tmp_path)
