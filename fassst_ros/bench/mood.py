"""How steady the machine was during a measurement: other programs' share of it, and a fixed operation."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

#: Share of all cores that others may use, and spread of the fixed operation, before a report warns.
OTHERS, SPREAD = 0.05, 0.15
_RUNS = 25


@dataclass(slots=True)
class Mood:
    """Ask `look` before the first suite and after each; `words` and `warnings` are for who reads the report.

    Of the fixed operation (a blur of 2048x1024 pixels on all cores) each look keeps the median of 25 runs.
    """

    looks: list[tuple[str, float]] = field(default_factory=list)
    _times: tuple[float, float, float] | None = None
    _others: dict[str, float] = field(default_factory=dict)

    def look(self, after: str = "") -> None:
        """after: the suite that has just ended; "" before the first."""
        now = machine_seconds()
        if self._times is not None and now is not None:
            total, busy, own = (new - old for new, old in zip(now, self._times, strict=True))
            self._others[after] = max(0.0, busy - own) / total if total else 0.0
        self.looks.append((after, _fixed_operation()))
        self._times = machine_seconds()

    def words(self) -> str:
        """How steady it was, as a sentence for the notes."""
        times = [milliseconds for _, milliseconds in self.looks]
        said = (
            f"a fixed operation took {min(times):.2f} to {max(times):.2f} ms before, between and after the "
            f"suites (spread {100 * (max(times) / min(times) - 1):.0f} %)"
        )
        if self._others:
            name, share = self._busiest()
            said += f"; other programs used at most {100 * share:.0f} % of the cores ({name})"
        return said

    def warnings(self) -> list[str]:
        """Why the times are not to be trusted; nothing on a steady machine."""
        found = []
        if self._others and self._busiest()[1] > OTHERS:
            name, share = self._busiest()
            found.append(
                f"Other programs used {100 * share:.0f} % of the cores during the suite {name}: times are "
                "too long. Measure again"
            )
        times = [milliseconds for _, milliseconds in self.looks]
        if max(times) / min(times) - 1 > SPREAD:
            slow = max(self.looks, key=lambda look: look[1])[0]
            place = f"after the suite {slow}" if slow else "at the beginning"
            found.append(f"The machine was not equally fast all the time: slowest {place}")
        return found

    def _busiest(self) -> tuple[str, float]:
        return max(self._others.items(), key=lambda item: item[1])


def _fixed_operation() -> float:
    """Median time in milliseconds."""
    image = np.random.default_rng(0).integers(0, 256, (1024, 2048), np.uint8)
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        cv2.GaussianBlur(image, (0, 0), 4)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


def machine_seconds() -> tuple[float, float, float] | None:
    """(all cores' time, busy part of it, ours and our ended children's), in seconds; None where unknown."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
        ticks = [int(value) for value in fields]  # user nice system idle iowait irq softirq steal
        own = os.times()
        total = sum(ticks) / os.sysconf("SC_CLK_TCK")
        idle = (ticks[3] + ticks[4]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # not Linux
        return None
    return total, total - idle, sum(own[:4])
