"""Every stage of a frame's way around the network, without ROS, and how it grows with the instances."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.bench.laws import fit_line
from fassst_ros.bench.measure import Timing, measure, timing
from fassst_ros.bench.report import Plot, Suite, Table, timing_table
from fassst_ros.bench.scenes import HEIGHT, WIDTH, made_up_objects
from fassst_ros.card import ModelCard
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.image_messages import compressed_to_frame
from fassst_ros.overlay import draw
from fassst_ros.pipeline import Segmentation, Segmenter
from fassst_ros.postprocess import postprocess
from fassst_ros.preprocess import Geometry
from fassst_ros.tracking import Tracker
from fassst_ros.types import Frame, Instances, UInt8Array

#: Numbers of made-up objects; the last is what the shipped model finds at most.
INSTANCES = (0, 10, 20, 30, 40, 49)
_KEEP_ALL = SegmentOptions(score_threshold=0.0)


def stages_suite(options: RuntimeOptions, chosen: SegmentOptions, image: UInt8Array, repeats: int) -> Suite:
    """Every stage between camera and message of the image; what grows with the instances also for more."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    jpeg = SimpleNamespace(format="jpeg", data=data)  # what the node decodes has these two, too
    with Segmenter.open(options, chosen, lambda _: None) as segmenter:
        card = segmenter.card
        segmenter.warm_up(10)
        runs = [segmenter.segment(Frame(image, "bgr")) for _ in range(repeats)]
        device = f"{segmenter.runtime.name}, {segmenter.runtime.precision}, {segmenter.runtime.device}"
    decode = measure(
        "decode JPEG",
        lambda: compressed_to_frame(jpeg),
        repeats,
        note=f"{data.size / 1e6:.1f} MB, quality 90; not in the sum",
    )
    way = _way(runs, f"to {card.input_width}x{card.input_height}, RGB", device)
    few = runs[-1].instances
    after = [_run_lengths(few, repeats), _overlay(few, image, card, repeats)]
    growth, plot = _growth(card, image, repeats)
    outside = sum(t.p50 for t in (*way, after[0]) if t.name not in ("infer", "sum"))
    whole = way[-1].p50 + after[0].p50
    share = f"{outside:.1f} ms ({100 * outside / whole:.0f} %) outside the network"
    return Suite(
        f"Stages of a {WIDTH}x{HEIGHT} frame, without ROS",
        (timing_table("One frame [ms]", [decode, *way, *after]), growth),
        (plot,),
        (
            (
                f"image in memory to run lengths of {len(few)} instances",
                f"{whole:.1f} ms, of which {share}",
            ),
        ),
    )


def _way(runs: list[Segmentation], resized: str, device: str) -> list[Timing]:
    """Stages of the Segmenter and their sum."""
    few = f"{len(runs[-1].instances)} instances in the image"
    notes = {"resize": resized, "infer": device, "postprocess": few}
    timings = [timing(stage, [run.stages[stage] for run in runs], text) for stage, text in notes.items()]
    sums = [sum(run.stages.values()) for run in runs]
    return [*timings, timing("sum", sums, "resize + infer + postprocess")]


def _run_lengths(instances: Instances, repeats: int) -> Timing:
    return measure(
        "run lengths",
        lambda: [mask.run_lengths() for mask in instances.masks],
        repeats,
        note="what the message holds of each mask",
    )


def _overlay(instances: Instances, image: UInt8Array, card: ModelCard, repeats: int) -> Timing:
    canvas = np.empty_like(image)
    return measure(
        "overlay",
        lambda: draw(image, instances, card, "bgr", out=canvas),
        repeats,
        note="drawn only where somebody looks",
    )


def _growth(card: ModelCard, image: UInt8Array, repeats: int) -> tuple[Table, Plot]:
    """Medians of what grows with the instances, with objects made up as in a busy street."""
    geometry = Geometry((HEIGHT, WIDTH), (card.input_height, card.input_width))
    rows: list[tuple[float, ...]] = []
    for n in INSTANCES:
        outputs = made_up_objects(n, card)

        def run(outputs: dict[str, NDArray[Any]] = outputs) -> Instances:
            return postprocess(outputs, geometry, card, _KEEP_ALL)

        instances = run()
        found = [
            measure("postprocess", run, repeats),
            _run_lengths(instances, repeats),
            _track(outputs, geometry, card, repeats),
            _overlay(instances, image, card, repeats),
        ]
        rows.append((n, *(t.p50 for t in found)))
    columns = ("instances", "postprocess", "run lengths", "track", "overlay")
    table = Table(
        "Instances per frame [ms, p50]", columns, tuple(rows), ("Made-up objects, sizes as in a street.",)
    )
    series = {
        "postprocess + run lengths": [(row[0], row[1] + row[2]) for row in rows],
        "track": [(row[0], row[3]) for row in rows],
        "overlay": [(row[0], row[4]) for row in rows],
    }
    words = []
    for name, points in series.items():
        counted = [point for point in points if point[0]]
        law = fit_line([x for x, _ in counted], [y for _, y in counted])
        words.append(f"{name}: {law.words('instance')}.")
    return table, Plot("Cost against instances", "instances in a frame", "p50 [ms]", series, tuple(words))


def _track(
    outputs: dict[str, NDArray[Any]],
    geometry: Geometry,
    card: ModelCard,
    repeats: int,
) -> Timing:
    """An update of the tracker with objects that move to and fro, in network-input pixels."""
    frames = [
        postprocess({**outputs, "boxes": outputs["boxes"] + np.float32(shift)}, geometry, card, _KEEP_ALL)
        for shift in (0, 2, 4, 2)
    ]
    tracker, turns = Tracker(), itertools.count()

    def update() -> object:
        turn = next(turns)
        return tracker.update(frames[turn % len(frames)], turn / 30)

    return measure("track", update, repeats)
