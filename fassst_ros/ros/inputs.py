"""The image subscription of one camera: matched to what publishers offer, and watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from fassst_ros.ros import qos
from fassst_ros.ros.cameras import Arrival, Camera, Mailbox
from fassst_ros.ros.markers import camera_info_topic, usable
from fassst_ros.ros.outputs import Outputs
from fassst_ros.ros.params import NodeOptions

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

#: Least time between two warnings about the same input, in seconds.
REPEAT = 10.0


class Input:
    """Subscribes to one camera from `open` to `close`.

    All methods must be called in the executor's thread, as lifecycle callbacks and timers are: the
    executor then holds no reference to the subscription that is destroyed. Destroying one under a
    spinning executor crashed the process before Jazzy.
    """

    def __init__(
        self,
        node: LifecycleNode,
        index: int,
        camera: Camera,
        mailbox: Mailbox,
        outputs: Outputs,
        options: Callable[[], NodeOptions],
    ) -> None:
        self._node = node
        self._index, self._camera, self._mailbox = index, camera, mailbox
        self._outputs = outputs
        self._options = options
        self._clock = node.get_clock()
        self._subscription: Any = None
        self._info: Any = None
        self._plan = qos.Plan(False, "reliable")
        self._seen: list[qos.Offer] = []
        self._changed = self._warned = self._info_since = 0.0

    def open(self) -> None:
        """Subscribe as the present publishers offer; without any, as the parameters say."""
        self._seen, self._changed = self._offers(), time.monotonic()
        self._subscribe(self._wanted(self._seen))

    def close(self) -> None:
        """Unsubscribe. Closing twice does no harm."""
        for subscription in (self._subscription, self._info):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._subscription = self._info = None

    def watch(self) -> None:
        """Follow what publishers offer and warn when nothing arrives; call it about once a second."""
        publishers = self._offers()
        wanted = self._wanted(publishers)
        if publishers and wanted != self._plan:
            self._follow(wanted, publishers[0].node)
        self._report_silence(publishers)
        self._follow_info()

    def _follow(self, wanted: qos.Plan, publisher: str) -> None:
        how = f"{self._topic}: subscribing again as {wanted.type}, {wanted.reliability}, to fit {publisher}"
        try:
            self._subscribe(wanted)
        except Exception as err:  # Fast DDS allows a process one type a topic; the next `watch` tries again
            self._warn(f"{how} failed: {err}")
        else:
            self._node.get_logger().info(how)

    @property
    def _topic(self) -> str:
        return self._node.resolve_topic_name(self._camera.topic)

    def _offers(self) -> list[qos.Offer]:
        return qos.offers(self._node.get_publishers_info_by_topic(self._camera.topic))

    def _wanted(self, publishers: list[qos.Offer]) -> qos.Plan:
        options = self._options()
        return qos.plan(self._topic, options.transport, options.reliability, publishers)

    def _subscribe(self, plan: qos.Plan) -> None:
        old, self._subscription = self._subscription, None
        if old is not None:
            self._node.destroy_subscription(old)
        self._subscription = self._node.create_subscription(
            CompressedImage if plan.compressed else Image,
            self._camera.topic,
            self._receive,
            qos.profile(plan.reliability, self._options().depth),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible),
        )
        self._plan = plan

    def _receive(self, message: Image | CompressedImage) -> None:
        # Nothing else may happen here: the executor must be back for services and newer frames.
        self._camera.arrival = time.monotonic()
        self._mailbox.put(self._index, Arrival(message, time.perf_counter(), self._clock.now().nanoseconds))

    def _on_incompatible(self, event: Any) -> None:
        if self._options().reliability == "auto":
            return  # `watch` subscribes again within a second
        self._warn(qos.why_silent(self._topic, self._plan, self._offers()))

    def _report_silence(self, publishers: list[qos.Offer]) -> None:
        now, limit = time.monotonic(), self._options().silence_timeout
        if publishers != self._seen:  # give a new publisher its time
            self._seen, self._changed = publishers, now
        silent = now - max(self._changed, self._camera.arrival)
        if not limit or silent < limit:
            self._camera.warning = ""
        elif not publishers:
            self._camera.warning = f"{self._topic}: nobody publishes. Start the camera or remap the topic"
        else:
            self._camera.warning = qos.why_silent(self._topic, self._plan, publishers)
            self._warn(f"no frame for {silent:.0f} s. {self._camera.warning}")

    def _warn(self, text: str) -> None:
        now = time.monotonic()
        if text and (not self._warned or now - self._warned >= REPEAT):
            self._warned = now
            self._node.get_logger().warning(text)

    def _follow_info(self) -> None:
        """Subscribe to the camera's calibration while somebody looks at the markers."""
        wanted, topic, info = self._outputs.wants_info, camera_info_topic(self._topic), self._outputs.info
        if wanted and self._info is None:
            self._info_since = time.monotonic()
            self._info = self._node.create_subscription(
                CameraInfo, topic, self._receive_info, qos_profile_sensor_data
            )
        elif not wanted and self._info is not None:
            self._node.destroy_subscription(self._info)
            self._info = None
        elif wanted and (info is None or not usable(info)) and time.monotonic() - self._info_since > 3.0:
            cause = "nothing comes on it" if info is None else "the camera is not calibrated"
            self._warn(f"no markers: they need the calibration on {topic}, but {cause}")

    def _receive_info(self, info: CameraInfo) -> None:
        self._outputs.info = info
