"""What `fassst bench` measures with: repeated calls, percentiles, and the facts of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fassst_ros.evaluation.latency import percentiles
from fassst_ros.runtimes.base import usable_cores

#: Packages whose versions decide over speed.
PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "openvino",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "torch",
)
#: CPU flags that decide over speed.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm")

#: Rounds of `take_turns` in which all take part, however slow they are.
LEAST_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """Percentiles of one measured part, in milliseconds.

    cpu: mean time of all cores together for one run, where it is known; other programs on the
    machine hardly change it. note: what was measured, for people.
    """

    name: str
    p50: float
    p90: float
    p99: float
    repeats: int
    note: str = ""
    cpu: float | None = None


def timing(name: str, milliseconds: Sequence[float], note: str = "", cpu: float | None = None) -> Timing:
    """The percentiles of measured times. Raises ValueError if there are none."""
    if not milliseconds:
        raise ValueError(f"{name}: nothing was measured")
    found = percentiles(milliseconds, (50, 90, 99))
    p50, p90, p99 = (float(found[key] or 0.0) for key in ("p50", "p90", "p99"))
    return Timing(name, p50, p90, p99, len(milliseconds), note, cpu)


def measure(name: str, call: Callable[[], object], repeats: int, warm_up: int = 5, note: str = "") -> Timing:
    """Time `call`, one run after the other, after `warm_up` runs that do not count."""
    for _ in range(warm_up):
        call()
    milliseconds, cpu = [], time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return timing(name, milliseconds, note, (time.process_time() - cpu) * 1e3 / repeats)


def machine_facts() -> dict[str, str]:
    """What a reader must know of the machine to judge the numbers."""
    model, flags = _cpu()
    facts = {
        "cpu": model,
        "cores": str(usable_cores()),
        "cpu features": " ".join(flag for flag in FLAGS if flag in flags) or "unknown",
        "memory": f"{_memory_gib():.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def _cpu() -> tuple[str, frozenset[str]]:
    """Name and flags of the CPU, as Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    flags = frozenset((values.get("flags") or values.get("Features") or "").split())
    return values.get("model name") or platform.machine(), flags


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def take_turns(
    calls: Sequence[Callable[[], object]], repeats: int, seconds: float, pause: float = 0.02
) -> list[int]:
    """Call each in turn, round after round, so that the machine's moods hit all alike; who begins changes.

    A call that has had `seconds` sits out the rounds after the fifth. pause: seconds before each call: some
    runtimes' threads spin on after their work, and would take the cores from whoever comes next.
    Returns how many rounds each took part in, always the first ones.
    """
    spent = [0.0] * len(calls)
    rounds = [0] * len(calls)
    for turn in range(repeats):
        for index in (*range(turn % len(calls), len(calls)), *range(turn % len(calls))):
            if turn >= LEAST_ROUNDS and spent[index] > seconds:
                continue
            time.sleep(pause)
            start = time.perf_counter()
            calls[index]()
            spent[index] += time.perf_counter() - start
            rounds[index] += 1
    return rounds
