"""What can still be read of ROS 2 bag files that were cut off, as when the recording machine lost its power.

rosbags (as `ros2 bag`) refuses an mcap file without its end and a database whose last pages are missing. Both
kinds of file grow at their end, so all that was written before is still there. No ROS needed.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

_ZSTD = b"\x28\xb5\x2f\xfd"
#: Topic, message type, time of the recording [ns], content.
Stored = tuple[str, str, int, bytes]


@dataclass(frozen=True, slots=True)
class Rescued:
    """Files of which a part can be read. topics: name -> (type, messages that can be read); duration [s]."""

    files: Sequence[Path]
    typestore: Typestore
    topics: dict[str, tuple[str, int]]
    duration: float

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        """The messages on `topics` that can be read, in the order in which they were written."""
        for file in self.files:
            for topic, msgtype, time, raw in _read(file):
                if topic in topics:
                    yield topic, msgtype, time, _decompressed(raw)


def rescue(files: Sequence[Path], typestore: Typestore) -> Rescued | None:
    """What can be read of damaged files, None if it is no message at all.

    typestore: the types that messages are read with. Reads all files once.
    """
    topics: dict[str, tuple[str, int]] = {}
    first, last = sys.maxsize, 0
    for file in files:
        for topic, msgtype, time, _ in _read(file):
            topics[topic] = (msgtype, topics.get(topic, ("", 0))[1] + 1)
            first, last = min(first, time), max(last, time)
    return Rescued(files, typestore, topics, (last - first) / 1e9) if topics else None


def _read(file: Path) -> Iterator[Stored]:
    """All messages up to the first damage."""
    if file.suffix == ".db3":
        yield from _read_database(file)
    elif file.suffix == ".mcap":
        yield from _read_mcap(file)


def _read_database(file: Path) -> Iterator[Stored]:
    """The rows of `messages`, by their number: this needs no index, and stops at the first lost page."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{quote(str(file))}?immutable=1", uri=True)) as connection,
    ):
        connection.execute("PRAGMA writable_schema = ON")  # else SQLite refuses a file of too few pages
        names = {i: (n, t) for i, n, t in connection.execute("SELECT id, name, type FROM topics")}
        query = "SELECT topic_id, timestamp, data FROM messages NOT INDEXED ORDER BY id"
        for topic_id, time, data in connection.execute(query):
            if topic_id in names:
                yield (*names[topic_id], time, data)


def _decompressed(raw: bytes) -> bytes:
    """A message as it was before the recorder compressed it, if it did: CDR never begins like zstd."""
    if not raw.startswith(_ZSTD):
        return raw
    import zstandard

    try:
        return zstandard.decompress(raw)
    except zstandard.ZstdError:
        return raw  # reading its fields will tell


def _read_mcap(file: Path) -> Iterator[Stored]:
    from mcap.exceptions import McapError
    from mcap.records import Channel, Message, Schema
    from mcap.stream_reader import StreamReader

    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    damage = (McapError, OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError)
    with suppress(*damage), file.open("rb") as stream:
        for record in StreamReader(stream).records:
            if isinstance(record, Schema):
                schemas[record.id] = record.name
            elif isinstance(record, Channel):
                channels[record.id] = (record.topic, schemas.get(record.schema_id, ""))
            elif isinstance(record, Message):
                yield (*channels[record.channel_id], record.log_time, record.data)
