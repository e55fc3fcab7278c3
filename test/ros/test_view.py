"""The page's ROS side: a real node, real topics, and the process itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from node_bench import Bench, Driver, as_image, picture, wait_until
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from fassst_ros.ros import view_server
from fassst_ros.ros.view import View
from fassst_ros.ros.view_server import Board
from fassst_ros.types import ConfigError


class Page:
    """A View in the thread of the test."""

    def __init__(self, context: Context, target: str = "") -> None:
        self.node = rclpy.create_node("view_node", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.board = Board()
        self.view = View(self.node, target, self.board)

    @property
    def state(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.board.state)
        return loaded

    def until(self, condition: Callable[[], Any]) -> Any:
        """Spin and update until `condition` holds; returns its value."""

        def holds() -> Any:
            self.executor.spin_once(timeout_sec=0.05)
            self.view.update()
            return condition()

        return wait_until(holds)


@pytest.fixture
def page(context: Context) -> Iterator[Callable[[str], Page]]:
    made: list[Page] = []

    def make(target: str = "") -> Page:
        made.append(Page(context, target))
        return made[-1]

    yield make
    for each in made:
        each.executor.shutdown()
        each.node.destroy_node()


def send(driver: Driver, *topics: str) -> Callable[[], None]:
    """A function that publishes the same picture on all topics."""
    publishers = [driver.publisher(Image, topic) for topic in topics]

    def publish() -> None:
        for publisher in publishers:
            publisher.publish(as_image(picture()))

    return publish


def test_numbers_and_overlay_of_the_only_camera(bench: Bench, page: Callable[[], Page]) -> None:
    _, driver = bench.active(diagnostics_period=0.1)
    publish = send(driver, "/image")
    shown = page()
    shown.until(lambda: shown.state["cameras"] and shown.state["colors"])
    state = shown.state
    assert (state["node"], state["message"], state["level"]) == ("/segment_node", "active", 0)
    assert (state["silent"], state["others"]) == (False, [])
    assert state["facts"]["model"] == "tiny 1"
    assert state["colors"]["car"] == [0, 0, 142]
    (camera,) = state["cameras"]
    assert (camera["name"], camera["topic"]) == ("", "/image")
    pictures = shown.board.pictures[""]

    def came() -> Any:
        publish()
        return pictures.other_than(0, 0.0)

    number, data = shown.until(came)
    assert number >= 1
    overlay = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert overlay.shape == (96, 128, 3)
    camera = shown.until(lambda: [c for c in shown.state["cameras"] if c["instances"]])[0]
    assert camera["instances"] == {"person": 1, "car": 2}
    shown.until(lambda: int(shown.state["cameras"][0]["values"]["segmented"]) >= 1)
    assert float(shown.state["cameras"][0]["values"]["processing_ms_p50"]) > 0


def test_nothing_is_drawn_while_nobody_looks(
    bench: Bench, page: Callable[[], Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, _ = bench.active()
    shown = page()
    shown.until(lambda: shown.state["cameras"])
    (overlay,) = (p for p in node.publishers if p.topic_name.endswith("/overlay/compressed"))
    assert overlay.get_subscription_count() == 0
    shown.board.pictures[""].other_than(0, 0.0)
    shown.until(lambda: overlay.get_subscription_count() == 1)
    monkeypatch.setattr(view_server, "WATCHED", 0.0)
    shown.until(lambda: overlay.get_subscription_count() == 0)


def test_several_cameras_and_lifecycle(bench: Bench, page: Callable[[], Page]) -> None:
    _, driver = bench.active(image_topics=["left/image", "right/image"], diagnostics_period=0.1)
    publish = send(driver, "/left/image", "/right/image")
    shown = page()
    shown.until(lambda: len(shown.state["cameras"]) == 2)
    for name in ("left/image", "right/image"):

        def came(name: str = name) -> Any:
            publish()
            return shown.board.pictures[name].other_than(0, 0.0)

        shown.until(came)
    shown.until(lambda: all(c["values"].get("segmented", "0") != "0" for c in shown.state["cameras"]))
    assert [(c["name"], c["topic"]) for c in shown.state["cameras"]] == [
        ("left/image", "/left/image"),
        ("right/image", "/right/image"),
    ]
    assert driver.change("deactivate")
    shown.until(lambda: shown.state["message"] == "inactive")
    assert driver.change("cleanup")
    shown.until(lambda: shown.state["message"] == "unconfigured" and not shown.state["cameras"])


def test_a_node_that_is_not_there(bench: Bench, page: Callable[[str], Page]) -> None:
    bench.start(diagnostics_period=0.1)
    shown = page("front/segment_node")
    shown.until(lambda: shown.state["others"])
    assert shown.state["node"] == "/front/segment_node"
    assert shown.state["silent"]
    assert shown.state["others"] == ["/segment_node"]
    assert shown.state["cameras"] == []


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "fassst_ros.ros.view", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=dict(os.environ))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_process_serves_until_a_signal(number: signal.Signals) -> None:
    process = start("--port", "0", "--node", "absent", "--ros-args", "-r", "__node:=page")
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[0] == "page:"
        with urllib.request.urlopen(words[1], timeout=60) as answer:
            assert b"fassst_ros" in answer.read()
        with urllib.request.urlopen(f"{words[1]}state", timeout=60) as answer:
            state = json.load(answer)
        assert (state["node"], state["silent"], state["cameras"]) == ("/absent", True, [])
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()


def test_a_taken_port_ends_the_process_with_the_reason() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start("--port", str(taken.getsockname()[1]))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "view_node: cannot serve the page on 127.0.0.1" in errors


@pytest.mark.parametrize("name", ["a b", "/front//segment_node"])
def test_a_name_that_ros_does_not_allow(page: Callable[[str], Page], name: str) -> None:
    with pytest.raises(ConfigError, match=f"--node '{name}': ROS allows no such name"):
        page(name)
