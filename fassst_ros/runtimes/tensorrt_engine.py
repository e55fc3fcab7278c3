"""ONNX bytes -> TensorRT engine, by the part of the API that TensorRT 8.6, 10, 11 and RTX share.

What differs is asked for by hasattr, never by version number, but for one thing: EXPLICIT_BATCH still
exists in 10, where it means nothing. No GPU is touched on import.
"""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fassst_ros.runtimes.base import Log, TensorSpec
from fassst_ros.types import ModelError, RuntimeUnavailable

#: Packages with this API: TensorRT as in JetPack and on servers, and its sibling for RTX cards.
PACKAGES = ("tensorrt", "tensorrt_rtx")

#: Raise it when build settings or half_precision.py change: cached engines are then built anew.
RECIPE = 3

WORKSPACE_BYTES = 1 << 30  # enough for the fastest kernels of such graphs, small enough for a Jetson
PROGRESS_SECONDS = 10.0

DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


def import_tensorrt() -> Any:
    """The first package of PACKAGES that is there. Raises RuntimeUnavailable if none is."""
    causes = []
    for package in PACKAGES:
        try:
            return importlib.import_module(package)
        except Exception as err:  # a half installed TensorRT raises OSError, AttributeError, RuntimeError ...
            causes.append(f"{package}: {type(err).__name__}: {err}")
    raise RuntimeUnavailable(
        f"TensorRT cannot be imported ({'; '.join(causes)}). Jetson: sudo apt install python3-libnvinfer, "
        "and make virtual environments with --system-site-packages; elsewhere: pip install tensorrt"
    )


@functools.cache
def logger_of(trt: Any) -> Any:
    """The one ILogger of this process: TensorRT keeps the first that it is given for ever.

    Its `take()` returns the warnings and errors since the last call, as one line.
    """

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._messages: deque[str] = deque(maxlen=20)

        def log(self, severity: Any, msg: str) -> None:
            levels = trt.ILogger.Severity
            if severity in (levels.INTERNAL_ERROR, levels.ERROR, levels.WARNING):
                self._messages.append(" ".join(msg.split()))

        def take(self) -> str:
            text = "; ".join(self._messages)
            self._messages.clear()
            return text[-1500:] or "TensorRT gave no reason"

    return Collector()


def create(trt: Any, kind: str) -> Any:
    """A trt.Builder or trt.Runtime. Raises RuntimeUnavailable where TensorRT cannot start."""
    logger = logger_of(trt)
    try:
        return getattr(trt, kind)(logger)
    except (TypeError, RuntimeError) as err:  # TypeError: pybind11's word for a null pointer
        raise RuntimeUnavailable(f"TensorRT cannot start its {kind}: {logger.take()} ({err})") from err


def is_strongly_typed(trt: Any) -> bool:
    """Whether engines keep the types of the graph (TensorRT 9.1 and later)."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def network_flags(trt: Any) -> int:
    """The argument of `create_network`: static batch as in ONNX, types as in the graph."""
    kinds = trt.NetworkDefinitionCreationFlag
    flags = 0
    if hasattr(kinds, "EXPLICIT_BATCH") and int(trt.__version__.split(".")[0]) < 10:
        flags |= 1 << int(kinds.EXPLICIT_BATCH)
    if is_strongly_typed(trt):
        flags |= 1 << int(kinds.STRONGLY_TYPED)
    return flags


def build_engine(trt: Any, data: bytes, precision: str, log: Log) -> bytes:
    """Parse a model and build its engine for the current GPU; takes seconds to many minutes.

    data: ONNX; what is to be float16 is already converted (half_precision.py).
    precision: "f32" (no TF32), "tf32", "fp16" or "int8".
    Raises ModelError for a graph that TensorRT does not accept, RuntimeUnavailable if the build fails.
    """
    logger = logger_of(trt)
    logger.take()
    builder = create(trt, "Builder")
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    config = builder.create_builder_config()
    if not parser.parse(data):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        cause = " ".join(errors.split())[:1500] or logger.take()
        if precision == "int8":
            cause += (
                ". If it was quantised for CPUs: TensorRT needs a scheme of its own, see docs/runtimes.md"
            )
        raise ModelError(f"TensorRT does not accept the model: {cause}")
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    flags = trt.BuilderFlag
    if precision == "f32":
        config.clear_flag(flags.TF32)
    # without strong typing the flag allows float16; the builder then chooses layer by layer
    if precision == "fp16" and not is_strongly_typed(trt):
        config.set_flag(flags.FP16)
    if precision == "int8" and not is_strongly_typed(trt):
        config.set_flag(flags.INT8)
    with progress(log):
        engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeUnavailable(
            f"TensorRT could not build the engine: {logger.take()}. If memory is short, close other programs "
            "that use the GPU"
        )
    return bytes(memoryview(engine))


@contextmanager
def progress(log: Log, seconds: float = PROGRESS_SECONDS) -> Iterator[None]:
    """Tell `log` every few seconds that the build goes on, from a thread of its own."""
    done = threading.Event()
    start = time.monotonic()

    def tell() -> None:
        while not done.wait(seconds):
            log(f"still building the TensorRT engine, {time.monotonic() - start:.0f} s so far")

    thread = threading.Thread(target=tell, name="tensorrt-build-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def tensor_specs(trt: Any, engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """(inputs, outputs) of an engine. Raises ModelError for dynamic shapes and types beyond DTYPES."""
    types = trt.DataType
    dtypes = {getattr(types, name): dtype for name, dtype in DTYPES.items() if hasattr(types, name)}
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(engine.get_tensor_shape(name))
        dtype = engine.get_tensor_dtype(name)
        if min(shape, default=1) < 1 or dtype not in dtypes:
            raise ModelError(
                f"engine tensor {name!r} is {dtype} {shape}; expected a static shape and one of "
                f"{', '.join(DTYPES)}"
            )
        spec = TensorSpec(name, shape, np.dtype(dtypes[dtype]))
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(spec)
    return tuple(inputs), tuple(outputs)
