"""The shipped model in the node, on real street frames."""

from __future__ import annotations

import array
import itertools
from pathlib import Path

import pytest
from fassst_ros.msg import InstanceArray
from node_bench import Bench, segment_one
from sensor_msgs.msg import CompressedImage

from fassst_ros.bag import ImageBag
from fassst_ros.models import DEFAULT_MODEL, shipped_models

BAG = Path(__file__).parents[1] / "data" / "street_sample"


def test_people_or_cars_are_found(bench: Bench) -> None:
    if DEFAULT_MODEL not in shipped_models():
        pytest.skip(f"models/{DEFAULT_MODEL}.onnx is not there")
    _, driver = bench.active(model="", runtime="auto", threads=2, image_topics=["image/compressed"])
    results = driver.collect(InstanceArray, "instances")
    camera = driver.publisher(CompressedImage, "/image/compressed")
    found: set[str] = set()
    with ImageBag(BAG) as bag:
        for image in itertools.islice(bag, 0, None, 6):
            message = CompressedImage(format="jpeg", data=array.array("B", bytes(image.message.data)))
            message.header.stamp.sec = 1 + image.index
            came = segment_one(driver, camera, results, message)
            assert (came.width, came.height) == (2048, 1024)
            assert came.header.stamp.sec == 1 + image.index
            found |= {instance.class_name for instance in came.instances}
    assert found & {"person", "car"}, found
