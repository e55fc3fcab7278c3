"""The protocol of ros2_benchmark: how often frames may come, and how long each takes at a fixed rate.

Frames lie in memory and are published at a set rate for a set time. A rate is sustained if less than
5 % of the frames stay without a result. What measures a rate is passed in; this module knows no ROS.
Source: NVIDIA Isaac ROS, ros2_benchmark, "peak throughput". Differences: the search is a bisection down to
5 % of the rate instead of one down to 10 Hz and steps of 5 Hz, what was found is confirmed by a pass of
twice the time instead of the mean of five, and a rate that the player did not hold itself never counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

#: Share of the frames that may be missing at a rate that counts as sustained: less than this.
MISSING = 0.05
#: Share of the asked rate that the player must reach for the pass to count.
HELD = 0.98
#: Frames of a camera in one pass at least: one of them may be missing.
LEAST_FRAMES = 25
#: The search ends when the bounds are so close to each other, relative to the rate.
TOLERANCE = 0.05
#: How much slower what was found is tried again, if it is not sustained a second time.
STEPS = (1.0, 1 / 1.05, 1 / 1.1, 1 / 1.25, 1 / 1.5, 1 / 2)


@dataclass(frozen=True, slots=True)
class RateRecord:
    """One pass at a fixed rate; the counts are those of all cameras together.

    rate: asked for, frames per second of each camera. kind: fixed, search or confirm.
    played: frames per second that the player really published for each camera. late_ms: how far behind its
    time a frame was published at most. segmented: frames with a result. counters: what the node says about
    the frames of this pass (received, dropped, stale, failed, segmented). latency_ms: stamp, set right
    before publishing, to the arrival of the result in the measuring process: p50, p90, p99.
    stages_ms: stage of the node -> p50, p90, p99. Percentiles are None where nothing came.
    """

    rate: float
    kind: str
    cameras: int
    played: float
    late_ms: float
    published: int
    segmented: int
    counters: dict[str, int] = field(default_factory=dict)
    latency_ms: dict[str, float | None] = field(default_factory=dict)
    stages_ms: dict[str, dict[str, float | None]] = field(default_factory=dict)

    @property
    def missing(self) -> float:
        """Share of the published frames that have no result."""
        return 1 - self.segmented / self.published if self.published else 1.0

    @property
    def held(self) -> bool:
        """Whether the player published as fast as asked."""
        return self.played >= HELD * self.rate

    @property
    def sustained(self) -> bool:
        """Whether the rate counts as reached by the node."""
        return self.held and self.missing < MISSING

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if self.missing >= MISSING:
            return "too fast"
        return "sustained" if self.held else f"player: {self.played:.1f} Hz"


@dataclass(frozen=True, slots=True)
class HighestRate:
    """The highest sustained rate [Hz], None if there is none; limit: what is in the way of a higher one.

    limit: node; player (the camera process cannot publish faster, the node may be able to do more);
    search (the highest rate that was to be tried).
    """

    rate: float | None
    limit: str

    def __str__(self) -> str:
        if self.rate is None:
            return "none was sustained"
        at_least = "" if self.limit == "node" else "at least "
        reasons = {
            "player": " (the player cannot publish faster)",
            "search": " (the highest rate that was tried)",
        }
        return f"{at_least}{self.rate:g} Hz{reasons.get(self.limit, '')}"


#: Plays at a rate [Hz]; `times` is how much longer than usual. kind as in RateRecord.
Measure = Callable[[float, str, float], RateRecord]


def frames_of(rate: float, seconds: float) -> int:
    """How many frames a pass has for each camera."""
    return max(LEAST_FRAMES, math.ceil(rate * seconds))


def highest_rate(
    measure: Measure, known: Sequence[RateRecord], lowest: float = 1.0, highest: float = 240.0
) -> HighestRate:
    """Search the highest sustained rate between `lowest` and `highest` Hz, and confirm it.

    known: passes that were measured already; they narrow the bounds.
    """
    good, bad, limit = _bounds(known)
    while bad > good * (1 + TOLERANCE):
        probe = _between(good, bad, lowest, highest)
        if probe is None:
            break
        found = measure(probe, "search", 1.0)
        if found.sustained:
            good = probe
        else:
            bad, limit = probe, _limit(found)
    if not good:
        return HighestRate(None, limit)
    return _confirm(measure, good, "search" if math.isinf(bad) else limit)


def _bounds(known: Sequence[RateRecord]) -> tuple[float, float, str]:
    """(highest sustained rate or 0, lowest rate above it that is not, what limits it)."""
    good = max((record.rate for record in known if record.sustained), default=0.0)
    above = [record for record in known if record.rate > good]
    if not above:
        return good, math.inf, "search"
    first = min(above, key=lambda record: record.rate)
    return good, first.rate, _limit(first)


def _between(good: float, bad: float, lowest: float, highest: float) -> float | None:
    """The next rate to try, None if there is none: doubled or halved until both bounds are known."""
    if not good:
        probe = math.sqrt(lowest * highest) if math.isinf(bad) else max(bad / 2, lowest)
        return _readable(probe) if probe < bad else None
    if math.isinf(bad):
        return min(2 * good, highest) if good < highest else None
    return _readable(math.sqrt(good * bad))


def _confirm(measure: Measure, found: float, limit: str) -> HighestRate:
    for step in STEPS:
        record = measure(_readable(found * step), "confirm", 2.0)
        if record.sustained:
            return HighestRate(record.rate, limit)
        limit = _limit(record)
    return HighestRate(None, limit)


def _readable(rate: float) -> float:
    return float(f"{rate:.3g}")


def _limit(record: RateRecord) -> str:
    return "node" if record.missing >= MISSING else "player"


def rate_columns(record: RateRecord) -> dict[str, str]:
    """A pass as people read it: column -> text; latency in milliseconds."""

    def milliseconds(key: str) -> str:
        value = record.latency_ms.get(key)
        return "-" if value is None else f"{value:.1f}"

    return {
        "Hz": f"{record.rate:g}",
        "pass": record.kind,
        "frames": str(record.published),
        "missing": f"{100 * record.missing:.1f} %",
        **{key: milliseconds(key) for key in ("p50", "p90", "p99")},
        "outcome": record.verdict,
    }
