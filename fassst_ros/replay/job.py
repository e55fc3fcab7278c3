"""Segments the frames of a bag one by one, and keeps what was found: the middle of `fassst replay`."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2

from fassst_ros.bag import COMPRESSED, Bag, BagMessage, BagTopic, stamp_of
from fassst_ros.image_messages import compressed_to_frame, image_to_frame
from fassst_ros.overlay import draw
from fassst_ros.pipeline import Segmenter
from fassst_ros.replay.difference import difference
from fassst_ros.replay.record import FrameRecord
from fassst_ros.replay.results import ResultBag
from fassst_ros.replay.truth import Accuracy
from fassst_ros.sources import WIDTH, VideoWriter
from fassst_ros.tracking import Tracker, segment_tracked
from fassst_ros.types import ConfigError, FassstError, Frame, InputError, Instances

#: AP is the area under a curve over all scores: keep what is not shown.
LEAST_SCORE = 0.001
#: Masks of successive frames that overlap by less are not of the same object.
_MOVED = 0.3
#: With fewer free bytes, a disk counts as full.
_FULL = 1 << 20


@dataclass(slots=True)
class CameraJob:
    """One image topic: its outputs and its state. last: what was found in the frame before."""

    topic: BagTopic
    results: str
    tracker: Tracker
    video: VideoWriter | None
    last: Instances | None = None
    stamp: int | None = None  # of the last image


@dataclass(slots=True)
class Job:
    """Works on frames until the bag ends, `limit` is reached (0: none), or writing fails.

    accuracy: None without ground truth. frames: what became of each. notes: what a reader must know.
    changes: index in `frames` -> instances that appeared or vanished since the frame before.
    truth_ids: index in `frames` -> id of the annotated image. left_out: why annotated frames are not compared
    -> how many. jumps: topic -> stamps before the last one. stopped: whether frames or files are not whole.
    """

    bag: Bag
    segmenter: Segmenter
    cameras: Mapping[str, CameraJob]
    writer: ResultBag
    limit: int = 0
    accuracy: Accuracy | None = None
    frames: list[FrameRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changes: dict[int, int] = field(default_factory=dict)
    truth_ids: dict[int, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    jumps: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    def run(self, advance: Callable[[], None]) -> None:
        """All frames. What stops it early is told in `notes`; advance: called after each frame."""
        try:
            for stored in self.bag.messages(list(self.cameras)):
                self._one(stored)
                advance()
                if 0 < self.limit <= len(self.frames):
                    break
        except (InputError, ConfigError) as err:
            self.stopped = True
            self.notes.append(f"ended early, after {len(self.frames)} frames: {err}")

    def close(self) -> None:
        """Finish the files, whatever happened; what fails is told in `notes`."""
        closers: list[Callable[[], None]] = [self.writer.close]
        closers += [camera.video.close for camera in self.cameras.values() if camera.video is not None]
        for close in closers:
            try:
                close()
            except FassstError as err:
                self.stopped = True
                self.notes.append(str(err))
        self._note_stamps()
        self.notes += [
            f"{count} annotated frames are not compared: {why}" for why, count in self.left_out.items()
        ]

    def _note_stamps(self) -> None:
        for topic, camera in self.cameras.items():
            if count := self.jumps[topic]:
                reset = "; each time, tracks start anew" if camera.tracker.options.track else ""
                self.notes.append(f"{topic}: stamps jump back {count} times{reset}")
            stamps = Counter(f.stamp for f in self.frames if f.topic == topic and f.outcome == "segmented")
            if again := stamps.total() - len(stamps):
                self.notes.append(
                    f"{topic}: {again} frames have the stamp of an earlier one; ground truth and other runs "
                    "cannot tell them apart"
                )

    @property
    def failed(self) -> bool:
        """Whether a frame could not be segmented, or there is none."""
        return not self.frames or any(frame.outcome == "failed" for frame in self.frames)

    def _one(self, stored: BagMessage) -> None:
        """Segment one message; a frame that fails is recorded as such. Raises only if writing fails."""
        camera, stamp = self.cameras[stored.topic], 0
        stages: dict[str, float] = {}
        try:
            message = self.bag.read(stored)
            stamp = stamp_of(message)
            start = time.perf_counter()
            frame = to_frame(message, stored.msgtype)
            stages["decode"] = (time.perf_counter() - start) * 1e3
            found = segment_tracked(self.segmenter, camera.tracker, frame, stamp / 1e9)
            stages |= found.stages
        except FassstError as err:
            self.frames.append(
                FrameRecord(stored.topic, stored.index, stamp, stored.received, "failed", str(err))
            )
            return
        self.jumps[stored.topic] += camera.stamp is not None and stamp < camera.stamp
        camera.stamp = stamp
        instances = found.instances
        card, index = self.segmenter.card, len(self.frames)
        made = self.writer.to_message(instances, message.header, f"{card.name} {card.version}", self._names)
        self.writer.write(camera.results, stored.received, made)
        self.frames.append(
            FrameRecord(
                *(stored.topic, stored.index, stamp, stored.received, "segmented"),
                stages={name: round(value, 3) for name, value in stages.items()},
                classes=dict(Counter(self._names[i] for i in instances.class_ids.tolist())),
                tracks=tuple(t for t in _tracks(instances) if t),
            )
        )
        self._note_change(camera, instances)
        if self._compare(stored.topic, message, frame):
            self.frames[index] = dataclasses.replace(self.frames[index], truth=True)
        self._film(camera, frame, instances, f"frame {stored.index}  {sum(stages.values()):.0f} ms")

    @property
    def _names(self) -> dict[int, str]:
        return {c.id: c.name for c in self.segmenter.card.classes}

    def _note_change(self, camera: CameraJob, instances: Instances) -> None:
        if camera.last is not None and camera.last.size == instances.size:
            found = difference(camera.last, instances, _MOVED)
            self.changes[len(self.frames) - 1] = len(found.appeared) + len(found.vanished)
        camera.last = instances

    def _compare(self, topic: str, message: Any, frame: Frame) -> bool:
        """Keep what AP needs of the last frame, if it is annotated; True if it is.

        It is segmented once more for that, so that the times are those of use.
        """
        if self.accuracy is None:
            return False
        header = message.header
        image_id = self.accuracy.truth.image_id(topic, header.frame_id, stamp_of(message))
        if image_id is None:
            return False
        if image_id in self.accuracy.predictions:
            self.left_out["an earlier frame has the same stamp"] += 1
            return False
        try:
            self.accuracy.add(image_id, self.segmenter.segment(frame, LEAST_SCORE).instances)
        except InputError as err:
            self.left_out[str(err)] += 1
            return False
        self.truth_ids[len(self.frames) - 1] = image_id
        return True

    def _film(self, camera: CameraJob, frame: Frame, instances: Instances, caption: str) -> None:
        """Add the frame to its camera's video, if it has one."""
        if camera.video is None:
            return
        scale = min(1.0, WIDTH / instances.size[1])
        picture: Any = draw(frame.image, instances, self.segmenter.card, frame.color, scale=scale)
        if frame.color == "rgb":
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        _caption(picture, caption)
        camera.video.write(picture)
        if shutil.disk_usage(camera.video.path.parent).free < _FULL:  # not every encoder tells
            raise ConfigError(f"the disk of {camera.video.path.parent} is full")


def to_frame(message: Any, msgtype: str) -> Frame:
    """The frame of an image message, as the node decodes it. Raises InputError."""
    return compressed_to_frame(message) if msgtype == COMPRESSED else image_to_frame(message)


def _tracks(instances: Instances) -> list[int]:
    """Track ids, 0 = none; empty without tracking."""
    return [] if instances.track_ids is None else instances.track_ids.tolist()


def _caption(picture: Any, text: str) -> None:
    """Write a text into the lower left corner."""
    place = (10, picture.shape[0] - 12)
    for color, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, color, thick, cv2.LINE_AA)
