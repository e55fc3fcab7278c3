"""What the node says besides instances: maps, overlay, markers, times, diagnostics, detections."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fassst_ros.msg import InstanceArray
from node_bench import Bench, as_image, make_image, picture, segment_one, wait_until
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64
from visualization_msgs.msg import MarkerArray

from fassst_ros.card import load_card
from fassst_ros.decode import decode
from fassst_ros.overlay import draw
from fassst_ros.ros.convert import compressed_to_frame
from fassst_ros.ros.outputs import STAGES


def read(image: Image) -> np.ndarray:
    dtype, channels = {"mono8": (np.uint8, 1), "mono16": (np.uint16, 1), "rgb8": (np.uint8, 3)}[
        image.encoding
    ]
    return np.frombuffer(image.data, dtype).reshape(image.height, image.width, channels).squeeze()


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


def test_smaller_and_compressed_overlays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from fassst_ros.ros import outputs

    drawn: list[float] = []
    real = outputs.draw
    monkeypatch.setattr(outputs, "draw", lambda *a, **k: drawn.append(k["scale"]) or real(*a, **k))
    _, driver = bench.active(overlay_scale=0.5, overlay_quality=95)
    results = driver.collect(InstanceArray, "instances")
    raw, compressed = driver.collect(Image, "overlay"), driver.collect(CompressedImage, "overlay/compressed")
    camera = driver.publisher(Image, "/image")
    segment_one(driver, camera, results, as_image(picture(), stamp=42))
    wait_until(lambda: raw and compressed)
    assert drawn == [0.5]  # once for both
    assert read(raw[0]).shape == (48, 64, 3)
    assert compressed[0].header == raw[0].header
    assert compressed[0].format == "bgr8; jpeg compressed bgr8"
    again = compressed_to_frame(compressed[0])
    rgb = again.image if again.color == "rgb" else again.image[..., ::-1]
    off, swapped = (np.abs(image.astype(int) - read(raw[0])).mean() for image in (rgb, rgb[..., ::-1]))
    assert off < swapped / 3
    assert driver.set("overlay_quality", 5).successful
    segment_one(driver, camera, results, as_image(picture(), stamp=43))
    wait_until(lambda: len(compressed) == 2)
    assert len(compressed[1].data) < len(compressed[0].data) / 2


def test_costly_outputs_are_made_for_listeners_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from fassst_ros.ros import messages, outputs

    made: list[str] = []

    def spy(module: Any, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: made.append(name) or real(*a, **k))

    spy(messages, "instance_map")
    spy(messages, "class_map")
    spy(outputs, "draw")
    spy(outputs, "to_jpeg")
    _, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    segment_one(driver, camera, results, make_image())
    segment_one(driver, camera, results, make_image())
    assert made == []
    maps = driver.collect(Image, "class_map")
    segment_one(driver, camera, results, make_image())
    wait_until(lambda: maps)
    assert set(made) == {"class_map"}


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
    assert sum(marker.ns == "outline" for marker in came[0].markers) == 3
    assert sum(marker.ns == "name" for marker in came[0].markers) == 3


def test_latency_topics(bench: Bench) -> None:
    _, driver = bench.active(track=True)
    times = {stage: driver.collect(Float64, f"latency/{stage}") for stage in STAGES}
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    message = make_image()
    start = time.perf_counter()
    ago = Duration(seconds=10)
    message.header.stamp = (driver.node.get_clock().now() - ago).to_msg()
    segment_one(driver, camera, results, message)
    wait_until(lambda: all(times.values()))
    bound = (time.perf_counter() - start) * 1e3 + 1.0  # between two clocks
    values = {stage: came[0].data for stage, came in times.items()}
    parts = ("wait", "decode", "resize", "infer", "postprocess", "track", "fill", "publish")
    assert all(v >= 0 for v in values.values()), values
    assert 0 < sum(values[p] for p in parts) <= values["processing"] + 1e-6
    assert values["processing"] + values["extras"] <= bound
    assert 10e3 <= values["transport"] <= values["total"] <= 10e3 + bound


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
    wait_until(lambda: len(reports[-1].status) == 2)  # a rate needs a report before
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
