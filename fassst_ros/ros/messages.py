"""Instances -> InstanceArray, instance map, class map, LabelInfo and vision_msgs detections."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fassst_ros import decode
from fassst_ros.card import ModelCard
from fassst_ros.msg import ClassLabel, Instance, InstanceArray, LabelInfo, Mask
from fassst_ros.ros.convert import to_image
from fassst_ros.types import Instances, RoiMask


def model_name(card: ModelCard) -> str:
    """Name and version, as in every message that names the model."""
    return f"{card.name} {card.version}"


def class_names(card: ModelCard) -> dict[int, str]:
    """Class id -> name."""
    return {c.id: c.name for c in card.classes}


def to_message(instances: Instances, header: Header, model: str, names: dict[int, str]) -> InstanceArray:
    """The InstanceArray of one image; header: that of the image. names: class id -> name."""
    tracks = instances.track_ids.tolist() if instances.track_ids is not None else [0] * len(instances)
    items = []
    for number, (box, score, class_id, track, mask) in enumerate(
        zip(
            instances.boxes.tolist(),
            instances.scores.tolist(),
            instances.class_ids.tolist(),
            tracks,
            instances.masks,
            strict=True,
        ),
        start=1,
    ):
        item = Instance(id=number, track_id=track, class_id=class_id, class_name=names[class_id], score=score)
        item.x_min, item.y_min, item.x_max, item.y_max = box
        item.mask = _mask(mask)
        items.append(item)
    height, width = instances.size
    return InstanceArray(header=header, height=height, width=width, model=model, instances=items)


def _mask(mask: RoiMask) -> Mask:
    height, width = mask.bits.shape
    # An ndarray of another type would make rclpy look at every element.
    counts = array.array("I", mask.run_lengths().astype(np.uint32, copy=False).tobytes())
    return Mask(x=mask.x, y=mask.y, width=width, height=height, counts=counts)


def instance_map(instances: Instances, header: Header) -> Image:
    """mono16: Instance.id of each pixel, 0 where there is none; the better score wins an overlap."""
    return to_image(decode.instance_map(instances), "mono16", header)


def class_map(instances: Instances, header: Header) -> Image:
    """mono8: class id of each pixel, 0 for background; of the same instance as in the instance map."""
    return to_image(decode.class_map(instances), "mono8", header)


def label_info(card: ModelCard, score_threshold: float, header: Header) -> LabelInfo:
    """What the class ids mean. score_threshold: instances below are not published."""
    labels = []
    for c in card.classes:
        red, green, blue = c.color
        labels.append(ClassLabel(class_id=c.id, name=c.name, r=red, g=green, b=blue))
    return LabelInfo(header=header, model=model_name(card), score_threshold=score_threshold, classes=labels)


def detections(instances: Instances, header: Header, names: dict[int, str]) -> Any:
    """vision_msgs/Detection2DArray of the boxes. Raises ImportError where vision_msgs is missing.

    The id of a detection is that of its track, "" without one; its number where nothing is tracked.
    """
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    message = Detection2DArray(header=header)
    numbers = range(1, len(instances) + 1) if instances.track_ids is None else instances.track_ids.tolist()
    for number, box, score, class_id in zip(
        numbers,
        instances.boxes.tolist(),
        instances.scores.tolist(),
        instances.class_ids.tolist(),
        strict=True,
    ):
        x_min, y_min, x_max, y_max = box
        item = Detection2D(header=header, id=str(number or ""))
        item.bbox.center.position.x = (x_min + x_max) / 2
        item.bbox.center.position.y = (y_min + y_max) / 2
        item.bbox.size_x, item.bbox.size_y = x_max - x_min, y_max - y_min
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = names[class_id], score
        item.results.append(result)
        message.detections.append(item)
    return message
