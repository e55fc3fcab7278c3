"""Instances of all kinds, and the messages that two writers make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fassst_ros.types import Instances, RoiMask

TYPE = "fassst_ros/msg/InstanceArray"


def random_instances(seed: int, size: tuple[int, int] = (48, 80), count: int = 6) -> Instances:
    """Masks of any shape: noise, full, empty, one pixel, first pixel set; rectangles up to the edges."""
    rng = np.random.default_rng(seed)
    masks = []
    for k in range(count):
        h, w = (1, 1) if k == 0 else (int(rng.integers(1, size[0])), int(rng.integers(1, size[1])))
        y, x = int(rng.integers(0, size[0] - h + 1)), int(rng.integers(0, size[1] - w + 1))
        bits = rng.random((h, w)) < (1.0, 0.5, 0.0, 0.9, 0.05)[k % 5]
        masks.append(RoiMask(x, y, bits))
    boxes = np.array([(m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]) for m in masks], np.float32)
    return Instances(
        boxes=boxes - np.float32(0.125),
        scores=np.sort(rng.random(count).astype(np.float32))[::-1].copy(),
        class_ids=rng.integers(1, 9, count).astype(np.int32),
        masks=tuple(masks),
        size=size,
        track_ids=rng.integers(0, 9, count) + 1,
    )


def rosbags_message(store: Any, instances: Instances) -> Any:
    """The message of these instances, as rosbags holds it."""
    types = store.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](7, 8), "camera_front_optical")
    items = []
    for k, mask in enumerate(instances.masks):
        height, width = mask.bits.shape
        wire = types["fassst_ros/msg/Mask"](mask.x, mask.y, width, height, mask.run_lengths())
        track = 0 if instances.track_ids is None else int(instances.track_ids[k])
        box = map(float, instances.boxes[k])
        items.append(
            types["fassst_ros/msg/Instance"](
                k + 1, track, int(instances.class_ids[k]), "x" * k, float(instances.scores[k]), *box, wire
            )
        )
    return types[TYPE](header, *instances.size, "model 1", items)


def node_bytes(instances: Instances) -> bytes:
    """The message that the node publishes, serialised by the middleware."""
    pytest.importorskip("rclpy", reason="no rclpy: messages encoded by the node are not tested")
    from builtin_interfaces.msg import Time
    from rclpy.serialization import serialize_message
    from std_msgs.msg import Header

    from fassst_ros.ros.messages import to_message

    header = Header(stamp=Time(sec=7, nanosec=8), frame_id="camera_front_optical")
    names = {number: f"class {number}" for number in range(1, 256)}
    return bytes(serialize_message(to_message(instances, header, "model 1", names)))


def assert_same(decoded: Instances, expected: Instances) -> None:
    np.testing.assert_array_equal(decoded.boxes, expected.boxes)
    np.testing.assert_array_equal(decoded.scores, expected.scores)
    np.testing.assert_array_equal(decoded.class_ids, expected.class_ids)
    np.testing.assert_array_equal(decoded.to_dense(), expected.to_dense())
    assert decoded.size == expected.size
    if expected.track_ids is None:
        assert decoded.track_ids is None
    else:
        np.testing.assert_array_equal(decoded.track_ids, expected.track_ids)
