"""Real rclpy, real DDS: the node under test and a driver node that talks to it as a user would."""

from __future__ import annotations

import array
import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

# Tests that run at the same time on one machine must not hear each other; set before rclpy starts.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import rclpy
from fassst_ros.msg import InstanceArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from fassst_ros.ros import worker
from fassst_ros.ros.executor import spin_once
from fassst_ros.ros.node import SegmentNode

TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "unconfigured_shutdown": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive_shutdown": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active_shutdown": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}


def wait_until(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    """The first true value of `condition`; fails the test after `timeout` seconds, long for busy machines."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"not within {timeout} s: {condition.__name__} in {condition.__code__}")
        time.sleep(0.01)
    return value


def make_image(
    height: int = 48, width: int = 64, value: int = 255, stamp: int = 1, frame_id: str = "camera"
) -> Image:
    """An rgb8 image of one grey; stamp in nanoseconds."""
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    message.header.frame_id = frame_id
    message.data = array.array("B", np.full(height * width * 3, value, np.uint8).tobytes())
    return message


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    """An RGB picture that is bright enough for three instances."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 - y // 8, x % 256, y % 256], -1).astype(np.uint8)


def as_image(pixels: np.ndarray, stamp: int = 1) -> Image:
    message = make_image(pixels.shape[0], pixels.shape[1], stamp=stamp)
    message.data = array.array("B", pixels.tobytes())
    return message


def as_compressed(pixels: np.ndarray, suffix: str = ".png", frame_id: str = "camera") -> CompressedImage:
    message = CompressedImage(format="bgr8; png compressed bgr8" if suffix == ".png" else "jpeg")
    message.header.frame_id = frame_id
    message.data = array.array("B", cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes())
    return message


class Gate:
    """Holds the node's worker at each frame, before it decodes it, until it is let through.

    came: the messages that the worker has taken so far.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came: list[Any] = []
        self._passes = threading.Semaphore(0)
        real = worker.to_frame

        def held(message: Any) -> Any:
            self.came.append(message)
            assert self._passes.acquire(timeout=60)
            return real(message)

        monkeypatch.setattr(worker, "to_frame", held)

    def open(self, frames: int) -> None:
        """Let so many frames through."""
        self._passes.release(frames)


class Spinner:
    """Spins one node in a thread of its own until `stop`."""

    def __init__(self, node: Any, context: Context) -> None:
        self.node = node
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(node)
        self.failures = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            while not self._stopping.is_set():
                self.failures += not spin_once(self.executor, self.node, timeout=0.1)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the executor does not come to an end"
        self.executor.shutdown()
        self.node.destroy_node()


class Driver:
    """A user of the node: transitions, parameters, images in, results out; all by DDS."""

    def __init__(self, context: Context, target: SegmentNode) -> None:
        self.node = rclpy.create_node("driver", context=context)
        self._tested = target
        self._target = target.get_fully_qualified_name()
        self._spinner = Spinner(self.node, context)

    def stop(self) -> None:
        self._spinner.stop()

    def call(self, kind: type[Any], name: str, request: Any, timeout: float = 60.0) -> Any:
        """The response of service `name` of the node under test."""
        client = self.node.create_client(kind, f"{self._target}/{name}")
        try:
            assert client.wait_for_service(timeout), f"no service {name}"
            future = client.call_async(request)
            wait_until(future.done, timeout)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def change(self, transition: str) -> bool:
        """Ask for a transition; True if it succeeded."""
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        return bool(self.call(ChangeState, "change_state", request, timeout=120.0).success)

    @property
    def state(self) -> str:
        return str(self.call(GetState, "get_state", GetState.Request()).current_state.label)

    def set(self, name: str, value: Any) -> Any:
        """Set one parameter; the SetParametersResult."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, "set_parameters", request).results[0]

    def describe(self, name: str) -> Any:
        request = DescribeParameters.Request(names=[name])
        return self.call(DescribeParameters, "describe_parameters", request).descriptors[0]

    def publisher(self, kind: type[Any], topic: str, qos: QoSProfile | int = 5, matched: bool = True) -> Any:
        """A publisher that waits until a subscription matched it."""
        publisher = self.node.create_publisher(kind, topic, qos)
        if matched:
            wait_until(publisher.get_subscription_count)
        return publisher

    def collect(self, kind: type[Any], topic: str, qos: QoSProfile | int = 10) -> list[Any]:
        """A list that grows by each message of a topic of the node; waits until it is connected."""
        came: list[Any] = []
        full = topic if topic.startswith("/") else f"{self._target}/{topic}"
        self.node.create_subscription(kind, full, came.append, qos)

        def connected() -> bool:
            own = [p for p in self._tested.publishers if p.topic_name == full]
            return any(p.get_subscription_count() for p in own)

        wait_until(connected)
        return came

    def log(self) -> list[Any]:
        """What the node logs, earlier lines too. Polling capfd instead loses what is written meanwhile."""
        lines: list[Any] = []
        latched = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(Log, "/rosout", lines.append, latched)
        return lines


class Bench:
    """Starts nodes under test."""

    def __init__(self, context: Context, model: Path) -> None:
        self.context = context
        self._contexts: list[Context] = []
        self.model = model
        self.failures = 0  # callbacks of the node that are meant to fail in this test
        self._open: list[Any] = []

    def start(
        self, name: str = "segment_node", arguments: tuple[str, ...] = (), **parameters: Any
    ) -> tuple[SegmentNode, Driver]:
        """A node with the tiny model; arguments: as behind --ros-args."""
        values = {"model": str(self.model), "runtime": "onnxruntime", "threads": 1, **parameters}
        node = SegmentNode(
            name,
            context=self.context,
            cli_args=["--ros-args", *arguments] if arguments else None,
            parameter_overrides=[Parameter(n, value=v) for n, v in values.items()],
        )
        self._open.append(Spinner(node, self.context))
        return node, self.driver(node)

    def driver(self, node: SegmentNode, apart: bool = False) -> Driver:
        """A driver for `node`; apart: as another DDS participant, as from another process."""
        context = self.context
        if apart:
            context = Context()
            rclpy.init(context=context)
            self._contexts.append(context)
        self._open.append(Driver(context, node))
        return self._open[-1]

    def active(self, **parameters: Any) -> tuple[SegmentNode, Driver]:
        """A configured and active node."""
        node, driver = self.start(**parameters)
        assert driver.change("configure")
        assert driver.change("activate")
        return node, driver

    @property
    def failed(self) -> int:
        """Callbacks of the nodes that have failed so far."""
        return sum(item.failures for item in self._open if isinstance(item, Spinner))

    def stop(self) -> None:
        failures = self.failed
        for item in reversed(self._open):
            if isinstance(item, Spinner):
                item.node.end()
            item.stop()
        self._open.clear()
        for context in self._contexts:
            context.try_shutdown()
        gc.collect()  # a node that goes later takes the log of the next one of its name with it
        assert failures == self.failures, "callbacks of the node failed, see its log"


def segment_one(driver: Driver, publisher: Any, results: list[Any], message: Any) -> InstanceArray:
    """Publish one image and return its InstanceArray."""
    before = len(results)
    publisher.publish(message)
    wait_until(lambda: len(results) > before)
    return results[before]
