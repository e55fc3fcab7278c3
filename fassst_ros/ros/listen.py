"""What a segmentation node tells the world, gathered: results, times of the stages, and diagnostics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64

from fassst_ros.bag import raw_stamp
from fassst_ros.msg import InstanceArray, LabelInfo
from fassst_ros.ros.outputs import STAGES
from fassst_ros.ros.qos import LATCHED

#: Deep enough for a process that is busy with something else for a while.
RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)


class Listener:
    """What the node publishes about one camera since the last `clear`.

    prefix: of its topics, as /segment_node or /segment_node/left/image. on_result: called with each
    serialized InstanceArray and its time of arrival [ns]. results: stamp -> arrival, both in ns.
    stages: name -> milliseconds of each segmented frame, in their order.
    """

    def __init__(
        self, node: Node, prefix: str, on_result: Callable[[bytes, int], object] = lambda *_: None
    ) -> None:
        self.results: dict[int, int] = {}
        self.stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self._on_result = on_result
        self.topic = f"{prefix}/instances"
        node.create_subscription(InstanceArray, self.topic, self._take, RELIABLE, raw=True)
        for stage, values in self.stages.items():
            take = partial(self._take_stage, values)
            node.create_subscription(Float64, f"{prefix}/latency/{stage}", take, RELIABLE)

    def clear(self) -> None:
        """Forget what came."""
        self.results.clear()
        for values in self.stages.values():
            values.clear()

    def _take(self, raw: bytes) -> None:
        arrival = time.time_ns()
        self.results[raw_stamp(raw)] = arrival
        self._on_result(raw, arrival)

    @staticmethod
    def _take_stage(values: list[float], message: Float64) -> None:
        values.append(message.data)


def statuses(message: DiagnosticArray, target: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(part, text, values) of each status of the node `target`; part: "node" or "camera ..."."""
    for status in message.status:
        name, _, part = status.name.partition(": ")
        if name == target.lstrip("/"):
            yield part, status.message, {pair.key: pair.value for pair in status.values}


class Reports:
    """What the node `target` says of itself: its newest diagnostics, and its classes.

    heard: how many diagnostics came. facts: model, runtime, device, ... texts: node or camera -> its state
    in words.
    cameras: what it counts of each. colors: class name -> RGB; empty until the node is active.
    threshold: the score from which on it publishes instances.
    """

    def __init__(self, node: Node, target: str) -> None:
        self.heard = 0
        self.texts: dict[str, str] = {}
        self.facts: dict[str, str] = {}
        self.cameras: dict[str, dict[str, str]] = {}
        self.colors: dict[str, tuple[int, int, int]] = {}
        self.threshold = 0.0
        self._target = target
        node.create_subscription(DiagnosticArray, "/diagnostics", self._take, 10)
        node.create_subscription(LabelInfo, f"{target}/label_info", self._take_labels, LATCHED)

    def _take_labels(self, message: LabelInfo) -> None:
        self.colors = {c.name: (c.r, c.g, c.b) for c in message.classes}
        self.threshold = message.score_threshold

    def _take(self, message: DiagnosticArray) -> None:
        for part, text, values in statuses(message, self._target):
            self.texts[part] = text
            if part == "node":
                self.heard += 1
                self.facts = values
            else:
                self.cameras[part] = values

    def counters(self) -> dict[str, int]:
        """received, dropped, stale, failed and segmented of all cameras together."""
        sums: dict[str, int] = {}
        for values in self.cameras.values():
            for name, value in values.items():
                if value.isdecimal():
                    sums[name] = sums.get(name, 0) + int(value)
        return sums
