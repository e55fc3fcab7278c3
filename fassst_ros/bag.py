"""Camera images and other messages out of bags, and our own message types for rosbags; no ROS needed.

Reads what rosbags reads: ROS 2 bags (sqlite3 and mcap, also compressed) as folders or single files, and ROS 1
bags; of files that were cut off, what is in them (fassst_ros/bag_rescue.py).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fassst_ros import bag_rescue
from fassst_ros.bag_open import Unreadable, advice, bag_files, open_reader, read_errors, storage_files, words
from fassst_ros.models import shared_folders
from fassst_ros.types import ConfigError, InputError

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys.store import Typestore
    from typing_extensions import Self

#: The message types that hold camera images.
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
#: A stamp is the first thing in a message with a header; it stands behind the CDR encapsulation header.
_ENCAPSULATION, _STAMP = 4, "iI"


def message_definitions() -> dict[str, str]:
    """Type name -> text of our .msg files: of the checkout, the wheel, or a sourced ROS 2 workspace.

    Raises ConfigError if none of them is there.
    """
    for root in [*shared_folders("msg"), *shared_folders("message_definitions")]:
        files = sorted(root.glob("*.msg"))
        if files:
            return {f"fassst_ros/msg/{file.stem}": file.read_text(encoding="utf-8") for file in files}
    raise ConfigError(
        "the message definitions (*.msg) are neither in the package nor in a sourced workspace: "
        "install fassst_ros again, or source install/setup.bash"
    )


def typestore() -> Typestore:
    """The message types of ROS 2 Humble and our own, for reading and writing bags with rosbags.

    Raises ConfigError where rosbags is not installed, or our definitions are not there.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as err:
        raise ConfigError(f"bags need rosbags ({err}): pip install 'fassst_ros[replay]'") from err

    store = get_typestore(Stores.ROS2_HUMBLE)
    own: dict[str, Any] = {}
    for name, text in message_definitions().items():
        own.update(get_types_from_msg(text, name))
    store.register(own)
    return store


@dataclass(frozen=True, slots=True)
class BagTopic:
    """A topic of a bag: name, message type, and how many messages the bag says it has."""

    name: str
    msgtype: str
    count: int


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message as stored. index: among those of its topic, from 0; received: by the recorder [ns]."""

    topic: str
    msgtype: str
    index: int
    received: int
    raw: bytes


class Bag:
    """The messages of a bag, in the order in which they were recorded. Use as a context manager.

    path: folder or file. Attributes: path, topics (name -> BagTopic), duration [s], and damage: what is wrong
    with the whole bag, "" if nothing; what can be read of it is read then.
    Raises InputError for a path that is no readable bag, ConfigError where rosbags is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""
        self._reader: AnyReader | None = None
        self._rescued: bag_rescue.Rescued | None = None
        files = bag_files(path)
        try:
            self._reader = open_reader(files, typestore())
        except Unreadable as err:
            self._rescued = bag_rescue.rescue(storage_files(path), typestore())
            if self._rescued is None:
                raise InputError(f"{path} is no readable ROS bag ({err}). {advice(path)}") from err
            self.damage = f"the bag is damaged ({err}); read what is in it"
        self.topics = self._find_topics()
        self.duration = self._rescued.duration if self._rescued else self._reader_duration()

    def _reader_duration(self) -> float:
        assert self._reader is not None
        return self._reader.duration / 1e9 if self._reader.message_count else 0.0

    def _find_topics(self) -> dict[str, BagTopic]:
        if self._rescued is not None:
            return {name: BagTopic(name, t, n) for name, (t, n) in self._rescued.topics.items()}
        assert self._reader is not None
        topics: dict[str, BagTopic] = {}
        for c in self._reader.connections:  # a topic may have several, one a publisher
            before = topics[c.topic].count if c.topic in topics else 0
            topics[c.topic] = BagTopic(c.topic, c.msgtype, before + c.msgcount)
        return topics

    def messages(self, topics: Collection[str], received: int | None = None) -> Iterator[BagMessage]:
        """The messages on `topics`; received: only those recorded at this time [ns], index -1.

        Raises InputError where the bag is damaged, or ends before it should.
        """
        counts: Counter[str] = Counter()
        messages = self._stored(topics, received)
        while True:
            try:
                topic, msgtype, time, raw = next(messages)
            except StopIteration:
                break
            except read_errors() as err:
                where = ", ".join(f"{n} on {t}" for t, n in counts.items()) or "none"
                raise InputError(f"{self.path} is damaged: {err}. Messages before that: {where}") from err
            yield BagMessage(topic, msgtype, -1 if received is not None else counts[topic], time, raw)
            counts[topic] += 1
        for topic in topics if received is None else ():
            if counts[topic] < self.topics[topic].count:
                raise InputError(
                    f"{self.path}: {counts[topic]} messages on {topic}, its metadata promises "
                    f"{self.topics[topic].count}"
                )

    def _stored(self, topics: Collection[str], received: int | None) -> Iterator[tuple[str, str, int, bytes]]:
        if self._rescued is not None:
            yield from (m for m in self._rescued.messages(topics) if received is None or m[2] == received)
            return
        assert self._reader is not None
        wanted = [c for c in self._reader.connections if c.topic in topics]
        stop = None if received is None else received + 1
        for connection, time, raw in self._reader.messages(wanted, received, stop) if wanted else ():
            yield connection.topic, connection.msgtype, time, raw

    def read(self, message: BagMessage) -> Any:
        """The fields of a message, as rosbags has them. Raises InputError if it is damaged."""
        try:
            if self._rescued is not None:
                return self._rescued.typestore.deserialize_cdr(message.raw, message.msgtype)
            assert self._reader is not None
            return self._reader.deserialize(message.raw, message.msgtype)
        except Exception as err:  # rosbags raises what struct and numpy raise
            what = f"message {message.index} on {message.topic}"
            raise InputError(f"{self.path}: {what} is damaged: {words(err)}") from err

    def close(self) -> None:
        """Close the files."""
        if self._reader is not None:
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
    Attributes: path, topic, msgtype (RAW or COMPRESSED), count; bag: the whole bag.
    Raises InputError for a path that is no readable bag, a bag without images on the topic, and,
    while reading, for a damaged message.
    """

    def __init__(self, path: Path, topic: str = "") -> None:
        self.bag = Bag(path)
        try:
            chosen = _choose(self.bag, topic)
        except InputError:
            self.bag.close()
            raise
        self.path = path
        self.topic, self.msgtype, self.count = chosen.name, chosen.msgtype, chosen.count

    def __iter__(self) -> Iterator[BagImage]:
        for stored in self.bag.messages([self.topic]):
            message = self.bag.read(stored)
            yield BagImage(stored.index, stamp_of(message), stored.received, message)

    def close(self) -> None:
        """Close the files."""
        self.bag.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stamp_of(message: Any) -> int:
    """header.stamp in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def raw_stamp(raw: bytes) -> int:
    """The header's stamp [ns] of a serialized message, without reading the rest."""
    seconds, nanoseconds = struct.unpack_from(_order(raw) + _STAMP, raw, _ENCAPSULATION)
    return int(seconds) * 10**9 + int(nanoseconds)


def with_stamp(raw: bytes, stamp: int) -> bytes:
    """The same serialized message with another stamp [ns]."""
    changed = bytearray(raw)
    struct.pack_into(_order(raw) + _STAMP, changed, _ENCAPSULATION, *divmod(stamp, 10**9))
    return bytes(changed)


def _order(raw: bytes) -> str:
    return "<" if raw[1] & 1 else ">"  # DDSI-RTPS, table of encapsulation identifiers


def _choose(bag: Bag, topic: str) -> BagTopic:
    """The topic with images. Raises InputError, listing what there is, if it is not exactly one."""
    images = image_topics(bag, [topic] if topic else [])
    if len(images) > 1:
        raise InputError(
            f"{bag.path} holds several image topics, choose one with --bag-topic (launch file: topic:=): "
            f"{content_of(bag)}"
        )
    return images[0]


def image_topics(bag: Bag, wanted: Collection[str] = ()) -> list[BagTopic]:
    """The topics with images, of `wanted` if it names any; at least one.

    Raises InputError, listing what there is, if one of them or all are missing.
    """
    images = {t.name: t for t in bag.topics.values() if t.msgtype in (RAW, COMPRESSED) and t.count}
    for name in wanted:
        if name not in images:
            raise InputError(f"{bag.path} holds no images on {name}; it holds: {content_of(bag)}")
    if not images:
        raise InputError(f"{bag.path} holds no {RAW} and no {COMPRESSED}; it holds: {content_of(bag)}")
    return [images[name] for name in wanted] if wanted else list(images.values())


def content_of(bag: Bag) -> str:
    """The topics and their types, for errors."""
    return ", ".join(f"{t.name} ({t.msgtype})" for t in bag.topics.values()) or "nothing"
