"""Which QoS the node asks for, and what to say when frames do not arrive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

#: For results: reliable serves every subscriber, and depth bounds what a slow one can hold up.
RESULTS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
#: For images: the same, with less memory.
IMAGES = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
#: For what is said once and must reach late subscribers ("latched").
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)

RAW_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"

_LARGE = (
    "frames above 0.5 MB do not fit the shared memory of a stock Fast DDS: set "
    "FASTDDS_DEFAULT_PROFILES_FILE (before Kilted: FASTRTPS_DEFAULT_PROFILES_FILE) to "
    "share/fassst_ros/config/fastdds_large_images.xml, or "
    "FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA, for camera and node"
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What one publisher of the image topic offers. node: its full name."""

    node: str
    type: str
    best_effort: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How to subscribe: message type and reliability."""

    compressed: bool
    reliability: str

    @property
    def type(self) -> str:
        """ROS name of the message type."""
        return COMPRESSED_TYPE if self.compressed else RAW_TYPE


def offers(endpoints: Iterable[Any]) -> list[Offer]:
    """The offers among what `Node.get_publishers_info_by_topic` returns."""
    return [
        Offer(
            f"{e.node_namespace.rstrip('/')}/{e.node_name}",
            e.topic_type,
            e.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT,
        )
        for e in endpoints
    ]


def plan(topic: str, transport: str, reliability: str, publishers: Sequence[Offer]) -> Plan:
    """How to subscribe to `topic` so that its present publishers' frames arrive.

    A reliable subscription receives large frames but nothing from a best-effort publisher; a
    best-effort one fits every publisher but loses large frames. So auto asks for best effort only
    if a publisher offers no more.
    """
    images = {p.type for p in publishers} & {RAW_TYPE, COMPRESSED_TYPE}
    if transport != "auto":
        compressed = transport == "compressed"
    elif len(images) == 1:
        compressed = images == {COMPRESSED_TYPE}
    else:
        compressed = topic.endswith("/compressed")
    fitting = [p for p in publishers if p.type == (COMPRESSED_TYPE if compressed else RAW_TYPE)]
    if reliability == "auto":
        reliability = "best_effort" if any(p.best_effort for p in fitting) else "reliable"
    return Plan(compressed, reliability)


def profile(reliability: str, depth: int) -> QoSProfile:
    """The profile of an image subscription; reliability as in the parameter, but not "auto"."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy[reliability.upper()],
        durability=DurabilityPolicy.VOLATILE,
    )


def why_silent(topic: str, used: Plan, publishers: Sequence[Offer]) -> str:
    """Cause and mend when nothing arrives on `topic`, or "" if there is no publisher to blame."""
    if not publishers:
        return ""
    fitting = [p for p in publishers if p.type == used.type]
    if not fitting:
        other = publishers[0]
        return (
            f"{topic}: {other.node} publishes {other.type}, the node expects {used.type}. "
            "Set the parameter transport to auto, or remap the topic"
        )
    unheard = [p for p in fitting if p.best_effort and used.reliability == "reliable"]
    if len(unheard) == len(fitting):
        return (
            f"{topic}: {unheard[0].node} offers best effort, the node asks for reliable, so DDS connects "
            "them not. Set the parameter reliability to auto or best_effort, or make the camera reliable"
        )
    cause = f"{topic}: {fitting[0].node} is connected ({used.reliability}), but no frame arrives. "
    if used.reliability == "best_effort":
        return cause + f"If it publishes: best effort loses frames above 0.5 MB, and {_LARGE}"
    return cause + f"If it publishes (`ros2 topic hz {topic}`): {_LARGE}"
