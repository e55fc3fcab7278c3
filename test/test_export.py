"""Export: the files agree with torch, with each other, and say what they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch

from fassst_ros.card import MaskInfo, ModelCard, load_card
from fassst_ros.cli import main
from fassst_ros.export import export_model, load_network, save_weights
from fassst_ros.labels import STREET
from fassst_ros.networks import build_network
from fassst_ros.parity import TOLERANCE, parity
from fassst_ros.types import ModelError

CONFIG = {"num_classes": 7, "input_size": [128, 160], "grid": 4, "width": 16, "roi_size": 8}
CARD = ModelCard("tiny", "fassst", "0.0.0", 1, 1, STREET, MaskInfo("frame", 1, 1), 1, config=CONFIG)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build_network("fassst", **CONFIG)
    torch.nn.init.normal_(network.iam.answer.weight, std=0.1)  # slots that differ
    model, errors = export_model(network, CARD, tmp_path_factory.mktemp("exported"))
    assert all(errors[name] < TOLERANCE[name] for name in ("scores", "boxes", "masks"))
    return model


def test_card_describes_the_graph(exported: Path) -> None:
    card = load_card(exported)
    assert (card.input_height, card.input_width, card.slots) == (128, 160, 16)
    assert (card.masks.kind, card.masks.height, card.masks.width, card.masks.padding) == ("box", 16, 16, 0.1)
    assert set(card.files) == {"tiny.onnx", "tiny.safetensors"}
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("images", [1, 128, 160, 3], "tensor(uint8)")
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("scores", [1, 16]),
        ("labels", [1, 16]),
        ("boxes", [1, 16, 4]),
        ("masks", [1, 16, 16, 16]),
    ]
    inside = json.loads(session.get_modelmeta().custom_metadata_map["fassst_ros.card"])
    assert inside["name"] == "tiny"
    assert [c["name"] for c in inside["classes"]] == [c.name for c in STREET]


def test_layers_that_run_twice_keep_what_openvino_fuses(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {
        **CONFIG,
        "input_size": [128, 192],
        "backbone": "cspdarknet_nano",
        "peaks": "levels",
        "scales": 2,
    }
    network = build_network("fassst", **config)
    for head in network.iam.heads:
        torch.nn.init.normal_(head.classify.weight, std=1.0)  # slots that differ
    model, _ = export_model(network, dataclasses.replace(CARD, config=config), tmp_path)
    operators = openvino.Core().compile_model(str(model), "CPU").get_runtime_model().get_ops()
    facts = [{k: v.astype(str) for k, v in op.get_rt_info().items()} for op in operators]
    convs = [f for f in facts if f["layerType"] == "Convolution" and "/backbone/" in f["originalLayersNames"]]
    assert len(convs) > 60
    assert all(f["originalLayersNames"].endswith("/Mul") for f in convs)  # with bias and SiLU


def test_graph_stays_within_what_the_runtimes_take(exported: Path) -> None:
    model = onnx.load(str(exported))
    operators = {node.op_type for node in model.graph.node}
    assert model.opset_import[0].version <= 19  # GridSample turns NEAREST in TensorRT from 20 on
    assert "GridSample" in operators
    assert not operators & {
        "NonZero",
        "NonMaxSuppression",
        "RoiAlign",
        "Loop",
        "If",
        "BatchNormalization",
        "Einsum",
    }


def test_weights_give_the_same_network_again(exported: Path) -> None:
    network, card = load_network(exported.with_suffix(".safetensors"))
    assert card.name == "tiny"
    errors = parity(network, exported)
    assert all(errors[name] < TOLERANCE[name] for name in TOLERANCE)


def test_parity_notices_other_weights(exported: Path) -> None:
    network, _ = load_network(exported.with_suffix(".safetensors"))
    with torch.no_grad():
        network.pyramid.predict.bias += 0.02  # type: ignore[union-attr, operator]
    errors = parity(network, exported)
    assert errors["masks"] > TOLERANCE["masks"]
    assert errors["boxes"] < TOLERANCE["boxes"]


def test_command_exports_another_input_size(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "export",
        str(exported.with_suffix(".safetensors")),
        "--out",
        str(tmp_path),
        "--input-size",
        "160x256",
        "--name",
        "wide",
    ]
    assert main(arguments) == 0
    assert "largest difference from torch" in capsys.readouterr().out
    card = load_card(tmp_path / "wide.onnx")
    assert (card.input_height, card.input_width) == (160, 256)
    session = onnxruntime.InferenceSession(str(tmp_path / "wide.onnx"), providers=["CPUExecutionProvider"])
    assert len(session.run(None, {"images": np.zeros((1, 160, 256, 3), np.uint8)})) == 4


@pytest.mark.parametrize("size", ["160", "axb", "100x100"])
def test_command_refuses_a_wrong_size(
    exported: Path, tmp_path: Path, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        ["export", str(exported.with_suffix(".safetensors")), "--out", str(tmp_path), "--input-size", size]
    )
    message = capsys.readouterr().err
    assert code != 0
    assert size.split("x")[0] in message
    assert "expected" in message
    assert "Traceback" not in message


def test_weights_can_be_read_by_others(exported: Path) -> None:
    """The safetensors library's own files are their owner's only, which a shared run folder is not for."""
    modes = {exported.with_suffix(suffix).stat().st_mode for suffix in (".safetensors", ".json")}
    assert len(modes) == 1


def test_broken_weights_are_named(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.safetensors"):
        load_network(tmp_path / "nothing.safetensors")
    (tmp_path / "tiny.json").write_text(exported.with_suffix(".json").read_text())
    (tmp_path / "tiny.safetensors").write_bytes(exported.with_suffix(".safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot read"):
        load_network(tmp_path / "tiny.safetensors")
    with pytest.raises(ModelError, match="does not fit"):
        load_network(exported.with_suffix(".safetensors"), width=32)


def test_a_failed_export_leaves_the_earlier_model(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in exported.parent.iterdir()}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    assert set(before) == {"tiny.onnx", "tiny.safetensors", "tiny.json"}
    monkeypatch.setitem(TOLERANCE, "masks", 0.0)
    network, card = load_network(exported.with_suffix(".safetensors"))
    with torch.no_grad():
        network.pyramid.predict.bias += 0.02  # type: ignore[union-attr, operator]
    with pytest.raises(ModelError, match=r"tiny.onnx was not written: .*Where slots tie, as in a hardly"):
        export_model(network, card, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_weights_that_overflow_are_not_written(tmp_path: Path) -> None:
    network = build_network("fassst", **CONFIG)
    with torch.no_grad():
        network.iam.answer.weight[0, 0] = 1e6  # type: ignore[union-attr, operator, index]
    with pytest.raises(ModelError, match="not finite in float16"):
        save_weights(network, dataclasses.replace(CARD, name="big"), tmp_path / "big.safetensors")
    assert not list(tmp_path.iterdir())


def test_weights_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot write .*file/tiny\.safetensors"):
        save_weights(build_network("fassst", **CONFIG), CARD, tmp_path / "file" / "tiny.safetensors")
