"""Masks made of boxes: which pixels, which classes, and how they score as a reference."""

from __future__ import annotations

import numpy as np
import pytest

from fassst_ros.card import ClassInfo
from fassst_ros.evaluation.references import MAX_INSTANCES, BoxReference, fill, to_instances
from fassst_ros.labels import CITYSCAPES
from fassst_ros.types import ConfigError
from fassst_ros.yolox import Boxes


def test_box_is_filled_by_the_pixels_whose_centres_it_holds() -> None:
    mask = fill([2.4, 1.6, 6.5, 4.5], "box")
    assert mask is not None
    assert (mask.x, mask.y, mask.bits.shape, mask.area) == (2, 2, (2, 4), 8)
    assert fill([2.6, 1.0, 3.4, 4.0], "box") is None  # between two centres
    assert fill([3.0, 3.0, 3.0, 9.0], "box") is None


def test_ellipse_is_inscribed() -> None:
    mask = fill([10, 20, 110, 60], "ellipse")
    assert mask is not None
    assert (mask.x, mask.y, mask.bits.shape) == (10, 20, (40, 100))
    assert mask.area == pytest.approx(np.pi * 50 * 20, rel=0.01)
    assert not mask.bits[[0, 0, -1, -1], [0, -1, 0, -1]].any()  # the corners
    assert mask.bits[20].sum() >= 98  # the long axis
    assert mask.bits[:, 50].all()  # the short one
    np.testing.assert_array_equal(mask.bits, mask.bits[::-1, ::-1])


def test_classes_go_by_name_and_others_are_dropped() -> None:
    boxes = Boxes(
        np.float32([[0, 0, 9, 9], [5, 5, 9, 9], [1, 1, 7, 7], [0.6, 0.6, 1.4, 1.4]]),
        np.float32([0.9, 0.8, 0.7, 0.6]),
        np.int32([3, 44, 1, 1]),  # car, bottle, person, and a person between pixels
    )
    found = to_instances(boxes, "box", {1: 24, 3: 26}, (10, 10))
    assert found.class_ids.tolist() == [26, 24]
    np.testing.assert_allclose(found.scores, [0.9, 0.7])
    assert [m.area for m in found.masks] == [81, 36]
    many = Boxes(
        np.tile(np.float32([[0, 0, 4, 4]]), (150, 1)), np.ones(150, np.float32), np.ones(150, np.int32)
    )
    assert len(to_instances(many, "ellipse", {1: 1}, (10, 10))) == MAX_INSTANCES
    nothing = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    assert len(to_instances(nothing, "box", {1: 1}, (10, 10))) == 0


def test_a_detector_without_the_wanted_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="knows none of the classes rickshaw"):
        BoxReference(None, "box", [ClassInfo(1, "rickshaw", (0, 0, 0))])  # type: ignore[arg-type]
    BoxReference(None, "box", CITYSCAPES)  # type: ignore[arg-type]
