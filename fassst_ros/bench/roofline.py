"""The least time that a device could take for a graph, by its measured peaks.

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model" (CACM 2009): work
takes as long as its arithmetic at the peak of matrix products, or its bytes at the peak of copying, whichever
is longer.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fassst_ros.bench.graph_cost import LayerCost

#: Bytes of a number in each precision.
BYTES = {"f32": 4, "tf32": 4, "fp16": 2}
#: Sides of the matrices and bytes of the copy: large enough to keep the device busy, small on a CPU.
SIDES = {"cuda": 8192, "cpu": 512}
COPIES = {"cuda": 1 << 28, "cpu": 1 << 24}
_RUNS = 20


@dataclass(frozen=True, slots=True)
class Peaks:
    """macs: precision -> multiply-adds a second. copied: bytes read and written a second."""

    macs: dict[str, float]
    copied: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """Least times in milliseconds. fused: intermediate results never leave the chip; layers: they all do."""

    fused: float
    layers: float


def roofline(
    layers: Sequence[LayerCost], io_bytes: int, weights: int, precision: str, peaks: Peaks
) -> Roofline:
    """Of a graph in one precision. io_bytes: of its inputs and outputs; weights: how many numbers.

    Raises KeyError for a precision that `peaks` does not have.
    """
    speed, size = peaks.macs[precision], BYTES[precision]
    moved = io_bytes + weights * size
    fused = max(sum(layer.macs for layer in layers) / speed, moved / peaks.copied)
    one_by_one = sum(max(layer.macs / speed, layer.numbers * size / peaks.copied) for layer in layers)
    return Roofline(fused * 1e3, one_by_one * 1e3)


def measure_peaks(device: str) -> Peaks:
    """Of "cuda" or "cpu", by torch; on a CPU of f32 alone."""
    import torch

    side = SIDES[device]
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    kinds: dict[str, tuple[Any, bool]] = {"f32": (torch.float32, False)}
    if device == "cuda":
        kinds |= {"tf32": (torch.float32, True), "fp16": (torch.float16, False)}
    macs = {}
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for name, (dtype, tf32) in kinds.items():
            torch.backends.cuda.matmul.allow_tf32 = tf32
            a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
            out = torch.empty_like(a)
            macs[name] = side**3 / _best(functools.partial(torch.mm, a, b, out=out), wait)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    source = torch.zeros(COPIES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Peaks(macs, 2 * COPIES[device] / _best(functools.partial(target.copy_, source), wait))


def _best(call: Callable[[], object], wait: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    best = float("inf")
    for _ in range(_RUNS):
        wait()
        start = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - start)
    return best
