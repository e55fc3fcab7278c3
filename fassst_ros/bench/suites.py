"""Every stage of a frame's way around the network, without ROS; and the scenes that are measured."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.bench.measure import Timing, measure, timing
from fassst_ros.bench.report import Suite, timing_table
from fassst_ros.card import ModelCard
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.images import read_image
from fassst_ros.overlay import draw
from fassst_ros.pipeline import Segmenter
from fassst_ros.postprocess import postprocess
from fassst_ros.preprocess import Geometry
from fassst_ros.tracking import Tracker
from fassst_ros.types import ConfigError, Frame, Instances, UInt8Array

#: The camera of CityScapes; every stage is measured on an image of this size.
HEIGHT, WIDTH = 1024, 2048
#: How many objects the made-up scene has: a busy street.
OBJECTS = 30
#: How many objects tracking is measured with; the last is what the shipped model finds at most.
TRACKED = (10, 30, 49)


def bench_image(path: Path | None) -> UInt8Array:
    """(1024, 2048, 3) uint8 BGR: the photo, scaled; or shapes on a gradient with a camera's noise."""
    if path is not None:
        photo: Any = cv2.resize(read_image(path).image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        return np.asarray(photo, np.uint8)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    image = np.stack([rows // 5, columns // 10, 200 - rows // 8], axis=2).astype(np.float32)
    for _ in range(60):
        center = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        axes = int(rng.integers(10, 120)), int(rng.integers(10, 160))
        cv2.ellipse(image, center, axes, 0, 0, 360, rng.integers(0, 256, 3).tolist(), cv2.FILLED)
    image += rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def made_up_objects(n: int, card: ModelCard) -> dict[str, NDArray[Any]]:
    """Raw outputs of n round objects whose sizes are spread as in a street: many small, few large."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.normal(np.log(card.input_width / 20), 0.8, (n, 2)))
    centers = rng.random((n, 2)) * (card.input_width, card.input_height)
    h, w = card.masks.height, card.masks.width
    rows, columns = np.mgrid[0:h, 0:w]
    distance = np.hypot((rows + 0.5) / h - 0.5, (columns + 0.5) / w - 0.5)
    mask = 1 / (1 + np.exp(60 * (distance - 0.4)))
    return {
        "scores": np.linspace(0.95, 0.4, n, dtype=np.float32)[None],
        "labels": (np.arange(n, dtype=np.int32) % len(card.classes))[None],
        "boxes": np.hstack([centers - sides / 2, centers + sides / 2]).astype(np.float32)[None],
        "masks": np.broadcast_to(mask.astype(np.float32), (1, n, h, w)),
    }


def threshold_for(options: RuntimeOptions, image: UInt8Array, objects: int) -> float:
    """The score threshold that leaves `objects` instances in the image; -1 (the card's) for 0.

    Raises ConfigError if the model finds nothing at all.
    """
    if objects == 0:
        return -1.0
    with Segmenter.open(options, SegmentOptions(score_threshold=0.0), lambda _: None) as segmenter:
        scores = segmenter.segment(Frame(image, "bgr")).instances.scores
    if len(scores) == 0:
        raise ConfigError("--objects: the model finds nothing in this image; give a photo with --image")
    return float(scores[min(objects, len(scores)) - 1])


def stages_suite(options: RuntimeOptions, chosen: SegmentOptions, image: UInt8Array, repeats: int) -> Suite:
    """Every stage between camera and message; what grows with the objects also for a busy street."""
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    frame = Frame(image, "bgr")
    with Segmenter.open(options, chosen, lambda _: None) as segmenter:
        card = segmenter.card
        segmenter.warm_up(10)
        runs = [segmenter.segment(frame) for _ in range(repeats)]
        device = f"{segmenter.runtime.name}, {segmenter.runtime.precision}, {segmenter.runtime.device}"
    few = f"{len(runs[-1].instances)} instances in the image"
    notes = {"resize": f"to {card.input_width}x{card.input_height}, RGB", "infer": device, "postprocess": few}
    timings = [
        measure(
            "decode JPEG",
            lambda: cv2.imdecode(jpeg, cv2.IMREAD_COLOR),
            repeats,
            note=f"{jpeg.size / 1e6:.1f} MB, quality 90",
        )
    ]
    for stage, text in notes.items():
        timings.append(timing(stage, [run.stages[stage] for run in runs], text))
    timings += _growing(runs[-1].instances, image, card, repeats, few)

    outputs = made_up_objects(OBJECTS, card)
    geometry = Geometry(frame.size, (card.input_height, card.input_width))
    busy_options = SegmentOptions(score_threshold=0.0)

    def busy_street() -> Instances:
        return postprocess(outputs, geometry, card, busy_options)

    many = f"{OBJECTS} made-up objects"
    timings.append(measure("postprocess", busy_street, repeats, note=many))
    timings += _growing(busy_street(), image, card, repeats, many)
    timings += [_tracking(n, card, repeats) for n in TRACKED]
    title = f"Stages of a {WIDTH}x{HEIGHT} frame, without ROS"
    return Suite(title, (timing_table("Stages [ms]", timings),))


def _growing(
    instances: Instances, image: UInt8Array, card: ModelCard, repeats: int, note: str
) -> list[Timing]:
    """The stages after postprocessing, whose cost grows with the objects."""
    canvas = np.empty_like(image)

    def run_lengths() -> object:
        return [mask.run_lengths() for mask in instances.masks]

    def overlay() -> object:
        return draw(image, instances, card, "bgr", out=canvas)

    return [
        measure("run lengths", run_lengths, repeats, note=note),
        measure("overlay", overlay, repeats, note=note),
    ]


def _tracking(n: int, card: ModelCard, repeats: int) -> Timing:
    """An update of the tracker with n made-up objects that move to and fro."""
    outputs, geometry = (
        made_up_objects(n, card),
        Geometry((HEIGHT, WIDTH), (card.input_height, card.input_width)),
    )
    frames = [
        postprocess(
            {**outputs, "boxes": outputs["boxes"] + np.float32(shift)},
            geometry,
            card,
            SegmentOptions(score_threshold=0.0),
        )
        for shift in (0, 2, 4, 2)  # network-input pixels
    ]
    tracker, turns = Tracker(), itertools.count()

    def update() -> object:
        turn = next(turns)
        return tracker.update(frames[turn % len(frames)], turn / 30)

    return measure("track", update, repeats, note=f"{n} made-up objects")
