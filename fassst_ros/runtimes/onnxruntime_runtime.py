"""ONNX Runtime on the CPU: the runtime that works everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes.base import GraphRuntime, Log, TensorSpec, default_log, usable_cores
from fassst_ros.runtimes.model_file import broken, check_precision, computed_in, read_model
from fassst_ros.types import RuntimeUnavailable

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeRuntime(GraphRuntime):
    """Executes an ONNX file by ONNX Runtime's CPU provider, in the precision of the file.

    Raises RuntimeUnavailable if onnxruntime is not installed, ModelError for a file that it cannot
    load, ConfigError for a precision other than default or f32.
    """

    name = "onnxruntime"

    def __init__(self, model: Path, options: RuntimeOptions, log: Log = default_log) -> None:
        super().__init__()
        try:
            import onnxruntime as ort
        except ImportError as err:
            raise RuntimeUnavailable(
                f"ONNX Runtime cannot be imported ({err}). Install it: pip install onnxruntime"
            ) from err
        data = read_model(model)
        check_precision(options.precision, ("default", "f32"), self.name, data)
        threads = options.threads or usable_cores()
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        # threads that spin between frames cost the node's other threads more than they save here
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.log_severity_level = 3  # errors come as exceptions, too
        try:
            session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
            self.inputs = tuple(spec_of(tensor) for tensor in session.get_inputs())
            self.outputs = tuple(spec_of(tensor) for tensor in session.get_outputs())
        except Exception as err:  # the exceptions of ONNX Runtime share no base class of their own
            raise broken(model, "ONNX Runtime", err) from err
        self._session: Any = session
        self._names = [spec.name for spec in self.outputs]
        self.device = f"CPU ({threads} threads)"
        self.precision = computed_in("f32", data)
        log(f"ONNX Runtime {ort.__version__} on {self.device}, {self.precision}")

    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        values = self._session.run(self._names, feeds)
        return dict(zip(self._names, values, strict=True))

    def _free(self) -> None:
        self._session = None


def spec_of(tensor: Any) -> TensorSpec:
    """The spec of an input or output of a session. Raises ValueError for a dynamic shape or odd type."""
    if not all(isinstance(size, int) for size in tensor.shape):
        raise ValueError(f"{tensor.name!r} has the dynamic shape {tensor.shape}; expected a static one")
    if tensor.type not in DTYPES:
        raise ValueError(f"{tensor.name!r} is a {tensor.type}; expected one of {', '.join(DTYPES)}")
    return TensorSpec(tensor.name, tuple(tensor.shape), np.dtype(DTYPES[tensor.type]))
