"""Annotated videos: frames in order with their times, and what a tracker's answers are compared with."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.evaluation.coco import library
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.evaluation.matching import run_lengths
from fassst_ros.evaluation.tracking_metrics import MATCHED, FrameMatch
from fassst_ros.tracking_assignment import assign
from fassst_ros.types import InputError, Instances

_ID = (int, str)  # of videos and tracks


@dataclass(frozen=True, slots=True)
class Video:
    """images: their ids in order; stamps: their times in seconds."""

    name: str
    images: tuple[int, ...]
    stamps: tuple[float, ...]


def read_videos(content: Mapping[str, Any], every: int = 1) -> list[Video]:
    """The videos of a COCO file whose images have video_id and frame_index.

    Times are the images' `stamp` [s], or frame_index by the video's `fps`. every: of n frames take one.
    Raises InputError, naming the image, if something of that is missing.
    """
    listed = content.get("videos")
    listed = [v for v in listed if isinstance(v, Mapping)] if isinstance(listed, list) else []
    rates = {v["id"]: v.get("fps") for v in listed if isinstance(v.get("id"), _ID)}
    names = {v["id"]: v.get("name") for v in listed if isinstance(v.get("id"), _ID)}
    frames: dict[Any, list[tuple[int, float, int]]] = defaultdict(list)
    for entry in content["images"]:
        video, index = entry.get("video_id"), entry.get("frame_index")
        if not isinstance(video, _ID) or not isinstance(index, int):
            raise InputError(
                f"image {entry.get('file_name')!r} has no video_id or no whole frame_index; expected "
                "videos in COCO's format as `fassst compose-tracks` writes them"
            )
        frames[video].append((index, _stamp(entry, index, rates.get(video)), entry["id"]))
    videos = []
    for video, found in frames.items():
        found.sort()
        stamps = tuple(stamp for _, stamp, _ in found[::every])
        if any(b <= a for a, b in itertools.pairwise(stamps)):
            raise InputError(
                f"video {video!r}: the stamps of its images do not rise with their frame_index; expected "
                "each frame_index once, and later stamps for higher ones"
            )
        videos.append(Video(str(names.get(video) or video), tuple(i for *_, i in found[::every]), stamps))
    return videos


def _stamp(entry: Mapping[str, Any], index: int, rate: Any) -> float:
    """In seconds."""
    stamp = entry.get("stamp")
    if stamp is None and isinstance(rate, (int, float)) and rate > 0:
        stamp = index / rate
    if not isinstance(stamp, (int, float)) or not math.isfinite(stamp):
        raise InputError(
            f"image {entry.get('file_name')!r}: nobody tells when it was taken; expected its `stamp` [s] "
            "or `fps` of its video"
        )
    return float(stamp)


@dataclass(frozen=True, slots=True)
class ClassedMatch:
    """A frame's objects and tracks with their classes."""

    match: FrameMatch
    object_classes: NDArray[np.int64]
    track_classes: NDArray[np.int64]

    def of(self, class_id: int) -> FrameMatch:
        """Those of one class."""
        return self.match.part(self.object_classes == class_id, self.track_classes == class_id)


class VideoTruth:
    """The objects of videos, ready to be compared with instances that have track_ids."""

    def __init__(self, truth: GroundTruth, videos: Sequence[Video]) -> None:
        """Raises InputError if an object that counts has no track_id."""
        self._classes = truth.counted
        self._objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self._crowds: dict[int, list[dict[str, Any]]] = defaultdict(list)
        numbers: dict[tuple[int, Any], int] = {}
        video_of = {image: v for v, video in enumerate(videos) for image in video.images}
        for item in truth.objects:
            image = item["image_id"]
            if image not in video_of:
                continue
            size = (truth.images[image]["height"], truth.images[image]["width"])
            made = {"class": item["category_id"], "mask": run_lengths(item["segmentation"], size)}
            if item["iscrowd"]:
                self._crowds[image].append(made)
                continue
            if not isinstance(item["track_id"], _ID):
                name = truth.images[image].get("file_name", image)
                raise InputError(
                    f"an annotation of image {name!r} has track_id {item['track_id']!r}; expected in each a "
                    "number or name, the same for an object in all frames of its video"
                )
            key = (video_of[image], item["track_id"])
            self._objects[image].append({**made, "number": numbers.setdefault(key, len(numbers))})

    def compare(self, image: int, video: int, found: Instances) -> ClassedMatch:
        """Mask IoU of all objects with all tracked instances of a frame, 0 between different classes.

        Instances without a track and those in regions to ignore do not count. video: makes ids unique.
        """
        _, _, mask_api = library()
        ids = found.track_ids if found.track_ids is not None else np.zeros(len(found), np.int64)
        counted = np.isin(found.class_ids, list(self._classes[image]))
        rows = np.flatnonzero((ids > 0) & counted)
        rle = found.to_rle()
        masks = [mask_api.frPyObjects(rle[i], *found.size) for i in rows]
        classes = found.class_ids[rows].astype(np.int64)
        objects, crowds = self._objects[image], self._crowds[image]
        overlap = _overlap(masks, classes, objects, crowd=False)
        free = np.ones(len(rows), np.bool_)
        free[assign(np.where(overlap >= MATCHED, overlap, 0))[0]] = False
        ignored = free & (_overlap(masks, classes, crowds, crowd=True) >= MATCHED).any(axis=1)
        match = FrameMatch(
            np.array([o["number"] for o in objects], np.int64),
            ids[rows] + (video << 32),
            overlap.T,
        )
        everything = np.ones(len(objects), np.bool_)
        object_classes = np.array([o["class"] for o in objects], np.int64)
        return ClassedMatch(match.part(everything, ~ignored), object_classes, classes[~ignored])


def _overlap(
    masks: Sequence[Any], classes: NDArray[np.int64], others: Sequence[Mapping[str, Any]], crowd: bool
) -> NDArray[np.float64]:
    """(masks, others) IoU, or with crowds the share of the mask; 0 between different classes."""
    _, _, mask_api = library()
    found = mask_api.iou(list(masks), [o["mask"] for o in others], [int(crowd)] * len(others))
    table = np.asarray(found, np.float64).reshape(len(masks), len(others))
    other_classes = np.array([o["class"] for o in others], np.int64)
    return np.where(classes[:, None] == other_classes, table, 0)
