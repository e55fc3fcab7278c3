"""What a recorded pass becomes: results in the bag as recorded, frames without a result explained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fassst_ros.msg import Instance, InstanceArray, Mask
from rclpy.serialization import serialize_message

from fassst_ros.bag import Bag, stamp_of
from fassst_ros.replay.results import ResultBag
from fassst_ros.ros.live_passes import RecordedPass
from fassst_ros.ros.live_record import frame_records, pass_notes

TOPIC, RESULTS = "/front/image", "/replay/segment_node/instances"
SENT, RECORDED, STEP = 10**18, 5 * 10**9, 10**8  # [ns]


@pytest.fixture
def found(tmp_path: Path) -> Iterator[RecordedPass]:
    """A pass that sent frames 0 to 3; frame 4 is damaged."""
    bag = ResultBag(tmp_path / "results", [RESULTS])
    made = RecordedPass(bag, RESULTS)
    for index in range(4):
        made.on_event(event("published", index, stamp=SENT + index * STEP, late=0.0))
    made.on_event(event("skipped", 4, reason="cut off"))
    yield made
    bag.close()


def event(kind: str, index: int, **values: Any) -> dict[str, Any]:
    recorded = [RECORDED + index * STEP, RECORDED + index * STEP + 10]
    return {"event": kind, "index": index, "recorded": recorded, **values}


def answer(found: RecordedPass, index: int, latency: int) -> None:
    """A result of a frame: a car with id 7 and a person without one."""
    mask = Mask(width=1, height=1, counts=[0, 1])
    items = [Instance(class_name="car", track_id=7, mask=mask), Instance(class_name="person", mask=mask)]
    message = InstanceArray(instances=items)
    stamp = SENT + index * STEP
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    found.on_result(serialize_message(message), stamp + latency)


def test_results_lie_where_their_frames_were_recorded(found: RecordedPass, tmp_path: Path) -> None:
    answer(found, 0, latency=30_000_000)
    found.write()
    answer(found, 2, latency=50_000_000)
    found.write()
    found.bag.close()
    with Bag(tmp_path / "results") as bag:
        stored = list(bag.messages([RESULTS]))
        assert [stamp_of(bag.read(message)) for message in stored] == [RECORDED, RECORDED + 2 * STEP]
    assert [message.received for message in stored] == [
        RECORDED + 10 + 30_000_000,
        RECORDED + 2 * STEP + 10 + 50_000_000,
    ]


def test_a_result_may_come_before_the_player_says_that_it_sent_the_frame(found: RecordedPass) -> None:
    answer(found, 9, latency=10**7)
    found.write()
    assert not found.latency_ms
    found.on_event(event("published", 9, stamp=SENT + 9 * STEP, late=0.0))
    found.write()
    assert list(found.latency_ms.values()) == [10.0]


def test_frames(found: RecordedPass) -> None:
    for index in (0, 2):
        answer(found, index, latency=30_000_000)
    found.write()
    found.counters = {"received": 4, "dropped": 2, "segmented": 2}
    found.stages_ms = {"transport": [5.0, 6.0], "infer": [20.0, 21.0], "total": [25.0, 27.0]}
    frames = frame_records(TOPIC, found)
    assert [(f.index, f.outcome) for f in frames] == [
        *((0, "segmented"), (1, "dropped"), (2, "segmented"), (3, "dropped"), (4, "failed"))
    ]
    second = frames[2]
    assert second.stages == {"transport": 6.0, "infer": 21.0}  # total is a sum of others
    assert (second.latency_ms, second.classes, second.tracks) == (30.0, {"car": 1, "person": 1}, (7,))
    assert (second.stamp, second.received) == (RECORDED + 2 * STEP, RECORDED + 2 * STEP + 10)
    assert frames[1].reason == "a newer frame took its place"
    assert frames[4].reason == "cut off"
    assert pass_notes(found) == []


@pytest.mark.parametrize(
    ("counters", "outcome", "reason"),
    [
        ({"failed": 3}, "failed", "the node failed to segment it; the node's log says why"),
        (
            {"dropped": 1, "stale": 1},
            "dropped",
            "of 3 frames without a result: "
            "1 replaced by a newer one, 1 older than max_age, 1 lost on the way",
        ),
        ({}, "dropped", "of 3 frames without a result: 3 lost on the way"),
    ],
)
def test_why_there_is_no_result(
    found: RecordedPass, counters: dict[str, int], outcome: str, reason: str
) -> None:
    answer(found, 0, latency=1)
    found.write()
    found.counters = counters
    frames = frame_records(TOPIC, found)
    assert {(f.outcome, f.reason) for f in frames[1:4]} == {(outcome, reason)}


def test_what_a_reader_must_know(found: RecordedPass) -> None:
    found.on_event(event("published", 5, stamp=SENT + 5 * STEP, late=0.25))
    answer(found, 0, latency=1)
    found.write()
    found.counters = {"segmented": 2}
    late, stages, lost = pass_notes(found)
    assert late.startswith("the player published 1 of 5 frames late, by up to 250 ms")
    assert stages.startswith("times of the stages are missing")
    assert lost == "the node counted 2 segmented frames, 1 results arrived"
