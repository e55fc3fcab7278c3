"""The record of a live replay, made of what its passes gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fassst_ros.bag import ImageBag
from fassst_ros.card import ModelCard
from fassst_ros.replay.rates import HighestRate, RateRecord
from fassst_ros.replay.record import CameraRecord, FrameRecord, ReplayRecord
from fassst_ros.ros.live_passes import RecordedPass, Sent
from fassst_ros.ros.outputs import STAGES
from fassst_ros.ros.replay import LATE

#: The stages that follow each other; the others are sums of them.
PARTS = tuple(stage for stage in STAGES if stage not in ("processing", "total"))


#: Share of frames that may be published late without a note.
LATE_SHARE = 0.05


@dataclass(slots=True)
class Measured:
    """All that was measured so far.

    topic: of the InstanceArrays. facts: what the node says of itself. colors: class name -> RGB.
    threshold: the score from which on it publishes instances. card: None if the model is not on this machine.
    """

    topic: str = ""
    threshold: float = 0.0
    card: ModelCard | None = None
    facts: dict[str, str] = field(default_factory=dict)
    colors: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    recorded: RecordedPass | None = None
    rates: list[RateRecord] = field(default_factory=list)
    highest: HighestRate | None = None
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


def make_record(bag: ImageBag, done: Measured, facts: Mapping[str, str]) -> ReplayRecord:
    """The record of the run. facts: what else a reader must know."""
    recorded = done.recorded
    record = ReplayRecord(
        kind="live",
        title=f"{done.facts.get('model', 'The node')} live on {bag.path.name}",
        facts={"bag": bag.path.name, "images": f"{bag.count} on {bag.topic}", **done.facts, **facts},
        rate="as recorded" if recorded else "",
        colors=done.colors,
        cameras=[CameraRecord(bag.topic, bag.msgtype, bag.count, results=done.topic)],
        notes=list(done.notes),
        interrupted=done.interrupted,
        rates=done.rates,
        highest=done.highest,
    )
    if recorded is not None:
        record.results = recorded.bag.path.name
        record.frames = frame_records(bag.topic, recorded)
        record.notes += pass_notes(recorded)
    return record


def frame_records(topic: str, found: RecordedPass) -> list[FrameRecord]:
    """One record a frame of the recorded pass, in the order of the bag."""
    stages = _stages_of_results(found)
    records = [
        FrameRecord(
            *(topic, sent.index, sent.recorded, sent.received, "segmented"),
            stages=stages.get(sent.stamp, {}),
            latency_ms=found.latency_ms[sent.stamp],
            classes=dict(found.classes[sent.stamp]),
            tracks=found.tracks[sent.stamp],
        )
        if sent.stamp in found.latency_ms
        else _without_result(topic, sent, found)
        for sent in found.sent.values()
    ]
    records += [
        FrameRecord(topic, skipped.index, skipped.recorded, skipped.received, "failed", skipped.reason)
        for skipped in found.skipped
    ]
    return sorted(records, key=lambda record: record.index)


def _stages_of_results(found: RecordedPass) -> dict[int, dict[str, float]]:
    """Stamp -> stages; the node's times come in the order of its results."""
    names = [name for name in PARTS if name in found.stages_ms]
    rows = zip(*(found.stages_ms[name] for name in names), strict=True)
    return {
        stamp: dict(zip(names, row, strict=True)) for stamp, row in zip(found.latency_ms, rows, strict=False)
    }


def _without_result(topic: str, sent: Sent, found: RecordedPass) -> FrameRecord:
    """The node counts what became of frames, but does not say of which: the reason covers all of them."""
    missing = len(found.sent) - len(found.latency_ms)
    counts = {name: found.counters.get(name, 0) for name in ("dropped", "stale", "failed")}
    if counts["failed"] == missing:
        reason = "the node failed to segment it; the node's log says why"
        return FrameRecord(topic, sent.index, sent.recorded, sent.received, "failed", reason)
    reason = "a newer frame took its place"
    if counts["dropped"] != missing:
        words = {"dropped": "replaced by a newer one", "stale": "older than max_age", "failed": "failed"}
        parts = [f"{count} {words[name]}" for name, count in counts.items() if count]
        if rest := missing - sum(counts.values()):
            parts.append(f"{rest} lost on the way")
        reason = f"of {missing} frames without a result: {', '.join(parts)}"
    return FrameRecord(topic, sent.index, sent.recorded, sent.received, "dropped", reason)


def pass_notes(found: RecordedPass) -> list[str]:
    """What a reader must know of the recorded pass."""
    notes = list(found.warnings)
    late = [sent.late for sent in found.sent.values() if sent.late > LATE]
    if len(late) > LATE_SHARE * len(found.sent):
        notes.append(
            f"the player published {len(late)} of {len(found.sent)} frames late, by up to "
            f"{max(late) * 1e3:.0f} ms: the machine was busy, or frames take longer to decode than to come"
        )
    if found.counters and found.latency_ms and not found.stages_ms:
        notes.append("times of the stages are missing: not all of the node's reports arrived")
    if found.counters and found.counters.get("segmented") != len(found.latency_ms):
        notes.append(
            f"the node counted {found.counters.get('segmented')} segmented frames, {len(found.latency_ms)} "
            "results arrived"
        )
    return notes
