"""Which frames a node would drop: its mailbox simulated with measured times.

The rule is that of fassst_ros/ros/cameras.py, "newest frame wins": each camera has one place, in which a
newer frame replaces the one that waits; one worker takes from the cameras in turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fassst_ros.replay.record import FrameRecord
from fassst_ros.types import ConfigError

#: Rates that are tried in every report, in Hz of each camera.
RATES = (5.0, 10.0, 15.0, 20.0, 30.0, 60.0)
RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one frame. latency_ms: arrival to result; None if it is dropped."""

    latency_ms: float | None

    @property
    def dropped(self) -> bool:
        """Whether a newer frame took its place."""
        return self.latency_ms is None


def parse_rate(text: str) -> float | None:
    """Frames per second of each camera, None for "recorded". Raises ConfigError for anything else."""
    if text == RECORDED:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1000:
        raise ConfigError(
            f"--rate is {text!r}; expected {RECORDED!r} or a rate in Hz, above 0 and up to 1000"
        )
    return rate


def simulate(frames: Sequence[FrameRecord], rate: float | None) -> list[Fate]:
    """The fate of each frame when it comes at `rate` Hz of its camera (None: as recorded).

    A frame takes the sum of its measured stages.
    """
    arrivals = _arrivals(frames, rate)
    cameras = {topic: place for place, topic in enumerate(dict.fromkeys(f.topic for f in frames))}
    order = np.argsort(arrivals, kind="stable").tolist()
    slots: list[int | None] = [None] * len(cameras)
    fates = [Fate(None)] * len(frames)
    now, turn, coming = 0.0, 0, 0
    while coming < len(order) or any(slot is not None for slot in slots):
        if all(slot is None for slot in slots):
            now = max(now, arrivals[order[coming]])
        while coming < len(order) and arrivals[order[coming]] <= now:
            slots[cameras[frames[order[coming]].topic]] = order[coming]
            coming += 1
        turn = next(t for k in range(len(slots)) if slots[t := (turn + k) % len(slots)] is not None)
        taken, slots[turn] = slots[turn], None
        assert taken is not None
        now += sum(frames[taken].stages.values())
        fates[taken] = Fate(round(now - arrivals[taken], 6))
        turn = (turn + 1) % len(slots)
    return fates


def _arrivals(frames: Sequence[FrameRecord], rate: float | None) -> list[float]:
    """When each frame comes, in milliseconds from the first."""
    if rate is None:
        first = min((f.received for f in frames), default=0)
        return [(f.received - first) / 1e6 for f in frames]
    number: dict[str, int] = defaultdict(int)
    arrivals = []
    for frame in frames:
        arrivals.append(number[frame.topic] * 1e3 / rate)
        number[frame.topic] += 1
    return arrivals
