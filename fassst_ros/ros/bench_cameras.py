"""Cameras of `fassst bench`: publish one image in any encoding, on any of their topics, at a set rate.

    python -m fassst_ros.ros.bench_cameras IMAGE.npy --topic camera_1 --topic jpeg_1/compressed

Commands are lines of JSON on standard input, whose end also ends the process: {"play": "rate", "rate": 30,
"frames": 150, "topics": ["camera_1"], "encoding": "bgr8"}. The answers are those of live_player.
"""

from __future__ import annotations

import argparse
import array
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fassst_ros.ros.convert import to_image
from fassst_ros.ros.live_player import emit, play_rate
from fassst_ros.ros.qos import profile
from fassst_ros.ros.replay import wait_for_subscribers
from fassst_ros.types import ConfigError, FassstError, UInt8Array

#: JPEG quality, as image_transport's at most; the size of the file is told.
QUALITY = 90
#: How long subscribers are waited for, in seconds.
PATIENCE = 30.0


def encode(image: UInt8Array, encoding: str) -> Image | CompressedImage:
    """The image (H, W, 3), BGR, as a message of this encoding. Raises ConfigError for another one."""
    header = Header(frame_id="camera")
    if encoding == "jpeg":
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        return CompressedImage(
            header=header, format="bgr8; jpeg compressed bgr8", data=array.array("B", data.tobytes())
        )
    makers: dict[str, Callable[[], Any]] = {
        "bgr8": lambda: image,
        "rgb8": lambda: cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
        "bgra8": lambda: cv2.cvtColor(image, cv2.COLOR_BGR2BGRA),
        "mono8": lambda: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY),
        # What the pixels show does not matter for the time that decoding takes.
        "yuv422": lambda: np.ascontiguousarray(image[..., :2]),
        "bayer_rggb8": lambda: np.ascontiguousarray(image[..., 1]),
    }
    if encoding not in makers:
        raise ConfigError(f"encoding {encoding!r}; expected one of jpeg, {', '.join(makers)}")
    return to_image(makers[encoding](), encoding, header)


@contextmanager
def camera(topic: str) -> Iterator[Any]:
    """The publisher of one camera, in a context and so with shared memory of its own, as a driver is."""
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node("camera", namespace=topic.removesuffix("/compressed"), context=context)
        kind = CompressedImage if topic.endswith("/compressed") else Image
        yield node.create_publisher(kind, f"/{topic}", profile("reliable", 5))
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def serve(options: argparse.Namespace) -> None:
    """Do what standard input says until it ends. Raises FassstError for what cannot be played."""
    image = np.load(options.image)
    with ExitStack() as stack:
        publishers = {topic: stack.enter_context(camera(topic)) for topic in options.topic}
        messages: dict[str, Any] = {}
        for line in sys.stdin:
            command = json.loads(line)
            chosen = [publishers[topic] for topic in command["topics"]]
            for publisher in chosen:
                wait_for_subscribers(publisher, 1, PATIENCE)
            encoding = command["encoding"]
            if encoding not in messages:
                messages[encoding] = encode(image, encoding)
                emit("loaded", encoding=encoding, bytes=len(messages[encoding].data))
            play_rate([messages[encoding]], chosen, command["rate"], command["frames"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bench_cameras", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path, help="(H, W, 3) uint8 BGR, as numpy saves it")
    parser.add_argument("--topic", action="append", required=True, help="topic to publish on; repeatable")
    options = parser.parse_args(arguments)
    try:
        serve(options)
        return 0
    except FassstError as err:
        print(f"bench_cameras: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
