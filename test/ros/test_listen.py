"""What is read out of serialized messages and diagnostics, on messages that rclpy has serialized."""

from __future__ import annotations

from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from fassst_ros.msg import Instance, InstanceArray
from rclpy.serialization import deserialize_message, serialize_message

from fassst_ros.bag import raw_stamp, with_stamp
from fassst_ros.ros.listen import statuses

STAMPS = [0, 1, 999_999_999, 10**9, 1_700_000_000_123_456_789, (2**31 - 1) * 10**9 + 5]


def make(stamp: int) -> Any:
    message = InstanceArray(height=48, width=64, model="tiny 1", instances=[Instance(id=1, class_name="car")])
    message.header.frame_id = "camera"
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    return message


@pytest.mark.parametrize("stamp", STAMPS)
def test_the_stamp_is_read_and_replaced(stamp: int) -> None:
    raw = serialize_message(make(stamp))
    assert raw_stamp(raw) == stamp
    changed = with_stamp(raw, 5 * 10**9 + 7)
    assert raw_stamp(changed) == 5 * 10**9 + 7
    assert deserialize_message(changed, InstanceArray) == make(5 * 10**9 + 7)


def test_big_endian_is_read_too() -> None:
    raw = b"\x00\x00\x00\x00" + (3).to_bytes(4, "big") + (9).to_bytes(4, "big")
    assert raw_stamp(raw) == 3 * 10**9 + 9
    assert raw_stamp(with_stamp(raw, 10**9)) == 10**9


def test_statuses_of_one_node() -> None:
    def status(name: str) -> DiagnosticStatus:
        return DiagnosticStatus(name=name, message="text", values=[KeyValue(key="a", value="1")])

    message = DiagnosticArray(
        status=[status("replay/node: node"), status("replay/node2: node"), status("replay/node: camera left")]
    )
    assert list(statuses(message, "/replay/node")) == [
        ("node", "text", {"a": "1"}),
        ("camera left", "text", {"a": "1"}),
    ]
