"""Nothing gets slower unseen: what the work on a frame costs, in counts that no other program can change.

A limit is what was counted when it was set, and about a quarter more. If a change costs more and is worth it,
raise the limit in the same commit and say why; lower it after a change that makes something cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from frame_cost import Cost, frame_cost, relative_time
from tiny_model import make_tiny_model, tiny_card

from fassst_ros import preprocess
from fassst_ros.bench.scenes import HEIGHT, WIDTH, made_up_objects
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.pipeline import Segmenter
from fassst_ros.postprocess import postprocess
from fassst_ros.preprocess import Geometry, input_buffer, prepare
from fassst_ros.types import Frame, Instances, RoiMask

SIDE, OBJECTS = 768, 30
FRAME = HEIGHT * WIDTH * 3  # bytes
OPTIONS = SegmentOptions(score_threshold=0.0)
LIMITS = {
    "preparation": Cost(15, 20_000),
    "postprocessing": Cost(1250, 6_000_000),
    "run lengths": Cost(265, 1_100_000),
    "segment": Cost(1350, 6_100_000),
}


def camera_image() -> Any:
    """(HEIGHT, WIDTH, 3) uint8; what it shows does not matter for what is counted."""
    return np.full((HEIGHT, WIDTH, 3), 114, np.uint8)


def preparation() -> Callable[[], object]:
    frame, buffer = Frame(camera_image(), "bgr"), input_buffer(SIDE, SIDE)
    return lambda: prepare(frame, SIDE, SIDE, buffer)


def postprocessing(objects: int = OBJECTS) -> Callable[[], Instances]:
    """Of a busy street: many small objects and few large ones."""
    card = tiny_card(SIDE, SIDE, objects, 28)
    outputs, geometry = made_up_objects(objects, card), Geometry((HEIGHT, WIDTH), (SIDE, SIDE))
    return lambda: postprocess(outputs, geometry, card, OPTIONS)


def run_lengths(objects: int = OBJECTS) -> Callable[[], object]:
    masks = postprocessing(objects)().masks
    return lambda: [mask.run_lengths() for mask in masks]


#: CPU time of all parts together, relative to the fixed operation of frame_cost.py.
RELATIVE_TIME = 8.0
CALLS = {"preparation": preparation, "postprocessing": postprocessing, "run lengths": run_lengths}


@pytest.mark.parametrize("part", CALLS)
def test_lines_and_bytes(part: str) -> None:
    assert_within(frame_cost(CALLS[part]()), part)


def assert_within(cost: Cost, part: str) -> None:
    assert cost.within(LIMITS[part]), f"{part} costs {cost}; the limit is {LIMITS[part]}"


def test_a_whole_frame(tmp_path: Path) -> None:
    """Segmenter.segment, with a model that takes no time."""
    card = tiny_card(SIDE, SIDE, OBJECTS, 28, threshold=0.0)
    made = {name: values[0] for name, values in made_up_objects(OBJECTS, card).items()}
    path = make_tiny_model(tmp_path, made["boxes"], made["labels"], made["scores"], made["masks"], card)
    options = RuntimeOptions(model=str(path), runtime="onnxruntime", threads=1)
    with Segmenter.open(options, OPTIONS) as segmenter:
        frame = Frame(camera_image(), "bgr")
        assert len(segmenter.segment(frame).instances) == OBJECTS
        assert_within(frame_cost(lambda: segmenter.segment(frame)), "segment")


def test_cost_does_not_depend_on_the_machine() -> None:
    call = postprocessing()
    first, second = frame_cost(call), frame_cost(call)
    assert first.lines == second.lines
    assert second.size == pytest.approx(first.size, rel=0.01)


def test_relative_time() -> None:
    """Two to four times the fixed operation; the limit is generous, because CPUs differ."""
    parts = [make() for make in CALLS.values()]
    assert relative_time(lambda: [part() for part in parts]) < RELATIVE_TIME


def test_a_loop_over_pixels_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(mask: RoiMask) -> list[int]:
        counts, last = [0], False
        for pixel in mask.bits.ravel(order="F"):
            if pixel != last:
                counts.append(0)
                last = pixel
            counts[-1] += 1
        return counts

    mask = RoiMask(0, 0, np.eye(9, dtype=np.bool_))
    assert slow(mask) == mask.run_lengths().tolist()
    monkeypatch.setattr(RoiMask, "run_lengths", slow)
    assert frame_cost(run_lengths(2)).lines > 10 * LIMITS["run lengths"].lines


def test_a_copy_of_a_frame_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Copying:
        def __getattr__(self, name: str) -> Any:
            return getattr(cv2, name)

        @staticmethod
        def resize(image: Any, *arguments: Any, **named: Any) -> Any:
            return cv2.resize(image.copy(), *arguments, **named)

    monkeypatch.setattr(preprocess, "cv2", Copying())
    cost = frame_cost(preparation())
    assert FRAME <= cost.size < 1.1 * FRAME
    assert not cost.within(LIMITS["preparation"])


def test_work_without_lines_and_bytes_is_seen() -> None:
    """A filter of the whole frame, in place."""
    call, frame = preparation(), camera_image()

    def slow() -> None:
        cv2.medianBlur(frame, 9, dst=frame)
        call()

    assert frame_cost(slow).within(LIMITS["preparation"])
    assert relative_time(slow) > RELATIVE_TIME
