"""COCO's compressed run lengths against pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from test_types import random_instances

from fassst_ros.rle import coco_results, compress, expand
from fassst_ros.types import InputError, RoiMask


@pytest.mark.parametrize("seed", range(30))
def test_same_string_as_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 400, 2))
    bits = rng.random((height, width)) < rng.choice([0.0, 0.001, 0.02, 0.5, 1.0])
    counts = RoiMask(0, 0, np.ascontiguousarray(bits.T)).run_lengths()
    theirs = coco_mask.encode(np.asfortranarray(bits, np.uint8))["counts"].decode()
    assert compress(counts) == theirs
    assert expand(theirs) == counts.tolist()


def test_large_and_empty_counts() -> None:
    counts = [0, 2**31, 1, 2**31 - 1, 2**31, 0]
    assert expand(compress(counts)) == counts
    assert compress([]) == ""
    assert expand("") == []


@pytest.mark.parametrize("text", ["~", " ", "o"])
def test_broken_strings(text: str) -> None:
    with pytest.raises(InputError, match="COCO run lengths"):
        expand(text)


def test_negative_count() -> None:
    with pytest.raises(InputError, match="-3"):
        compress([4, -3])


def test_results_load_in_pycocotools(tmp_path: Path) -> None:
    instances = random_instances(1)
    dataset = {
        "images": [{"id": 7, "height": 23, "width": 31}],
        "annotations": [],
        "categories": [{"id": i, "name": str(i)} for i in range(1, 9)],
        "info": {},
    }
    for name, content in (("gt.json", dataset), ("results.json", coco_results(instances, 7))):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    loaded = COCO(str(tmp_path / "gt.json")).loadRes(str(tmp_path / "results.json"))
    annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[7]))
    assert len(annotations) == len(instances)
    for i, (annotation, dense) in enumerate(zip(annotations, instances.to_dense(), strict=True)):
        np.testing.assert_array_equal(loaded.annToMask(annotation), dense)
        assert annotation["category_id"] == instances.class_ids[i]
        x, y, w, h = annotation["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], instances.boxes[i])
        assert annotation["score"] == pytest.approx(float(instances.scores[i]), abs=1e-5)
