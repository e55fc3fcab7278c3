"""HOTA, IDF1 and MOTA: by hand, and as TrackEval computes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fassst_ros.evaluation.tracking_metrics import FrameMatch, TrackScores, track_scores

REFERENCE = Path(__file__).parents[1] / "data" / "tracking_reference.json"


def frame(objects: list[int], tracks: list[int], overlap: Any = None) -> FrameMatch:
    """By default the first object is the first track and so on, exactly."""
    table = np.eye(len(objects), len(tracks)) if overlap is None else overlap
    return FrameMatch(
        np.array(objects, np.int64),
        np.array(tracks, np.int64),
        np.array(table, np.float64).reshape(len(objects), len(tracks)),
    )


def scores(*frames: FrameMatch) -> TrackScores:
    found = track_scores(frames)
    assert found is not None
    return found


@pytest.mark.parametrize("number", [0, 1, 2])
def test_as_trackeval(number: int) -> None:
    """The file holds what TrackEval 1.3.0 says of random frames."""
    sequence = json.loads(REFERENCE.read_text(encoding="utf-8"))["sequences"][number]
    frames = [frame(f["objects"], f["tracks"], f["overlap"]) for f in sequence["frames"]]
    found = scores(*frames)
    for name, value in sequence["expected"].items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-8), name


def test_perfect() -> None:
    found = scores(*[frame([7, 9], [1, 2])] * 5)
    assert (found.hota, found.deta, found.assa, found.mota, found.idf1) == (1, 1, 1, 1, 1)
    assert (found.switches, found.missed, found.false_alarms) == (0, 0, 0)
    assert (found.objects, found.tracks) == (10, 10)


def test_one_switch_in_the_middle() -> None:
    """Found all the time: half of the time by one track, then by another."""
    found = scores(*[frame([1], [1])] * 5, *[frame([1], [2])] * 5)
    assert found.deta == 1
    assert found.assa == pytest.approx(0.5)  # each pair: 5 together of 10
    assert found.hota == pytest.approx(0.5**0.5)
    assert found.switches == 1
    assert found.mota == pytest.approx(0.9)
    assert found.idf1 == pytest.approx(0.5)


def test_misses_and_false_alarms() -> None:
    found = scores(*[frame([1], [1])] * 2, frame([1], []), frame([], [2]))
    assert (found.missed, found.false_alarms, found.switches) == (1, 1, 0)
    assert found.mota == pytest.approx(1 - 2 / 3)
    assert found.idf1 == pytest.approx(2 * 2 / (3 + 3))
    assert found.deta == pytest.approx(2 / 4)
    assert found.assa == pytest.approx(2 / 3)


def test_overlap_counts_for_hota_from_its_value_on() -> None:
    found = scores(*[frame([1], [1], [[0.62]])] * 3)
    assert found.hota == pytest.approx(12 / 19)  # 0.05 ... 0.60
    assert found.mota == 1
    poor = scores(*[frame([1], [1], [[0.45]])] * 3)
    assert poor.hota == pytest.approx(9 / 19)
    assert poor.mota == pytest.approx(-1)
    assert poor.idf1 == 0


def test_a_pair_stays_one_while_it_overlaps_enough() -> None:
    """MOTA keeps to the track of the frame before although another one overlaps more."""
    start = frame([1], [1])
    both = frame([1], [1, 2], [[0.6, 0.9]])
    assert scores(start, both).switches == 0
    assert scores(start, frame([1], [1, 2], [[0.4, 0.9]])).switches == 1


def test_ids_are_only_names() -> None:
    frames = [frame([3, 5], [8, 9]), frame([3, 5], [9, 8])]
    other = [frame([10**6, 4], [2**33, 1]), frame([10**6, 4], [1, 2**33])]
    assert track_scores(frames) == track_scores(other)


def test_without_objects_there_is_no_score() -> None:
    assert track_scores([frame([], [1])]) is None
    assert track_scores([]) is None
    nothing = scores(frame([1], []))
    assert (nothing.hota, nothing.idf1, nothing.mota) == (0, 0, 0)
