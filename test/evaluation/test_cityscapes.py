"""AP by the rules of Cityscapes, against the official scripts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapes_files import street, write_frame
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official

from fassst_ros.card import ClassInfo
from fassst_ros.cityscapes_format import LABEL_IDS, VOID, WITH_INSTANCES
from fassst_ros.coco_format import load_image, parse_shape, read_coco
from fassst_ros.config import RuntimeOptions
from fassst_ros.evaluation.cityscapes import OVERLAPS, CityscapesMetric, open_cityscapes
from fassst_ros.evaluation.coco import evaluate_predictions
from fassst_ros.labels import CITYSCAPES, STREET
from fassst_ros.pipeline import Segmenter
from fassst_ros.types import ConfigError, Frame, InputError, Instances, RoiMask

IDS = [c.id for c in CITYSCAPES]
REAL = Path(__file__).parents[3] / "shared" / "data" / "coco_street"
Scene = tuple[Instances, np.ndarray]


def instances_of(size: tuple[int, int], found: list[tuple[float, int, np.ndarray]]) -> Instances:
    """found: (score, class id, full mask), sorted here by score."""
    found = sorted((f for f in found if f[2].any()), key=lambda f: -f[0])
    masks = []
    for _, _, dense in found:
        y, x = np.flatnonzero(dense.any(1)), np.flatnonzero(dense.any(0))
        masks.append(RoiMask(int(x[0]), int(y[0]), dense[y[0] : y[-1] + 1, x[0] : x[-1] + 1]))
    boxes = [[m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]] for m in masks]
    return Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([f[0] for f in found], np.float32),
        np.array([f[1] for f in found], np.int32),
        tuple(masks),
        size,
    )


def ellipse(size: tuple[int, int], rng: np.random.Generator, largest: float) -> np.ndarray:
    height, width = size
    y, x = np.mgrid[:height, :width]
    a, b = np.exp(rng.uniform(np.log(3), np.log(largest), 2))
    mask: np.ndarray = (x - rng.uniform(0, width)) ** 2 / a**2 + (y - rng.uniform(0, height)) ** 2 / b**2 < 1
    return mask


def made_up(seed: int) -> Scene:
    """A scene of all label kinds, with shifted, doubled, mislabelled and invented predictions."""
    rng = np.random.default_rng(seed)
    size = (120, 200)
    ids = np.full(size, 7, np.uint16)
    for label in rng.choice([0, 1, 5, 9, 29, 30, 11, 23], 4):  # void of all kinds, and background
        ids[ellipse(size, rng, 60)] = label
    numbers = dict.fromkeys(WITH_INSTANCES, 0)
    for _ in range(14):
        label = int(rng.choice([24, 24, 25, 26, 26, 26, 27, 29, 30, 33]))
        group = rng.random() < 0.2
        ids[ellipse(size, rng, 40)] = label if group else label * 1000 + numbers[label]
        numbers[label] += 1
    found = []
    for value in np.unique(ids):
        label = int(value) // 1000 if value >= 1000 else int(value)
        if label not in IDS and label not in VOID:
            continue
        for _ in range(rng.integers(0, 4)):
            mask = np.roll(ids == value, rng.integers(-2, 3, 2), (0, 1))
            if rng.random() < 0.3:
                mask = mask & (rng.random(size) < rng.uniform(0.4, 1.0))
            name = label if label in IDS and rng.random() < 0.85 else int(rng.choice(IDS))
            found.append((float(np.round(rng.random(), 2)), name, mask))  # with ties
    found += [(rng.random(), int(rng.choice(IDS)), ellipse(size, rng, 30)) for _ in range(4)]
    return instances_of(size, found), ids


def of_official_scripts(folder: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The averages that the official evaluation computes from files."""
    truths, predictions = [], []
    for number, (instances, ids) in enumerate(scenes):
        truth = folder / f"city_{number:06d}_000019_gtFine_instanceIds.png"
        cv2.imwrite(str(truth), ids)
        lines = []
        for i, dense in enumerate(instances.to_dense()):
            cv2.imwrite(str(folder / f"pred_{number}_{i}.png"), dense.astype(np.uint8) * 255)
            score = float(instances.scores[i])
            lines.append(f"pred_{number}_{i}.png {instances.class_ids[i]} {score!r}\n")
        prediction = folder / f"pred_{number}.txt"
        prediction.write_text("".join(lines))
        truths.append(str(truth))
        predictions.append(str(prediction))
    args = SimpleNamespace(**vars(official.args))
    args.gtInstancesFile = str(folder / "gtInstances.json")
    args.predictionPath = str(folder)
    args.quiet, args.JSONOutput = True, False
    # With numpy 2 it cannot write its matches to a file; and numpy 2.4 has no in1d.
    monkeypatch.setattr(official, "writeDict2JSON", lambda *_: None)
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    averages: dict[str, Any] = official.evaluateImgLists(predictions, truths, args)["averages"]
    return averages


def assert_equal_to_official(
    folder: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    metric = CityscapesMetric(CITYSCAPES)
    for instances, ids in scenes:
        metric.add(instances, ids)
    result = metric.result()
    expected = of_official_scripts(folder, scenes, monkeypatch)
    assert result["AP"] == pytest.approx(expected["allAp"], abs=1e-6)
    assert result["AP50"] == pytest.approx(expected["allAp50%"], abs=1e-6)
    for name, row in result["per_class"].items():
        for key, theirs in (("AP", "ap"), ("AP50", "ap50%")):
            value = expected["classes"][name][theirs]
            assert row[key] == (None if np.isnan(value) else pytest.approx(value, abs=1e-6)), (name, key)
    return result


def test_label_table_is_the_official_one() -> None:
    table = official.labels
    assert {row.name: row.id for row in table} == LABEL_IDS
    assert tuple(row.id for row in table if row.ignoreInEval and row.id >= 0) == VOID
    assert tuple(row.id for row in table if row.hasInstances) == WITH_INSTANCES
    counted = [(row.id, row.name, row.color) for row in table if row.hasInstances and not row.ignoreInEval]
    assert [(c.id, c.name) for c in CITYSCAPES] == [row[:2] for row in counted]
    np.testing.assert_array_equal(official.args.overlaps, OVERLAPS)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_official_scripts_on_made_up_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    scenes = [made_up(100 * seed + i) for i in range(8)]
    result = assert_equal_to_official(tmp_path, scenes, monkeypatch)
    assert 0.05 < result["AP"] < result["AP50"] < 0.95
    assert result["per_class"]["train"] == {"AP": None, "AP50": None}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real photos are not at {REAL}")
def test_equal_to_the_official_scripts_on_real_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = read_coco(REAL / "val.json")
    label_of = {s.id: c.id for s in STREET for c in CITYSCAPES if s.name == c.name}
    scenes = []
    with Segmenter.open(RuntimeOptions(model="fassst_768_street", threads=1)) as segmenter:
        for entry in raw["images"][:6]:
            size = (entry["height"], entry["width"])
            frame = Frame(load_image(REAL / "images" / entry["file_name"], size))
            found = segmenter.segment(frame).instances
            ids = np.full(size, 7, np.uint16)
            for number, annotation in enumerate(raw["annotations"]):
                label = label_of.get(annotation["category_id"])
                if annotation["image_id"] != entry["id"] or label is None:
                    continue
                value = label if annotation["iscrowd"] else label * 1000 + number % 1000
                shape = parse_shape(annotation["segmentation"], size)
                if isinstance(shape, RoiMask):
                    height, width = shape.bits.shape
                    ids[shape.y : shape.y + height, shape.x : shape.x + width][shape.bits] = value
                else:
                    cv2.fillPoly(ids, [np.round(p).astype(np.int32) for p in shape], value)
            relabelled = np.array([label_of[int(i)] for i in found.class_ids], np.int32)
            scenes.append((Instances(found.boxes, found.scores, relabelled, found.masks, size), ids))
    assert sum(len(s[0]) for s in scenes) > 10
    assert assert_equal_to_official(tmp_path, scenes, monkeypatch)["AP50"] > 0.1


def test_perfect_predictions_score_one_and_none_scores_zero() -> None:
    ids = street()
    values = [v for v in np.unique(ids) if v >= 1000]
    found = [(0.9, int(v) // 1000, ids == v) for v in values if int(v) // 1000 in IDS]
    perfect, nothing = CityscapesMetric(CITYSCAPES), CityscapesMetric(CITYSCAPES)
    perfect.add(instances_of((96, 192), found), ids)
    nothing.add(Instances.empty((96, 192)), ids)
    assert perfect.result()["AP"] == perfect.result()["AP50"] == 1.0
    assert nothing.result()["AP"] == 0.0
    assert nothing.result()["per_class"]["bus"] == {"AP": None, "AP50": None}


def test_predictions_only_in_ignored_regions_leave_recall_zero() -> None:
    """The official scripts end with an IndexError here; no hit is an AP of 0."""
    ids = street()
    metric = CityscapesMetric(CITYSCAPES)
    metric.add(instances_of((96, 192), [(0.9, 26, ids == 26), (0.8, 26, ids == 1)]), ids)
    assert metric.result()["per_class"]["car"] == {"AP": 0.0, "AP50": 0.0}


def test_classes_are_matched_by_name_and_unknown_ones_are_told() -> None:
    ids = street()
    metric = CityscapesMetric(STREET)
    metric.add(instances_of((96, 192), [(0.9, 3, ids == 26000), (0.9, 1, ids == 24000)]), ids)
    result = metric.result()
    assert result["unknown_classes"] == ["rider"]
    assert result["per_class"]["car"]["AP"] == result["per_class"]["person"]["AP"] == 1.0
    assert result["per_class"]["rider"]["AP"] == 0.0  # it is there and not found
    with pytest.raises(InputError, match="knows no class of Cityscapes, only zebra"):
        CityscapesMetric([ClassInfo(1, "zebra", (1, 1, 1))])


def test_person_found_on_a_rider_is_neither_right_nor_wrong_without_that_class(tmp_path: Path) -> None:
    """Training takes riders for persons where the class list has no rider (street)."""
    ids = street()
    write_frame(tmp_path, 1, ids, "val")
    dataset = open_cityscapes(tmp_path, "val")
    found = [(0.9, 1, ids == 25000), (0.8, 1, ids == 24000)]  # the surer one is the rider
    result = evaluate_predictions(dataset.content, {1: instances_of((96, 192), found)}, STREET)
    for kind in ("mask", "box"):
        assert result[kind]["per_class"]["person"]["AP"] == pytest.approx(1.0)
    missed = evaluate_predictions(dataset.content, {1: instances_of((96, 192), found[1:])}, STREET)
    assert missed["mask"]["per_class"]["person"]["AP"] == pytest.approx(1.0)
    # To a model that has the class, they are two.
    wrong = [(0.9, 24, ids == 25000), (0.8, 24, ids == 24000)]
    result = evaluate_predictions(dataset.content, {1: instances_of((96, 192), wrong)}, CITYSCAPES)
    assert result["mask"]["per_class"]["person"]["AP"] == pytest.approx(0.5)
    assert result["mask"]["per_class"]["rider"]["AP"] == 0.0


def test_map_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(10, 20\).*\(96, 192\)"):
        CityscapesMetric(CITYSCAPES).add(Instances.empty((10, 20)), street())


def test_a_tree_is_an_evaluation_set_with_both_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = street()
    for number in (1, 2):
        write_frame(tmp_path, number, ids, "val")
    write_frame(tmp_path, 3, np.full((20, 40), 3, np.uint16), "val")
    dataset = open_cityscapes(tmp_path, "val")
    assert dataset.name == "Cityscapes val"
    assert [dataset.load(e).size for e in dataset.entries] == [(96, 192)] * 2
    assert "000003_000019: nothing but void is annotated: skipped" in caplog.text
    found = [(0.9, c, ids == 1000 * c) for c in (24, 25, 26, 33)]
    found.append((0.95, 26, ids == 26))  # in the group of cars: neither right nor wrong
    predictions = dict.fromkeys((1, 2), instances_of((96, 192), found))
    result = evaluate_predictions(dataset.content, predictions, CITYSCAPES)
    for kind in ("mask", "box"):
        assert result[kind]["AP"] == pytest.approx(1.0)
    (metric,) = dataset.metrics
    assert metric(predictions, CITYSCAPES)["cityscapes"]["AP"] == 1.0
    assert len(open_cityscapes(tmp_path, "val", limit=1).entries) == 1


def test_sets_without_ground_truth_are_refused(tmp_path: Path) -> None:
    write_frame(tmp_path, 1, np.full((20, 40), 3, np.uint16), "test")
    with pytest.raises(InputError, match=r"split test .* has no public annotations; take val"):
        open_cityscapes(tmp_path, "test")
    with pytest.raises(InputError, match=r"Looked for .*leftImg8bit/val/CITY"):
        open_cityscapes(tmp_path, "val")
    with pytest.raises(ConfigError, match="--limit is -1"):
        open_cityscapes(tmp_path, "test", limit=-1)
