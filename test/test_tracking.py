"""Ids over time: association, times, thresholds, and that nothing else of the instances changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import make_tiny_model

from fassst_ros.config import RuntimeOptions, TrackOptions
from fassst_ros.pipeline import Segmenter
from fassst_ros.tracking import Method, Tracker, segment_tracked
from fassst_ros.types import ConfigError, Frame, Instances, RoiMask

Box = tuple[float, float, float, float]
ON = TrackOptions(track=True)
THRESHOLD = 0.35


def filled(*boxes: Box, scores: list[float] | None = None, classes: list[int] | None = None) -> Instances:
    """Instances whose masks fill their boxes, in an image of 640x480."""
    n = len(boxes)
    return Instances(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores or [0.9] * n, np.float32),
        class_ids=np.array(classes or [1] * n, np.int32),
        masks=tuple(
            RoiMask(round(x0), round(y0), np.ones((round(y1 - y0), round(x1 - x0)), np.bool_))
            for x0, y0, x1, y1 in boxes
        ),
        size=(480, 640),
    )


def at(x: float, y: float = 200.0, width: float = 40.0, height: float = 80.0) -> Box:
    return (x, y, x + width, y + height)


def ids(tracker: Tracker, stamp: float, instances: Instances) -> list[int]:
    found = tracker.update(instances, stamp, THRESHOLD).track_ids
    assert found is not None
    return found.tolist()  # type: ignore[no-any-return]


def test_objects_that_pass_each_other_keep_their_ids() -> None:
    tracker = Tracker(ON)
    for k in range(30):
        boxes = [at(100 + 12 * k, 200), at(460 - 12 * k, 212)]
        order = [0, 1] if k % 2 else [1, 0]  # the network's order says nothing
        found = ids(tracker, k / 10, filled(*(boxes[i] for i in order)))
        assert [found[order.index(0)], found[order.index(1)]] == ([2, 1]), k


def test_masks_tell_apart_what_boxes_do_not() -> None:
    """Two triangles that fill one box, seen in the other order in the next frame."""
    lower = np.tril(np.ones((80, 80), np.bool_))
    box = np.array([[100, 100, 180, 180]] * 2, np.float32)

    def pair(masks: list[np.ndarray]) -> Instances:
        rois = tuple(RoiMask(100, 100, bits) for bits in masks)
        scores = np.full(2, 0.9, np.float32)
        return Instances(box, scores, np.ones(2, np.int32), rois, (480, 640))

    tracker = Tracker(ON)
    assert ids(tracker, 0.0, pair([lower, ~lower])) == [1, 2]
    assert ids(tracker, 0.1, pair([~lower, lower])) == [2, 1]


@pytest.mark.parametrize("frames", [(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (0, 1, 4, 6, 9)])
def test_frames_may_be_dropped(frames: tuple[int, ...]) -> None:
    tracker = Tracker(ON)
    speed = 25.0  # a frame; the object is 40 wide, so without motion 2 frames part it from its place
    assert [ids(tracker, k / 10, filled(at(100 + speed * k))) for k in frames] == [[1]] * len(frames)


def test_without_motion_it_would_be_lost() -> None:
    tracker = Tracker(ON, Method(motion=False))
    found = [ids(tracker, k / 10, filled(at(100 + 25 * k))) for k in (0, 1, 4)]
    assert found == [[1], [1], [0]]


def test_new_objects_get_their_id_when_seen_again() -> None:
    tracker = Tracker(ON)
    assert ids(tracker, 0.0, filled(at(100))) == [1], "in the first frame at once"
    assert ids(tracker, 0.1, filled(at(100), at(300))) == [1, 0]
    assert ids(tracker, 0.2, filled(at(100), at(300))) == [1, 2]
    assert ids(tracker, 0.3, filled(at(100), at(300), at(500))) == [1, 2, 0]
    assert ids(tracker, 0.4, filled(at(100), at(300))) == [1, 2]
    assert ids(tracker, 0.5, filled(at(100), at(300), at(500))) == [1, 2, 0], "seen once, it was forgotten"
    assert ids(tracker, 0.6, filled(at(100), at(300), at(500))) == [1, 2, 3], "and took no id"


def test_low_scores_continue_tracks_but_start_none() -> None:
    tracker = Tracker(ON)
    assert ids(tracker, 0.0, filled(at(100))) == [1]
    found = tracker.update(filled(at(105), at(400), scores=[0.2, 0.2]), 0.1, THRESHOLD)
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [1], "the other one is not published: it belongs to nothing"
    np.testing.assert_allclose(found.scores, [0.2])
    assert ids(tracker, 0.2, filled(at(110), scores=[0.05])) == [], "below track_low_threshold"
    assert ids(tracker, 0.3, filled(at(115), scores=[0.2])) == [], "it was not seen in the frame before"
    assert ids(tracker, 0.4, filled(at(120))) == [1]


def test_thresholds() -> None:
    tracker = Tracker(TrackOptions(track=True, track_high_threshold=0.6, track_new_threshold=0.8))
    scores = [0.9, 0.7, 0.5]
    first = tracker.update(filled(at(100), at(300), at(500), scores=scores), 0.0, THRESHOLD)
    assert first.track_ids is not None
    assert first.track_ids.tolist() == [1, 0, 0], "0.7 and 0.5 are published without a track"
    assert ids(tracker, 0.1, filled(at(100), at(300), at(500), scores=scores)) == [1, 0, 0]
    assert ids(tracker, 0.2, filled(at(100), scores=[0.7])) == [1]


def test_nothing_but_ids_is_added() -> None:
    given = filled(at(100), at(300), scores=[0.9, 0.8], classes=[1, 3])
    found = Tracker(ON).update(given, 0.0, THRESHOLD)
    for name in ("boxes", "scores", "class_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    assert found.masks == given.masks
    assert given.track_ids is None


def test_a_track_has_one_class() -> None:
    tracker = Tracker(ON)
    assert ids(tracker, 0.0, filled(at(100), classes=[1])) == [1]
    assert ids(tracker, 0.1, filled(at(100), classes=[3])) == [0]
    assert ids(tracker, 0.2, filled(at(100), classes=[1])) == [1]


def test_lost_tracks_wait_for_the_buffer() -> None:
    for gap, expected in ((0.8, [1]), (1.3, [0])):
        tracker = Tracker(ON)
        other = at(400)
        assert ids(tracker, 0.0, filled(at(100), other)) == [1, 2]
        for k in range(1, round(10 * gap)):
            assert ids(tracker, k / 10, filled(other)) == [2]
        assert ids(tracker, gap, filled(at(100), other)) == [*expected, 2]


def test_time_that_jumps_forgets_all() -> None:
    tracker = Tracker(ON)
    assert ids(tracker, 10.0, filled(at(100))) == [1]
    assert ids(tracker, 10.0, filled(at(100))) == [1], "the same stamp again is no jump"
    assert ids(tracker, 9.9, filled(at(100))) == [2], "back"
    assert ids(tracker, 11.5, filled(at(100))) == [3], "ahead by more than track_buffer"
    tracker.reset()
    assert ids(tracker, 11.6, filled(at(100))) == [4]
    small = Instances.empty((240, 320))
    assert len(tracker.update(small, 11.7, THRESHOLD)) == 0
    assert ids(tracker, 11.8, filled(at(100))) == [5], "another image size is another camera"


def test_stamps_that_stand_still() -> None:
    """A broken driver: ids work nevertheless, and tracks do not pile up."""
    tracker = Tracker(ON)
    assert ids(tracker, 7.0, filled(at(100))) == [1]
    for k in range(20):
        assert ids(tracker, 7.0, filled(at(100), at(300 if k % 2 else 500))) == [1, 0], "each is seen once"
    assert ids(tracker, 7.0, filled(at(100), at(300))) == [1, 2]
    empty = filled()
    for _ in range(5001):
        tracker.update(empty, 7.0, THRESHOLD)
    assert ids(tracker, 7.0, filled(at(100), at(300))) == [0, 0]


def test_an_empty_street() -> None:
    tracker = Tracker(ON)
    for k in range(3):
        found = tracker.update(filled(), k / 10, THRESHOLD)
        assert len(found) == 0
        assert found.track_ids is not None
    assert ids(tracker, 0.3, filled(at(100))) == [0]


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"track_high_threshold = -0\.5; expected a value in"):
        Tracker(TrackOptions(track_high_threshold=-0.5))
    tracker = Tracker()
    with pytest.raises(ConfigError, match="track_new_threshold"):
        tracker.options = TrackOptions(track_new_threshold=-0.5)
    assert tracker.options == TrackOptions()


def test_segmenting_and_tracking(tmp_path: Path) -> None:
    """The model's score is the brightness: what gets dark keeps its id, and is not published otherwise."""
    boxes, factors = np.float32([[8, 6, 40, 30]]), np.float32([1.0])
    runtime = RuntimeOptions(
        str(make_tiny_model(tmp_path, boxes, np.int32([1]), factors)), "onnxruntime", threads=1
    )
    bright, dark = (Frame(np.full((48, 64, 3), value, np.uint8)) for value in (200, 60))
    with Segmenter.open(runtime) as segmenter:
        tracker = Tracker(ON)
        found = [segment_tracked(segmenter, tracker, f, k / 10) for k, f in enumerate((bright, dark))]
        assert [f.instances.track_ids.tolist() for f in found] == [[1], [1]]  # type: ignore[union-attr]
        assert list(found[1].stages) == ["resize", "infer", "postprocess", "track"]
        assert found[1].score_threshold == pytest.approx(0.35)
        tracker.options = TrackOptions()
        plain = segment_tracked(segmenter, tracker, bright, 0.2)
        assert plain.instances.track_ids is None
        assert "track" not in plain.stages
        assert len(segment_tracked(segmenter, tracker, dark, 0.3).instances) == 0
        tracker.options = ON
        again = segment_tracked(segmenter, tracker, bright, 0.4).instances.track_ids
        assert again is not None
        assert again.tolist() == [2]


def test_unsure_instances_are_segmented_only_where_a_track_is(tmp_path: Path) -> None:
    boxes = np.float32([[8, 6, 40, 30], [44, 6, 60, 30], [10, 6, 42, 30]])
    model = make_tiny_model(tmp_path, boxes, np.int32([1, 1, 0]), np.float32([1.0, 0.3, 0.29]))
    asked: list[int] = []

    class Watched(Tracker):
        def update(self, instances: Instances, stamp: float, score_threshold: float = 0.0) -> Instances:
            asked.append(len(instances))
            return super().update(instances, stamp, score_threshold)

    frame = Frame(np.full((48, 64, 3), 255, np.uint8))
    with Segmenter.open(RuntimeOptions(str(model), "onnxruntime", threads=1)) as segmenter:
        tracker = Watched(TrackOptions(track=True, track_low_threshold=0.2))
        for k in range(2):
            segment_tracked(segmenter, tracker, frame, k / 10)
        assert asked == [1, 1], "one is elsewhere, one of another class"
        tracker = Watched(TrackOptions(track=True, track_high_threshold=0.25))
        found = [segment_tracked(segmenter, tracker, frame, k / 10).instances for k in range(2)]
        assert asked[2:] == [3, 3]
        assert [len(f) for f in found] == [3, 3], (
            "with a high threshold below that of scores, all have tracks"
        )


def test_expected_places_do_not_move_the_tracks() -> None:
    tracker, other = Tracker(ON), Tracker(ON)
    for k in range(8):
        given = filled(at(100 + 20 * k), scores=[0.9 if k < 5 else 0.2])
        wanted = tracker.wanted(k / 10)(given.boxes, given.class_ids)
        assert wanted.tolist() == [k > 0]
        assert ids(tracker, k / 10, given) == ids(other, k / 10, given) == [1]
