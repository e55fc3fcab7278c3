"""The most multiply-adds a second that this machine reaches: a chain of matrix products, nothing else."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes import create_runtime
from fassst_ros.types import FassstError

#: Rows and columns of each matrix, and how many products follow each other: little else is left to do.
SIDE, CHAIN = 1024, 8
_RUNS, _SECONDS = 12, 0.5  # at most so many runs, and no other begins after this time
_INPUT = "images"
#: Who is asked, and in which precisions; int8 is a graph of its own.
_CANDIDATES = {"openvino": ("f32", "bf16", "int8"), "onnxruntime": ("f32", "int8")}


def measure_peaks(options: RuntimeOptions, note: Callable[[str], None]) -> dict[str, tuple[float, str]]:
    """Precision -> (multiply-adds a second, the runtime that reached them); the best run of the best runtime.

    options: threads and device. Precisions that no runtime has here are missing.
    """
    found: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory(prefix="fassst_bench_") as name:
        for quantised in (False, True):
            model = Path(name, f"peak_{quantised}.onnx")
            try:
                write_chain(model, quantised)
            except ImportError as err:
                note(f"peak: not measured: {err}. Install it: pip install onnx")
                return found
            for runtime, precisions in _CANDIDATES.items():
                for precision in precisions:
                    if (precision == "int8") != quantised:
                        continue
                    chosen = dataclasses.replace(options, runtime=runtime, precision=precision)
                    speed = _speed(model, chosen)
                    if speed > found.get(precision, (0.0, ""))[0]:
                        found[precision] = (speed, runtime)
    return found


def _speed(model: Path, options: RuntimeOptions) -> float:
    """Multiply-adds a second; 0 where the runtime or the precision is missing."""
    feed = np.random.default_rng(1).standard_normal((SIDE, SIDE)).astype(np.float32)
    best = float("inf")
    try:
        with create_runtime(model, options, lambda _: None) as runtime:
            runtime.infer({_INPUT: feed})
            end = time.perf_counter() + _SECONDS
            for _ in range(_RUNS):
                start = time.perf_counter()
                runtime.infer({_INPUT: feed})
                best = min(best, time.perf_counter() - start)
                if start > end:
                    break
    except FassstError:
        return 0.0
    return CHAIN * SIDE**3 / best


def write_chain(path: Path, quantised: bool) -> None:
    """Write the graph: CHAIN products with constant matrices; quantised: 8-bit, explicit Q/DQ around each."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    constants = {}
    nodes = []
    if quantised:
        constants = {
            **{"scale": np.float32(0.05), "zero": np.uint8(128)},
            **{"weight_scale": np.float32(0.0025), "weight_zero": np.int8(0)},
        }

    def rounded(tensor: str) -> str:
        if not quantised:
            return tensor
        inputs = [tensor, "scale", "zero"]
        nodes.append(helper.make_node("QuantizeLinear", inputs, [f"{tensor}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}_q", *inputs[1:]], [f"{tensor}_d"]))
        return f"{tensor}_d"

    current = rounded(_INPUT)
    for i in range(CHAIN):
        weight = (random.standard_normal((SIDE, SIDE)) / SIDE**0.5).astype(np.float32)
        name = f"weight{i}"
        if quantised:
            weight = np.clip(np.round(weight / 0.0025), -127, 127).astype(np.int8)
            inputs = [name, "weight_scale", "weight_zero"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"w{i}"]))
        constants[name] = weight
        nodes.append(helper.make_node("MatMul", [current, f"w{i}" if quantised else name], [f"product{i}"]))
        current = rounded(f"product{i}")
    nodes.append(helper.make_node("ReduceMax", [current], ["most"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, [SIDE, SIDE])],
        [helper.make_tensor_value_info("most", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
