"""Cameras, what is counted about them, and the one place a camera has for its newest frame."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fassst_ros.tracking import Tracker
from fassst_ros.types import ConfigError

#: Frames over which the percentiles of /diagnostics are taken.
WINDOW = 300


@dataclass(slots=True)
class Counters:
    """Frames since the node was configured.

    received: taken from the middleware. dropped: replaced by a newer one before their turn.
    stale: older than max_age. failed: not segmented because of an error. segmented: published.
    """

    received: int = 0
    dropped: int = 0
    stale: int = 0
    failed: int = 0
    segmented: int = 0


@dataclass(slots=True, eq=False)
class Camera:
    """One image topic and its state.

    topic: as in the parameter. name: unique, for output topics and reports; "" if it is the only one.
    arrival: time.monotonic() of the last frame, 0 before the first one. warning: what is wrong with
    the input at present, or "". error: why the last frame failed, or "" if it did not. tracker: of its
    objects; while the node is active, only the worker may use it.
    """

    topic: str
    name: str
    counters: Counters = field(default_factory=Counters)
    arrival: float = 0.0
    warning: str = ""
    error: str = ""
    tracker: Tracker = field(default_factory=Tracker)
    _times: dict[str, deque[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, stages: dict[str, float]) -> None:
        """Keep the times of one frame, in milliseconds."""
        with self._lock:
            for stage, value in stages.items():
                self._times.setdefault(stage, deque(maxlen=WINDOW)).append(value)

    def percentiles(self, stage: str) -> tuple[float, float]:
        """(p50, p99) of a stage in milliseconds over the last frames; NaN before the first one."""
        with self._lock:
            values = list(self._times.get(stage, ()))
        if not values:
            return float("nan"), float("nan")
        p50, p99 = np.percentile(values, (50, 99))
        return float(p50), float(p99)


def make_cameras(topics: Sequence[str]) -> list[Camera]:
    """The cameras of the parameter image_topics.

    A single camera has no name: its outputs are ~/instances and so on. Of several, each is named
    by its topic without leading "/" or "~/" and trailing "/compressed": ~/left/image/instances.
    Raises ConfigError for no topic or two of the same name.
    """
    if not topics:
        raise ConfigError("parameter image_topics is empty; expected at least one topic, such as ['image']")
    if len(topics) == 1:
        return [Camera(topics[0], "")]
    names = [topic.lstrip("~").strip("/").removesuffix("/compressed") for topic in topics]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"parameter image_topics = {list(topics)}: two of them are named alike; expected different "
            "topics (one of raw and compressed is enough)"
        )
    return [Camera(topic, name) for topic, name in zip(topics, names, strict=True)]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as the callback got it: when (time.perf_counter), and then on the node's clock [ns]."""

    message: Any
    time: float
    clock: int


class Mailbox:
    """One place a camera: the newest frame replaces the one that waits. Thread-safe."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self._cameras = list(cameras)
        self._slots: list[Arrival | None] = [None] * len(self._cameras)
        self._next = 0
        self._open = True
        self._changed = threading.Condition()

    def put(self, index: int, arrival: Arrival) -> None:
        """Leave a frame of camera `index`; the one that it replaces is counted as dropped."""
        counters = self._cameras[index].counters
        with self._changed:
            if not self._open:
                return
            counters.received += 1
            counters.dropped += self._slots[index] is not None
            self._slots[index] = arrival
            self._changed.notify()

    def take(self) -> tuple[int, Arrival] | None:
        """Wait for a frame; cameras take turns. None once the mailbox is closed."""
        with self._changed:
            while self._open:
                for offset in range(len(self._slots)):
                    index = (self._next + offset) % len(self._slots)
                    arrival = self._slots[index]
                    if arrival is not None:
                        self._slots[index] = None
                        self._next = (index + 1) % len(self._slots)
                        return index, arrival
                self._changed.wait()
            return None

    def close(self) -> None:
        """Refuse further frames, drop those that wait and wake the one who waits for them."""
        with self._changed:
            self._open = False
            for index, arrival in enumerate(self._slots):
                self._cameras[index].counters.dropped += arrival is not None
                self._slots[index] = None
            self._changed.notify_all()
