"""InstanceArray -> Instances, without ROS: any object with the message's fields will do.

Works on messages of rclpy and of rosbags alike. The byte layout is in docs/messages.md; the C++
twin of this file is include/fassst_ros/decode.hpp.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fassst_ros.types import InputError, Instances, RoiMask

T = TypeVar("T", bound=np.generic)

#: Longest side of an image that is decoded: the area then fits 32 bits, and a broken message
#: cannot ask for more memory than an image of that size.
MAX_SIDE = 65535


def decode_mask(mask: Any, size: tuple[int, int]) -> RoiMask:
    """The mask of one fassst_ros/Mask message.

    size: (height, width) of the source image in pixels.
    Raises InputError if the rectangle leaves the image or the runs do not fill the rectangle.
    """
    x, y, width, height = int(mask.x), int(mask.y), int(mask.width), int(mask.height)
    if min(x, y, width, height) < 0 or x + width > size[1] or y + height > size[0]:
        raise InputError(
            f"mask rectangle x={x} y={y} {width}x{height} leaves the image {size[1]}x{size[0]}: "
            "header and mask are of two images, or the message is damaged"
        )
    return RoiMask.from_run_lengths(x, y, width, height, mask.counts)


def decode(message: Any) -> Instances:
    """The instances of one fassst_ros/InstanceArray message, boxes and masks in source pixels.

    `track_ids` is None if no instance is tracked. Raises InputError, naming the instance, for a
    message that breaks the rules of docs/messages.md.
    """
    size = int(message.height), int(message.width)
    if not 1 <= min(size) <= max(size) <= MAX_SIDE:
        raise InputError(
            f"InstanceArray is of an image {size[1]}x{size[0]}; expected sides of 1 to {MAX_SIDE} pixels"
        )
    masks = []
    for place, instance in enumerate(message.instances, start=1):
        try:
            _check(instance, place)
            masks.append(decode_mask(instance.mask, size))
        except InputError as err:
            raise InputError(f"InstanceArray.instances[{place - 1}]: {err}") from err
    items = message.instances
    boxes = np.array([(i.x_min, i.y_min, i.x_max, i.y_max) for i in items], np.float32)
    track_ids = np.array([i.track_id for i in items], np.int64)
    return Instances(
        boxes=boxes.reshape(-1, 4),
        scores=np.array([i.score for i in items], np.float32),
        class_ids=np.array([i.class_id for i in items], np.int32),
        masks=tuple(masks),
        size=size,
        track_ids=track_ids if track_ids.any() else None,
    )


def _check(instance: Any, place: int) -> None:
    """Raise InputError if an instance's scalars are out of range; `place` counts from 1."""
    if instance.id != place:
        raise InputError(f"id is {instance.id}; expected {place}: ids count from 1 in the order of the array")
    if not 1 <= instance.class_id <= 255:
        raise InputError(
            f"class_id is {instance.class_id}; expected 1 to 255 as in ~/label_info, 0 is background"
        )
    if not 0.0 <= instance.score <= 1.0:
        raise InputError(f"score is {instance.score}; expected 0 to 1")
    box = instance.x_min, instance.y_min, instance.x_max, instance.y_max
    if not all(map(math.isfinite, box)) or box[0] > box[2] or box[1] > box[3]:
        raise InputError(f"box is {box}; expected finite x_min <= x_max and y_min <= y_max")


def instance_map(instances: Instances) -> NDArray[np.uint16]:
    """(H, W) uint16: the id (1..n) of the instance at each pixel, 0 = background.

    Where masks overlap the better score wins. Raises InputError for more than 65535 instances.
    """
    if len(instances) > 65535:
        raise InputError(f"{len(instances)} instances; an instance map holds at most 65535")
    return _paint(instances, np.arange(1, len(instances) + 1, dtype=np.uint16))


def class_map(instances: Instances) -> NDArray[np.uint8]:
    """(H, W) uint8: the class id at each pixel, 0 = background; of the same instance as in `instance_map`."""
    return _paint(instances, instances.class_ids.astype(np.uint8))


def _paint(instances: Instances, values: NDArray[T]) -> NDArray[T]:
    """(H, W) map of one value an instance, 0 elsewhere: worst score first, so that the best stays on top."""
    result = np.zeros(instances.size, values.dtype)
    for value, mask in zip(values[::-1], reversed(instances.masks), strict=True):
        height, width = mask.bits.shape
        result[mask.y : mask.y + height, mask.x : mask.x + width][mask.bits] = value
    return result
