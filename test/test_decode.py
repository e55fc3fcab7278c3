"""The Python decoder against messages of two writers: rosbags and rclpy."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from instance_messages import TYPE, assert_same, node_bytes, random_instances, rosbags_message

from fassst_ros.bag import typestore
from fassst_ros.decode import class_map, decode, decode_mask, instance_map
from fassst_ros.types import InputError, Instances, RoiMask


@pytest.fixture(scope="module")
def store() -> Any:
    return typestore()


@pytest.mark.parametrize("seed", range(5))
def test_python_decodes_what_was_encoded(store: Any, seed: int) -> None:
    expected = random_instances(seed)
    message = store.deserialize_cdr(store.serialize_cdr(rosbags_message(store, expected), TYPE), TYPE)
    assert_same(decode(message), expected)


def test_python_decodes_an_image_without_instances(store: Any) -> None:
    decoded = decode(rosbags_message(store, Instances.empty((4, 8))))
    assert_same(decoded, Instances.empty((4, 8)))


def test_the_better_score_wins_in_the_maps() -> None:
    masks = (RoiMask(1, 0, np.ones((2, 2), np.bool_)), RoiMask(0, 0, np.ones((2, 2), np.bool_)))
    boxes = np.array([(1, 0, 3, 2), (0, 0, 2, 2)], np.float32)
    both = Instances(boxes, np.array([0.9, 0.5], np.float32), np.array([3, 1], np.int32), masks, (2, 4))
    np.testing.assert_array_equal(instance_map(both), [[2, 1, 1, 0]] * 2)
    np.testing.assert_array_equal(class_map(both), [[1, 3, 3, 0]] * 2)
    assert (instance_map(both).dtype, class_map(both).dtype) == (np.uint16, np.uint8)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("id", 5, "id is 5; expected 1"),
        ("class_id", 0, "background"),
        ("class_id", 256, "expected 1 to 255"),
        ("score", float("nan"), "score is nan"),
        ("score", 1.5, "score is 1.5"),
        ("x_min", float("inf"), "box is"),
        ("y_max", -9.0, "box is"),
        ("mask.x", 79, "leaves the image 80x48"),
        ("mask.counts", np.array([3], np.uint32), "runs add up to 3"),
        ("mask.counts", np.array([2**32 - 1] * 3, np.uint32), "runs add up to"),
    ],
)
def test_python_refuses_a_damaged_instance(store: Any, field: str, value: Any, words: str) -> None:
    message = rosbags_message(store, random_instances(1, count=1))
    instance = message.instances[0]
    instance.mask.width, instance.mask.height = 2, 1
    instance.mask.counts = np.array([0, 2], np.uint32)
    instance.mask.x = 0
    decode(message)  # good until the field is broken
    owner, name = (instance.mask, field[5:]) if field.startswith("mask.") else (instance, field)
    setattr(owner, name, value)
    with pytest.raises(InputError, match=re.escape("instances[0]") + ".*" + re.escape(words)):
        decode(message)


@pytest.mark.parametrize("size", [(0, 8), (4, 65536)])
def test_python_refuses_an_image_size(store: Any, size: tuple[int, int]) -> None:
    message = rosbags_message(store, Instances.empty((4, 8)))
    message.height, message.width = size
    with pytest.raises(InputError, match="expected sides of 1 to 65535"):
        decode(message)


def test_a_mask_alone_decodes() -> None:
    wire = SimpleNamespace(x=2, y=1, width=3, height=2, counts=[1, 2, 1, 2])
    mask = decode_mask(wire, (4, 8))
    np.testing.assert_array_equal(mask.bits, [[False, True, True]] * 2)


def test_python_decodes_a_message_of_rclpy() -> None:
    expected = random_instances(3)
    raw = node_bytes(expected)
    from fassst_ros.msg import InstanceArray
    from rclpy.serialization import deserialize_message

    assert_same(decode(deserialize_message(raw, InstanceArray)), expected)


def test_the_maps_are_those_of_the_node() -> None:
    pytest.importorskip("rclpy", reason="no rclpy: the node's maps are not compared")
    from std_msgs.msg import Header

    from fassst_ros.ros import messages

    expected = random_instances(4, count=20)
    ids = messages.instance_map(expected, Header())
    classes = messages.class_map(expected, Header())
    np.testing.assert_array_equal(
        np.frombuffer(ids.data, np.uint16).reshape(ids.height, ids.width), instance_map(expected)
    )
    np.testing.assert_array_equal(
        np.frombuffer(classes.data, np.uint8).reshape(classes.height, classes.width), class_map(expected)
    )
