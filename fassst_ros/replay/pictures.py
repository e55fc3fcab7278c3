"""Pictures of the frames that are worth a look: worst by ground truth, slowest, and most changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2

from fassst_ros.bag import Bag, stamp_of
from fassst_ros.card import ModelCard
from fassst_ros.evaluation.matching import ImageMatch
from fassst_ros.evaluation.pictures import LONGEST, draw_pair, ranked, write_picture
from fassst_ros.overlay import draw
from fassst_ros.replay.job import to_frame
from fassst_ros.replay.record import FrameRecord, Picture, PictureRow, Worst
from fassst_ros.replay.results import ResultReader
from fassst_ros.types import InputError, Instances, UInt8Array

#: Folder of the pictures beside the report.
FOLDER = "pictures"
#: Pictures of each kind at most: by ground truth, and the others.
WORST, FEW = 8, 4
#: Frames of a camera that are shown are at least so far apart [ns]: neighbours look alike.
_APART = 10**9

T = TypeVar("T")


class Painter:
    """Draws frames of a bag with what a run found in them. folder: of the report."""

    def __init__(self, bag: Bag, results: ResultReader, card: ModelCard, folder: Path) -> None:
        self._bag, self._results, self._card, self._folder = bag, results, card, folder

    def has(self, frame: FrameRecord) -> bool:
        """Whether the run's bag holds what was found in a frame."""
        return (frame.topic, frame.stamp) in self._results.frames

    def image(self, frame: FrameRecord) -> UInt8Array:
        """(H, W, 3) RGB. Raises InputError if the bag does not have it any more."""
        for stored in self._bag.messages([frame.topic], frame.received):
            message: Any = self._bag.read(stored)
            if stamp_of(message) == frame.stamp:
                found = to_frame(message, stored.msgtype)
                if found.color == "rgb":
                    return found.image
                return cv2.cvtColor(found.image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]
        raise InputError(f"{self._bag.path} holds no image {frame.stamp} on {frame.topic} any more")

    def overlay(
        self,
        frame: FrameRecord,
        name: str,
        caption: str,
        results: ResultReader | None = None,
        tracks: bool = True,
    ) -> Picture:
        """The frame with its instances as a picture file.

        results: of another run. tracks: whether those with an id have its colour, not that of their class.
        """
        image = self.image(frame)
        size = (image.shape[0], image.shape[1])
        source = results or self._results
        found = source.instances(frame.topic, frame.stamp, frame.received) or Instances.empty(size)
        if not tracks:
            found = dataclasses.replace(found, track_ids=None)
        file = f"{FOLDER}/{name}.jpg"
        picture = draw(image, found, self._card, scale=min(1.0, LONGEST / max(size)))
        write_picture(self._folder / file, picture)
        return Picture(file, caption)

    def pair(
        self, frame: FrameRecord, name: str, match: ImageMatch, found: Instances, threshold: float
    ) -> PictureRow:
        """The frame with its ground truth and with what was found, errors marked."""
        made = draw_pair(
            self._folder / FOLDER / name, title(frame), self.image(frame), match, found, self._card, threshold
        )
        pictures = (
            Picture(f"{FOLDER}/{made.truth}", "ground truth; yellow: missed"),
            Picture(f"{FOLDER}/{made.found}", "found; yellow: wrong"),
        )
        return PictureRow(made.title, pictures, made.notes)


def title(frame: FrameRecord) -> str:
    """Which frame it is."""
    return f"{frame.topic}, frame {frame.index}, stamp {frame.stamp // 10**9}.{frame.stamp % 10**9:09d}"


def apart(ranked: Sequence[T], frame_of: Callable[[T], FrameRecord], count: int) -> list[T]:
    """The first `count` of a ranking whose frames are at least a second apart on their camera."""
    chosen: list[T] = []
    for item in ranked:
        frame = frame_of(item)
        others = [f.received for f in map(frame_of, chosen) if f.topic == frame.topic]
        if all(abs(frame.received - other) >= _APART for other in others):
            chosen.append(item)
            if len(chosen) == count:
                break
    return chosen


def worst_by_truth(
    painter: Painter,
    frames: Mapping[int, FrameRecord],
    matches: Sequence[ImageMatch],
    predictions: Mapping[int, Instances],
    threshold: float,
) -> Worst:
    """The frames that agree least with their ground truth. frames, predictions: by image id."""
    _, worst = ranked(matches, threshold, len(matches))
    worst = apart(worst, lambda m: frames[m.image_id], WORST)
    rows = [
        painter.pair(frames[m.image_id], f"truth_{k:02}", m, predictions[m.image_id], threshold)
        for k, m in enumerate(worst, 1)
    ]
    note = "Those that agree least with their ground truth, by image PQ; at most one a second."
    return Worst("Worst frames", note, tuple(rows))


def slowest(painter: Painter, frames: Sequence[FrameRecord]) -> Worst:
    """The frames that took longest."""
    timed = [f for f in frames if f.stages and painter.has(f)]
    chosen = apart(sorted(timed, key=lambda f: -sum(f.stages.values())), lambda f: f, FEW)
    rows = []
    for k, frame in enumerate(chosen, 1):
        parts = ", ".join(f"{name} {value:.1f} ms" for name, value in frame.stages.items())
        picture = painter.overlay(frame, f"slow_{k:02}", f"{sum(frame.stages.values()):.1f} ms: {parts}")
        rows.append(PictureRow(title(frame), (picture,)))
    return Worst("Slowest frames", "By the sum of their stages; at most one a second.", tuple(rows))


def most_changed(painter: Painter, frames: Sequence[FrameRecord], changes: Mapping[int, int]) -> Worst | None:
    """The frames in which most instances came or went, None if there is none.

    changes: index in `frames` -> how many.
    """
    known = [i for i in changes if changes[i] and painter.has(frames[i])]
    chosen = apart(sorted(known, key=lambda i: (-changes[i], i)), lambda i: frames[i], FEW)
    rows = []
    for k, i in enumerate(chosen, 1):
        before = next(f for f in reversed(frames[:i]) if f.topic == frames[i].topic and painter.has(f))
        pictures = (
            painter.overlay(before, f"changed_{k:02}_before", f"frame {before.index}"),
            painter.overlay(frames[i], f"changed_{k:02}_after", f"frame {frames[i].index}"),
        )
        rows.append(PictureRow(f"{title(frames[i])}: {changes[i]} instances came or went", pictures))
    if not rows:
        return None
    note = "Instances that appeared or vanished since the frame before: flicker, or a cut in the scene."
    return Worst("Frames that changed most", note, tuple(rows))
