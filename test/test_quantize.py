"""INT8: what is quantised, that runtimes compute it in 8 bits, and that the answers stay."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from fassst_ros.calibration import calibration_images
from fassst_ros.card import MaskInfo, ModelCard, load_card
from fassst_ros.cli import main
from fassst_ros.equalise import equalise
from fassst_ros.export import export_int8, export_model, load_network
from fassst_ros.labels import STREET
from fassst_ros.networks import build_network
from fassst_ros.onnx_tensors import separate
from fassst_ros.quantize import layers_to_quantise
from fassst_ros.types import InputError, ModelError

BAG = Path(__file__).parent / "data" / "street_sample"
CONFIG = {
    "num_classes": 7, "input_size": [64, 96], "grid": 3, "width": 16, "roi_size": 8, "peaks": "levels",
    "backbone": "cspdarknet_nano", "activation": "relu",
}  # fmt: skip
CARD = ModelCard("tiny", "fassst", "0.0.0", 1, 1, STREET, MaskInfo("frame", 1, 1), 1, config=CONFIG)
UNEVEN = 40.0  # by which the channels of the first layer differ, as in trained networks


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return calibration_images([str(BAG)], 64, 96, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, random but with features of a useful size in all layers, and uneven channels."""
    torch.manual_seed(0)
    network = build_network("fassst", **CONFIG)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.uniform_(module.bias, -0.1, 0.1)
    stem, depthwise = network.backbone.stem[0], network.backbone.dark2[0][0][0]  # type: ignore[union-attr, index]
    with torch.no_grad():
        stem.weight /= 255
        factor = torch.linspace(1, UNEVEN, 16)
        stem.weight *= factor[:, None, None, None]
        stem.bias *= factor
        depthwise.weight /= factor[:, None, None, None]
    path, _ = export_model(network, CARD, tmp_path_factory.mktemp("exported"))
    return path


@pytest.fixture(scope="module")
def int8(model: Path, images: list[np.ndarray]) -> Path:
    return export_int8(model, images, "cpu", {"images": len(images)})


def stated(path: Path) -> str:
    """The tensor with what all positions state, from which slots are chosen."""
    graph = onnx.load(str(path)).graph
    made_by = {name: node for node in graph.node for name in node.output}
    name = next(node.input[0] for node in graph.node if node.op_type == "ReduceMax")
    while made_by[name].op_type in ("Slice", "Split"):
        name = made_by[name].input[0]
    return str(name)


def statements(path: Path, tensor: str, images: list[np.ndarray]) -> np.ndarray:
    graph = onnx.load(str(path))
    graph.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([tensor], {"images": image})[0] for image in images])


def test_onnx_runtime_computes_the_layers_in_8_bits(int8: Path, tmp_path: Path) -> None:
    """A DequantizeLinear that is fused with nothing would be slower than no quantisation."""
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(str(int8), settings, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    share, total = (int(v) for v in load_card(int8).quantisation["convolutions"].split(" of "))
    assert kinds.count("QLinearConv") == share
    assert total - share == 1 + 3 * 2  # the stem, two predictions of three levels
    assert kinds.count("DequantizeLinear") < 20


def test_the_first_and_the_stating_layers_stay_float(model: Path) -> None:
    graph = onnx.load(str(model))
    chosen = layers_to_quantise(graph)
    nodes = {node.name: node for node in graph.graph.node}
    convolutions = {name for name, node in nodes.items() if node.op_type == "Conv"}
    assert "/backbone/stem/stem.0/Conv" in convolutions - chosen
    assert not any("classify" in name for name in chosen)
    assert {name for name in convolutions if "/tail" in name or "/blocks" in name} <= chosen
    assert {nodes[name].op_type for name in chosen} == {"Conv", "Relu", "Add", "Concat", "MaxPool", "Resize"}


def test_card_says_how(model: Path, int8: Path) -> None:
    card, before = load_card(int8), load_card(model)
    assert int8.name == "tiny_int8.onnx"
    assert card.quantisation["precision"] == "int8"
    assert card.quantisation["scheme"] == "cpu"
    assert card.quantisation["sha256"] == before.files[model.name]
    assert (card.input_height, card.classes, card.slots) == (
        before.input_height,
        before.classes,
        before.slots,
    )
    assert not before.quantisation
    inside = {entry.key: entry.value for entry in onnx.load(str(int8)).metadata_props}
    assert json.loads(inside["fassst_ros.card"])["name"] == "tiny_int8"


def test_equalising_changes_nothing_in_float_and_evens_channels(
    model: Path, images: list[np.ndarray], tmp_path: Path
) -> None:
    graph = onnx.load(str(model))
    separate(graph, ("Conv", "ConvTranspose"), 1, "weight")
    first = next(n for n in graph.graph.node if n.op_type == "Conv" and "/backbone/stem/" in n.name)

    def rows() -> np.ndarray:
        tensor = next(t for t in graph.graph.initializer if t.name == first.input[1])
        return np.abs(numpy_helper.to_array(tensor)).sum((1, 2, 3))

    uneven = rows()
    assert equalise(graph, images[:3]) > 30
    assert rows().max() / rows().min() < 0.5 * uneven.max() / uneven.min()
    onnx.save(graph, str(tmp_path / "even.onnx"))
    tensor = stated(model)
    expected = statements(model, tensor, images[:2])
    np.testing.assert_allclose(
        statements(tmp_path / "even.onnx", tensor, images[:2]), expected, atol=1e-3 * np.abs(expected).max()
    )


def test_a_quantised_model_is_not_quantised_again(int8: Path, images: list[np.ndarray]) -> None:
    before = {path.name: path.read_bytes() for path in int8.parent.iterdir()}
    with pytest.raises(ModelError, match=r"tiny_int8\.onnx has no float convolutions"):
        export_int8(int8, images, "cpu", {})
    assert {path.name: path.read_bytes() for path in int8.parent.iterdir()} == before


def test_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(model.with_suffix(".safetensors"))
    arguments = ["export", weights, "--out", str(tmp_path), "--int8", "--calibration", str(BAG)]
    assert main([*arguments, "--calibration-images", "3"]) == 0
    assert "tiny_int8.onnx" in capsys.readouterr().out
    card = load_card(tmp_path / "tiny_int8.onnx")
    assert (card.quantisation["images"], card.quantisation["calibration"]) == (3, ["street_sample"])
    assert load_network(tmp_path / "tiny.safetensors")[1].name == "tiny"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--int8"], "--calibration belong together"),
        (["--calibration", str(BAG)], "--calibration belong together"),
        (["--int8", "--calibration", "nowhere"], "nowhere"),
        (["--int8", "--calibration", "0"], "a camera cannot be calibrated on"),
    ],
)
def test_command_refuses(
    model: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(model.with_suffix(".safetensors"))
    assert main(["export", weights, "--out", str(tmp_path / "out"), *more]) != 0
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_images_are_spread_over_all_that_is_given(tmp_path: Path) -> None:
    for k in range(10):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((8, 8, 3), 20 * k, np.uint8))
    found = calibration_images([str(tmp_path)], 4, 6, 4)
    assert [image.shape for image in found] == [(1, 4, 6, 3)] * 4
    assert [int(image.max()) for image in found] == [0, 60, 120, 180]
    assert len(calibration_images([str(tmp_path), str(BAG)], 4, 6, 10_000)) > 10
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        calibration_images([str(tmp_path / "empty")], 4, 6, 4)
