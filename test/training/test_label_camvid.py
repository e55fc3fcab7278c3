"""CamVid's labels cut by boxes: which pixels become whose, and what nobody claims."""

from __future__ import annotations

import numpy as np
import pytest

from fassst_ros.training.camvid import (
    BICYCLIST,
    CAR,
    FENCE,
    MIN_AREA,
    PEDESTRIAN,
    VOID,
    FrameLabels,
    divide,
    label_frame,
)
from fassst_ros.types import RoiMask
from fassst_ros.yolox import Boxes

ROAD = 3


def frame(*areas: tuple[int, int, int, int, int]) -> np.ndarray:
    """Labels of 120 x 160; areas: (label, x0, y0, x1, y1), later ones on top."""
    labels = np.full((120, 160), ROAD, np.uint8)
    for label, x0, y0, x1, y1 in areas:
        labels[y0:y1, x0:x1] = label
    return labels


def boxes(*rows: tuple[int, float, float, float, float, float]) -> Boxes:
    """rows: (category, score, x0, y0, x1, y1), best score first."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes(table[:, 2:], table[:, 1], table[:, 0].astype(np.int32))


def dense(mask: RoiMask) -> np.ndarray:
    full = np.zeros((120, 160), np.bool_)
    h, w = mask.bits.shape
    full[mask.y : mask.y + h, mask.x : mask.x + w] = mask.bits
    return full


def ignored(result: FrameLabels) -> np.ndarray:
    full = np.zeros((120, 160), np.bool_)
    for _, mask in result.regions:
        assert not (full & dense(mask)).any(), "regions do not overlap"
        full |= dense(mask)
    return full


def test_mask_is_the_label_inside_the_box_and_the_box_is_tightened() -> None:
    labels = frame((CAR, 20, 40, 60, 70), (PEDESTRIAN, 100, 30, 112, 70))
    result = label_frame(labels, boxes((6, 0.9, 17, 37, 64, 72), (1, 0.6, 97, 28, 115, 71)))
    assert result.instances.class_ids.tolist() == [6, 1]
    np.testing.assert_allclose(result.instances.scores, [0.9, 0.6])
    np.testing.assert_array_equal(result.instances.boxes, [[20, 40, 60, 70], [100, 30, 112, 70]])
    np.testing.assert_array_equal(dense(result.instances.masks[0]), labels == CAR)
    np.testing.assert_array_equal(dense(result.instances.masks[1]), labels == PEDESTRIAN)
    assert result.regions == ()
    assert len(result.boxes) == 0


@pytest.mark.parametrize(
    ("category", "box"),
    [
        (1, (20, 40, 60, 70)),  # a person where the labels say car
        (3, (20, 40, 100, 110)),  # mostly beside the car
        (44, (20, 40, 60, 70)),  # not of the street
    ],
)
def test_box_that_the_labels_contradict_claims_nothing(category: int, box: tuple[int, int, int, int]) -> None:
    labels = frame((CAR, 20, 40, 60, 70))
    result = label_frame(labels, boxes((category, 0.9, *box)))
    assert len(result.instances) == 0
    assert len(result.boxes) == 0
    np.testing.assert_array_equal(ignored(result), labels == CAR)


def test_nearer_car_has_the_pixels_that_two_boxes_share() -> None:
    labels = frame((CAR, 60, 30, 100, 60), (CAR, 20, 40, 70, 90))
    far, near = (3, 0.9, 55, 30, 100, 60), (3, 0.5, 20, 40, 70, 90)
    result = label_frame(labels, boxes(far, near))
    assert [m.area for m in result.instances.masks] == [30 * 30 + 10 * 10, 50 * 50]
    assert not (dense(result.instances.masks[0]) & dense(result.instances.masks[1])).any()
    np.testing.assert_array_equal(result.instances.boxes[1], [20, 40, 70, 90])


def test_object_that_nearer_ones_hide_is_none() -> None:
    labels = frame((CAR, 20, 40, 70, 90))
    result = label_frame(labels, boxes((3, 0.9, 25, 40, 70, 70), (3, 0.5, 20, 40, 70, 90)))
    assert [m.area for m in result.instances.masks] == [50 * 50]


def test_mask_that_the_boxes_alone_drew_is_not_known() -> None:
    low = frame((CAR, 0, 40, 160, 60))
    wide = label_frame(low, boxes(*((3, 0.9, x, 38, x + 40, 62) for x in range(0, 160, 40))))
    assert len(wide.instances) == 4, "a third of the outline at most is another car's"
    high = frame((CAR, 0, 40, 160, 80))
    result = label_frame(high, boxes(*((3, 0.9, x, 38, x + 20, 82) for x in range(0, 160, 20))))
    np.testing.assert_array_equal(result.boxes.boxes[1], [20, 38, 40, 82])
    assert len(result.boxes) == 8
    assert len(result.instances) == 0
    assert result.regions == (), "an object without a mask is still an object"


def test_fragments_and_tiny_objects_are_ignored() -> None:
    labels = frame((CAR, 20, 40, 60, 70), (CAR, 64, 60, 69, 65), (PEDESTRIAN, 100, 50, 106, 56))
    result = label_frame(labels, boxes((3, 0.9, 20, 40, 70, 70), (1, 0.9, 100, 50, 106, 56)))
    assert MIN_AREA > 6 * 6
    np.testing.assert_array_equal(result.instances.boxes, [[20, 40, 60, 70]])
    expected = labels == PEDESTRIAN
    expected[60:65, 64:69] = True
    np.testing.assert_array_equal(ignored(result), expected)


def test_riders_are_boxes_and_what_no_person_was_found_in_is_ignored() -> None:
    labels = frame((BICYCLIST, 20, 30, 40, 80), (BICYCLIST, 100, 30, 120, 80))
    found = boxes((1, 0.9, 18, 30, 42, 70), (2, 0.8, 18, 50, 42, 80), (2, 0.7, 98, 55, 122, 80))
    result = label_frame(labels, found)
    assert len(result.instances) == 0
    assert result.boxes.category_ids.tolist() == [1, 2, 2]
    expected = (labels == BICYCLIST) & (np.arange(160) > 90)
    expected[70:80, 20:40] = True  # below the person's box
    np.testing.assert_array_equal(ignored(result), expected)
    assert {category for category, _ in result.regions} == {1}


def test_void_and_what_is_seen_through_a_fence_are_ignored() -> None:
    labels = frame((VOID, 10, 10, 30, 40), (FENCE, 60, 50, 140, 80))
    result = label_frame(labels, boxes((3, 0.6, 80, 50, 110, 75), (3, 0.6, 100, 20, 130, 40)))
    assert len(result.instances) == 0
    expected = labels == VOID
    expected[50:75, 80:110] = True
    np.testing.assert_array_equal(ignored(result), expected)


def test_regions_fill_their_boxes_and_lose_slivers_only() -> None:
    pixels = np.zeros((120, 160), np.bool_)
    pixels[10:110, 10:20] = True
    pixels[100:110, 10:150] = True  # an L, whose own box is nearly the image
    pixels[50:52, 60:150] = True  # a sliver
    regions = list(divide(pixels))
    assert len(regions) > 1
    assert all(region.bits.mean() >= 0.5 for region in regions)
    joined = np.logical_or.reduce([dense(region) for region in regions])
    pixels[50:52] = False
    pixels[50:52, 10:20] = True
    np.testing.assert_array_equal(joined, pixels)
    assert list(divide(np.zeros((120, 160), np.bool_))) == []


def test_frame_without_boxes_or_objects() -> None:
    result = label_frame(frame(), boxes())
    assert (len(result.instances), len(result.boxes), result.regions) == (0, 0, ())
    crowd = label_frame(frame((CAR, 20, 40, 60, 70)), boxes())
    assert [(category, mask.area) for category, mask in crowd.regions] == [(3, 1200)]
