"""Player of the live replay: the bag as it was recorded, and frames from memory at any rate.

    python -m fassst_ros.ros.live_player BAG --topic /camera/image_raw

Commands are lines of JSON on standard input, whose end also ends the process:
{"play": "recorded"} for one pass over the bag; {"play": "rate", "rate": 30, "frames": 150} for frames from
memory, in turn and on all topics. Answers are events, also as lines of JSON; the last one to each command
is "played". Every frame gets the present time as its stamp, right before it is published.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rclpy.node import Node

from fassst_ros.bag import ImageBag
from fassst_ros.ros import replay
from fassst_ros.ros.process import process
from fassst_ros.types import FassstError, InputError

#: Frames held in memory, at most; ros2_benchmark holds as many.
FRAMES = 100
#: Bytes held in memory, at most.
MEMORY = 1e9


def emit(event: str, **values: Any) -> None:
    """One JSON line on standard output."""
    print(json.dumps({"event": event, **values}), flush=True)


def load(bag: ImageBag, compressed: bool, frames: int) -> list[Any]:
    """The first messages of the bag, up to `frames` of them and MEMORY bytes; damaged ones are left out.

    Raises InputError if no frame is left.
    """
    messages: list[Any] = []
    size = 0
    for image in bag:
        try:
            message = replay.to_message(image, bag.msgtype, compressed)
        except InputError:
            continue
        size += len(message.data)
        if messages and size > MEMORY:
            break
        messages.append(message)
        if len(messages) == frames:
            break
    if not messages:
        raise InputError(f"{bag.path}: every frame on {bag.topic} is damaged")
    return messages


def play_recorded(node: Node, bag: ImageBag, publisher: Any, options: argparse.Namespace) -> None:
    """One pass over the bag; an event for each frame."""
    values = ["--events", *(["--compressed"] if options.compressed else [])]
    player = replay.Player(node, bag, publisher, replay.parse([str(bag.path), *values]))
    for event in player.play():
        print(json.dumps(event), flush=True)
    emit("played")


def play_rate(messages: Sequence[Any], publishers: Sequence[Any], rate: float, frames: int) -> None:
    """`frames` frames for each publisher, `rate` a second. A late frame does not make the next ones later."""
    stamps: list[list[int]] = [[] for _ in publishers]
    late, start = 0.0, time.monotonic()
    now = start
    for number in range(frames):
        due = start + number / rate
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
        now = time.monotonic()
        late = max(late, now - due)
        message = messages[number % len(messages)]
        for publisher, published in zip(publishers, stamps, strict=True):
            stamp = time.time_ns()
            message.header.stamp = replay.to_time(stamp)
            publisher.publish(message)
            published.append(stamp)
    emit("played", stamps=stamps, late=late, seconds=now - start)


def serve(options: argparse.Namespace) -> None:
    """Do what standard input says until it ends. Raises FassstError for what cannot be played."""
    with ImageBag(options.bag, options.bag_topic) as bag, process("replay") as node:
        publishers = [
            replay.create_publisher(node, bag, topic, options.compressed) for topic in options.topic
        ]
        messages: list[Any] = []
        emit("ready", count=bag.count, topic=bag.topic)
        for line in sys.stdin:
            command = json.loads(line)
            for publisher in publishers:
                replay.wait_for_subscribers(publisher, 1, options.wait_timeout)
            if command["play"] == "recorded":
                play_recorded(node, bag, publishers[0], options)
                continue
            if not messages:
                messages = load(bag, options.compressed, options.frames)
                emit("loaded", frames=len(messages))
            play_rate(messages, publishers, command["rate"], command["frames"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="live_player", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="folder of the bag, or an mcap file")
    parser.add_argument("--bag-topic", default="", help="topic in the bag, if it has several of images")
    parser.add_argument("--topic", action="append", required=True, help="topic to publish on; repeatable")
    parser.add_argument("--compressed", action="store_true", help="publish JPEGs as recorded, not decoded")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames in memory (%(default)s)")
    parser.add_argument(
        "--wait-timeout", type=float, default=30.0, help="wait so long for subscribers [s] (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        serve(options)
        return 0
    except FassstError as err:
        print(f"live_player: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
