"""Ids over time for the instances of one camera: association in the manner of ByteTrack.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022
(arXiv 2110.06864): sure instances are associated with the tracks first, unsure ones then with the tracks that
are left, so an object that is half hidden keeps its id although its score falls. Other than there, time is
in seconds, and masks count in the overlap.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fassst_ros.config import TrackOptions
from fassst_ros.postprocess import Wanted
from fassst_ros.tracking_assignment import assign
from fassst_ros.tracking_motion import BoxMotion
from fassst_ros.tracking_overlap import box_iou, mask_iou
from fassst_ros.types import ConfigError, Float32Array, Frame, Instances, RoiMask

if TYPE_CHECKING:
    from fassst_ros.pipeline import Segmentation, Segmenter

DEFAULT_OPTIONS = TrackOptions()
#: Least overlap of an unsure instance with its track, and of their boxes alone: a limit that hardly ever
#: matters, but spares the masks of most unsure instances.
_LOW_SCORE_IOU, _NEAR = 0.4, 0.3
#: Frames after which a track is given up in any case: else, with stamps that stand still, none ever would be.
_MOST_MISSED = 5000


@dataclass(frozen=True, slots=True)
class Method:
    """What is not for users to set, but measured: see docs/tracking.md.

    motion: expect boxes where constant velocity takes them, else where they were. overlap: IoU of boxes, of
    masks, or the mean of both. per_class: an instance belongs to tracks of its own class only.
    """

    motion: bool = True
    overlap: Literal["box", "mask", "mean"] = "mean"
    per_class: bool = True


DEFAULT_METHOD = Method()


def check_track(options: TrackOptions) -> TrackOptions:
    """`options` if they make sense. Raises ConfigError for a threshold below 0 other than -1."""
    for name in ("track_high_threshold", "track_new_threshold"):
        value = getattr(options, name)
        if value != -1 and value < 0:
            raise ConfigError(f"{name} = {value}; expected a value in [0, 1], or -1 for that of another one")
    return options


class Tracker:
    """Gives the instances of one camera ids. One thread at a time may use it.

    An id is a number from 1 and is never used for another object, not even after a reset. It is given when an
    object is seen a second time, in the first frame at once.
    """

    def __init__(self, options: TrackOptions = DEFAULT_OPTIONS, method: Method = DEFAULT_METHOD) -> None:
        """Raises ConfigError for options that make no sense."""
        self._options = check_track(options)
        self._method = method
        self._next_id = 1
        self.reset()

    @property
    def options(self) -> TrackOptions:
        """Replace them at any time; tracks are kept. Setting raises ConfigError as the constructor does."""
        return self._options

    @options.setter
    def options(self, options: TrackOptions) -> None:
        self._options = check_track(options)

    def reset(self) -> None:
        """Forget all tracks; numbering goes on."""
        self._stamp: float | None = None  # of the last frame
        self._frame = 0  # its number
        self._size = (0, 0)
        self._motion = BoxMotion()
        self._boxes = np.zeros((0, 4))  # as seen last
        self._masks: list[RoiMask] = []  # likewise
        self._ids = np.zeros(0, np.int64)  # 0: seen once, not yet believed
        self._classes = np.zeros(0, np.int32)
        self._seen = np.zeros(0)  # stamp of the frame in which it was seen last
        self._seen_in = np.zeros(0, np.int64)  # number of that frame

    def wanted(self, stamp: float) -> Wanted:
        """Which instances below the score threshold could continue a track in a frame at `stamp`."""
        last = stamp if self._stamp is None else self._stamp
        recent = (self._ids > 0) & (self._seen_in == self._frame)
        ahead = stamp - last if self._method.motion else 0.0
        expected, classes = self._motion.boxes(ahead)[recent], self._classes[recent]

        def fits(boxes: Float32Array, class_ids: NDArray[np.int32]) -> NDArray[np.bool_]:
            near = box_iou(expected, boxes.astype(np.float64)) >= _NEAR
            return np.asarray((near & self._allowed(classes, class_ids)).any(axis=0))

        return fits

    def update(self, instances: Instances, stamp: float, score_threshold: float = 0.0) -> Instances:
        """The instances of the next frame with track_ids, 0 = no track; those without a use are left out.

        stamp: of the image, in seconds. A stamp before the last one (a bag that starts again), one later by
        more than `track_buffer`, and another image size forget all tracks.
        score_threshold: instances below are returned only if they belong to a track. The Segmenter should
        have kept the `wanted` ones too; `segment_tracked` sees to all that.
        """
        options = self._options
        high = score_threshold if options.track_high_threshold < 0 else options.track_high_threshold
        new = high if options.track_new_threshold < 0 else options.track_new_threshold
        first = self._advance(stamp, instances.size, options.track_buffer)
        sure = instances.scores >= high
        unsure = ~sure & (instances.scores >= options.track_low_threshold)
        track_of = self._associate(instances, sure, unsure)
        ids = np.zeros(len(instances), np.int64)
        matched = np.flatnonzero(track_of >= 0)
        ids[matched] = self._see(track_of[matched], instances, matched, stamp)
        self._keep(np.flatnonzero((self._ids > 0) | (self._seen_in == self._frame)))  # one look is no track
        started = np.flatnonzero((track_of < 0) & sure & (instances.scores >= new))
        ids[started] = self._start(instances, started, stamp, believed=first)
        kept = np.flatnonzero((ids > 0) | (instances.scores >= score_threshold))
        return Instances(
            boxes=instances.boxes[kept],
            scores=instances.scores[kept],
            class_ids=instances.class_ids[kept],
            masks=tuple(instances.masks[i] for i in kept),
            size=instances.size,
            track_ids=ids[kept],
        )

    def _advance(self, stamp: float, size: tuple[int, int], limit: float) -> bool:
        """Move all tracks on to a frame's time and give old ones up; True if there is no frame before."""
        last = self._stamp
        if last is not None and (not last <= stamp <= last + limit or size != self._size):
            self.reset()
        before, self._stamp, self._size = self._stamp, stamp, size
        self._frame += 1
        if before is None:
            return True
        if self._method.motion:
            self._motion.predict(stamp - before)
        waiting = (stamp - self._seen <= limit) & (self._frame - self._seen_in <= _MOST_MISSED)
        self._keep(np.flatnonzero(waiting))
        return False

    def _associate(
        self, instances: Instances, sure: NDArray[np.bool_], unsure: NDArray[np.bool_]
    ) -> NDArray[np.intp]:
        """(n,) the track of each instance, as a row, or -1."""
        boxes, overlap = self._overlaps(instances)
        near = np.where(boxes >= _NEAR, overlap, 0)
        believed, recent = self._ids > 0, self._seen_in == self._frame - 1
        track_of = np.full(len(instances), -1, np.intp)
        free = np.ones(len(self._ids), np.bool_)
        for tracks, candidates, table, least in (
            (believed, sure, overlap, self._options.track_iou),
            (believed & recent, unsure, near, _LOW_SCORE_IOU),
            (~believed, sure, overlap, self._options.track_iou),
        ):
            rows, columns = np.flatnonzero(tracks & free), np.flatnonzero(candidates & (track_of < 0))
            some, others = assign(table[np.ix_(rows, columns)] - least)
            track_of[columns[others]] = rows[some]
            free[rows[some]] = False
        return track_of

    def _overlaps(self, instances: Instances) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(tracks, n) overlap of boxes and of all, of each instance with the place of each track, 0..1."""
        expected = self._motion.boxes()
        boxes = box_iou(expected, instances.boxes.astype(np.float64))
        boxes *= self._allowed(self._classes, instances.class_ids)
        if self._method.overlap == "box":
            return boxes, boxes
        shifts = np.rint((expected - self._boxes).reshape(-1, 2, 2).mean(axis=1)).astype(np.int64)
        masks = mask_iou(self._masks, instances.masks, shifts, boxes > 0)
        return boxes, masks if self._method.overlap == "mask" else (boxes + masks) / 2

    def _allowed(self, tracks: NDArray[np.int32], instances: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(tracks, n) whether their classes allow them to be one object."""
        same = np.asarray(tracks[:, None] == instances)
        return same if self._method.per_class else np.ones_like(same)

    def _see(
        self, rows: NDArray[np.intp], instances: Instances, found: NDArray[np.intp], stamp: float
    ) -> NDArray[np.int64]:
        """Tracks `rows` (k,) are the instances `found` (k,); returns their ids, some of them new."""
        boxes = instances.boxes[found].astype(np.float64)
        self._motion.correct(rows, boxes)
        self._boxes[rows], self._classes[rows] = boxes, instances.class_ids[found]
        self._seen[rows], self._seen_in[rows] = stamp, self._frame
        for row, i in zip(rows.tolist(), found.tolist(), strict=True):
            self._masks[row] = instances.masks[i]
        new = rows[self._ids[rows] == 0]
        self._ids[new] = self._numbers(new.size)
        return self._ids[rows]

    def _start(
        self, instances: Instances, found: NDArray[np.intp], stamp: float, believed: bool
    ) -> NDArray[np.int64]:
        """New tracks for the instances `found` (k,); returns their ids, 0 while they are not believed."""
        boxes = instances.boxes[found].astype(np.float64)
        ids = self._numbers(found.size) if believed else np.zeros(found.size, np.int64)
        self._motion.append(boxes)
        self._boxes = np.concatenate([self._boxes, boxes])
        self._masks += [instances.masks[i] for i in found]
        self._ids = np.concatenate([self._ids, ids])
        self._classes = np.concatenate([self._classes, instances.class_ids[found]])
        self._seen = np.concatenate([self._seen, np.full(found.size, stamp)])
        self._seen_in = np.concatenate([self._seen_in, np.full(found.size, self._frame)])
        return ids

    def _keep(self, rows: NDArray[np.intp]) -> None:
        """Forget all tracks but `rows`."""
        if rows.size == self._ids.size:
            return
        self._motion.keep(rows)
        self._boxes, self._ids = self._boxes[rows], self._ids[rows]
        self._classes = self._classes[rows]
        self._seen, self._seen_in = self._seen[rows], self._seen_in[rows]
        self._masks = [self._masks[row] for row in rows]

    def _numbers(self, count: int) -> NDArray[np.int64]:
        """Ids that nobody has had."""
        self._next_id += count
        return np.arange(self._next_id - count, self._next_id)


def segment_tracked(segmenter: Segmenter, tracker: Tracker, frame: Frame, stamp: float) -> Segmentation:
    """Segment a frame; with the option `track`, its instances get ids, and `stages` has "track" [ms] too.

    Without it, this is `segmenter.segment`, and the tracker forgets its tracks. stamp: in seconds.
    Raises InputError or ModelError as the segmenter does.
    """
    options = tracker.options
    if not options.track:
        tracker.reset()
        return segmenter.segment(frame)
    # With a high threshold of its own, sure instances may lie below the score threshold too: look at all.
    wanted = tracker.wanted(stamp) if options.track_high_threshold < 0 else None
    found = segmenter.segment(frame, options.least_score, wanted)
    start = time.perf_counter()
    instances = tracker.update(found.instances, stamp, found.score_threshold)
    stages = {**found.stages, "track": (time.perf_counter() - start) * 1e3}
    return dataclasses.replace(found, instances=instances, stages=stages)
