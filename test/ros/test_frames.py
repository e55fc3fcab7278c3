"""Images through the running node: results, faults, overload, several cameras, outputs on demand."""

from __future__ import annotations

import array
import importlib.util
import time
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fassst_ros.msg import InstanceArray
from node_bench import Bench, make_image, segment_one, wait_until
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64
from visualization_msgs.msg import MarkerArray

from fassst_ros.card import load_card
from fassst_ros.config import RuntimeOptions
from fassst_ros.decode import decode
from fassst_ros.overlay import draw
from fassst_ros.pipeline import Segmenter
from fassst_ros.ros.outputs import STAGES
from fassst_ros.types import Frame


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    """An RGB picture that is bright enough for three instances."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 - y // 8, x % 256, y % 256], -1).astype(np.uint8)


def as_image(pixels: np.ndarray, stamp: int = 1) -> Image:
    message = make_image(pixels.shape[0], pixels.shape[1], stamp=stamp)
    message.data = array.array("B", pixels.tobytes())
    return message


def as_compressed(pixels: np.ndarray, suffix: str = ".png") -> CompressedImage:
    message = CompressedImage(format="bgr8; png compressed bgr8" if suffix == ".png" else "jpeg")
    message.header.frame_id = "camera"
    message.data = array.array("B", cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes())
    return message


def read(image: Image) -> np.ndarray:
    dtype, channels = {"mono8": (np.uint8, 1), "mono16": (np.uint16, 1), "rgb8": (np.uint8, 3)}[
        image.encoding
    ]
    return np.frombuffer(image.data, dtype).reshape(image.height, image.width, channels).squeeze()


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


def test_maps_and_overlay_fit_the_instances(bench: Bench) -> None:
    _, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    ids, classes, overlays = (driver.collect(Image, t) for t in ("instance_map", "class_map", "overlay"))
    camera = driver.publisher(Image, "/image")
    message = as_image(picture(), stamp=42)
    instances = decode(segment_one(driver, camera, results, message))
    wait_until(lambda: ids and classes and overlays)
    dense = instances.to_dense()
    covered = dense.any(axis=0)
    best = np.where(covered, dense.argmax(axis=0) + 1, 0)
    np.testing.assert_array_equal(read(ids[0]), best)
    np.testing.assert_array_equal(read(classes[0]), np.append(0, instances.class_ids)[best])
    expected = draw(picture(), instances, load_card(bench.model), color="rgb")
    np.testing.assert_array_equal(read(overlays[0]), expected)
    assert {m[0].header.stamp.nanosec for m in (ids, classes, overlays)} == {42}
    assert {m[0].header.frame_id for m in (ids, classes, overlays)} == {"camera"}


def test_costly_outputs_are_made_for_listeners_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from fassst_ros.ros import messages, outputs

    made: list[str] = []

    def spy(module: Any, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: made.append(name) or real(*a, **k))

    spy(messages, "instance_map")
    spy(messages, "class_map")
    spy(outputs, "draw")
    _, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    segment_one(driver, camera, results, make_image())
    segment_one(driver, camera, results, make_image())
    assert made == []
    maps = driver.collect(Image, "class_map")
    segment_one(driver, camera, results, make_image())
    wait_until(lambda: maps)
    assert made == ["class_map"]


def test_markers_need_calibration(bench: Bench) -> None:
    _, driver = bench.active(image_topics=["front/image_raw"])
    came = driver.collect(MarkerArray, "markers")
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/front/image_raw")
    segment_one(driver, camera, results, make_image())
    log = driver.log()
    wait_until(lambda: any("on /front/camera_info, but nothing comes on it" in m.msg for m in log))
    info = CameraInfo(width=64, height=48)
    info.k = [50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
    sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = driver.publisher(CameraInfo, "/front/camera_info", sensor)
    assert came == []

    def arrived() -> bool:
        publisher.publish(info)
        segment_one(driver, camera, results, make_image())
        return bool(came)

    wait_until(arrived)
    assert len(came[0].markers) == 1 + 2 * 3


def test_latency_topics(bench: Bench) -> None:
    _, driver = bench.active()
    times = {stage: driver.collect(Float64, f"latency/{stage}") for stage in STAGES}
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    message = make_image()
    message.header.stamp = driver.node.get_clock().now().to_msg()
    start = time.perf_counter()
    segment_one(driver, camera, results, message)
    bound = (time.perf_counter() - start) * 1e3
    wait_until(lambda: all(times.values()))
    values = {stage: came[0].data for stage, came in times.items()}
    parts = ("wait", "decode", "resize", "infer", "postprocess", "fill", "publish")
    assert all(v >= 0 for v in values.values()), values
    assert sum(values[p] for p in parts) <= values["processing"] + 1.0
    assert values["transport"] + values["processing"] == pytest.approx(values["total"], abs=2.0)
    assert values["total"] <= bound


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
    bench: Bench, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
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
    assert counters.segmented == len(bad)
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
    assert node._cameras[0].error == ""


def test_an_error_of_an_extra_output_costs_only_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from fassst_ros.ros import outputs

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no colours left")

    node, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    overlays = driver.collect(Image, "overlay")
    camera = driver.publisher(Image, "/image")
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "draw", failing)
        segment_one(driver, camera, results, make_image())
        wait_until(lambda: "no colours left" in node._cameras[0].error)
    segment_one(driver, camera, results, make_image())
    wait_until(lambda: overlays)
    counters = node._cameras[0].counters
    assert (counters.received, counters.segmented, counters.failed) == (2, 2, 0)


def test_the_newest_frame_wins_under_overload(bench: Bench) -> None:
    """PNGs that take longer to decode than to send: most are dropped, and results stay young."""
    node, driver = bench.active(image_topics=["image/compressed"])
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(CompressedImage, "/image/compressed")
    message = as_compressed(np.tile(picture(), (8, 8, 1)))
    sent = 0
    ages: list[int] = []
    end = time.monotonic() + 3
    while time.monotonic() < end:
        sent += 1
        message.header.stamp.nanosec = sent  # a number instead of a time
        seen = len(results)
        camera.publish(message)
        time.sleep(0.002)
        ages += [sent - r.header.stamp.nanosec for r in results[seen:]]
    counters = node._cameras[0].counters
    wait_until(lambda: results[-1].header.stamp.nanosec == sent)
    wait_until(lambda: counters.received == counters.dropped + counters.segmented)
    assert counters.received <= sent  # the middleware itself keeps only the last `depth` frames
    assert counters.dropped > 0
    assert counters.segmented == len(results)
    numbers = [r.header.stamp.nanosec for r in results]
    assert numbers == sorted(set(numbers)), "in order, none twice"
    frames_per_result = sent / len(results)
    assert np.median(ages) <= 3 * frames_per_result + 5, "no queue of old frames"


def test_several_cameras_take_turns(bench: Bench) -> None:
    node, driver = bench.active(image_topics=["left/image", "right/image/compressed", "/rear"])
    names = ["left/image", "right/image", "rear"]
    assert [c.name for c in node._cameras] == names
    results = {n: driver.collect(InstanceArray, f"{n}/instances") for n in names}
    left = driver.publisher(Image, "/left/image")
    right = driver.publisher(CompressedImage, "/right/image/compressed")
    rear = driver.publisher(Image, "/rear")
    end = time.monotonic() + 1.5
    sent = 0
    while time.monotonic() < end:
        sent += 1
        left.publish(make_image(stamp=sent, frame_id="left"))
        if sent % 10 == 0:
            right.publish(as_compressed(picture()))
            rear.publish(make_image(stamp=sent, frame_id="rear"))
        time.sleep(0.001)
    newest = sent - sent % 10
    wait_until(lambda: results["rear"] and results["rear"][-1].header.stamp.nanosec == newest)
    assert len(results["rear"]) > sent // 40, "the camera that floods the node does not starve the others"
    assert len(results["right/image"]) > sent // 40
    assert {r.header.frame_id for r in results["left/image"]} == {"left"}
    assert {r.header.frame_id for r in results["rear"]} == {"rear"}
    assert {(r.width, r.height) for r in results["right/image"]} == {(128, 96)}


def test_old_frames_are_stale(bench: Bench) -> None:
    node, driver = bench.active(max_age=0.5)
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
    assert (counters.stale, counters.segmented) == (1, 3)


def values_of(report: DiagnosticArray, part: str) -> tuple[DiagnosticStatus, dict[str, str]]:
    status = next(s for s in report.status if s.name.endswith(part))
    return status, {v.key: v.value for v in status.values}


def test_diagnostics(bench: Bench) -> None:
    _, driver = bench.start(diagnostics_period=0.1)
    reports = driver.collect(DiagnosticArray, "/diagnostics")
    wait_until(lambda: reports)
    status, _ = values_of(reports[-1], "node")
    assert (status.level, status.message) == (DiagnosticStatus.WARN, "unconfigured")
    assert driver.change("configure")
    assert driver.change("activate")
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    for _ in range(5):
        segment_one(driver, camera, results, make_image())
    wait_until(lambda: values_of(reports[-1], "camera image")[1].get("segmented") == "5")
    status, facts = values_of(reports[-1], "node")
    assert (status.level, status.message, status.name) == (
        DiagnosticStatus.OK,
        "active",
        "segment_node: node",
    )
    assert facts["model"] == "tiny 1"
    assert facts["runtime"] == "onnxruntime"
    assert facts["input"] == "64x48"
    status, counts = values_of(reports[-1], "camera image")
    assert status.level == DiagnosticStatus.OK
    assert {n: counts[n] for n in ("received", "dropped", "stale", "failed", "segmented")} == {
        "received": "5", "dropped": "0", "stale": "0", "failed": "0", "segmented": "5"
    }  # fmt: skip
    assert counts["topic"] == "/image"
    assert float(counts["processing_ms_p50"]) <= float(counts["processing_ms_p99"])
    assert any(float(values_of(r, "camera image")[1]["fps"]) > 0 for r in reports if len(r.status) > 1)


def test_remapping_and_namespace(bench: Bench) -> None:
    arguments = ("-r", "__ns:=/robot", "-r", "image:=/zed/rgb", "-r", "~/instances:=objects")
    _, driver = bench.start(arguments=arguments)
    assert driver.change("configure")
    assert driver.change("activate")
    results = driver.collect(InstanceArray, "/robot/objects")
    camera = driver.publisher(Image, "/zed/rgb")
    segment_one(driver, camera, results, make_image())


def test_detections_where_vision_msgs_is_installed(bench: Bench) -> None:
    vision_msgs = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed")
    _, driver = bench.active()
    came = driver.collect(vision_msgs.Detection2DArray, "detections")
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    expected = segment_one(driver, camera, results, as_image(picture(), stamp=7))
    wait_until(lambda: came)
    assert came[0].header == expected.header
    for detection, instance in zip(came[0].detections, expected.instances, strict=True):
        box = detection.bbox
        assert box.center.position.x - box.size_x / 2 == pytest.approx(instance.x_min)
        assert box.center.position.y + box.size_y / 2 == pytest.approx(instance.y_max)
        assert detection.id == str(instance.id)
        (result,) = detection.results
        assert result.hypothesis.class_id == instance.class_name
        assert result.hypothesis.score == pytest.approx(instance.score)


def test_nothing_is_missing_without_vision_msgs(bench: Bench) -> None:
    if importlib.util.find_spec("vision_msgs") is not None:
        pytest.skip("vision_msgs is installed")
    node, _ = bench.active()
    assert not [p for p in node.publishers if p.topic_name.endswith("/detections")]
