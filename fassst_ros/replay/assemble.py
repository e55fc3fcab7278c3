"""The record of an offline run, made from what its job gave: outcomes, accuracy, comparison and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fassst_ros.evaluation.matching import ImageMatch
from fassst_ros.replay.against import Other, compare, most_different
from fassst_ros.replay.drops import parse_rate, simulate
from fassst_ros.replay.folder import RESULTS, RunFolder
from fassst_ros.replay.job import Job
from fassst_ros.replay.pictures import Painter, most_changed, slowest, worst_by_truth
from fassst_ros.replay.record import CameraRecord, FrameRecord, ReplayRecord
from fassst_ros.replay.results import ResultReader
from fassst_ros.types import FassstError


def finish(record: ReplayRecord, job: Job, folder: RunFolder, other: Other | None, rate: str) -> None:
    """Fill the record with what the job gave. rate: as given on the command line; "": none is simulated."""
    card = job.segmenter.card
    threshold = job.segmenter.options.score_threshold
    threshold = card.score_threshold if threshold < 0 else threshold
    record.colors = {c.name: c.color for c in card.classes}
    record.notes, record.frames, record.cameras = job.notes, list(job.frames), _cameras(job)
    matches = _accuracy(record, job, threshold)
    if rate:
        hertz = parse_rate(rate)
        record.rate = "as recorded" if hertz is None else f"at {hertz:g} Hz"
        record.frames = drop(record.frames, hertz)
    else:
        record.frames = [
            dataclasses.replace(f, latency_ms=sum(f.stages.values())) if f.outcome == "segmented" else f
            for f in record.frames
        ]
    try:
        with ResultReader(folder.bag, {c.topic: c.results for c in record.cameras}) as results:
            record.results = RESULTS
            painter = Painter(job.bag, results, card, folder.path)
            if other is not None:
                record.against = compare(record, results, other)
            _pictures(record, job, painter, matches, threshold, other)
    except FassstError as err:
        job.stopped = True
        record.notes.append(f"pictures or comparison: {err}")
    except KeyboardInterrupt:
        record.interrupted = True
        record.notes.append("pictures or comparison are not complete: ended by Ctrl-C")


def _cameras(job: Job) -> list[CameraRecord]:
    made = []
    for camera in job.cameras.values():
        video = camera.video.path if camera.video is not None else None
        shown = video.name if video is not None and video.is_file() else ""
        topic = camera.topic
        made.append(CameraRecord(topic.name, topic.msgtype, topic.count, camera.results, shown))
    return made


def _accuracy(record: ReplayRecord, job: Job, threshold: float) -> list[ImageMatch]:
    """Accuracy, and the agreement of each annotated frame; returns what belongs to what there."""
    if job.accuracy is None:
        return []
    matches: list[ImageMatch] = []
    if job.accuracy.predictions:
        record.accuracy, matches = job.accuracy.result(threshold)
        qualities = {m.image_id: m.quality(threshold) for m in matches}
        for index, image_id in job.truth_ids.items():
            record.frames[index] = dataclasses.replace(record.frames[index], quality=qualities[image_id])
    record.notes += _truth_notes(job, record.interrupted)
    return matches


def drop(frames: Sequence[FrameRecord], rate: float | None) -> list[FrameRecord]:
    """The frames with their fate at a rate [Hz], None: as recorded."""
    changed = []
    for frame, fate in zip(frames, simulate(frames, rate), strict=True):
        if frame.outcome == "segmented" and fate.latency_ms is None:
            reason = "a newer frame took its place (simulated)"
            changed.append(dataclasses.replace(frame, outcome="dropped", reason=reason))
        elif frame.outcome == "segmented":
            changed.append(dataclasses.replace(frame, latency_ms=fate.latency_ms))
        else:
            changed.append(frame)
    return changed


def _truth_notes(job: Job, interrupted: bool) -> list[str]:
    """Which frames and which ground truth have no partner."""
    assert job.accuracy is not None
    truth, met = job.accuracy.truth, job.accuracy.predictions
    notes = []
    stamps = [f.stamp for f in job.frames if f.outcome == "segmented"]
    if not met and stamps and not job.left_out:
        first = min(stamp for _, stamp in truth.ids)
        notes.append(
            f"no frame has ground truth: the stamps of {truth.name} begin with {first}, those of the bag "
            f"with {min(stamps)}"
        )
    elif len(met) < len(truth.ids) and not (job.limit or job.stopped or interrupted):
        notes.append(f"{len(truth.ids) - len(met)} of {len(truth.ids)} annotated frames are not in the bag")
    return notes


def _pictures(
    record: ReplayRecord,
    job: Job,
    painter: Painter,
    matches: list[ImageMatch],
    threshold: float,
    other: Other | None,
) -> None:
    if other is not None and record.against is not None:
        different = most_different(painter, record, record.against, other)
        record.worst += [different] if different else []
    if matches:
        assert job.accuracy is not None
        frames = {image_id: record.frames[index] for index, image_id in job.truth_ids.items()}
        record.worst.append(worst_by_truth(painter, frames, matches, job.accuracy.predictions, threshold))
    if any(f.stages for f in record.frames):
        record.worst.append(slowest(painter, record.frames))
    changed = most_changed(painter, record.frames, job.changes)
    record.worst += [changed] if changed else []
