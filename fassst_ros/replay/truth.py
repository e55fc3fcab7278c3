"""Ground truth of a bag, by stamp: a COCO file, or an InstanceArray topic of the bag. See docs/replay.md.

Frames without ground truth do not count, neither as right nor as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fassst_ros.bag import Bag, stamp_of
from fassst_ros.card import ClassInfo
from fassst_ros.coco_format import decode_rle, read_coco
from fassst_ros.decode import decode
from fassst_ros.evaluation.analysis import analyse
from fassst_ros.evaluation.cityscapes import CityscapesMetric
from fassst_ros.evaluation.coco import evaluate_in_full, library
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.evaluation.matching import ImageMatch, match_images, run_lengths
from fassst_ros.labels import CITYSCAPES
from fassst_ros.replay.results import MESSAGE_TYPE
from fassst_ros.types import ConfigError, InputError, Instances

#: File in the folder of a bag; topics that hold this are taken for ground truth, too.
FILE_NAME, TOPIC_PART = "ground_truth.json", "ground_truth"
#: Label of the Cityscapes format for pixels that belong to no object, but are annotated: road.
_BACKGROUND = 7


@dataclass(frozen=True, slots=True)
class Truth:
    """Annotated frames. name: of file or topic. content: as in a COCO file.

    ids: (camera topic, "frame:" and a frame_id, or "" for any camera; stamp [ns]) -> id of the image.
    """

    name: str
    content: Mapping[str, Any]
    ids: Mapping[tuple[str, int], int]

    def image_id(self, topic: str, frame_id: str, stamp: int) -> int | None:
        """The image of a frame, None if it is not annotated."""
        keys = (_camera(topic), f"frame:{frame_id}", "")
        return next((i for key in keys if (i := self.ids.get((key, stamp))) is not None), None)


def usable_truth(
    bag: Bag, given: str, topics: Sequence[str], notes: list[str], needed: bool = False
) -> Truth | None:
    """`find_truth` where AP can be computed. Without what computes it: None, and `notes` says why.

    Raises ConfigError instead if the ground truth was given, or is needed; InputError as find_truth does.
    """
    truth = find_truth(bag, given, topics)
    if truth is None:
        return None
    try:
        library()
    except ConfigError as err:
        if given or needed:
            raise
        notes.append(f"{truth.name} is not used: {err}")
        return None
    return truth


def find_truth(bag: Bag, given: str, topics: Sequence[str]) -> Truth | None:
    """The ground truth of a bag: what is given (a file, a topic, or "none"), else what lies beside it.

    topics: the cameras. Beside means ground_truth.json in the bag's folder, NAME.ground_truth.json beside a
    single file, or a topic with ground_truth in its name. Raises InputError if what is given, or what is
    found, cannot be used.
    """
    if given == "none":
        return None
    if given:
        if given in bag.topics:
            return _of_topic(bag, given)
        return _of_file(Path(given), topics)
    path = bag.path
    file = path / FILE_NAME if path.is_dir() else path.with_name(f"{path.stem}.{FILE_NAME}")
    if file.is_file():
        return _of_file(file, topics)
    named = [t.name for t in bag.topics.values() if t.msgtype == MESSAGE_TYPE and TOPIC_PART in t.name]
    return _of_topic(bag, *named) if named else None


def _camera(topic: str) -> str:
    """A camera's name, which raw and compressed images have in common."""
    return topic.removesuffix("/compressed")


def _of_file(path: Path, topics: Sequence[str]) -> Truth:
    content = read_coco(path)
    cameras = {_camera(topic) for topic in topics}
    ids: dict[tuple[str, int], int] = {}
    for entry in content["images"]:
        topic = entry.get("topic", "")
        if not isinstance(topic, str):
            raise InputError(f"{path}: topic of image {entry.get('id')!r} is {topic!r}; expected a name")
        if "stamp" not in entry:
            raise InputError(
                f"{path}: image {entry.get('id')!r} has no stamp, so nobody knows which frame it is. Give "
                "it the frame's header.stamp, in nanoseconds"
            )
        try:
            stamp = parse_stamp(entry["stamp"])
        except ValueError as err:
            raise InputError(f"{path}: stamp of image {entry.get('id')!r}: {err}") from err
        key = (_camera(topic), stamp)
        if key in ids:
            raise InputError(f"{path}: images {ids[key]} and {entry.get('id')!r} have the same stamp {stamp}")
        ids[key] = entry.get("id")
    named = {topic for topic, _ in ids if topic}
    if named and not named & cameras:
        raise InputError(
            f"{path}: its images are of {', '.join(sorted(named))}; the bag's are of {', '.join(topics)}"
        )
    return Truth(str(path), content, ids)


def parse_stamp(value: Any) -> int:
    """Nanoseconds of a stamp: a whole number of them, {"sec", "nanosec"}, or text in seconds.

    Raises ValueError for anything else, a floating-point number too: it cannot hold today's nanoseconds.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        parts = value.get("sec"), value.get("nanosec")
        if all(isinstance(part, int) for part in parts):
            return int(parts[0]) * 10**9 + int(parts[1])  # type: ignore[arg-type]
    elif isinstance(value, str) and (found := re.fullmatch(r"(\d+)(?:\.(\d{1,9}))?", value.strip())):
        whole, fraction = found[1], found[2]
        if fraction is None and len(whole) > 12:  # nanoseconds as text
            return int(whole)
        return int(whole) * 10**9 + int((fraction or "").ljust(9, "0"))
    raise ValueError(
        f'{value!r} is none; expected nanoseconds (1700000000100000000), "1700000000.100000000" as text, or '
        '{"sec": 1700000000, "nanosec": 100000000}'
    )


def _of_topic(bag: Bag, *topics: str) -> Truth:
    """The InstanceArrays of topics of the bag; a frame is known by stamp and frame_id."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    ids: dict[tuple[str, int], int] = {}
    categories: dict[str, int] = {}
    for stored in bag.messages(topics):
        message = bag.read(stored)
        try:
            instances = decode(message)
        except InputError as err:
            raise InputError(f"ground truth {stored.topic}, message {stored.index}: {err}") from err
        image_id = len(images) + 1
        ids[f"frame:{message.header.frame_id}", stamp_of(message)] = image_id
        images.append({"id": image_id, "height": message.height, "width": message.width})
        for i, runs in enumerate(instances.to_rle()):
            category = categories.setdefault(message.instances[i].class_name, len(categories) + 1)
            x0, y0, x1, y1 = instances.boxes[i].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": category,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": instances.masks[i].area,
                    "iscrowd": 0, "segmentation": runs,
                }
            )  # fmt: skip
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    content = {"images": images, "annotations": annotations, "categories": listed}
    return Truth(", ".join(topics), content, ids)


@dataclass(slots=True)
class Accuracy:
    """Collects what was found in annotated frames; `result` compares. classes: of the model's card."""

    truth: Truth
    classes: Sequence[ClassInfo]
    predictions: dict[int, Instances] = field(default_factory=dict)
    read: GroundTruth = field(init=False)

    def __post_init__(self) -> None:
        """Raises InputError if the ground truth is malformed or holds no object of the classes."""
        self.read = GroundTruth.read(self.truth.content, self.classes).with_objects()

    def add(self, image_id: int, found: Instances) -> None:
        """What was found in an annotated frame, also below the score threshold.

        Raises InputError if the ground truth is of another size.
        """
        entry = self.read.images[image_id]
        size = entry["height"], entry["width"]
        if found.size != size:
            raise InputError(
                f"its ground truth is of {size[1]}x{size[0]} pixels, the frame is of "
                f"{found.size[1]}x{found.size[0]}"
            )
        self.predictions[image_id] = found

    def result(self, threshold: float) -> tuple[dict[str, Any], list[ImageMatch]]:
        """As the results of `fassst eval`, and what belongs to what in each frame.

        threshold: the score from which instances are shown.
        """
        done = evaluate_in_full(self.read, self.predictions)
        matches = match_images(done)
        report: dict[str, Any] = {"source": self.truth.name, **done.summary}
        report |= analyse(matches, threshold, self.classes)
        names = {c["name"] for c in self.truth.content["categories"]}
        if names >= {c.name for c in CITYSCAPES}:
            report["cityscapes"] = self._cityscapes()
        return report, matches

    def _cityscapes(self) -> dict[str, Any]:
        """AP by the rules of Cityscapes; objects later in the file lie on top of earlier ones."""
        names = {c["id"]: c["name"] for c in self.truth.content["categories"]}
        labels = {c.name: c.id for c in CITYSCAPES}
        metric = CityscapesMetric(self.classes)
        objects: dict[int, list[Mapping[str, Any]]] = {}
        for annotation in self.truth.content["annotations"]:
            objects.setdefault(annotation["image_id"], []).append(annotation)
        for image_id, found in self.predictions.items():
            ids = np.full(found.size, _BACKGROUND, np.uint16)
            for number, annotation in enumerate(objects.get(image_id, ())):
                label = labels.get(names.get(annotation["category_id"], ""))
                if label is not None:
                    value = label if annotation.get("iscrowd") else label * 1000 + number
                    ids[_pixels(annotation, found.size)] = value
            metric.add(found, ids)
        return metric.result()


def _pixels(annotation: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """(H, W) bool: the pixels of an annotation."""
    full = np.zeros(size, np.bool_)
    roi = decode_rle(run_lengths(annotation["segmentation"], size))
    height, width = roi.bits.shape
    full[roi.y : roi.y + height, roi.x : roi.x + width] = roi.bits
    return full
