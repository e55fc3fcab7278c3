"""Which detection takes which object, and what the errors are called; COCO's own matching as the oracle."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_coco import CLASSES, made_up, perturbed

from fassst_ros.evaluation.analysis import analyse, threshold_curve
from fassst_ros.evaluation.coco import evaluate_in_full
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.evaluation.matching import FAULTS, ImageMatch, match_images
from fassst_ros.evaluation.pictures import ranked
from fassst_ros.types import Instances, RoiMask

HEIGHT, WIDTH = 60, 100
Rect = tuple[int, int, int, int]  # x, y, width, height


def scene(
    objects: list[tuple[int, Rect]],
    found: list[tuple[float, int, Rect]],
    crowds: Sequence[tuple[int, Rect]] = (),
) -> ImageMatch:
    """One image with rectangles: (class, rectangle) that are there, (score, class, rectangle) found."""
    annotations = []
    for crowd, entries in ((0, objects), (1, crowds)):
        for class_id, (x, y, w, h) in entries:
            bits = np.zeros((WIDTH, HEIGHT), np.bool_)  # COCO counts down columns
            bits[x : x + w, y : y + h] = True
            counts = RoiMask(0, 0, bits).run_lengths().tolist()
            annotations.append(
                {
                    "id": len(annotations), "image_id": 7, "category_id": class_id, "iscrowd": crowd,
                    "bbox": [x, y, w, h], "area": w * h,
                    "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
                }
            )  # fmt: skip
    raw = {
        "images": [{"id": 7, "height": HEIGHT, "width": WIDTH, "file_name": "7.jpg"}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 8, "name": "truck"}],
    }
    found = sorted(found, key=lambda f: -f[0])
    instances = Instances(
        np.array([(x, y, x + w, y + h) for _, _, (x, y, w, h) in found], np.float32).reshape(-1, 4),
        np.array([s for s, _, _ in found], np.float32),
        np.array([c for _, c, _ in found], np.int32),
        tuple(RoiMask(x, y, np.ones((h, w), np.bool_)) for _, _, (x, y, w, h) in found),
        (HEIGHT, WIDTH),
    )
    (match,) = match_images(evaluate_in_full(GroundTruth.read(raw, CLASSES), {7: instances}))
    return match


def coco_hits(result: Any) -> dict[tuple[int, int], list[tuple[float, bool, bool]]]:
    """(image, class) -> (score, matched, ignored) of each detection, by pycocotools at IoU 0.5."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(result.truth)
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(result.detections)), "segm")
        run.evaluate()
    hits = {}
    for entry in run.evalImgs:
        if entry is not None and entry["aRng"] == run.params.areaRng[0]:
            matched = (entry["dtMatches"][0] > 0) & ~entry["dtIgnore"][0].astype(bool)
            rows = zip(entry["dtScores"], matched, entry["dtIgnore"][0].astype(bool), strict=True)
            hits[entry["image_id"], entry["category_id"]] = [(float(s), bool(m), bool(i)) for s, m, i in rows]
    return hits


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_matching_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = made_up(rng)
    predictions = perturbed(raw, rng, {i["id"] for i in raw["images"]}, {1: 1, 3: 3})
    result = evaluate_in_full(GroundTruth.read(raw, CLASSES), predictions)
    expected = coco_hits(result)
    counted = 0
    for match in match_images(result):
        for info in CLASSES:
            mine = match.class_ids == info.id
            rows = list(zip(match.scores[mine], match.taken[mine] >= 0, match.ignored[mine], strict=True))
            assert rows == expected.get((match.image_id, info.id), []), (match.image_id, info.name)
            counted += len(rows)
        for i in range(len(match.scores)):  # a detection is right, ignored, or wrong for a reason
            assert (match.taken[i] >= 0) + match.ignored[i] + (match.faults[i] in FAULTS) == 1
        for j, i in enumerate(match.taken_by):
            assert i < 0 or match.taken[i] == j
    assert counted == sum(map(len, predictions.values())) > 30


def test_causes_of_false_alarms() -> None:
    match = scene(
        [(1, (0, 0, 20, 20)), (3, (50, 0, 20, 20))],
        [
            (0.9, 1, (0, 0, 20, 20)),  # right
            (0.8, 1, (0, 0, 20, 19)),  # the same person again
            (0.7, 1, (50, 0, 20, 20)),  # a car
            (0.6, 3, (50, 0, 20, 8)),  # the car, badly: IoU 0.4
            (0.5, 1, (50, 12, 20, 8)),  # the car's lower end: IoU 0.4
            (0.4, 3, (80, 40, 10, 10)),  # nothing there
        ],
    )
    assert match.faults == ("", *FAULTS)  # each cause once, in the order of their precedence
    assert match.found(0.0).tolist() == [True, False]
    assert match.found(0.95).tolist() == [False, False]
    assert match.false_alarms(0.6) == [1, 2, 3]
    np.testing.assert_allclose(match.boxes[3], [50, 0, 20, 8])


def test_image_quality_is_that_of_the_paper() -> None:
    objects = [(1, (0, 0, 20, 20)), (3, (50, 0, 20, 20))]
    match = scene(objects, [(0.9, 1, (0, 0, 20, 16)), (0.5, 3, (80, 40, 10, 10))])
    assert match.quality(0.7) == pytest.approx(0.8 / (1 + 0.5))  # one found with IoU 0.8, one missed
    assert match.quality(0.4) == pytest.approx(0.8 / (1 + 0.5 + 0.5))  # and a false alarm
    assert match.quality(0.95) == 0.0
    assert scene([], []).quality(0.5) is None
    assert scene([], [(0.9, 1, (0, 0, 9, 9))]).quality(0.5) == 0.0


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong() -> None:
    match = scene([], [(0.9, 1, (10, 10, 10, 10)), (0.8, 3, (10, 10, 10, 10))], [(1, (0, 0, 60, 40))])
    assert match.ignored.tolist() == [True, False]  # a crowd of persons says nothing of cars
    assert (match.crowds, len(match.areas)) == (1, 0)
    assert threshold_curve([match]).scores.tolist() == pytest.approx([0.8])


def test_threshold_curve_and_counts_by_hand() -> None:
    big, small = (0, 0, 40, 40), (60, 0, 10, 10)
    matches = [
        scene([(1, big), (1, small)], [(0.9, 1, big), (0.5, 1, (80, 40, 9, 9))]),
        scene([(3, big)], [(0.7, 3, big), (0.5, 3, small)]),
    ]
    curve = threshold_curve(matches)
    np.testing.assert_allclose(curve.scores, [0.9, 0.7, 0.5], atol=1e-6)
    np.testing.assert_allclose(curve.precision, [1, 1, 0.5])
    np.testing.assert_allclose(curve.recall, [1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(curve.f1, [0.5, 0.8, 4 / 7])
    assert curve.best()["threshold"] == pytest.approx(0.7)
    assert curve.at(0.8)["recall"] == pytest.approx(1 / 3)
    assert curve.at(0.99) == {"threshold": 0.99, "precision": None, "recall": 0.0, "f1": 0.0}

    found = analyse(matches, 0.5, CLASSES)
    assert found["objects"] == {"car": 1, "person": 2, "truck": 0}
    at = found["at_threshold"]
    assert at["missed"]["person"] == {
        "objects": 2, "missed": 1, "sizes": {"small": [1, 1], "medium": [0, 1], "large": [0, 0]}
    }  # fmt: skip
    assert (
        at["false_alarms"]["car"] | {"right": 1, "background": 1, "detections": 2}
        == at["false_alarms"]["car"]
    )
    assert at["image_pq"] == pytest.approx((1 / (1 + 0.5 + 0.5) + 1 / (1 + 0.5)) / 2)


@pytest.mark.parametrize("library", ["faster_coco_eval", "pycocotools"])
def test_nothing_found_and_nothing_there(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "pycocotools":
        monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert scene([], []).faults == ()
    assert scene([], [(0.9, 1, (0, 0, 9, 9))]).faults == ("background",)
    found = analyse([scene([(1, (0, 0, 9, 9))], [])], 0.5, CLASSES)
    assert found["best_threshold"]["threshold"] is None
    assert found["at_threshold"]["recall"] == 0.0
    assert found["at_threshold"]["missed"]["person"]["missed"] == 1


def test_best_and_worst_are_in_order_and_apart() -> None:
    full = (0, 0, 40, 40)
    heights = (40, 36, 32, 28)  # IoU 1, .9, .8, .7
    matches = [scene([(1, full)], [(0.9, 1, (0, 0, 40, h))]) for h in heights]
    lost = scene([(1, full), (3, (60, 0, 20, 20))], [])
    matches += [scene([(1, full)], []), lost, scene([], [])]
    best, worst = ranked(matches, 0.5, count=2)
    assert [m is matches[i] for m, i in zip(best, (0, 1), strict=True)] == [True, True]
    assert worst[0] is lost  # two missed before one
    assert worst[1] is matches[4]
    best, worst = ranked(matches, 0.5)
    assert (len(best), len(worst)) == (3, 3)
    assert not {id(m) for m in best} & {id(m) for m in worst}
    assert ranked([scene([], [])], 0.5) == ([], [])
