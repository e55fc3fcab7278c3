"""config/segment.rviz: classes and properties that rviz2 knows, topics and QoS that the node has.

rviz2 itself is not started. What is known of it here is from the sources of ros2/rviz (Humble to Rolling).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
#: Properties in the order of rviz_common/display.cpp and of each display's constructor.
COMMON = {"Class", "Enabled", "Name", "Value", "Topic"}
PROPERTIES = {
    "rviz_default_plugins/Image": {"Normalize Range", "Min Value", "Max Value", "Median window"},
    "rviz_default_plugins/Camera": {
        *("Image Rendering", "Overlay Alpha", "Zoom Factor", "Far Plane Distance", "Visibility")
    },
    "rviz_default_plugins/MarkerArray": {"Namespaces"},
}
TOPIC = {"Value", "Depth", "Durability Policy", "History Policy", "Reliability Policy"}
ORBIT = {
    *("Class", "Distance", "Focal Point", "Name", "Near Clip Distance", "Pitch", "Target Frame", "Yaw"),
}


@pytest.fixture(scope="module")
def config() -> Any:
    return yaml.safe_load((ROOT / "config/segment.rviz").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def displays(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = {d["Name"]: d for d in config["Visualization Manager"]["Displays"]}
    return found


def test_everything_is_shown_at_once(displays: dict[str, Any]) -> None:
    shown = {
        name: (d["Class"].rpartition("/")[2], d["Topic"]["Value"])
        for name, d in displays.items()
        if d["Enabled"]
    }
    assert shown == {
        "Camera": ("Image", "/camera/image_raw"),
        "Overlay": ("Image", "/segment_node/overlay"),
        "Instance map": ("Image", "/segment_node/instance_map"),
        "Markers": ("MarkerArray", "/segment_node/markers"),
    }
    assert displays["Instance map"]["Normalize Range"] is True


def test_classes_and_properties_are_those_of_rviz2(config: Any, displays: dict[str, Any]) -> None:
    for display in displays.values():
        assert display.keys() - COMMON <= PROPERTIES[display["Class"]]
        assert display["Topic"].keys() == TOPIC
        assert display["Value"] == display["Enabled"]
    view = config["Visualization Manager"]["Views"]["Current"]
    assert view["Class"] == "rviz_default_plugins/Orbit"
    assert view.keys() == ORBIT
    assert config["Visualization Manager"]["Global Options"].keys() == {
        *("Background Color", "Fixed Frame", "Frame Rate")
    }


def test_every_picture_has_its_place_in_the_window(config: Any, displays: dict[str, Any]) -> None:
    geometry = config["Window Geometry"]
    assert geometry["Hide Left Dock"] is geometry["Hide Right Dock"] is False  # rviz2 has no defaults
    state = bytes.fromhex(geometry["QMainWindow State"])
    pictures = [name for name, display in displays.items() if "MarkerArray" not in display["Class"]]
    for name in ("Displays", *pictures):
        assert name.encode("utf-16-be") in state


def test_the_view_is_that_of_the_camera(config: Any) -> None:
    """By rviz2's formula of an orbit; the up direction is that of z, seen along z: -y, as y points down."""
    np = pytest.importorskip("numpy")
    view = config["Visualization Manager"]["Views"]["Current"]
    focus = np.array([view["Focal Point"][axis] for axis in "XYZ"])
    yaw, pitch = view["Yaw"], view["Pitch"]
    direction = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    eye = focus + view["Distance"] * direction
    right = np.cross(-direction, [0, 0, 1])
    up = np.cross(right / np.linalg.norm(right), -direction)
    assert abs(pitch) <= np.pi / 2 - 0.001  # rviz2's limit
    np.testing.assert_allclose(eye, 0, atol=0.01)
    np.testing.assert_allclose(-direction, [0, 0, 1], atol=0.01)
    np.testing.assert_allclose(up, [0, -1, 0], atol=0.01)


def test_topics_and_qos_fit_the_node(displays: dict[str, Any]) -> None:
    rclpy = pytest.importorskip("rclpy", reason="the node needs rclpy: run `make setup`")
    from rclpy.context import Context
    from rclpy.lifecycle import LifecycleNode
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
    from tiny_model import tiny_card

    from fassst_ros.ros.outputs import Outputs

    context = Context()
    rclpy.init(context=context)
    try:
        node = LifecycleNode("segment_node", context=context)
        outputs = Outputs(node, "", tiny_card())
        offered = {p.topic_name: (p.msg_type.__name__, p.qos_profile) for p in node.publishers}
        for display in displays.values():
            topic = display["Topic"]
            if not topic["Value"].startswith("/segment_node/"):
                assert topic["Reliability Policy"] == "Best Effort"  # fits whatever the camera offers
                continue
            kind, profile = offered[topic["Value"]]
            assert kind == display["Class"].rpartition("/")[2]
            assert topic["Reliability Policy"] == "Reliable"
            assert profile.reliability == ReliabilityPolicy.RELIABLE
            assert topic["Durability Policy"] == "Volatile"
            assert profile.durability != DurabilityPolicy.TRANSIENT_LOCAL
        outputs.destroy()
        node.destroy_node()
    finally:
        context.try_shutdown()
