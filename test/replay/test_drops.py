"""Which frames are dropped at a rate: told by hand, and against the node's own mailbox rule."""

from __future__ import annotations

import pytest

from fassst_ros.replay.assemble import drop
from fassst_ros.replay.drops import parse_rate, simulate
from fassst_ros.replay.record import FrameRecord
from fassst_ros.types import ConfigError


def frames(arrivals_ms: list[float], work_ms: float, topic: str = "/image") -> list[FrameRecord]:
    """Segmented frames that came at these times and took `work_ms` each."""
    return [
        FrameRecord(topic, k, 0, round(t * 1e6), "segmented", stages={"infer": work_ms - 1, "decode": 1.0})
        for k, t in enumerate(arrivals_ms)
    ]


def latencies(found: list[FrameRecord], rate: float | None) -> list[float | None]:
    return [None if f.latency_ms is None else round(f.latency_ms, 6) for f in simulate(found, rate)]


def test_a_node_that_is_fast_enough_drops_nothing() -> None:
    assert latencies(frames([0, 1, 2, 3], 40), 25) == [40] * 4
    assert latencies(frames([0, 50, 95, 200], 45), None) == [45] * 4


def test_the_newest_frame_waits_and_older_ones_are_dropped() -> None:
    # Every 10 ms one, 25 ms of work: 0 until 25, then 20 until 50 (10 was replaced), then 50, then 70.
    assert latencies(frames([0] * 9, 25), 100) == [25, None, 30, None, None, 25, None, 30, 45]


def test_a_wait_is_part_of_the_latency() -> None:
    assert latencies(frames([0, 10], 25), None) == [25, 40]


def test_cameras_take_turns_and_have_a_place_each() -> None:
    left, right = frames([0, 20, 40, 60], 30, "/left"), frames([0, 20, 40, 60], 30, "/right")
    mixed = [frame for pair in zip(left, right, strict=True) for frame in pair]
    # Left 0 until 30; then right 20, which has replaced 0, until 60; left 60 until 90; right 60.
    assert latencies(mixed, None) == [30, None, None, 40, None, None, 30, 60]


def test_gaps_do_not_carry_work_over() -> None:
    assert latencies(frames([0, 1000, 2000], 500), None) == [500] * 3


def test_failed_frames_stay_failed() -> None:
    found = frames([0, 1, 2], 50)
    found.insert(1, FrameRecord("/image", 3, 0, 500_000, "failed", "broken"))
    outcomes = [frame.outcome for frame in drop(found, None)]
    assert outcomes == ["segmented", "failed", "dropped", "segmented"]


def test_no_frames() -> None:
    assert simulate([], None) == simulate([], 10) == []


def test_rates() -> None:
    assert parse_rate("recorded") is None
    assert parse_rate("7.5") == 7.5
    for text in ("", "0", "-3", "inf", "nan", "ten", "1001"):
        with pytest.raises(ConfigError, match="expected 'recorded' or a rate in Hz"):
            parse_rate(text)
