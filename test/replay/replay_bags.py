"""Bags with camera images for the tests of the replay, written by rosbags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from fassst_ros.bag import COMPRESSED, RAW, typestore

HEIGHT, WIDTH = 96, 128
START = 1_700_000_000_000_000_000
STEP = 100_000_000  # 10 Hz
TOPIC = "/camera/image_raw"
#: What the tiny model of conftest.py finds, in pixels of its input, 64 x 48: frames are twice as large.
BOXES = np.float32([[8, 6, 40, 30], [30, 20, 60, 46]])


@dataclass(frozen=True)
class Shot:
    """One message: topic, header.stamp and time of recording in ns, pixels or an encoded file, its kind."""

    topic: str
    stamp: int
    received: int
    data: Any
    encoding: str = "rgb8"
    frame_id: str = "optical"


def picture(red: int = 255) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) RGB of one colour: the score of the tiny model is its red."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = red
    return image


def drive(count: int, topic: str = TOPIC, reds: Sequence[int] = (), offset: int = 0) -> list[Shot]:
    """`count` images at 10 Hz; reds: of each."""
    shots = []
    for k in range(count):
        time = START + k * STEP + offset
        shots.append(Shot(topic, time, time + 5_000_000, picture(reds[k] if reds else 255)))
    return shots


def jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel()


def message(store: Any, shot: Shot, ros1: bool = False) -> tuple[Any, str]:
    """The message of a shot and its type: compressed if its encoding is a format such as "jpeg"."""
    types = store.types
    time = types["builtin_interfaces/msg/Time"](shot.stamp // 10**9, shot.stamp % 10**9)
    first = (0,) if ros1 else ()
    header = types["std_msgs/msg/Header"](*first, time, shot.frame_id)
    if shot.encoding in ("jpeg", "png", "compressedDepth"):
        return types[COMPRESSED](header, shot.encoding, np.asarray(shot.data, np.uint8)), COMPRESSED
    image = np.ascontiguousarray(shot.data)
    height, width = image.shape[:2]
    data = image.view(np.uint8).ravel()
    step = data.size // height
    return types[RAW](header, height, width, shot.encoding, 0, step, data), RAW


def write_bag(
    path: Path,
    shots: Iterable[Shot],
    storage: Literal["sqlite3", "mcap"] = "sqlite3",
    compression: Literal["", "file", "message", "storage"] = "",
    others: Sequence[tuple[str, str, int, Any]] = (),
) -> Path:
    """A ROS 2 bag. others: further (topic, type, time of recording, message)."""
    store = typestore()
    writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
    if compression:
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        items = [(shot.topic, *message(store, shot)[::-1], shot.received) for shot in shots]
        items += [(topic, msgtype, content, time) for topic, msgtype, time, content in others]
        for topic, msgtype, content, time in items:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=store)
            writer.write(connections[topic], time, store.serialize_cdr(content, msgtype))
    return path


def write_bag1(path: Path, shots: Iterable[Shot]) -> Path:
    """A ROS 1 bag."""
    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer1(path) as writer:
        connections: dict[str, Any] = {}
        for shot in shots:
            content, msgtype = message(store, shot, ros1=True)
            if shot.topic not in connections:
                connections[shot.topic] = writer.add_connection(shot.topic, msgtype, typestore=store)
            writer.write(connections[shot.topic], shot.received, store.serialize_ros1(content, msgtype))
    return path
