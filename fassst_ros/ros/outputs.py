"""The output topics of one camera; whatever costs time is made only while somebody listens."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64, Header
from visualization_msgs.msg import MarkerArray

from fassst_ros.card import ModelCard
from fassst_ros.msg import InstanceArray
from fassst_ros.overlay import draw
from fassst_ros.ros import messages, qos
from fassst_ros.ros.convert import to_image, to_jpeg
from fassst_ros.ros.markers import markers, usable
from fassst_ros.ros.params import NodeOptions
from fassst_ros.types import Frame, Instances

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

#: Times of a frame [ms], in their order; each is published on ~/latency/<name>.
#: transport: stamp to callback. wait: callback to worker. track: only while tracking is on.
#: extras: maps, overlay, markers, detections.
#: processing: callback to InstanceArray published. total: stamp to InstanceArray published.
STAGES = (
    *("transport", "wait", "decode", "resize", "infer", "postprocess", "track", "fill", "publish", "extras"),
    *("processing", "total"),
)


class Outputs:
    """Publishers of one camera, below ~/ or ~/<camera name>/. They publish only in the active state.

    `info`: the camera's calibration, once one came; without it there are no markers.
    """

    def __init__(self, node: LifecycleNode, name: str, card: ModelCard) -> None:
        self._node = node
        self._card = card
        self._model = messages.model_name(card)
        self._names = messages.class_names(card)
        self._prefix = f"~/{name}/" if name else "~/"
        self._publishers: list[Any] = []
        self.info: CameraInfo | None = None
        try:
            self._instances = self._create(InstanceArray, "instances", qos.RESULTS)
            self._instance_map = self._create(Image, "instance_map", qos.IMAGES)
            self._class_map = self._create(Image, "class_map", qos.IMAGES)
            self._overlay = self._create(Image, "overlay", qos.IMAGES)
            self._compressed = self._create(CompressedImage, "overlay/compressed", qos.IMAGES)
            self._markers = self._create(MarkerArray, "markers", qos.RESULTS)
            self._detections = self._create_detections()
            # The executor looks at every event of every publisher each time: 1.9 ms for 8 cameras with these.
            quiet = PublisherEventCallbacks(use_default_callbacks=False)
            self._latency = {
                stage: self._create(Float64, f"latency/{stage}", qos.RESULTS, event_callbacks=quiet)
                for stage in STAGES
            }
        except BaseException:
            self.destroy()
            raise

    def _create(self, message_type: type[Any], topic: str, profile: QoSProfile, **more: Any) -> Any:
        publisher = self._node.create_lifecycle_publisher(message_type, self._prefix + topic, profile, **more)
        self._publishers.append(publisher)
        return publisher

    def _create_detections(self) -> Any:
        if find_spec("vision_msgs") is None:
            return None
        from vision_msgs.msg import Detection2DArray

        return self._create(Detection2DArray, "detections", qos.RESULTS)

    def destroy(self) -> None:
        """Destroy all publishers. Call it in the executor's thread, when no worker publishes any more."""
        while self._publishers:
            # destroy_publisher would leave it among the node's managed entities.
            self._node.destroy_lifecycle_publisher(self._publishers.pop())

    @property
    def wants_info(self) -> bool:
        """Whether somebody listens to the markers, which need the camera's calibration."""
        return bool(self._markers.get_subscription_count())

    def publish_instances(self, instances: Instances, header: Header) -> dict[str, float]:
        """Publish the InstanceArray; returns the times of "fill" and "publish" in ms."""
        start = time.perf_counter()
        message = messages.to_message(instances, header, self._model, self._names)
        filled = time.perf_counter()
        self._instances.publish(message)
        return {"fill": (filled - start) * 1e3, "publish": (time.perf_counter() - filled) * 1e3}

    def publish_extras(
        self, instances: Instances, frame: Frame, header: Header, options: NodeOptions
    ) -> None:
        """Make and publish those of the other outputs that somebody listens to."""
        makers: list[tuple[Any, Callable[[], Any]]] = [
            (self._instance_map, partial(messages.instance_map, instances, header)),
            (self._class_map, partial(messages.class_map, instances, header)),
            (self._detections, partial(messages.detections, instances, header, self._names)),
        ]
        info, distance = self.info, options.marker_distance
        if info is not None and usable(info):
            makers.append((self._markers, partial(markers, instances, header, self._card, info, distance)))
        for publisher, make in makers:
            if publisher is not None and publisher.get_subscription_count():
                publisher.publish(make())
        self._publish_overlays(instances, frame, header, options)

    def _publish_overlays(
        self, instances: Instances, frame: Frame, header: Header, options: NodeOptions
    ) -> None:
        raw, compressed = (bool(p.get_subscription_count()) for p in (self._overlay, self._compressed))
        if not raw and not compressed:
            return
        drawn = draw(frame.image, instances, self._card, color=frame.color, scale=options.overlay_scale)
        if raw:
            self._overlay.publish(to_image(drawn, f"{frame.color}8", header))
        if compressed:
            self._compressed.publish(to_jpeg(drawn, frame.color, options.overlay_quality, header))

    def publish_latency(self, stages: dict[str, float]) -> None:
        """Publish the times of one frame on the topics that somebody listens to."""
        for stage, value in stages.items():
            publisher = self._latency[stage]
            if publisher.get_subscription_count():
                publisher.publish(Float64(data=value))
