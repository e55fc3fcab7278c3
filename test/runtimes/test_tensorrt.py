"""What can be known of the TensorRT runtime without a GPU.

TensorRT-RTX parses and builds on the CPU by the API of TensorRT 11: so real engines are built from
our graphs, stored, and refused when they do not load. Executing them needs a GPU (docs/runtimes.md).
"""

from __future__ import annotations

import ast
import inspect
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graph import build_model
from test_half_precision import quantised_graph
from test_runtime_choice import has_gpu

from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes import create_runtime, tensorrt_engine, tensorrt_lane, tensorrt_runtime
from fassst_ros.runtimes.cuda_driver import Device, Driver
from fassst_ros.runtimes.engine_cache import EngineCache, EngineKey
from fassst_ros.runtimes.half_precision import to_half
from fassst_ros.runtimes.tensorrt_engine import build_engine, create, logger_of, network_flags, progress
from fassst_ros.runtimes.tensorrt_runtime import choose_precision, is_converted, load_or_build
from fassst_ros.types import ConfigError, ModelError, RuntimeUnavailable

KEY = EngineKey("ab" * 32, "tensorrt 11.1", "NVIDIA Orin", "8.7", "f32", 1)

#: Class -> names in every version from 8.6 to 11, read from the binding sources (python/src) of
#: github.com/NVIDIA/TensorRT at the tags v8.6.1, v9.3.0, v10.0.1, v10.3.0, v10.16, v11.0 and v11.1.
COMMON = {
    "trt": {
        *("Builder", "BuilderFlag", "DataType", "ILogger", "MemoryPoolType", "NetworkDefinitionCreationFlag"),
        *("OnnxParser", "Runtime", "TensorIOMode", "__version__", "__name__"),
    },
    "Builder": {"build_serialized_network", "create_builder_config", "create_network"},
    "BuilderFlag": {"TF32"},
    "DataType": {"BOOL", "FLOAT", "HALF", "INT32", "INT8", "UINT8"},
    "IBuilderConfig": {"clear_flag", "set_flag", "set_memory_pool_limit"},
    "ICudaEngine": {
        *("create_execution_context", "get_tensor_dtype", "get_tensor_mode", "get_tensor_name"),
        *("get_tensor_shape", "num_io_tensors"),
    },
    "IExecutionContext": {"execute_async_v3", "set_input_shape", "set_tensor_address"},
    "ILogger": {"Severity", "__init__"},
    "MemoryPoolType": {"WORKSPACE"},
    "OnnxParser": {"get_error", "num_errors", "parse"},
    "Runtime": {"deserialize_cuda_engine"},
    "Severity": {"ERROR", "INTERNAL_ERROR", "WARNING"},
    "TensorIOMode": {"INPUT", "OUTPUT"},
}

#: Names that only some versions have; the code may use them only where it asked for them.
FEATURES = {
    "BuilderFlag": {"FP16", "INT8"},  # 8.6 to 10
    "DataType": {"INT64"},  # 10 on
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH", "STRONGLY_TYPED"},  # 8.6 to 10; 9.1 on
}

#: How our code calls an object of each class.
VARIABLES = {
    "trt": "trt",
    "builder": "Builder",
    "flags": "BuilderFlag",
    "types": "DataType",
    "config": "IBuilderConfig",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "_context": "IExecutionContext",
    "parser": "OnnxParser",
    "runtime": "Runtime",
    "levels": "Severity",
    "kinds": "NetworkDefinitionCreationFlag",
    "ILogger": "ILogger",
    "BuilderFlag": "BuilderFlag",
    "DataType": "DataType",
    "MemoryPoolType": "MemoryPoolType",
    "NetworkDefinitionCreationFlag": "NetworkDefinitionCreationFlag",
    "TensorIOMode": "TensorIOMode",
}


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


def used_names() -> set[tuple[str, str]]:
    """(class, name) of every attribute of a TensorRT object in our code."""
    used = set()
    for module in (tensorrt_engine, tensorrt_lane, tensorrt_runtime):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute):
                owner = node.value
                variable = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", None)
                if variable in VARIABLES:
                    used.add((VARIABLES[variable], node.attr))
    used |= {("DataType", name) for name in tensorrt_engine.DTYPES}
    return used


def test_only_the_api_that_all_versions_share_is_used() -> None:
    used = used_names()
    assert ("IExecutionContext", "execute_async_v3") in used  # the walk does find them
    assert ("Builder", "build_serialized_network") in used
    beyond = {(kind, name) for kind, name in used if name not in COMMON.get(kind, set())}
    assert {(k, n) for k, n in beyond if n not in FEATURES.get(k, set())} == set()


def test_tensorrt_rtx_has_the_common_api(rtx) -> None:
    classes = {**{name: getattr(rtx, name, None) for name in COMMON}, "trt": rtx}
    classes["Severity"] = rtx.ILogger.Severity
    missing = [
        f"{kind}.{n}" for kind, names in COMMON.items() for n in names if not hasattr(classes[kind], n)
    ]
    assert missing == []


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU; the test is about machines without")
def test_without_a_gpu_the_runtime_says_so(model: Path, tmp_path: Path) -> None:
    options = RuntimeOptions(runtime="tensorrt", cache_dir=str(tmp_path))
    with pytest.raises(RuntimeUnavailable, match=r"CUDA.*or take another runtime"):
        create_runtime(model, options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(RuntimeUnavailable, match=r"libcuda-missing\.so.*Install the NVIDIA driver"):
        Driver("libcuda-missing.so")


def test_a_library_without_the_functions_is_too_old() -> None:
    with pytest.raises(
        RuntimeUnavailable, match=r"no cuInit: it is older than 11\.4\. Update the NVIDIA driver"
    ):
        Driver("libm.so.6")


@pytest.mark.skipif(not has_gpu(), reason="needs a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="device_id 63"):
        Device(Driver(), 63)


@pytest.mark.parametrize("precision", ["f32", "tf32", "fp16"])
def test_the_small_graph_becomes_an_engine(rtx, precision: str, model: Path) -> None:
    data = model.read_bytes()
    data = to_half(data) if precision == "fp16" else data
    engine = build_engine(rtx, data, precision, print)
    assert len(engine) > 10_000


@pytest.mark.parametrize("half", [False, True])
def test_a_quantised_graph_becomes_an_engine(rtx, half: bool) -> None:
    data = quantised_graph()
    assert is_converted(rtx, "int8", print)
    assert len(build_engine(rtx, to_half(data) if half else data, "int8", print)) > 10_000


def test_a_graph_quantised_for_cpus_is_refused_with_the_reason(rtx) -> None:
    model = onnx.load_model_from_string(quantised_graph())
    scale = onnx.numpy_helper.from_array(np.full(4, 1e-4, np.float32), "bias_scale")
    bias = onnx.numpy_helper.from_array(np.arange(4, dtype=np.int32), "bias_q")
    model.graph.initializer.extend([scale, bias])
    inputs = ["bias_q", "bias_scale"]
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", inputs, ["bias_d"], axis=0))
    (convolution,) = (node for node in model.graph.node if node.output[0] == "a")
    convolution.input[2] = "bias_d"
    with pytest.raises(ModelError, match=r"does not accept the model.*If it was quantised for CPUs"):
        build_engine(rtx, model.SerializeToString(), "int8", print)


@pytest.mark.parametrize("precision", ["f32", "fp16"])
def test_the_shipped_model_becomes_an_engine(rtx, precision: str, shipped_model: Path) -> None:
    data = shipped_model.read_bytes()
    weights = sum(weight.nbytes for weight in initializers(data))
    engine = build_engine(rtx, to_half(data) if precision == "fp16" else data, precision, print)
    assert len(engine) > weights * (0.9 if precision == "f32" else 0.45)


def initializers(data: bytes) -> list[np.ndarray]:
    graph = onnx.load_model_from_string(data).graph
    return [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]


def test_a_graph_that_tensorrt_lacks_is_a_model_error(rtx) -> None:
    graph = build_model()
    (sigmoid,) = (node for node in graph.graph.node if node.output[0] == "mask_cells")
    sigmoid.op_type = "FourierMagic"
    with pytest.raises(ModelError, match=r"TensorRT does not accept the model.*FourierMagic"):
        build_engine(rtx, graph.SerializeToString(), "f32", print)


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_damaged_file_is_a_model_error(rtx, keep: float, model: Path) -> None:
    data = model.read_bytes()
    with pytest.raises(ModelError, match="TensorRT does not accept the model"):
        build_engine(rtx, data[: int(len(data) * keep)], "f32", print)


def test_an_engine_that_does_not_load_is_rebuilt_and_stored(rtx, model: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    cache = EngineCache(tmp_path, "tiny", KEY, lines.append)
    cache.store(b"an engine of another world", 1)
    data = model.read_bytes()
    if has_gpu():
        assert load_or_build(rtx, data, "f32", False, cache, lines.append).num_io_tensors == 5
    else:  # loading touches the GPU; building does not
        with pytest.raises(RuntimeUnavailable, match="TensorRT does not load its own engine"):
            load_or_build(rtx, data, "f32", False, cache, lines.append)
    assert any("does not load, building it anew: " in line and "Error Code" in line for line in lines)
    assert any(line.startswith("engine built in ") for line in lines)
    stored = cache.load()
    assert stored is not None
    assert len(stored) > 10_000


def test_there_is_one_logger_and_it_forgets_what_was_taken(rtx) -> None:
    logger = logger_of(rtx)
    assert logger is logger_of(rtx)
    create(rtx, "Runtime").deserialize_cuda_engine(b"not an engine")
    assert "Error" in logger.take()
    assert logger.take() == "TensorRT gave no reason"


def test_networks_are_strongly_typed_where_that_exists(rtx) -> None:
    assert network_flags(rtx) == 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_precision(rtx, model: Path) -> None:
    data = model.read_bytes()
    assert choose_precision(rtx, "default", data, print) == "fp16"
    assert choose_precision(rtx, "fp16", data, print) == "fp16"
    assert choose_precision(rtx, "f32", data, print) == "f32"
    assert choose_precision(rtx, "int8", data + b"QuantizeLinear", print) == "int8"
    assert choose_precision(rtx, "default", data + b"QuantizeLinear", print) == "int8"
    for precision, message in (
        ("bf16", "tensorrt offers default, f32, fp16"),
        ("int8", "precision int8 was asked for"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose_precision(rtx, precision, data, print)


def test_a_long_build_reports_that_it_goes_on() -> None:
    told = threading.Event()
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        told.set()

    with progress(log, 0.01):
        assert told.wait(60)
    assert lines[0].startswith("still building the TensorRT engine, ")
    assert not any(thread.name == "tensorrt-build-progress" for thread in threading.enumerate())
