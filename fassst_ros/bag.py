"""Camera images out of ROS 2 bags, and our own message types for rosbags; no ROS needed.

Reads what rosbags reads: sqlite3 and mcap, of Humble and later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fassst_ros.types import ConfigError, InputError

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

#: The message types that hold camera images.
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def message_definitions() -> dict[str, str]:
    """Type name -> text of our .msg files, from the checkout or from a sourced ROS 2 workspace.

    Raises ConfigError if neither is there.
    """
    roots = [Path(__file__).resolve().parents[1] / "msg"]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    roots += [Path(prefix) / "share" / "fassst_ros" / "msg" for prefix in prefixes if prefix]
    for root in roots:
        files = sorted(root.glob("*.msg"))
        if files:
            return {f"fassst_ros/msg/{file.stem}": file.read_text(encoding="utf-8") for file in files}
    raise ConfigError(
        "the message definitions (msg/*.msg) are neither beside the package nor in a sourced workspace: "
        "run from a checkout, or source install/setup.bash"
    )


def typestore() -> Typestore:
    """The message types of ROS 2 Humble and our own, for reading and writing bags with rosbags."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    own: dict[str, Any] = {}
    for name, text in message_definitions().items():
        own.update(get_types_from_msg(text, name))
    store.register(own)
    return store


@dataclass(frozen=True, slots=True)
class BagImage:
    """One image message: its place in the bag (from 0), both times in ns, the message of rosbags."""

    index: int
    stamp: int  # header.stamp: when the camera took it
    received: int  # when the recorder got it
    message: Any


class ImageBag:
    """The images of one topic of a bag, in the order in which they were recorded.

    topic: name in the bag; empty: the only image topic. Use as a context manager.
    Attributes: path, topic, msgtype (RAW or COMPRESSED), count.
    Raises InputError for a path that is no readable bag, a bag without images on the topic, and,
    while reading, for a damaged message.
    """

    def __init__(self, path: Path, topic: str = "") -> None:
        reader_type, reader_error = _rosbags()
        if not path.exists():
            raise InputError(f"bag {path} does not exist. Give the folder that holds its metadata.yaml")
        try:
            reader = reader_type([path], default_typestore=typestore())
            reader.open()
        except (reader_error, OSError, ValueError, KeyError, AssertionError) as err:
            raise InputError(
                f"{path} is no readable ROS 2 bag ({err}). Check it with `ros2 bag info`"
            ) from err
        try:
            self._connection = _choose(reader.connections, topic, path)
        except InputError:
            reader.close()
            raise
        self._reader = reader
        self.path = path
        self.topic: str = self._connection.topic
        self.msgtype: str = self._connection.msgtype
        self.count: int = self._connection.msgcount

    def __iter__(self) -> Iterator[BagImage]:
        messages = self._reader.messages([self._connection])
        for index in range(self.count):
            try:
                connection, received, raw = next(messages)
                message: Any = self._reader.deserialize(raw, connection.msgtype)
            except StopIteration:
                raise InputError(
                    f"{self.path}: {index} images on {self.topic}, its metadata promises {self.count}"
                ) from None
            except Exception as err:  # rosbags raises what sqlite3, struct and numpy raise
                raise InputError(f"{self.path}: message {index} on {self.topic} is damaged: {err}") from err
            stamp = message.header.stamp
            yield BagImage(index, stamp.sec * 10**9 + stamp.nanosec, received, message)

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def __enter__(self) -> ImageBag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _rosbags() -> tuple[type[AnyReader], type[Exception]]:
    """The reader of rosbags and its error. Raises ConfigError where rosbags is not installed."""
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
    except ImportError as err:
        raise ConfigError(f"reading bags needs rosbags ({err}): pip install rosbags") from err
    return AnyReader, AnyReaderError


def _choose(connections: list[Connection], topic: str, path: Path) -> Connection:
    """The connection with images. Raises InputError, listing what there is, if it is not exactly one."""
    images = [c for c in connections if c.msgtype in (RAW, COMPRESSED) and c.msgcount]
    found = ", ".join(f"{c.topic} ({c.msgtype})" for c in connections) or "nothing"
    if topic:
        images = [c for c in images if c.topic == topic]
        if not images:
            raise InputError(f"{path} holds no images on {topic}; it holds: {found}")
    if not images:
        raise InputError(f"{path} holds no {RAW} and no {COMPRESSED}; it holds: {found}")
    if len({c.topic for c in images}) > 1:
        raise InputError(f"{path} holds several image topics, choose one with --bag-topic: {found}")
    return images[0]
