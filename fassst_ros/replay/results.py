"""Results of a replay as a bag of InstanceArrays: written by rosbags, read again by camera and stamp."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fassst_ros.bag import Bag, raw_stamp, stamp_of, typestore
from fassst_ros.decode import decode
from fassst_ros.types import InputError, Instances

if TYPE_CHECKING:
    from typing_extensions import Self

MESSAGE_TYPE = "fassst_ros/msg/InstanceArray"
#: So many messages are lost at most when the disk fills up.
_COMMIT = 10

Storage = Literal["sqlite3", "mcap"]


def result_topics(cameras: Sequence[str]) -> list[str]:
    """The topics of the node for these cameras: /segment_node/instances, or one named after each camera."""
    if len(cameras) == 1:
        return ["/segment_node/instances"]
    names = [camera.strip("/").removesuffix("/compressed") for camera in cameras]
    if len(set(names)) < len(names):  # raw and compressed of one camera
        names = [camera.strip("/") for camera in cameras]
    return [f"/segment_node/{name}/instances" for name in names]


class ResultBag:
    """A new bag with InstanceArrays on `topics`; version 8 of the format, which Humble reads too.

    Raises InputError if it cannot be made or written to; what was written before can still be read then, in
    the case of sqlite3 up to the last 10 messages; `ros2 bag reindex` makes the missing metadata.yaml.
    path: its folder.
    """

    def __init__(self, path: Path, topics: Sequence[str], storage: Storage = "sqlite3") -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

        self.path, self._errors = path, (WriterError, OSError, sqlite3.Error)
        self._store = typestore()
        self._writer: Any = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
        try:
            self._writer.open()
            add = self._writer.add_connection
            self._connections = {t: add(t, MESSAGE_TYPE, typestore=self._store) for t in topics}
        except self._errors as err:
            raise InputError(f"cannot write the bag {path}: {err}") from err
        self.count = 0

    def write(self, topic: str, received: int, message: Any) -> None:
        """Append a message of `to_message`; received: time of the recording [ns]."""
        self.write_raw(topic, received, self._store.serialize_cdr(message, MESSAGE_TYPE))

    def write_raw(self, topic: str, received: int, raw: bytes | memoryview) -> None:
        """Append an InstanceArray that is serialized already."""
        try:
            self._writer.write(self._connections[topic], received, raw)
            self.count += 1
            database = getattr(self._writer.storage, "conn", None)
            if database is not None and self.count % _COMMIT == 0:
                database.commit()  # rosbags itself would do so at the end only
        except self._errors as err:
            with suppress(*self._errors):
                self._writer.abort()
            raise InputError(f"cannot write to the bag {self.path}: {err}. Is the disk full?") from err

    def close(self) -> None:
        """Finish the bag; it can be read then. Does nothing after a failure."""
        if self._writer.storage is None:
            return
        try:
            self._writer.close()
        except self._errors as err:
            with suppress(*self._errors):
                self._writer.abort()
            raise InputError(f"cannot finish the bag {self.path}: {err}. Is the disk full?") from err

    def to_message(self, instances: Instances, header: Any, model: str, names: Mapping[int, str]) -> Any:
        """The InstanceArray of one image, as the node makes it.

        header: of the image. names: class id -> name.
        """
        types: Mapping[str, Any] = self._store.types
        make_time, make_header = types["builtin_interfaces/msg/Time"], types["std_msgs/msg/Header"]
        instance, mask = types["fassst_ros/msg/Instance"], types["fassst_ros/msg/Mask"]
        tracks = [0] * len(instances) if instances.track_ids is None else instances.track_ids.tolist()
        items = []
        for i, roi in enumerate(instances.masks):
            height, width = roi.bits.shape
            class_id = int(instances.class_ids[i])
            shape = mask(roi.x, roi.y, width, height, roi.run_lengths().astype(np.uint32, copy=False))
            box, score = instances.boxes[i].tolist(), float(instances.scores[i])
            items.append(instance(i + 1, tracks[i], class_id, names[class_id], score, *box, shape))
        height, width = instances.size
        stamp = make_time(header.stamp.sec, header.stamp.nanosec)
        return types[MESSAGE_TYPE](make_header(stamp, header.frame_id), height, width, model, items)


class ResultReader:
    """The results of a run by camera topic and stamp. Raises InputError if the bag cannot be read.

    topics: camera topic -> its InstanceArray topic. Of frames with the same stamp, the last counts.
    """

    def __init__(self, path: Path, topics: Mapping[str, str]) -> None:
        self._bag = Bag(path)
        cameras = {result: camera for camera, result in topics.items() if result in self._bag.topics}
        #: (camera topic, stamp [ns]) -> (time of the recording [ns]).
        self._times: dict[tuple[str, int], int] = {}
        self._topics = dict(topics)
        for message in self._bag.messages(list(cameras)):
            stamp = raw_stamp(message.raw)
            self._times[cameras[message.topic], stamp] = message.received

    @property
    def frames(self) -> Set[tuple[str, int]]:
        """Camera topic and stamp of every result."""
        return self._times.keys()

    def message(self, camera: str, stamp: int, received: int | None = None) -> Any:
        """The InstanceArray of a frame, None if there is none.

        received: of several with this stamp, take the one that was recorded at this time [ns].
        """
        if (camera, stamp) not in self._times:
            return None
        for time in dict.fromkeys((received, self._times[camera, stamp])):
            stored = () if time is None else self._bag.messages([self._topics[camera]], time)
            for message in map(self._bag.read, stored):
                if stamp_of(message) == stamp:
                    return message
        return None

    def instances(self, camera: str, stamp: int, received: int | None = None) -> Instances | None:
        """What was found in a frame, None if there is no result; arguments as of `message`."""
        message = self.message(camera, stamp, received)
        return None if message is None else decode(message)

    def close(self) -> None:
        """Close the files."""
        self._bag.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
