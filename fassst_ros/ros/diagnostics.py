"""/diagnostics: one status for the node and one for each camera, in every lifecycle state."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode

from fassst_ros.ros.cameras import Camera, Counters
from fassst_ros.ros.outputs import STAGES

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Diagnostics:
    """Publishes what the node reports about itself.

    state: the lifecycle state in words. problem: why the last transition failed, or "".
    """

    def __init__(self, node: LifecycleNode) -> None:
        # An ordinary publisher: a lifecycle publisher is mute when diagnostics matter most.
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._node = node
        self._before: dict[str, tuple[float, Counters]] = {}
        self.state = "unconfigured"
        self.problem = ""
        self._facts: dict[str, str] = {}
        self._cameras: Sequence[Camera] = ()

    def describe(self, cameras: Sequence[Camera], facts: dict[str, str]) -> None:
        """What is loaded from now on: cameras and facts (model, runtime, device, ...)."""
        self._cameras, self._facts, self._before = cameras, facts, {}

    def publish(self) -> None:
        """Publish the present state. Call it in the executor's thread."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [self._node_status(), *(self._camera_status(c) for c in self._cameras)]
        self._publisher.publish(message)

    def _node_status(self) -> DiagnosticStatus:
        level, text = OK, self.state
        if self.problem:
            level, text = ERROR, f"{self.state}: {self.problem}"
        elif self.state in ("unconfigured", "configuring"):
            level = WARN
        return self._status("node", level, text, self._facts)

    def _camera_status(self, camera: Camera) -> DiagnosticStatus:
        now, counters = time.monotonic(), camera.counters
        before, old = self._before.get(camera.topic, (now, counters))
        self._before[camera.topic] = now, Counters(**_counts(counters))
        seconds = now - before
        rate = (counters.segmented - old.segmented) / seconds if seconds > 0 else 0.0
        values = {"topic": self._node.resolve_topic_name(camera.topic), "fps": f"{rate:.1f}"}
        values |= {name: str(count) for name, count in _counts(counters).items()}
        for stage in STAGES:
            p50, p99 = camera.percentiles(stage)
            if not math.isnan(p50):
                values[f"{stage}_ms_p50"], values[f"{stage}_ms_p99"] = f"{p50:.1f}", f"{p99:.1f}"
        level, text = OK, f"{rate:.1f} frames/s"
        if self.state != "active":
            text = self.state
        elif camera.error:
            level, text = ERROR, camera.error
        elif camera.warning:
            level, text = WARN, camera.warning
        elif not counters.received:
            text = "waiting for the first frame"
        return self._status(f"camera {camera.name or camera.topic}", level, text, values)

    def _status(self, part: str, level: Any, text: str, values: dict[str, str]) -> DiagnosticStatus:
        name = f"{self._node.get_fully_qualified_name().lstrip('/')}: {part}"
        pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
        hardware = self._facts.get("device", "")
        return DiagnosticStatus(name=name, level=level, message=text, hardware_id=hardware, values=pairs)


def _counts(counters: Counters) -> dict[str, int]:
    return {name: getattr(counters, name) for name in Counters.__slots__}
