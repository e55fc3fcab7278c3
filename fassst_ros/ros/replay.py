"""Bag player: publishes the images of a bag on a camera topic, as a camera driver would.

    python -m fassst_ros.ros.replay BAG --topic /camera/image_raw

JPEGs are decoded and go out as sensor_msgs/Image (bgr8) unless --compressed is given. Frames keep the
distances in time at which they were recorded. Each gets the present time as its stamp, so that latency
can be measured; --stamps bag keeps the recorded ones, and --clock publishes them on /clock for nodes
with use_sim_time. Publisher: reliable, depth 5. For frames above 0.5 MB between processes set
FASTRTPS_DEFAULT_PROFILES_FILE to config/fastdds_large_images.xml.
"""

from __future__ import annotations

import argparse
import array
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fassst_ros.bag import COMPRESSED, BagImage, ImageBag
from fassst_ros.ros.convert import compressed_to_frame, to_image
from fassst_ros.ros.process import process
from fassst_ros.types import ConfigError, FassstError, InputError

#: Frames that go out later than this after their time count as late, in seconds.
LATE = 0.02
_CLOCK_PERIOD = 0.01  # of /clock, in seconds


@dataclass(frozen=True, slots=True)
class Slot:
    """One frame to publish. due: seconds after the start, before division by the rate; stamp: ns."""

    image: BagImage
    due: float
    stamp: int


@dataclass(slots=True)
class Counts:
    """What became of the frames. late: published more than LATE behind time, by at most max_late [s]."""

    published: int = 0
    skipped: int = 0
    late: int = 0
    max_late: float = 0.0


def schedule(bag: ImageBag, loop: int) -> Iterator[Slot]:
    """The frames of `loop` passes over the bag; times go on from pass to pass."""
    offset = 0
    for _ in range(loop):
        first = last = 0
        for image in bag:
            first = first or image.received
            last = max(last, image.received)
            yield Slot(image, (offset + image.received - first) / 1e9, image.stamp + offset)
        # The gap between two passes is the mean distance of the frames.
        offset += (last - first) + (last - first) // max(1, bag.count - 1)


def to_message(image: BagImage, msgtype: str, compressed: bool) -> Image | CompressedImage:
    """The message to send, still with the recorded header; of JPEGs only `compressed` keeps the bytes.

    msgtype: of the bag. Raises InputError for a damaged frame.
    """
    recorded = image.message
    stamp = recorded.header.stamp
    header = Header(stamp=Time(sec=stamp.sec, nanosec=stamp.nanosec), frame_id=recorded.header.frame_id)
    if compressed:
        data = array.array("B", recorded.data.tobytes())  # bytes are slow where rclpy checks fields
        return CompressedImage(header=header, format=recorded.format, data=data)
    if msgtype == COMPRESSED:
        frame = compressed_to_frame(recorded)
        return to_image(frame.image, f"{frame.color}8", header)
    message = to_image(recorded.data.reshape(1, -1), recorded.encoding, header)
    message.height, message.width, message.step = recorded.height, recorded.width, recorded.step
    message.is_bigendian = recorded.is_bigendian
    return message


def create_publisher(node: Node, bag: ImageBag, topic: str, compressed: bool) -> Any:
    """A camera's publisher for the frames of `bag`. Raises ConfigError if they are not compressed."""
    if compressed and bag.msgtype != COMPRESSED:
        raise ConfigError(f"{bag.path}: {bag.topic} holds raw images; leave --compressed out")
    profile = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
    return node.create_publisher(CompressedImage if compressed else Image, topic, profile)


def wait_for_subscribers(publisher: Any, wanted: int, patience: float) -> None:
    """Return once `wanted` subscribers are connected. Raises InputError if they do not come in time [s]."""
    end = time.monotonic() + patience
    while (found := publisher.get_subscription_count()) < wanted:
        if time.monotonic() > end:
            raise InputError(
                f"{found} of {wanted} subscribers on {publisher.topic_name} after {patience:g} s. "
                "Is the node active, on this topic and ROS_DOMAIN_ID, and its QoS no stricter than "
                "reliable and volatile?"
            )
        time.sleep(0.02)


class Player:
    """Publishes the images of `bag` as recorded; `counts` says what became of them."""

    def __init__(self, node: Node, bag: ImageBag, publisher: Any, options: argparse.Namespace) -> None:
        self._bag, self._publisher, self._options = bag, publisher, options
        self._now = 0
        self.counts = Counts()
        self._clock = node.create_publisher(Clock, "/clock", 10) if options.clock else None

    def play(self) -> Iterator[dict[str, Any]]:
        """Publish every frame at its time; yields what happened to each."""
        start = None
        for slot in schedule(self._bag, self._options.loop):
            try:
                # Before its time: decoding takes a while.
                message = to_message(slot.image, self._bag.msgtype, self._options.compressed)
            except InputError as err:
                self.counts.skipped += 1
                yield {"event": "skipped", **_place(slot.image), "reason": str(err)}
                continue
            if start is None:
                start = time.monotonic() - slot.due / self._options.rate
            due = start + slot.due / self._options.rate
            self._sleep_until(due, slot)
            yield self._publish(message, slot, time.monotonic() - due)
        if not self._publisher.wait_for_all_acked(Duration(seconds=5)):
            yield {"event": "warning", "reason": "a subscriber did not confirm the last frames within 5 s"}

    def _sleep_until(self, due: float, slot: Slot) -> None:
        """Wait until time.monotonic() is `due`; /clock runs meanwhile."""
        while (left := due - time.monotonic()) > 0:
            if self._clock is None:
                time.sleep(left)
                continue
            self._publish_clock(slot.stamp - int(left * self._options.rate * 1e9))
            time.sleep(min(left, _CLOCK_PERIOD))

    def _publish_clock(self, now: int) -> None:
        """Publish `now` [ns], or the time before if stamps were recorded out of order."""
        assert self._clock is not None
        self._now = max(self._now, now)
        self._clock.publish(Clock(clock=to_time(self._now)))

    def _publish(self, message: Image | CompressedImage, slot: Slot, late: float) -> dict[str, Any]:
        counts = self.counts
        stamp = slot.stamp if self._options.stamps == "bag" else time.time_ns()
        message.header.stamp = to_time(stamp)
        if self._clock is not None:
            self._publish_clock(slot.stamp)
        self._publisher.publish(message)
        counts.published += 1
        counts.late += late > LATE
        counts.max_late = max(counts.max_late, late)
        return {"event": "published", **_place(slot.image), "stamp": stamp, "late": round(late, 4)}


def _place(image: BagImage) -> dict[str, Any]:
    """Where a frame is in the bag, and both times of its recording [ns]."""
    return {"index": image.index, "recorded": [image.stamp, image.received]}


def to_time(nanoseconds: int) -> Time:
    """A stamp as a message."""
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def positive(text: str) -> float:
    """A number of the command line, finite and above 0."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with status 2 if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="folder of the bag, or an mcap file")
    parser.add_argument(
        "--bag-topic", default="", help="topic in the bag; needed if it has several of images"
    )
    parser.add_argument("--topic", default="/camera/image_raw", help="topic to publish on (%(default)s)")
    parser.add_argument("--compressed", action="store_true", help="publish JPEGs as recorded, not decoded")
    parser.add_argument("--rate", type=positive, default=1.0, help="times the recorded speed (%(default)s)")
    parser.add_argument(
        "--loop", type=_count, default=1, metavar="N", help="passes over the bag (%(default)s)"
    )
    parser.add_argument("--stamps", choices=("now", "bag"), default="now", help="header stamps (%(default)s)")
    parser.add_argument("--clock", action="store_true", help="publish /clock; needs --stamps bag")
    parser.add_argument("--wait-subscribers", type=_count, default=0, help="wait for so many first")
    parser.add_argument(
        "--wait-timeout", type=positive, default=30.0, help="... so many seconds (%(default)s)"
    )
    parser.add_argument("--events", action="store_true", help="one JSON object per frame on standard output")
    options = parser.parse_args(arguments)
    if not options.loop:
        parser.error("--loop 0 would publish nothing")
    if options.clock and options.stamps != "bag":
        parser.error("--clock needs --stamps bag: with stamps of now the system clock is the clock")
    return options


def run(options: argparse.Namespace) -> int:
    """Play the bag. Returns the exit status; raises FassstError for what cannot be played."""
    with ImageBag(options.bag, options.bag_topic) as bag, process("replay") as node:
        publisher = create_publisher(node, bag, options.topic, options.compressed)
        wait_for_subscribers(publisher, options.wait_subscribers, options.wait_timeout)
        player = Player(node, bag, publisher, options)
        total, shown = bag.count * options.loop, time.monotonic()
        for event in player.play():
            if options.events:
                print(json.dumps(event), flush=True)
            elif "reason" in event:
                print(
                    f"replay: {event['event']} {event.get('index', '')}: {event['reason']}", file=sys.stderr
                )
            elif time.monotonic() - shown > 1:
                shown = time.monotonic()
                print(f"{player.counts.published} of {total} frames", flush=True)
        counts = player.counts
        print(
            f"published {counts.published} frames on {options.topic}, skipped {counts.skipped} damaged ones, "
            f"{counts.late} late by up to {counts.max_late * 1e3:.0f} ms",
            file=sys.stderr,
        )
        return 0 if counts.published else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(options)
    except FassstError as err:
        print(f"replay: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
