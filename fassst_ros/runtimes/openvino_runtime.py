"""OpenVINO on the CPU: the default where there is no GPU; bf16 where the CPU has AMX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes.base import (
    INPUT_NAME,
    OUTPUT_NAMES,
    GraphRuntime,
    Log,
    TensorSpec,
    default_log,
    usable_cores,
)
from fassst_ros.runtimes.model_file import broken, check_precision, computed_in, read_model
from fassst_ros.types import RuntimeUnavailable

#: Our precision -> (OpenVINO's hint, the capability that a CPU must report for it).
HINTS = {"f32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16")}


class OpenVinoRuntime(GraphRuntime):
    """Executes an ONNX file by OpenVINO's CPU plugin, tuned for the latency of one frame.

    precision "default" is OpenVINO's own choice: bf16 on CPUs that have AMX, else f32.
    Raises RuntimeUnavailable if openvino is not installed or the CPU lacks the precision asked for,
    ModelError for a file that it cannot load, ConfigError for an unknown precision.
    """

    name = "openvino"

    def __init__(self, model: Path, options: RuntimeOptions, log: Log = default_log) -> None:
        super().__init__()
        try:
            import openvino as ov
        except ImportError as err:
            raise RuntimeUnavailable(
                f"OpenVINO cannot be imported ({err}). Install it: pip install openvino"
            ) from err
        data = read_model(model)
        check_precision(options.precision, ("default", *HINTS), self.name, data)
        core = ov.Core()
        threads = options.threads or usable_cores()
        try:
            compiled = core.compile_model(
                read_onnx(model), "CPU", properties(core, options.precision, threads)
            )
            self.inputs = tuple(spec_of(port) for port in compiled.inputs)
            self.outputs = tuple(spec_of(port) for port in compiled.outputs)
            request = compiled.create_infer_request()
        except RuntimeUnavailable:
            raise
        except Exception as err:  # OpenVINO's exceptions share no base class of their own
            raise broken(model, "OpenVINO", err) from err
        self._request: Any = request
        hint = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        used = {word: name for name, (word, _) in HINTS.items()}.get(hint, hint)
        self.precision = computed_in(used, data)
        self.device = f"CPU ({threads} threads)"
        log(f"OpenVINO {ov.__version__.split('-')[0]} on {self.device}, {self.precision}")

    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        # share_inputs and share_outputs: no copies; the outputs are views of the request's own memory
        results = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        return {spec.name: results[index] for index, spec in enumerate(self.outputs)}

    def _free(self) -> None:
        self._request = None


def properties(core: Any, precision: str, threads: int) -> dict[str, Any]:
    """Settings of the CPU plugin. Raises RuntimeUnavailable if the CPU cannot compute in `precision`."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # a thread that is tied to one core waits there for whatever else a robot runs on it
        "ENABLE_CPU_PINNING": False,
    }
    if precision in HINTS:
        hint, capability = HINTS[precision]
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if capability not in capabilities:
            raise RuntimeUnavailable(
                f"precision {precision} was asked for; this CPU offers {', '.join(capabilities)}. Set "
                "precision to default"
            )
        settings["INFERENCE_PRECISION_HINT"] = hint
    return settings


def read_onnx(model: Path) -> Any:
    """Parse by the ONNX front end alone: Core.read_model tries every format and prints what they say."""
    from openvino.frontend import FrontEndManager

    frontend = FrontEndManager().load_by_framework("onnx")
    return frontend.convert(frontend.load(str(model)))


def spec_of(port: Any) -> TensorSpec:
    """The spec of a port. Raises ValueError for a dynamic shape."""
    # where OpenVINO fused a Cast into its producer, the tensor bears both names: take the contract's
    names = sorted(port.get_names())
    name = next((n for n in names if n in (INPUT_NAME, *OUTPUT_NAMES)), names[0])
    shape = port.get_partial_shape()
    if shape.is_dynamic:
        raise ValueError(f"{name!r} has the dynamic shape {shape}; expected a static one")
    return TensorSpec(name, tuple(shape.to_shape()), np.dtype(port.get_element_type().to_dtype()))
