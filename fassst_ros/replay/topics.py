"""Which image topics of a bag are replayed when none is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fassst_ros.bag import Bag, BagTopic, image_topics
from fassst_ros.image_messages import ENCODINGS
from fassst_ros.types import InputError


def choose_topics(bag: Bag, wanted: Sequence[str], notes: list[str]) -> list[BagTopic]:
    """The image topics: those wanted, else all whose images can be decoded. notes: told what is left out.

    Raises InputError if there is none.
    """
    topics = image_topics(bag, wanted)
    if wanted:
        return topics
    by_name = {t.name: t for t in topics}
    kept, reasons = [], {}
    for topic in topics:
        if topic.name.endswith("/compressed") and topic.name.removesuffix("/compressed") in by_name:
            reasons[topic.name] = "the same images are there uncompressed"
        elif reason := _unusable(bag, topic):
            reasons[topic.name] = reason
        else:
            kept.append(topic)
    if not kept:
        raise InputError(f"{bag.path}: no topic with images that can be segmented: " + _listed(reasons))
    if reasons:
        notes.append(f"left out (name them with --topic if they are wanted): {_listed(reasons)}")
    return kept


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _unusable(bag: Bag, topic: BagTopic) -> str:
    """Why images of a topic cannot be segmented, judged by the first one; "" if they can."""
    try:
        message = bag.read(next(bag.messages([topic.name])))
    except (InputError, StopIteration):
        return ""  # the run will tell, frame by frame
    if hasattr(message, "encoding"):
        if message.encoding in ENCODINGS:
            return ""
        return f"encoding {message.encoding!r} is not supported; expected one of {', '.join(ENCODINGS)}"
    return "a depth image" if "compressedDepth" in message.format else ""


def frame_rate(topic: BagTopic, bag: Bag) -> float:
    """Frames a second of a camera's video, so that it plays about as fast as it was recorded."""
    return min(max(topic.count / bag.duration, 1.0), 60.0) if bag.duration > 0 else 10.0
