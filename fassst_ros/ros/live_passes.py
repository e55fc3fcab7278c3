"""Passes of the live replay: the player publishes, the node segments, and this process gathers both sides."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.serialization import deserialize_message

from fassst_ros.bag import raw_stamp, with_stamp
from fassst_ros.evaluation.latency import percentiles
from fassst_ros.msg import InstanceArray
from fassst_ros.processes import Family
from fassst_ros.replay.rates import RateRecord, frames_of
from fassst_ros.replay.results import ResultBag
from fassst_ros.ros.listen import Listener, Reports
from fassst_ros.ros.process import spin_until

POINTS = (50, 90, 99)
#: A frame without a result counts as missing when no result at all came for so long, in seconds.
QUIET = 3.0
#: How long the node's counters are awaited after a pass, in seconds; they come once a second by default.
COUNTED = 3.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame that was published. index: in the bag; stamp: that it was given, recorded: in the bag [ns].

    received: when it was recorded [ns]. late: seconds behind its time.
    """

    index: int
    stamp: int
    recorded: int
    received: int
    late: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """A damaged frame that could not be published; times as in Sent."""

    index: int
    recorded: int
    received: int
    reason: str


@dataclass(slots=True)
class RecordedPass:
    """The bag played once, as it was recorded.

    bag, topic: where the results go. sent: stamp -> frame, in order. latency_ms: stamp -> milliseconds to the
    arrival of its result, in order of arrival. classes: stamp -> class name -> instances. tracks: stamp ->
    ids. counters: what the node says about these frames. stages_ms: name -> milliseconds of each result, in
    order of arrival; empty if the node's reports got lost on the way, so that they cannot be told apart.
    """

    bag: ResultBag
    topic: str
    sent: dict[int, Sent] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    latency_ms: dict[int, float] = field(default_factory=dict)
    classes: dict[int, Counter[str]] = field(default_factory=dict)
    tracks: dict[int, tuple[int, ...]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    _waiting: list[tuple[bytes, int]] = field(default_factory=list)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """What the player says."""
        kind = event["event"]
        if kind == "published":
            recorded, received = event["recorded"]
            sent = Sent(event["index"], event["stamp"], recorded, received, event["late"])
            self.sent[sent.stamp] = sent
        elif kind == "skipped":
            recorded, received = event["recorded"]
            self.skipped.append(Skipped(event["index"], recorded, received, event["reason"]))
        elif kind == "warning":
            self.warnings.append(event["reason"])

    def on_result(self, raw: bytes, arrival: int) -> None:
        """What the node publishes; it may be here before the player has said that it sent the frame."""
        self._waiting.append((raw, arrival))

    def write(self) -> None:
        """Put the results of known frames into the bag: recorded stamp, and the time of the recording."""
        waiting, self._waiting = self._waiting, []  # nothing twice, should writing fail
        for raw, arrival in waiting:
            sent = self.sent.get(raw_stamp(raw))
            if sent is None:
                self._waiting.append((raw, arrival))
                continue
            self.latency_ms[sent.stamp] = (arrival - sent.stamp) / 1e6
            message = deserialize_message(raw, InstanceArray)
            self.classes[sent.stamp] = Counter(item.class_name for item in message.instances)
            self.tracks[sent.stamp] = tuple(item.track_id for item in message.instances if item.track_id)
            self.bag.write_raw(
                self.topic, sent.received + arrival - sent.stamp, with_stamp(raw, sent.recorded)
            )


class Passes:
    """Runs one pass after the other. cameras: prefixes of the node's topics, in the player's order."""

    def __init__(
        self, node: Node, target: str, cameras: Sequence[str], family: Family, seconds: float
    ) -> None:
        self._node, self._family, self._seconds = node, family, seconds
        self._player = family.children["player"]
        self._listeners = [Listener(node, camera, self._on_result) for camera in cameras]
        self._take: Callable[[bytes, int], object] = lambda *_: None
        self.reports = Reports(node, target)

    @property
    def topics(self) -> list[str]:
        """The InstanceArray topics that are heard."""
        return [listener.topic for listener in self._listeners]

    def connected(self) -> bool:
        """Whether the node is heard, and says what it runs."""
        heard = all(map(self._node.count_publishers, self.topics))
        return heard and bool(self.reports.colors and self.reports.cameras)

    def recorded(self, found: RecordedPass, progress: Callable[[int, int], None]) -> None:
        """Play the bag as it was recorded; progress: called with frames sent and segmented so far.

        What came until an error or a signal stays in `found`.
        """
        before = self._begin(found.on_result)

        def handle(event: Mapping[str, Any]) -> None:
            found.on_event(event)
            progress(len(found.sent), len(found.latency_ms))

        self._player.tell(play="recorded")
        try:
            self._until_played(handle, found.write)
            self._settle([list(found.sent)[-1:]], before)
        finally:
            found.write()
        found.counters = self._counted(before)
        stages = self._listeners[0].stages
        found.stages_ms = {n: list(v) for n, v in stages.items() if len(v) == len(found.latency_ms)}
        progress(len(found.sent), len(found.latency_ms))

    def at_rate(self, rate: float, kind: str, times: float = 1.0, **how: Any) -> RateRecord:
        """Play frames from memory at `rate` Hz for `times` the set time.

        how: what the player is told besides.
        """
        before = self._begin(lambda *_: None)
        frames = frames_of(rate, self._seconds * times, len(self._listeners))
        self._player.tell(play="rate", rate=rate, frames=frames, **how)
        played = self._until_played(lambda _: None, lambda: None)
        stamps: list[list[int]] = played["stamps"]
        self._settle([list(camera[-1:]) for camera in stamps], before)
        by_camera = [
            [(listener.results[stamp] - stamp) / 1e6 for stamp in sent if stamp in listener.results]
            for listener, sent in zip(self._listeners, stamps, strict=True)
        ]
        latency = [value for camera in by_camera for value in camera]
        count = len(stamps[0])
        return RateRecord(
            rate=rate,
            kind=kind,
            cameras=len(stamps),
            played=(count - 1) / played["seconds"] if played["seconds"] else 0.0,
            late_ms=played["late"] * 1e3,
            published=sum(map(len, stamps)),
            segmented=len(latency),
            counters=self._counted(before),
            latency_ms=percentiles(latency, POINTS),
            stages_ms=self._stage_percentiles(),
            by_camera=tuple(map(len, by_camera)),
        )

    def _on_result(self, raw: bytes, arrival: int) -> None:
        self._take(raw, arrival)

    def _begin(self, take: Callable[[bytes, int], object]) -> dict[str, int]:
        """Forget the pass before; returns the node's counters up to now."""
        self._take = take
        for listener in self._listeners:
            listener.clear()
        return self.reports.counters()

    def _until_played(
        self, handle: Callable[[Mapping[str, Any]], None], each: Callable[[], None]
    ) -> dict[str, Any]:
        """Spin until the player has played; its last event. Raises ProcessError if the player fails."""
        last: dict[str, Any] = {}

        def played() -> bool:
            while not last and (item := self._family.next_event(0.0)) is not None:
                if item[1]["event"] == "played":
                    last.update(item[1])
                else:
                    handle(item[1])
            each()
            return bool(last)

        spin_until(self._node, played, float("inf"))
        return last

    def _settle(self, last: Sequence[Sequence[int]], before: Mapping[str, int]) -> None:
        """Wait for the results of the last frames, then until the node has counted them."""
        changed, known = time.monotonic(), -1

        def done() -> bool:
            nonlocal changed, known
            if (count := self._results()) != known:
                changed, known = time.monotonic(), count
            newest = zip(self._listeners, last, strict=False)
            return (
                all(stamp in listener.results for listener, stamps in newest for stamp in stamps)
                or time.monotonic() - changed > QUIET
            )

        spin_until(self._node, done, float("inf"))
        heard = self.reports.heard
        spin_until(
            self._node,
            lambda: (
                self.reports.heard > heard and self._counted(before).get("segmented", 0) >= self._results()
            ),
            COUNTED,
        )

    def _results(self) -> int:
        return sum(len(listener.results) for listener in self._listeners)

    def _counted(self, before: Mapping[str, int]) -> dict[str, int]:
        """What the node has counted since `before`."""
        return {name: count - before.get(name, 0) for name, count in self.reports.counters().items()}

    def stages(self) -> dict[str, list[float]]:
        """Stage -> milliseconds of each frame of the last pass, camera by camera."""
        names = self._listeners[0].stages
        joined = {name: [t for one in self._listeners for t in one.stages[name]] for name in names}
        return {name: times for name, times in joined.items() if times}

    def _stage_percentiles(self) -> dict[str, dict[str, float | None]]:
        return {name: percentiles(times, POINTS) for name, times in self.stages().items()}
