"""The protocol of ros2_benchmark: how often frames may come, and how long each takes at a fixed rate.

Frames lie in memory and are published at a set rate for a set time. A rate is sustained if less than
5 % of the frames stay without a result. What measures a rate is passed in; this module knows no ROS.
Source: NVIDIA Isaac ROS, ros2_benchmark, "peak throughput". Differences: the search is a bisection down to
5 % of the rate instead of one down to 10 Hz and steps of 5 Hz, it starts at the rate of the results of a pass
that was too fast, what was found is confirmed by a pass of twice the time instead of the mean of five, and a
rate that the player did not hold itself never counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

#: Share of the frames that may be missing at a rate that counts as sustained: less than this.
MISSING = 0.05
#: Share of the asked rate that the player must reach for the pass to count.
HELD = 0.98
#: Frames in one pass at least, of all cameras together: one of them may be missing.
LEAST_FRAMES = 25
#: Frames of each camera in one pass at least.
LEAST_FRAMES_EACH = 5
#: The search ends when the bounds are so close to each other, relative to the rate; see `highest_rate`.
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
    by_camera: frames with a result, camera by camera; empty where it was not told apart.
    cpu_ms: time of all cores together that the node's process took for one result, where it is known.
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
    by_camera: tuple[int, ...] = ()
    cpu_ms: float | None = None

    @property
    def results(self) -> float:
        """Results a second, of all cameras together."""
        return self.played * self.cameras * (1 - self.missing)

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


def frames_of(rate: float, seconds: float, cameras: int = 1) -> int:
    """How many frames a pass has for each camera."""
    least = max(LEAST_FRAMES_EACH, math.ceil(LEAST_FRAMES / cameras))
    return max(least, math.ceil(rate * seconds))


def highest_rate(
    measure: Measure,
    known: Sequence[RateRecord],
    lowest: float = 1.0,
    highest: float = 240.0,
    confirm: bool = True,
    tolerance: float = TOLERANCE,
) -> HighestRate:
    """Search the highest sustained rate of each camera between `lowest` and `highest` Hz, and confirm it.

    known: passes that were measured already; they narrow the bounds. tolerance: the search ends when the
    bounds are so close to each other, relative to the rate.
    """
    good = max((record.rate for record in known if record.sustained), default=0.0)
    above = [record for record in known if record.rate > good]
    bad = min(above, key=lambda record: record.rate) if above else None
    step = stride = 1 + tolerance
    while (probe := _between(good, bad, lowest, highest, step, stride)) is not None:
        found = measure(probe, "search", 1.0)
        if found.sustained:
            good, stride = probe, stride**2
        else:
            bad, stride = found, step
    limit = "search" if bad is None else _limit(bad)
    if not good:
        return HighestRate(None, limit)
    return _confirm(measure, good, limit) if confirm else HighestRate(good, limit)


def _between(
    good: float, bad: RateRecord | None, lowest: float, highest: float, step: float, stride: float
) -> float | None:
    """The next rate to try, None if the bounds are close enough or at the end of the range.

    good: the highest sustained rate, 0 if none is known. bad: the slowest pass above it that is not. step:
    ratio of two rates that need no other between them. stride: that of good and the next one, where nothing
    better is expected.
    """
    if bad is None:
        if not good:
            return _readable(math.sqrt(lowest * highest))
        return min(2 * good, highest) if good < highest else None
    # What comes out of a node that gets too much is about what it sustains.
    guess = bad.results / bad.cameras
    if not good:
        probe = max(lowest, min(guess, bad.rate / step**2))
        return _readable(probe) if probe < bad.rate else None
    if bad.rate <= good * step:
        return None
    if good * step <= guess <= bad.rate / step:
        return _readable(guess)
    return _readable(min(math.sqrt(good * bad.rate), good * stride))


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
