"""Camera and listener of `fassst bench`: publishes one image in several encodings, records the latency.

    python -m fassst_ros.ros.bench_client IMAGE.npy --namespace /bench --frames 100 bgr8 jpeg

The node must be called `segment`, with the cameras `camera` (raw) and `jpeg/compressed`. The last line
printed is a JSON object: encoding -> stage -> milliseconds of each frame.
"""

from __future__ import annotations

import argparse
import array
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fassst_ros.ros.convert import to_image
from fassst_ros.ros.listen import RELIABLE, Listener
from fassst_ros.ros.process import process, spin_until
from fassst_ros.types import ConfigError, FassstError, InputError, UInt8Array

#: Frames of each encoding that are sent before those that count.
WARM_UP = 5


def encode(image: UInt8Array, encoding: str) -> Image | CompressedImage:
    """The image (H, W, 3), BGR, as a message of this encoding. Raises ConfigError for another one."""
    header = Header(frame_id="camera")
    if encoding == "jpeg":
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
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


class Client:
    """Publishers of both cameras, and subscriptions to all that the node tells of them."""

    def __init__(self, node: Node, namespace: str) -> None:
        self._node = node
        self._publishers = {
            "camera": node.create_publisher(Image, f"{namespace}/camera", RELIABLE),
            "jpeg": node.create_publisher(CompressedImage, f"{namespace}/jpeg/compressed", RELIABLE),
        }
        self._listeners = {
            camera: Listener(node, f"{namespace}/segment/{camera}") for camera in self._publishers
        }

    def wait(self, patience: float) -> None:
        """Until the node has subscribed to both cameras. Raises InputError if it does not."""

        def ready() -> bool:
            return all(p.get_subscription_count() for p in self._publishers.values())

        if not spin_until(self._node, ready, patience):
            raise InputError(f"the node did not subscribe within {patience:.0f} s")
        spin_until(self._node, lambda: False, 1.0)  # our own subscriptions are matched meanwhile

    def run(self, message: Image | CompressedImage, frames: int, rate: float) -> dict[str, list[float]]:
        """Publish `frames` frames at `rate` per second; stage -> milliseconds of those that came back."""
        camera = "jpeg" if isinstance(message, CompressedImage) else "camera"
        listener, publisher = self._listeners[camera], self._publishers[camera]
        total = listener.stages["total"]
        listener.clear()
        due = time.monotonic()
        for number in range(frames + WARM_UP):
            due = max(due + 1 / rate, time.monotonic())
            spin_until(self._node, lambda end=due: time.monotonic() >= end, 1 / rate + 1)  # type: ignore[misc]
            message.header.stamp = self._node.get_clock().now().to_msg()
            publisher.publish(message)
            if number < WARM_UP:  # one at a time, so that none of them is replaced by the next
                spin_until(self._node, lambda n=number: len(total) > n, 10.0)  # type: ignore[misc]
        spin_until(self._node, lambda: len(total) >= frames + WARM_UP, 2.0)
        spin_until(self._node, lambda: False, 0.1)
        return {stage: values[WARM_UP:] for stage, values in listener.stages.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench_client", description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("encodings", nargs="+")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rate", type=float, default=8.0)
    parser.add_argument("--patience", type=float, default=60.0)
    options = parser.parse_args(arguments)
    try:
        messages = {encoding: encode(np.load(options.image), encoding) for encoding in options.encodings}
        with process("bench_client") as node:
            client = Client(node, options.namespace)
            client.wait(options.patience)
            found = {e: client.run(m, options.frames, options.rate) for e, m in messages.items()}
    except FassstError as err:
        print(f"bench_client: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
