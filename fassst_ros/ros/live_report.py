"""The end of a live replay: its record with accuracy and pictures from the bag of results, and its page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime

from fassst_ros.bag import Bag, ImageBag
from fassst_ros.bench.measure import machine_facts
from fassst_ros.card import ModelCard
from fassst_ros.decode import decode
from fassst_ros.evaluation.matching import ImageMatch
from fassst_ros.predict import write_text
from fassst_ros.replay.folder import RunFolder
from fassst_ros.replay.pictures import Painter, slowest, worst_by_truth
from fassst_ros.replay.record import FILE_NAME, FrameRecord, ReplayRecord
from fassst_ros.replay.report import check_figures, summary_lines, write_report
from fassst_ros.replay.results import ResultReader
from fassst_ros.replay.truth import Accuracy, Truth
from fassst_ros.ros.live_record import Measured, make_record
from fassst_ros.types import ConfigError, FassstError, InputError


def can_draw(tell: Callable[[str], object]) -> bool:
    """Whether there will be a page; the numbers are worth the time without it."""
    try:
        check_figures()
    except ConfigError as err:
        tell(f"numbers only, no page: {err}")
        return False
    return True


def write(
    bag: ImageBag,
    truth: Truth | None,
    folder: RunFolder,
    done: Measured,
    page: bool,
    tell: Callable[[str], object],
) -> None:
    """Write replay.json and, if `page`, the page; tell the main numbers. Raises FassstError if that fails."""
    machine = machine_facts()
    facts = {name: machine[name] for name in ("cpu", "cores")}
    facts["date"] = datetime.now().astimezone().isoformat(" ", "seconds")
    record = make_record(bag, done, facts)
    if record.results and done.card is not None:
        accuracy = None if truth is None else Accuracy(truth, done.card.classes)
        examine(record, bag.bag, folder, done.card, accuracy, done.threshold)
    file = folder.path / FILE_NAME
    write_text(file, record.to_json())
    for line in [*record.notes, *(summary_lines(record) if record.frames else ())]:
        tell(line)
    if record.highest is not None:
        tell(f"highest rate with less than 5 % missing frames: {record.highest}")
    if record.results:
        tell(f"results: {folder.bag} (a bag)")
    tell(f"numbers: {file}")
    if page:
        tell(f"report: {write_report(record, folder.path)}")


def examine(
    record: ReplayRecord,
    bag: Bag,
    folder: RunFolder,
    card: ModelCard,
    accuracy: Accuracy | None,
    threshold: float,
) -> None:
    """Fill in accuracy and worst frames; what fails is told in the record's notes.

    threshold: the score from which on the node publishes instances.
    """
    try:
        with ResultReader(folder.bag, {c.topic: c.results for c in record.cameras}) as results:
            painter = Painter(bag, results, card, folder.path)
            if accuracy is not None:
                frames = _collect(record, results, accuracy)
                matches = _compare(record, frames, accuracy, threshold)
                worst = worst_by_truth(painter, frames, matches, accuracy.predictions, threshold)
                record.worst += [worst] if matches else []
            record.worst.append(slowest(painter, record.frames))
    except FassstError as err:
        record.notes.append(f"accuracy or pictures: {err}")


def _collect(record: ReplayRecord, results: ResultReader, accuracy: Accuracy) -> dict[int, FrameRecord]:
    """Take over what was found in annotated frames; id of the annotated image -> frame."""
    frames: dict[int, FrameRecord] = {}
    for frame in record.frames:
        message = results.message(frame.topic, frame.stamp) if frame.outcome == "segmented" else None
        if message is None:
            continue
        image_id = accuracy.truth.image_id(frame.topic, message.header.frame_id, frame.stamp)
        if image_id is None or image_id in frames:
            continue
        try:
            accuracy.add(image_id, decode(message))
        except InputError as err:
            record.notes.append(f"{frame.topic}, stamp {frame.stamp}: not compared: {err}")
        else:
            frames[image_id] = frame
    return frames


def _compare(
    record: ReplayRecord, frames: dict[int, FrameRecord], accuracy: Accuracy, threshold: float
) -> list[ImageMatch]:
    if not frames:
        record.notes.append(f"no segmented frame has ground truth in {accuracy.truth.name}")
        return []
    record.accuracy, matches = accuracy.result(threshold)
    record.accuracy["source"] += f"; found is what the node published, scores from {threshold:g} on"
    qualities = {match.image_id: match.quality(threshold) for match in matches}
    annotated = {(frame.topic, frame.index): image_id for image_id, frame in frames.items()}
    record.frames = [
        dataclasses.replace(frame, truth=True, quality=qualities[image_id])
        if (image_id := annotated.get((frame.topic, frame.index))) is not None
        else frame
        for frame in record.frames
    ]
    return matches
