"""Transitions in every order, by the node's own services, with frames flowing."""

from __future__ import annotations

import gc
import itertools
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fassst_ros.msg import InstanceArray, LabelInfo
from node_bench import TRANSITIONS, Bench, Driver, Gate, make_image, segment_one, wait_until
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from fassst_ros.ros import qos
from fassst_ros.ros.node import SegmentNode

#: state -> transition -> next state; what is not here must be refused and change nothing.
MACHINE = {
    "unconfigured": {"configure": "inactive", "unconfigured_shutdown": "finalized"},
    "inactive": {"activate": "active", "cleanup": "unconfigured", "inactive_shutdown": "finalized"},
    "active": {"deactivate": "inactive", "active_shutdown": "finalized"},
    "finalized": {},
}
PATHS = {
    "unconfigured": (),
    "inactive": ("configure",),
    "active": ("configure", "activate"),
    "finalized": ("configure", "activate", "active_shutdown"),
}


@pytest.mark.parametrize("state", MACHINE)
def test_every_transition_from_every_state(bench: Bench, state: str) -> None:
    for number, transition in enumerate(TRANSITIONS):
        _, driver = bench.start(f"node_{state}_{number}")
        for step in PATHS[state]:
            assert driver.change(step)
        assert driver.state == state
        allowed = MACHINE[state]
        assert driver.change(transition) == (transition in allowed)
        assert driver.state == allowed.get(transition, state)
        bench.stop()


def test_a_frame_goes_through_after_each_way_to_active(bench: Bench) -> None:
    _, driver = bench.start()
    camera = driver.publisher(Image, "/image", matched=False)
    for cycle in ("configure activate", "deactivate activate", "deactivate cleanup configure activate"):
        for step in cycle.split():
            assert driver.change(step)
        wait_until(camera.get_subscription_count)
        results = driver.collect(InstanceArray, "instances")
        message = segment_one(driver, camera, results, make_image(stamp=123456789012, frame_id="lens"))
        assert len(message.instances) == 3
        assert message.header == make_image(stamp=123456789012, frame_id="lens").header
        assert message.model == "tiny 1"


def test_inactive_means_unsubscribed_and_silent(bench: Bench) -> None:
    node, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(Image, "/image")
    segment_one(driver, camera, results, make_image())
    assert driver.change("deactivate")
    wait_until(lambda: camera.get_subscription_count() == 0)
    camera.publish(make_image())
    time.sleep(0.2)
    assert len(results) == 1
    assert not [t for t in threading.enumerate() if t.name == "segment"]
    assert node._segmenter is not None, "deactivate keeps the model"
    assert driver.change("cleanup")
    assert node._segmenter is None
    wait_until(lambda: not driver.node.get_publishers_info_by_topic("/segment_node/instances"))


def test_label_info_reaches_late_subscribers(bench: Bench) -> None:
    _, driver = bench.active()
    time.sleep(0.3)
    labels = driver.collect(LabelInfo, "label_info", qos.LATCHED)
    wait_until(lambda: labels)
    assert [(c.class_id, c.name) for c in labels[0].classes] == [(1, "person"), (3, "car")]


def test_autostart(bench: Bench) -> None:
    _, driver = bench.start(autostart=True)
    wait_until(lambda: driver.state == "active")


def broken(folder: Path, tiny_path: Path, kind: str) -> Path:
    """A copy of the tiny model with one defect."""
    model, card = folder / "tiny.onnx", folder / "tiny.json"
    shutil.copy(tiny_path, model)
    shutil.copy(tiny_path.with_suffix(".json"), card)
    if kind == "no card":
        card.unlink()
    elif kind == "card of another":
        model.write_bytes(model.read_bytes() + b"\0")
    elif kind == "card is no JSON":
        card.write_text("{")
    elif kind == "no file":
        model.unlink()
    return model


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no file", "does not exist"),
        ("no card", "no readable card"),
        ("card of another", "expects"),
        ("card is no JSON", "not a model card"),
    ],
)
def test_a_failed_configure_says_why_and_can_be_repeated(
    bench: Bench, tmp_path: Path, tiny_path: Path, kind: str, words: str
) -> None:
    node, driver = bench.start(model=str(broken(tmp_path, tiny_path, kind)))
    reports = driver.collect(DiagnosticArray, "/diagnostics")
    assert not driver.change("configure")
    assert driver.state == "unconfigured"
    wait_until(
        lambda: any(
            s.level == DiagnosticStatus.ERROR and words in s.message for r in reports for s in r.status
        )
    )
    assert driver.set("model", str(tiny_path)).successful
    assert driver.change("configure")
    assert driver.change("activate")
    assert node._diagnostics.problem == ""


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"precision": "int8"}, "int8"),
        ({"classes": ["unicorn"]}, "unicorn"),
        ({"image_topics": ["not a topic"]}, "topic name"),
        ({"image_topics": ["left/image", "left/image"]}, "named alike"),
        ({"image_topics": [""]}, "empty"),
    ],
)
def test_configure_refuses_what_it_cannot_do(bench: Bench, parameters: dict[str, Any], words: str) -> None:
    node, driver = bench.start(**parameters)
    assert not driver.change("configure")
    assert driver.state == "unconfigured"
    assert re.search(words, node._diagnostics.problem)
    wait_until(lambda: not driver.node.get_publishers_info_by_topic("/segment_node/instances"))  # undone


def test_a_runtime_that_is_not_installed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    node, driver = bench.start()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)  # as Python marks a module that cannot be imported
        assert not driver.change("configure")
    assert re.search("onnxruntime.*install", node._diagnostics.problem, re.IGNORECASE)
    assert driver.change("configure")


def test_an_unexpected_error_is_undone_and_reported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """rclpy swallows errors of transition callbacks; the node must neither do so nor die."""
    node, driver = bench.start()
    real = LifecycleNode.create_lifecycle_publisher

    def failing(self: Any, kind: Any, topic: str, *args: Any, **kwargs: Any) -> Any:
        if topic.endswith("overlay"):
            raise MemoryError("no room")
        return real(self, kind, topic, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentNode, "create_lifecycle_publisher", failing)
        assert not driver.change("configure")
    assert "MemoryError: no room" in node._diagnostics.problem
    assert node._segmenter is None
    assert not node._managed_entities
    assert driver.change("configure")


def rss() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Flow:
    """Publishes images in a thread until `stop`."""

    def __init__(self, driver: Driver, topic: str = "/image") -> None:
        self._publisher = driver.node.create_publisher(Image, topic, 5)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count(1):
            if self._stopping.wait(0.01):
                return
            self._publisher.publish(make_image(stamp=number))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


def test_cycles_with_frames_flowing_do_not_grow(bench: Bench) -> None:
    """20 x deactivate/activate and 5 x the whole way round, at 100 frames/s."""
    node, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    flow = Flow(driver)
    sizes: list[int] = []
    threads = threading.active_count()
    try:
        for cycle in range(25):
            way = (
                ["deactivate", "cleanup", "configure", "activate"]
                if cycle % 5 == 4
                else ["deactivate", "activate"]
            )
            for step in way:
                assert driver.change(step), (cycle, step)
            before = len(results)
            wait_until(lambda before=before: len(results) > before)
            gc.collect()
            sizes.append(rss())
    finally:
        flow.stop()
    assert threading.active_count() <= threads + 1
    assert len(list(node.subscriptions)) == 1, "one image subscription"
    late, early = sizes[-1], sizes[9]  # the first cycles fill caches
    assert late - early < 10e6, f"{(late - early) / 15e3:.0f} kB a cycle"


def test_transitions_and_parameters_under_fire(bench: Bench) -> None:
    """Anybody may ask for anything at any moment; the node answers and ends where it should."""
    node, driver = bench.active()
    flow = Flow(driver)
    try:
        for number in range(40):
            driver.change(list(TRANSITIONS)[number * 7 % 4])  # configure, activate, deactivate, cleanup
            driver.set("score_threshold", 0.1 + number / 100)
            driver.set("depth", 1 + number)
        for step in ("deactivate", "cleanup", "configure", "activate"):
            driver.change(step)
        assert driver.state == "active"
        results = driver.collect(InstanceArray, "instances")
        wait_until(lambda: results)
    finally:
        flow.stop()
    assert node._diagnostics.problem == ""


def test_services_answer_while_frames_are_segmented(bench: Bench, gate: Gate) -> None:
    """No service call may wait for a frame; this one lasts until the end of the test."""
    _, driver = bench.active()
    camera = driver.publisher(Image, "/image")
    camera.publish(make_image())
    wait_until(lambda: gate.came)
    assert driver.state == "active"
    assert driver.set("score_threshold", 0.5).successful


def test_own_names_do_not_hide_those_of_rclpy(bench: Bench) -> None:
    """A subclass shares its name space with rclpy's private attributes."""
    node, _ = bench.start()
    plain = LifecycleNode("plain", context=bench.context)
    theirs = set(vars(plain)) | set(dir(LifecycleNode))
    plain.destroy_node()
    shared = {n for n in set(vars(SegmentNode)) & theirs if not n.startswith("__")}
    meant = {f"on_{x}" for x in ("configure", "activate", "deactivate", "cleanup", "shutdown", "error")}
    assert shared == meant | {"_LifecycleNodeMixin__change_state"}
    assert set(vars(node)) - set(vars(plain)) >= {"_segmenter", "_worker", "_inputs", "_outputs"}
