"""What work on a frame costs, told without a clock: the same on every machine and under every load.

Times depend on who else uses the machine. Two counts do not, and show what slows Python that works on
images: lines of our code that run (a loop over pixels), and bytes that are allocated (a copy of a frame). For
work that shows in neither there is the CPU time relative to a fixed operation, with a generous limit.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np

import fassst_ros

#: Lines of files below these folders count: the package, and the tests, which stand in for it at times.
FOLDERS = (str(Path(fassst_ros.__file__).parent), str(Path(__file__).parent))


@dataclass(frozen=True, slots=True)
class Cost:
    """lines: of our code that ran in this thread. size: bytes that it allocated, also if freed at once."""

    lines: int
    size: int

    def within(self, limit: Cost) -> bool:
        """Whether neither is above `limit`."""
        return self.lines <= limit.lines and self.size <= limit.size


class _Counter:
    """Looks at the memory before every line; what a line frees again shows in its peak."""

    def __init__(self) -> None:
        self.lines = self.size = 0
        self._held = tracemalloc.get_traced_memory()[0]

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(FOLDERS):
            return None
        self.lines += event == "line"
        self.look()
        return self.trace

    def look(self) -> None:
        self.size += max(0, tracemalloc.get_traced_memory()[1] - self._held)
        tracemalloc.reset_peak()
        self._held = tracemalloc.get_traced_memory()[0]


def frame_cost(call: Callable[[], object]) -> Cost:
    """What `call` costs after two runs that do not count, because they make what is made only once."""
    for _ in range(2):
        call()
    before = sys.gettrace()
    tracemalloc.start()
    counter = _Counter()
    sys.settrace(counter.trace)
    try:
        kept = call()
    finally:
        sys.settrace(before)
        counter.look()
        tracemalloc.stop()
    del kept
    return Cost(counter.lines, counter.size)


def relative_time(call: Callable[[], object], runs: int = 15) -> float:
    """CPU time of `call` in this thread as a multiple of that of a fixed operation, a blur of two megapixels.

    The least of `runs` runs of each, in turn: what else happens on the machine can only make a run slower.
    """
    grey = np.zeros((1024, 2048), np.uint8)
    blurred = np.empty_like(grey)
    calls = (call, lambda: cv2.GaussianBlur(grey, (9, 9), 2.0, dst=blurred))
    times: tuple[list[int], list[int]] = ([], [])
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # else other threads do the work, unseen
    try:
        for _ in range(runs):
            for kept, one in zip(times, calls, strict=True):
                start = time.thread_time_ns()
                one()
                kept.append(time.thread_time_ns() - start)
    finally:
        cv2.setNumThreads(threads)
    return min(times[0]) / min(times[1])
