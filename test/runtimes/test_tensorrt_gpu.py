"""TensorRT on a real GPU: runs only where a driver, a GPU and TensorRT are, and says so elsewhere."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
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
