"""TensorRT on a real GPU: runs only where a driver, a GPU and TensorRT are, and says so elsewhere."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_half_precision import quantised_graph
from test_runtime_choice import has_gpu

from fassst_ros.card import load_card
from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes import check_specs, create_runtime
from fassst_ros.runtimes.tensorrt_engine import import_tensorrt
from fassst_ros.types import RuntimeUnavailable


def has_tensorrt() -> bool:
    try:
        import_tensorrt()
    except RuntimeUnavailable:
        return False
    return True


pytestmark = pytest.mark.skipif(not (has_gpu() and has_tensorrt()), reason="needs an NVIDIA GPU and TensorRT")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("engines"))


@pytest.mark.parametrize(("precision", "box_px", "mask"), [("f32", 0.01, 1e-3), ("fp16", 0.5, 0.05)])
def test_it_agrees_with_onnxruntime(
    precision, box_px, mask, model: Path, cache_dir: str, make_images
) -> None:
    options = RuntimeOptions(runtime="tensorrt", precision=precision, cache_dir=cache_dir)
    with (
        create_runtime(model, options) as runtime,
        create_runtime(model, RuntimeOptions(runtime="onnxruntime")) as reference,
    ):
        check_specs(runtime, load_card(model))
        assert runtime.precision == precision
        for seed in range(3):  # different frames through one CUDA graph
            images = make_images(seed)
            expected, came = reference.infer({"images": images}), runtime.infer({"images": images})
            np.testing.assert_allclose(came["scores"], expected["scores"], atol=2e-3)
            np.testing.assert_allclose(came["boxes"], expected["boxes"], atol=box_px)
            np.testing.assert_allclose(came["masks"], expected["masks"], atol=mask)


def test_a_quantised_graph_agrees_with_onnxruntime(tmp_path: Path, cache_dir: str) -> None:
    path = tmp_path / "quantised.onnx"
    path.write_bytes(quantised_graph())
    images = np.random.default_rng(1).normal(0, 1, (1, 2, 4, 4)).astype(np.float32)
    with (
        create_runtime(path, RuntimeOptions(runtime="tensorrt", cache_dir=cache_dir)) as runtime,
        create_runtime(path, RuntimeOptions(runtime="onnxruntime")) as reference,
    ):
        assert runtime.precision == "int8"
        expected = reference.infer({"images": images})["scores"]
        np.testing.assert_allclose(runtime.infer({"images": images})["scores"], expected, atol=0.05)


@pytest.mark.parametrize(("precision", "level"), [("f32", 0.01), ("fp16", 0.25)])
def test_whole_frames_are_resized_as_by_onnxruntime(
    tmp_path: Path, cache_dir: str, precision: str, level: float
) -> None:
    path = write_resize(tmp_path / "resize.onnx", (1024, 2048), (768, 768))
    frame = np.random.default_rng(0).integers(0, 256, (1, 1024, 2048, 3), np.uint8)
    options = RuntimeOptions(runtime="tensorrt", precision=precision, cache_dir=cache_dir)
    with (
        create_runtime(path, options) as runtime,
        create_runtime(path, RuntimeOptions(runtime="onnxruntime")) as reference,
    ):
        expected = reference.infer({"images": frame})["resized"]
        np.testing.assert_allclose(runtime.infer({"images": frame})["resized"], expected, atol=level)


def write_resize(path: Path, frame: tuple[int, int], size: tuple[int, int]) -> Path:
    """The first nodes of a model for whole frames: images -> resized (1, 3, H, W)."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Resize", ["planes", "", "", "sizes"], ["resized"], mode="linear"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "resize",
        [info("images", TensorProto.UINT8, [1, *frame, 3])],
        [info("resized", TensorProto.FLOAT, [1, 3, *size])],
        [numpy_helper.from_array(np.array([1, 3, *size]), "sizes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_engine_is_built_once_and_runs_as_a_cuda_graph(model: Path, cache_dir: str, make_images) -> None:
    options = RuntimeOptions(runtime="tensorrt", cache_dir=cache_dir)
    create_runtime(model, options).close()
    lines: list[str] = []
    runtime = create_runtime(model, options, lines.append)
    assert any(line.startswith("engine loaded from ") for line in lines)
    assert not any("building" in line for line in lines)
    assert lines[-1].endswith(", CUDA graph")
    outputs = runtime.infer({"images": make_images()})
    before = outputs["masks"].copy()
    runtime.close()
    runtime.close()
    np.testing.assert_array_equal(outputs["masks"], before)  # host arrays outlive the GPU's memory
    with pytest.raises(RuntimeUnavailable, match="closed"):
        runtime.infer({"images": make_images()})


def test_threads_with_lent_inputs_do_not_mix(model: Path, cache_dir: str, make_images) -> None:
    frames = [make_images(seed) for seed in range(3)]
    wrong: list[int] = []
    with create_runtime(model, RuntimeOptions(runtime="tensorrt", cache_dir=cache_dir)) as runtime:
        expected = [runtime.infer({"images": frame})["masks"].copy() for frame in frames]

        def work(index: int) -> None:
            inputs = runtime.lend()
            for _ in range(100):
                inputs["images"][:] = frames[index]
                if not np.array_equal(runtime.infer(inputs)["masks"], expected[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_auto_takes_it(model: Path, cache_dir: str) -> None:
    with create_runtime(model, RuntimeOptions(cache_dir=cache_dir)) as runtime:
        assert runtime.name == "tensorrt"
