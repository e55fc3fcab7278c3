"""TensorRT on NVIDIA GPUs: a cached engine and lanes for its frames."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes.base import GraphRuntime, Log, default_log
from fassst_ros.runtimes.cuda_driver import Device, Driver
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
from fassst_ros.runtimes.tensorrt_lane import Lane, Lanes
from fassst_ros.types import RuntimeUnavailable


class TensorRtRuntime(GraphRuntime):
    """Executes an ONNX file by TensorRT 8.6 to 11 (or TensorRT-RTX) on one GPU.

    The first start on a machine builds the engine, which takes minutes; it is kept in
    `options.cache_dir`. precision: see `choose_precision`.
    Raises RuntimeUnavailable without driver, GPU or TensorRT, or if CUDA fails; ModelError for a model
    that TensorRT does not accept; ConfigError for a wrong device_id or precision.
    """

    name = "tensorrt"
    lanes = 2  # one frame is copied while another is computed; a third would only wait

    def __init__(self, model: Path, options: RuntimeOptions, log: Log = default_log) -> None:
        super().__init__()
        # the driver first: without a GPU, TensorRT 8.6 ends the process as soon as it is used
        driver = Driver()
        trt = import_tensorrt()
        data = read_model(model)
        self.precision = choose_precision(trt, options.precision, data, log)
        self._gpu = Device(driver, options.device_id)
        self._engine: Any = None
        self._lanes: Lanes | None = None
        try:
            self.device = self._gpu.name
            with self._gpu.current():
                self._open(trt, model, data, options, log)
        except BaseException:
            self._free()
            raise

    def _open(self, trt: Any, model: Path, data: bytes, options: RuntimeOptions, log: Log) -> None:
        """The engine and its first lane."""
        package = f"{trt.__name__} {trt.__version__}"
        half = is_converted(trt, self.precision, log)
        key = EngineKey(
            hashlib.sha256(data).hexdigest(),
            package,
            self.device,
            self._gpu.compute_capability,
            "int8+fp16" if half and self.precision == "int8" else self.precision,
            RECIPE,
        )
        cache = EngineCache(cache_folder(options.cache_dir), model.stem, key, log)
        self._engine = load_or_build(trt, data, self.precision, half, cache, log)
        self.inputs, self.outputs = tensor_specs(trt, self._engine)
        reason = logger_of(trt).take

        def open_lane() -> Lane:
            context = self._engine.create_execution_context()
            if context is None:
                raise RuntimeUnavailable(f"TensorRT cannot run the engine: {reason()}")
            return Lane(self._gpu.driver, context, self.inputs, self.outputs, reason, log)

        self._lanes = Lanes(open_lane)
        how = "CUDA graph" if self._lanes.are_graphs else "no CUDA graph"
        log(f"{package} on {self.device}, {self.precision}, {how}")

    def _lend(self) -> dict[str, NDArray[Any]]:
        assert self._lanes is not None
        with self._gpu.current():
            return self._lanes.lend()

    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        assert self._lanes is not None
        with self._gpu.current():
            return self._lanes.run(feeds)

    def _free(self) -> None:
        try:
            with self._gpu.current():  # TensorRT frees memory of the current GPU
                if self._lanes is not None:
                    self._lanes.close()
                self._engine = None
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


def is_converted(trt: Any, precision: str, log: Log) -> bool:
    """Whether the graph is converted to float16 first: for fp16, and for what is not in 8 bits of int8."""
    if precision != "int8" or not is_strongly_typed(trt):
        return precision == "fp16"
    if importlib.util.find_spec("onnx") is None:
        log("computing in tf32 what is not int8: fp16 would be faster, but needs the package onnx")
        return False
    return True


def load_or_build(trt: Any, data: bytes, precision: str, half: bool, cache: EngineCache, log: Log) -> Any:
    """The engine from the cache, or a new one; half: converted to float16 first.

    Raises ModelError or RuntimeUnavailable.
    """
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
        built = build_engine(trt, to_half(data) if half else data, precision, log)
        seconds = time.monotonic() - start
        log(f"engine built in {seconds:.0f} s, {len(built) / 1e6:.0f} MB")
        cache.store(built, seconds)
        engine = runtime.deserialize_cuda_engine(built)
        if engine is None:
            raise RuntimeUnavailable(f"TensorRT does not load its own engine: {logger.take()}")
        return engine
