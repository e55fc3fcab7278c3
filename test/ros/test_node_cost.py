"""Nothing gets slower unseen: what the node does to messages, in counts; see test_frame_cost.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from frame_cost import Cost, frame_cost
from node_bench import Bench
from std_msgs.msg import Header
from tiny_model import tiny_card

from fassst_ros.bench.scenes import HEIGHT, WIDTH, made_up_objects
from fassst_ros.config import SegmentOptions
from fassst_ros.postprocess import postprocess
from fassst_ros.preprocess import Geometry
from fassst_ros.ros import messages
from fassst_ros.ros.bench_cameras import encode
from fassst_ros.ros.convert import to_frame

OBJECTS = 30
LIMITS = {
    "bgr8": Cost(35, 20_000),  # no copy
    "mono8": Cost(40, 7_900_000),  # three channels of one
    "jpeg": Cost(40, 7_900_000),
    "InstanceArray": Cost(550, 1_260_000),
}


def decoding(encoding: str) -> Callable[[], object]:
    message = encode(np.full((HEIGHT, WIDTH, 3), 114, np.uint8), encoding)
    return lambda: to_frame(message)


def filling() -> Callable[[], object]:
    """The InstanceArray of a busy street."""
    card = tiny_card(768, 768, OBJECTS, 28)
    outputs, geometry = made_up_objects(OBJECTS, card), Geometry((HEIGHT, WIDTH), (768, 768))
    found = postprocess(outputs, geometry, card, SegmentOptions(score_threshold=0.0))
    names, header = messages.class_names(card), Header(frame_id="camera")
    return lambda: messages.to_message(found, header, "tiny 1", names)


def test_what_the_executor_looks_at(bench: Bench) -> None:
    """At every turn, for each camera: 8 cameras with 38 of them took 1.9 ms."""
    counts = []
    for topics in (["left"], ["left", "right"]):
        node, driver = bench.start(f"node_{len(topics)}", image_topics=topics)
        assert driver.change("configure")
        counts.append(len(list(node.waitables)))
        bench.stop()
    assert counts[1] - counts[0] <= 16


@pytest.mark.parametrize("part", LIMITS)
def test_lines_and_bytes(part: str) -> None:
    cost = frame_cost(filling() if part == "InstanceArray" else decoding(part))
    assert cost.within(LIMITS[part]), f"{part} costs {cost}; the limit is {LIMITS[part]}"
