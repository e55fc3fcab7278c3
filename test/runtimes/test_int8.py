"""INT8 files: runtimes compute in 8 bits and answer as in float; TensorRT builds its own kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fassst_ros.card import load_card
from fassst_ros.config import RuntimeOptions
from fassst_ros.export import export_int8
from fassst_ros.quantize import quantise
from fassst_ros.runtimes import check_specs, create_runtime
from fassst_ros.types import ConfigError

CPU = ("onnxruntime", "openvino")
SPREAD = np.geomspace(1, 100, 16)  # how much the channels of the uneven graph differ


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    rows = np.linspace(0, 200, 96)[None, None, :, None]
    return [(rows + rng.integers(0, 56, (1, 64, 96, 3))).astype(np.uint8) for _ in range(4)]


@pytest.fixture(scope="module")
def int8(model: Path, images: list[NDArray[np.uint8]]) -> Path:
    return export_int8(model, images, "cpu", {})


def answer(
    path: Path, runtime: str, precision: str, image: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    with create_runtime(path, RuntimeOptions(runtime=runtime, precision=precision)) as opened:
        check_specs(opened, load_card(path))
        assert opened.precision == ("f32" if precision == "f32" else "int8")
        return {name: value.copy() for name, value in opened.infer({"images": image}).items()}


@pytest.mark.parametrize("runtime", CPU)
def test_answers_are_those_of_float(
    runtime: str, model: Path, int8: Path, images: list[NDArray[np.uint8]]
) -> None:
    for image in images:
        expected, got = answer(model, runtime, "f32", image), answer(int8, runtime, "int8", image)
        assert not np.array_equal(got["scores"], expected["scores"])
        assert np.abs(got["scores"] - expected["scores"]).max() < 0.03
        # slots whose scores nearly agree may change places
        gap = np.abs(got["boxes"][0][:, None] - expected["boxes"][0]).max(2).min(1)
        assert np.median(gap) < 1.0
        assert abs(got["masks"].mean() - expected["masks"].mean()) < 0.03


@pytest.mark.parametrize("runtime", CPU)
def test_precision_int8_of_a_float_model_says_what_to_do(runtime: str, model: Path) -> None:
    with pytest.raises(ConfigError, match=r"NAME_int8\.onnx .*fassst export WEIGHTS --int8"):
        create_runtime(model, RuntimeOptions(runtime=runtime, precision="int8"))


def test_tensorrt_builds_its_scheme(model: Path, images: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from fassst_ros.runtimes.tensorrt_engine import build_engine

    path = tmp_path / "signed.onnx"
    quantise(model, images, "tensorrt", path, load_card(model))
    graph = onnx.load(str(path)).graph
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    points = [numpy_helper.to_array(t) for t in graph.initializer if t.name in zeros]
    assert points
    assert all(point.dtype == np.int8 and not point.any() for point in points)
    assert len(build_engine(rtx, path.read_bytes(), "int8", print)) > 10_000


def uneven_graph(path: Path) -> None:
    """Convolution, ReLU, depthwise, ReLU, convolution: the channels of the first differ by SPREAD."""
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.normal(0, 0.01, (16, 3, 3, 3)) * SPREAD[:, None, None, None],
        "depthwise": rng.normal(0.1, 0.3, (16, 1, 3, 3)) / SPREAD[:, None, None, None],
        "last": rng.normal(0, 0.3, (4, 16, 1, 1)),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Transpose", ["pixels"], ["planar"], perm=[0, 3, 1, 2], name="transpose"),
        helper.make_node("Conv", ["planar", "first"], ["a"], pads=[1] * 4, name="conv_a"),
        helper.make_node("Relu", ["a"], ["b"], name="relu_b"),
        helper.make_node("Conv", ["b", "depthwise"], ["c"], pads=[1] * 4, group=16, name="conv_c"),
        helper.make_node("Relu", ["c"], ["d"], name="relu_d"),
        helper.make_node("Conv", ["d", "last"], ["e"], name="conv_e"),
        helper.make_node("Sigmoid", ["e"], ["masks"], name="sigmoid"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "uneven",
        [info("images", TensorProto.UINT8, [1, 64, 96, 3])],
        [info("masks", TensorProto.FLOAT, [1, 4, 64, 96])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def test_equalising_serves_the_channels_that_are_small(
    model: Path, images: list[NDArray[np.uint8]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uneven_graph(tmp_path / "uneven.onnx")
    card = load_card(model)
    quantise(tmp_path / "uneven.onnx", images, "cpu", tmp_path / "even_int8.onnx", card)
    monkeypatch.setattr("fassst_ros.quantize.equalise", lambda graph, images: 0)
    quantise(tmp_path / "uneven.onnx", images, "cpu", tmp_path / "naive_int8.onnx", card)

    def run(name: str) -> NDArray[np.float32]:
        session = onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"images": image})[0] for image in images])

    expected = run("uneven.onnx")
    near, far = (np.abs(run(name) - expected).mean() for name in ("even_int8.onnx", "naive_int8.onnx"))
    assert near < 0.5 * far
    assert near < 0.05 * expected.std()
