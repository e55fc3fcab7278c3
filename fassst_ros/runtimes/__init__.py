"""The runtimes by name, imported only when they are used, and the choice of `auto`.

A runtime is "module:Class" with the constructor (model: Path, options: RuntimeOptions, log: Log) and
the interface `base.Runtime`. To add one: write its module, add its line here and its name to the
choices of `config.RuntimeOptions.runtime`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes.base import Log, Runtime, default_log
from fassst_ros.runtimes.specs import check_specs
from fassst_ros.types import ConfigError, FassstError, ModelError, RuntimeUnavailable

__all__ = ["AUTO_ORDER", "RUNTIMES", "Log", "Runtime", "check_specs", "create_runtime"]

RUNTIMES = {
    "tensorrt": "fassst_ros.runtimes.tensorrt_runtime:TensorRtRuntime",
    "openvino": "fassst_ros.runtimes.openvino_runtime:OpenVinoRuntime",
    "onnxruntime": "fassst_ros.runtimes.onnxruntime_runtime:OnnxRuntimeRuntime",
    "torch": "fassst_ros.runtimes.torch_runtime:TorchRuntime",
}

#: What `auto` tries, fastest first. Not torch: it is the reference, and robots need not have it.
AUTO_ORDER = ("tensorrt", "openvino", "onnxruntime")


def create_runtime(model: Path, options: RuntimeOptions, log: Log = default_log) -> Runtime:
    """Load `model` (an .onnx file) into the runtime that `options.runtime` names.

    `log` gets what people should know: which runtime was taken, why others were passed over, and how
    far an engine build is. `options.model` is not read: the caller resolved it to `model`.
    Raises ModelError for a missing or broken model, ConfigError for an unknown runtime or a precision
    that it does not have, RuntimeUnavailable if it is not installed or has no device.
    """
    if not model.is_file():
        raise ModelError(f"model file {model} does not exist. Give the path of an .onnx file")
    if options.runtime != "auto":
        return open_runtime(options.runtime, model, options, log)
    failures: dict[str, Exception] = {}
    for name in AUTO_ORDER:
        try:
            runtime = open_runtime(name, model, options, log)
        except Exception as err:  # a robot with one broken library should still see
            failures[name] = err
            unexpected = "" if isinstance(err, FassstError) else f"{type(err).__name__}: "
            log(f"runtime auto: not {name}: {unexpected}{err}")
        else:
            log(f"runtime auto: chose {name} on {runtime.device} in {runtime.precision}")
            return runtime
    reasons = "; ".join(f"{name}: {err}" for name, err in failures.items())
    # a broken file or a wrong precision is what the user must mend, rather than the machine
    for kind in (ModelError, ConfigError):
        if any(isinstance(err, kind) for err in failures.values()):
            raise kind(f"no runtime can execute {model}: {reasons}")
    raise RuntimeUnavailable(f"no runtime works on this machine: {reasons}")


def open_runtime(name: str, model: Path, options: RuntimeOptions, log: Log) -> Runtime:
    """Import one runtime and load the model into it. Raises ConfigError for an unknown name."""
    if name not in RUNTIMES:
        raise ConfigError(f"runtime is {name!r}; expected one of auto, {', '.join(RUNTIMES)}")
    module, attribute = RUNTIMES[name].split(":")
    runtime: Runtime = getattr(importlib.import_module(module), attribute)(model, options, log)
    return runtime
