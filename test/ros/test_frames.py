"""Images into the running node: results, faults, overload, several cameras, old frames."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fassst_ros.msg import InstanceArray
from node_bench import Bench, Gate, as_compressed, as_image, make_image, picture, segment_one, wait_until
from sensor_msgs.msg import CompressedImage, Image

from fassst_ros.config import RuntimeOptions
from fassst_ros.decode import decode
from fassst_ros.pipeline import Segmenter
from fassst_ros.ros import worker
from fassst_ros.types import Frame


def test_the_node_says_what_the_segmenter_says(bench: Bench) -> None:
    _, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    came = decode(segment_one(driver, camera, results, as_image(picture())))
    with Segmenter.open(RuntimeOptions(model=str(bench.model), runtime="onnxruntime")) as segmenter:
        expected = segmenter.segment(Frame(picture())).instances
    assert len(expected) == 3
    assert came.size == (96, 128)
    np.testing.assert_array_equal(came.boxes, expected.boxes)
    np.testing.assert_array_equal(came.scores, expected.scores)
    np.testing.assert_array_equal(came.class_ids, expected.class_ids)
    np.testing.assert_array_equal(came.to_dense(), expected.to_dense())


def malformed() -> list[Any]:
    """Raw images that cannot be segmented."""
    return [
        altered(make_image(), height=0, width=0, step=0, data=array.array("B")),
        altered(make_image(), data=array.array("B", bytes(10))),
        altered(make_image(), step=1),
        altered(make_image(), encoding="64FC7"),
        altered(make_image(), height=2**31),
        Image(),
    ]


def altered(message: Image, **fields: Any) -> Image:
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize("kind", ["raw", "compressed"])
def test_malformed_frames_cost_only_themselves(
    bench: Bench, kind: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "QUIET", 3600.0)
    rng = np.random.default_rng(1)
    good: Any
    bad: list[Any]
    if kind == "raw":
        topic, good, bad = "/image", make_image(), malformed()
    else:
        topic, good = "/image/compressed", as_compressed(picture(), ".jpg")
        cut = as_compressed(picture(), ".jpg")
        cut.data = cut.data[:-500]
        noise = CompressedImage(format="jpeg", data=array.array("B", rng.bytes(9999)))
        bad = [
            cut,
            CompressedImage(),
            noise,
            CompressedImage(format="\0", data=array.array("B", b"\xff\xd8")),
        ]
    node, driver = bench.active(image_topics=[topic.lstrip("/")])
    results = driver.collect(InstanceArray, "instances")
    reports = driver.collect(DiagnosticArray, "/diagnostics")
    camera = driver.publisher(type(good), topic)
    counters = node._cameras[0].counters
    for number, message in enumerate(bad, start=1):
        camera.publish(message)
        wait_until(lambda number=number: counters.failed == number)
        assert len(segment_one(driver, camera, results, good).instances) == 3
    camera.publish(bad[0])
    wait_until(lambda: any(s.level == DiagnosticStatus.ERROR for r in reports for s in r.status))
    wait_until(lambda: counters.segmented == len(bad))
    warnings = capfd.readouterr().err.count("frame skipped")
    assert warnings == 1, "throttled"


def test_an_error_of_the_runtime_costs_one_frame(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    node, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    assert node._segmenter is not None
    real = node._segmenter.runtime

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def infer(self, feeds: Any) -> Any:
            raise RuntimeError("device lost")

    monkeypatch.setattr(node._segmenter, "runtime", Failing())
    camera.publish(make_image())
    wait_until(lambda: node._cameras[0].error)
    assert "device lost" in node._cameras[0].error
    monkeypatch.setattr(node._segmenter, "runtime", real)
    segment_one(driver, camera, results, make_image())
    wait_until(lambda: node._cameras[0].error == "")


def test_the_newest_frame_wins_under_overload(bench: Bench, gate: Gate) -> None:
    """While a frame is in work, of those that come only the newest is kept; what is taken is in order."""
    node, driver = bench.active(image_topics=["image/compressed"])
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(CompressedImage, "/image/compressed")
    counters = node._cameras[0].counters
    message = as_compressed(picture())
    for first in (1, 11, 21):
        for number in range(first, first + 10):
            message.header.stamp.nanosec = number
            camera.publish(message)
            wait_until(lambda number=number: counters.received == number)
            wait_until(lambda first=first: gate.came and gate.came[-1].header.stamp.nanosec == first)
        gate.open(2)
        wait_until(lambda newest=number: results and results[-1].header.stamp.nanosec == newest)
    assert [r.header.stamp.nanosec for r in results] == [1, 10, 11, 20, 21, 30]
    wait_until(lambda: counters.segmented == 6)
    assert counters.dropped == 24


def test_several_cameras_take_turns(bench: Bench, gate: Gate) -> None:
    """One camera floods the node; the others have their turn nevertheless."""
    node, driver = bench.active(image_topics=["left/image", "right/image/compressed", "/rear"])
    names = ["left/image", "right/image", "rear"]
    assert [c.name for c in node._cameras] == names
    results = {n: driver.collect(InstanceArray, f"{n}/instances") for n in names}
    left = driver.publisher(Image, "/left/image")
    right = driver.publisher(CompressedImage, "/right/image/compressed")
    rear = driver.publisher(Image, "/rear")

    def send(place: int, publisher: Any, message: Any) -> None:
        counters = node._cameras[place].counters
        before = counters.received
        publisher.publish(message)
        wait_until(lambda: counters.received > before)

    send(0, left, make_image(stamp=1, frame_id="left"))
    wait_until(lambda: gate.came)
    send(1, right, as_compressed(picture(), frame_id="right"))
    send(2, rear, make_image(frame_id="rear"))
    for number in range(2, 6):
        send(0, left, make_image(stamp=number, frame_id="left"))  # in place of the one that waits
        gate.open(1)
        wait_until(lambda number=number: len(gate.came) == number)
    gate.open(1)
    assert [m.header.frame_id for m in gate.came] == ["left", "right", "rear", "left", "left"]
    wait_until(lambda: results["left/image"] and results["left/image"][-1].header.stamp.nanosec == 5)
    wait_until(lambda: results["right/image"] and results["rear"])
    assert {r.header.frame_id for r in results["left/image"]} == {"left"}
    assert {r.header.frame_id for r in results["rear"]} == {"rear"}
    assert {(r.width, r.height) for r in results["right/image"]} == {(128, 96)}


def test_old_frames_are_stale(bench: Bench) -> None:
    node, driver = bench.active(max_age=3600.0)
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    camera.publish(make_image(stamp=10**9))
    counters = node._cameras[0].counters
    wait_until(lambda: counters.stale == 1)
    message = make_image(stamp=0)
    segment_one(driver, camera, results, message)  # a stamp of zero tells no age
    message.header.stamp = driver.node.get_clock().now().to_msg()
    segment_one(driver, camera, results, message)
    assert driver.set("max_age", 0.0).successful
    segment_one(driver, camera, results, make_image(stamp=10**9))
    wait_until(lambda: counters.segmented == 3)
    assert counters.stale == 1


def test_remapping_and_namespace(bench: Bench) -> None:
    arguments = ("-r", "__ns:=/robot", "-r", "image:=/zed/rgb", "-r", "~/instances:=objects")
    _, driver = bench.start(arguments=arguments)
    assert driver.change("configure")
    assert driver.change("activate")
    results = driver.collect(InstanceArray, "/robot/objects")
    camera = driver.publisher(Image, "/zed/rgb")
    segment_one(driver, camera, results, make_image())
