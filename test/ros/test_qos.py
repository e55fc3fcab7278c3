"""Which QoS is asked for, and warnings that name cause and mend."""

from __future__ import annotations

import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from fassst_ros.msg import InstanceArray
from node_bench import Bench, as_compressed, make_image, picture, segment_one, wait_until
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from fassst_ros.ros import qos
from fassst_ros.ros.qos import COMPRESSED_TYPE, RAW_TYPE, Offer, Plan

RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RAW, RAW_BEST = Offer("/cam", RAW_TYPE, False), Offer("/cam", RAW_TYPE, True)
JPEG, OTHER = Offer("/cam", COMPRESSED_TYPE, False), Offer("/cam", "std_msgs/msg/String", False)


@pytest.mark.parametrize(
    ("topic", "transport", "reliability", "publishers", "expected"),
    [
        ("/image", "auto", "auto", [], Plan(False, "reliable")),
        ("/image/compressed", "auto", "auto", [], Plan(True, "reliable")),
        ("/image", "auto", "auto", [RAW], Plan(False, "reliable")),
        ("/image", "auto", "auto", [RAW_BEST], Plan(False, "best_effort")),
        ("/image", "auto", "auto", [RAW, RAW_BEST], Plan(False, "best_effort")),
        ("/image", "auto", "auto", [JPEG], Plan(True, "reliable")),
        ("/image", "auto", "auto", [JPEG, RAW_BEST], Plan(False, "best_effort")),
        ("/image/compressed", "auto", "auto", [JPEG, RAW_BEST], Plan(True, "reliable")),
        ("/image", "auto", "auto", [OTHER], Plan(False, "reliable")),
        ("/image", "compressed", "auto", [RAW_BEST], Plan(True, "reliable")),
        ("/image/compressed", "raw", "reliable", [RAW_BEST], Plan(False, "reliable")),
        ("/image", "auto", "best_effort", [RAW], Plan(False, "best_effort")),
        ("/image", "auto", "system_default", [RAW_BEST], Plan(False, "system_default")),
    ],
)
def test_plan(topic: str, transport: str, reliability: str, publishers: list[Offer], expected: Plan) -> None:
    assert qos.plan(topic, transport, reliability, publishers) == expected


@pytest.mark.parametrize(
    ("used", "publishers", "words"),
    [
        (Plan(False, "reliable"), [], None),
        (Plan(False, "reliable"), [OTHER], "/cam publishes std_msgs/msg/String, the node expects"),
        (Plan(False, "reliable"), [RAW_BEST], "parameter reliability to auto or best_effort"),
        (Plan(False, "best_effort"), [RAW], "best effort loses frames above 0.5 MB"),
        (Plan(False, "reliable"), [RAW], "ros2 topic hz /image"),
    ],
)
def test_why_silent(used: Plan, publishers: list[Offer], words: str | None) -> None:
    said = qos.why_silent("/image", used, publishers)
    assert (words in said) if words else not said
    if words and publishers[0] in (RAW, JPEG):
        assert "fastdds_large_images.xml" in said


def test_profile() -> None:
    made = qos.profile("best_effort", 3)
    assert (made.depth, made.reliability) == (3, ReliabilityPolicy.BEST_EFFORT)
    assert qos.profile("system_default", 1).reliability == ReliabilityPolicy.SYSTEM_DEFAULT


@pytest.mark.parametrize("publisher_first", [True, False])
@pytest.mark.parametrize("offered", [RELIABLE, BEST_EFFORT])
def test_auto_receives_from_every_publisher(bench: Bench, offered: QoSProfile, publisher_first: bool) -> None:
    node, driver = bench.start()
    assert driver.change("configure")
    camera = None
    if publisher_first:
        camera = driver.publisher(Image, "/image", offered, matched=False)
        wait_until(lambda: node.count_publishers("/image"))
    assert driver.change("activate")
    if camera is None:
        camera = driver.publisher(Image, "/image", offered, matched=False)
    results = driver.collect(InstanceArray, "instances")
    wait_until(lambda: camera.publish(make_image()) or time.sleep(0.05) or results)
    subscription = next(iter(node.subscriptions))
    assert subscription.qos_profile.reliability == offered.reliability


def test_auto_follows_another_publisher_and_another_type(bench: Bench) -> None:
    node, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    other = bench.driver(node, apart=True)  # Fast DDS keeps a participant to one type a topic
    raw = other.publisher(Image, "/image", RELIABLE)
    segment_one(other, raw, results, make_image())
    other.node.destroy_publisher(raw)
    other = bench.driver(node, apart=True)
    jpeg = other.publisher(CompressedImage, "/image", BEST_EFFORT)
    assert len(segment_one(driver, jpeg, results, as_compressed(picture())).instances) == 3
    assert len(list(node.subscriptions)) == 1


def test_two_megapixels_arrive_with_stock_settings(bench: Bench) -> None:
    """2048x1024 rgb8 from a reliable stock publisher; best effort would get nothing across processes."""
    _, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image", RELIABLE)
    message = make_image(1024, 2048)
    for _ in range(3):
        assert segment_one(driver, camera, results, message).width == 2048


def test_a_mismatch_is_reported_with_its_mend(bench: Bench) -> None:
    _, driver = bench.active(reliability="reliable", silence_timeout=1.0, diagnostics_period=0.1)
    reports, log = driver.collect(DiagnosticArray, "/diagnostics"), driver.log()
    driver.publisher(Image, "/image", BEST_EFFORT, matched=False)
    said = wait_until(lambda: next((m.msg for m in log if "parameter reliability" in m.msg), ""))
    assert "/driver offers best effort, the node asks for reliable" in said
    wait_until(lambda: any("parameter reliability" in s.message for r in reports[-3:] for s in r.status))


def test_a_silent_publisher_and_a_wrong_type_are_reported(bench: Bench) -> None:
    node, driver = bench.active(silence_timeout=1.0)
    results, log = driver.collect(InstanceArray, "instances"), driver.log()
    wait_until(lambda: "nobody publishes" in node._cameras[0].warning)
    other = bench.driver(node, apart=True)
    text = other.publisher(String, "/image", matched=False)
    wait_until(lambda: "publishes std_msgs/msg/String" in node._cameras[0].warning)
    other.node.destroy_publisher(text)
    camera = driver.publisher(Image, "/image", RELIABLE)
    wait_until(lambda: "is connected (reliable), but no frame arrives" in node._cameras[0].warning)
    wait_until(lambda: any("no frame for" in m.msg for m in log))
    segment_one(driver, camera, results, make_image())
    wait_until(lambda: camera.publish(make_image()) or node._cameras[0].warning == "")


def test_results_of_a_best_effort_camera_are_right(bench: Bench) -> None:
    _, driver = bench.active(reliability="best_effort", depth=1)
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image", BEST_EFFORT)
    wait_until(lambda: camera.publish(make_image()) or time.sleep(0.05) or results)
    assert [round(i.score, 2) for i in results[0].instances] == [0.95, 0.9, 0.8]
    assert np.isfinite([i.x_min for i in results[0].instances]).all()
