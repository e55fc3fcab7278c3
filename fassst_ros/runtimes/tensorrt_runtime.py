"""TensorRT on NVIDIA GPUs: a cached engine, one stream, and a CUDA graph a frame."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes.base import GraphRuntime, Log, default_log
from fassst_ros.runtimes.cuda_driver import Buffers, CudaGraph, Device, Driver
from fassst_ros.runtimes.engine_cache import EngineCache, EngineKey, cache_folder
from fassst_ros.runtimes.half_precision import to_half
from fassst_ros.runtimes.model_file import check_precision, is_quantised, read_model
from fassst_ros.runtimes.tensorrt_engine import (
    RECIPE,
    build_engine,
    create,
    import_tensorrt,
    is_strongly_typed,
    logger_of,
    tensor_specs,
)
from fassst_ros.types import RuntimeUnavailable


class TensorRtRuntime(GraphRuntime):
    """Executes an ONNX file by TensorRT 8.6 to 11 (or TensorRT-RTX) on one GPU.

    The first start on a machine builds the engine, which takes minutes; it is kept in
    `options.cache_dir`. precision: see `choose_precision`.
    Raises RuntimeUnavailable without driver, GPU or TensorRT, or if CUDA fails; ModelError for a model
    that TensorRT does not accept; ConfigError for a wrong device_id or precision.
    """

    name = "tensorrt"

    def __init__(self, model: Path, options: RuntimeOptions, log: Log = default_log) -> None:
        super().__init__()
        # the driver first: without a GPU, TensorRT 8.6 ends the process as soon as it is used
        driver = Driver()
        trt = import_tensorrt()
        data = read_model(model)
        self.precision = choose_precision(trt, options.precision, data, log)
        with ExitStack() as undo:
            device = Device(driver, options.device_id)
            undo.callback(device.close)
            self.device = device.name
            with device.current(), ExitStack() as inner:
                self._open(trt, model, data, device, options, log, inner)
                self._resources = inner.pop_all()
            self._gpu = device
            undo.pop_all()

    def _open(
        self,
        trt: Any,
        model: Path,
        data: bytes,
        device: Device,
        options: RuntimeOptions,
        log: Log,
        undo: ExitStack,
    ) -> None:
        """Engine, buffers and CUDA graph; `undo` gets what frees them, in reverse order."""
        package = f"{trt.__name__} {trt.__version__}"
        key = EngineKey(
            hashlib.sha256(data).hexdigest(),
            package,
            device.name,
            device.compute_capability,
            self.precision,
            RECIPE,
        )
        cache = EngineCache(cache_folder(options.cache_dir), model.stem, key, log)
        engine = load_or_build(trt, data, self.precision, cache, log)
        undo.callback(setattr, self, "_context", None)  # frees the engine, too, while the GPU is current
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise RuntimeUnavailable(f"TensorRT cannot run the engine: {logger_of(trt).take()}")
        self.inputs, self.outputs = tensor_specs(trt, engine)
        self._logger = logger_of(trt)
        self._buffers = Buffers(device.driver, (*self.inputs, *self.outputs))
        undo.callback(self._buffers.close)
        for name, address in self._buffers.addresses.items():
            self._context.set_tensor_address(name, address)
        for spec in self.inputs:
            self._context.set_input_shape(spec.name, spec.shape)
        self._queue()  # TensorRT finishes its set-up in the first run, which a graph could not hold
        self._buffers.synchronize()
        self._graph = self._capture(device.driver, log)
        if self._graph is not None:
            undo.callback(self._graph.close)
        how = "CUDA graph" if self._graph is not None else "no CUDA graph"
        log(f"{package} on {self.device}, {self.precision}, {how}")

    def _capture(self, driver: Driver, log: Log) -> CudaGraph | None:
        """The frame as a CUDA graph, or None where that is not possible (which is logged)."""
        with ExitStack() as undo:
            try:
                graph = CudaGraph(driver, self._buffers.stream, self._queue)
                undo.callback(graph.close)
                graph.launch()
                self._buffers.synchronize()
            except RuntimeUnavailable as err:
                log(f"no CUDA graph, each frame is queued step by step (slower): {err}")
                return None
            undo.pop_all()
        return graph

    def _queue(self) -> None:
        """Queue one frame: copy in, execute, copy out."""
        for spec in self.inputs:
            self._buffers.upload(spec.name)
        if not self._context.execute_async_v3(self._buffers.stream):
            raise RuntimeUnavailable(f"TensorRT could not execute the engine: {self._logger.take()}")
        for spec in self.outputs:
            self._buffers.download(spec.name)

    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        buffers = self._buffers
        for name, array in feeds.items():
            np.copyto(buffers.arrays[name], array)
        with self._gpu.current():
            if self._graph is not None:
                self._graph.launch()
            else:
                self._queue()
            buffers.synchronize()
        return {spec.name: buffers.arrays[spec.name] for spec in self.outputs}

    def _free(self) -> None:
        try:
            with self._gpu.current():
                self._resources.close()
        finally:
            self._gpu.close()


def choose_precision(trt: Any, asked: str, data: bytes, log: Log) -> str:
    """What the engine computes in: "f32", "tf32", "fp16" or, for a quantised model, "int8".

    default is fp16, except on TensorRT 8, where the builder alone decides what becomes float16 (box
    coordinates too): tf32 there. f32 is true float32, without TF32. Raises ConfigError for others,
    RuntimeUnavailable if fp16 was asked for and the package onnx is missing.
    """
    check_precision(asked, ("default", "f32", "fp16"), "tensorrt", data)
    if is_quantised(data):
        return "int8"
    if asked == "default" and not is_strongly_typed(trt):
        return "tf32"
    if asked == "f32" or importlib.util.find_spec("onnx") is not None:
        return "f32" if asked == "f32" else "fp16"
    mend = "Install it: pip install onnx"
    if asked == "fp16":
        raise RuntimeUnavailable(f"precision fp16 needs the package onnx, to convert the model. {mend}")
    log(f"computing in tf32: fp16 would be faster, but needs the package onnx. {mend}")
    return "tf32"


def load_or_build(trt: Any, data: bytes, precision: str, cache: EngineCache, log: Log) -> Any:
    """The engine from the cache, or a new one. Raises ModelError or RuntimeUnavailable."""
    logger = logger_of(trt)
    runtime = create(trt, "Runtime")
    with cache.lock():
        stored = cache.load()
        if stored is not None:
            engine = runtime.deserialize_cuda_engine(stored)
            if engine is not None:
                log(f"engine loaded from {cache.path}")
                return engine
            log(f"the cached engine {cache.path} does not load, building it anew: {logger.take()}")
            cache.discard()
        log(f"building the TensorRT engine ({precision}); this takes minutes, once on this machine")
        start = time.monotonic()
        built = build_engine(trt, to_half(data) if precision == "fp16" else data, precision, log)
        seconds = time.monotonic() - start
        log(f"engine built in {seconds:.0f} s, {len(built) / 1e6:.0f} MB")
        cache.store(built, seconds)
        engine = runtime.deserialize_cuda_engine(built)
        if engine is None:
            raise RuntimeUnavailable(f"TensorRT does not load its own engine: {logger.take()}")
        return engine
