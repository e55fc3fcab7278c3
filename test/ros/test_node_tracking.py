"""Tracking in the node: ids in its messages, over real DDS. The model finds three things in bright images."""

from __future__ import annotations

from typing import Any

import pytest
from fassst_ros.msg import InstanceArray, LabelInfo
from node_bench import Bench, Driver, make_image, segment_one, wait_until
from sensor_msgs.msg import Image

from fassst_ros.ros import qos
from fassst_ros.types import ConfigError

#: Scores 0.95, 0.9, 0.8; then, below the card's threshold of 0.35, 0.22, 0.21, 0.19.
BRIGHT, DIM = 255, 60
SECOND = 10**9


class Scene:
    """A camera in front of the node; `see` returns the ids of what the node tracks in a frame."""

    def __init__(self, driver: Driver, topic: str = "/image", results: str = "instances") -> None:
        self.driver = driver
        self.results = driver.collect(InstanceArray, results)
        self.camera = driver.publisher(Image, topic)

    def see(self, seconds: float, value: int = BRIGHT) -> list[int]:
        message = make_image(value=value, stamp=round(seconds * SECOND))
        array = segment_one(self.driver, self.camera, self.results, message)
        assert [i.id for i in array.instances] == list(range(1, len(array.instances) + 1))
        return [i.track_id for i in array.instances]


def test_ids_stay_with_their_objects(bench: Bench) -> None:
    _, driver = bench.active(track=True)
    scene = Scene(driver)
    assert scene.see(1.0) == [1, 2, 3]
    assert scene.see(1.1) == [1, 2, 3]
    assert scene.see(1.2, DIM) == [1, 2, 3], "what was tracked is published with a low score too"
    assert scene.see(1.3, value=10) == [], "but not below track_low_threshold"
    assert scene.see(1.4, DIM) == [], "nor if the track was lost in between"
    assert scene.see(1.5) == [1, 2, 3], "lost tracks are found again within track_buffer"


def test_time_that_jumps_begins_anew(bench: Bench) -> None:
    _, driver = bench.active(track=True)
    scene = Scene(driver)
    assert scene.see(5.0) == [1, 2, 3]
    assert scene.see(1.0) == [4, 5, 6], "a bag that starts again"
    assert scene.see(3.0) == [7, 8, 9], "a gap longer than track_buffer"
    assert driver.set("track_buffer", 10.0).successful
    assert scene.see(6.0) == [7, 8, 9]


def test_tracking_is_switched_while_the_node_runs(bench: Bench) -> None:
    _, driver = bench.active()
    scene = Scene(driver)
    labels: list[Any] = driver.collect(LabelInfo, "label_info", qos.LATCHED)
    assert scene.see(1.0) == [0, 0, 0]
    assert scene.see(1.1, DIM) == []
    assert driver.set("track", True).successful
    wait_until(lambda: labels and labels[-1].score_threshold == pytest.approx(0.1))
    assert scene.see(1.2) == [1, 2, 3]
    assert scene.see(1.3, DIM) == [1, 2, 3]
    assert driver.set("track_low_threshold", 0.2).successful
    assert scene.see(1.4, DIM) == [1, 2], "0.19 is too low now"
    assert driver.set("track", False).successful
    assert scene.see(1.5, DIM) == []
    assert scene.see(1.6) == [0, 0, 0]
    wait_until(lambda: labels[-1].score_threshold == pytest.approx(0.35))
    assert driver.set("track", True).successful
    assert scene.see(1.7) == [4, 5, 6], "an id is never used again"


def test_activation_begins_anew(bench: Bench) -> None:
    _, driver = bench.active(track=True)
    scene = Scene(driver)
    assert scene.see(1.0) == [1, 2, 3]
    assert driver.change("deactivate")
    assert driver.change("activate")
    wait_until(scene.camera.get_subscription_count)
    assert scene.see(1.1) == [4, 5, 6]


def test_each_camera_has_its_own_ids(bench: Bench) -> None:
    _, driver = bench.active(track=True, image_topics=["left/image", "right/image"])
    left = Scene(driver, "/left/image", "left/image/instances")
    right = Scene(driver, "/right/image", "right/image/instances")
    assert left.see(5.0) == [1, 2, 3]
    assert right.see(1.0) == [1, 2, 3]
    assert right.see(0.5) == [4, 5, 6]
    assert left.see(5.1) == [1, 2, 3], "the other camera's jump is not this one's"


def test_frames_without_a_stamp_are_tracked_by_their_arrival(bench: Bench) -> None:
    _, driver = bench.active(track=True, track_buffer=60.0)
    scene = Scene(driver)
    assert scene.see(0.0) == [1, 2, 3]
    assert scene.see(0.0) == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "value"), [("track_high_threshold", -0.5), ("track_new_threshold", -0.1), ("track_iou", 0.0)]
)
def test_wrong_values_are_refused(bench: Bench, name: str, value: float) -> None:
    node, driver = bench.active(track=True)
    before = node.settings
    result = driver.set(name, value)
    assert not result.successful
    assert name in result.reason
    assert node.settings == before


def test_wrong_start_values_are_told(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="track_iou"):
        bench.start(track_iou=0.0)
    _, driver = bench.start(name="other_node", track_high_threshold=-0.5)
    log = driver.log()
    assert not driver.change("configure")
    wait_until(lambda: any("track_high_threshold = -0.5" in line.msg for line in log))
