from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as oracle_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fassst_ros.card import ClassInfo
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.evaluation.coco import evaluate_predictions
from fassst_ros.evaluation.dataset import open_coco
from fassst_ros.pipeline import Segmenter
from fassst_ros.types import ConfigError, InputError, Instances, RoiMask

CLASSES = (
    ClassInfo(3, "car", (0, 0, 142)),
    ClassInfo(1, "person", (220, 20, 60)),
    ClassInfo(8, "truck", (0, 0, 70)),
)
REAL = Path(__file__).parents[3] / "shared" / "data" / "coco_street" / "val.json"
STATS = {"AP": 0, "AP50": 1, "AP75": 2, "AP_S": 3, "AP_M": 4, "AP_L": 5}


def box_of(mask: np.ndarray) -> list[float]:
    y, x = np.nonzero(mask)
    return [float(x.min()), float(y.min()), float(x.max() - x.min() + 1), float(y.max() - y.min() + 1)]


def made_up(rng: np.random.Generator, images: int = 12) -> dict[str, Any]:
    """Ellipses of three classes and all sizes, some of them crowds; image 1 is empty."""
    height, width = 120, 160
    y, x = np.mgrid[:height, :width]
    annotations = []
    for image_id in range(2, images + 1):
        for _ in range(rng.integers(1, 8)):
            cx, cy = rng.uniform(10, width - 10), rng.uniform(10, height - 10)
            a, b = np.exp(rng.uniform(np.log(3), np.log(60), 2))
            mask = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
            rle = oracle_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations), "image_id": image_id, "category_id": int(rng.choice([1, 3])),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "bbox": box_of(mask), "area": float(mask.sum()), "iscrowd": int(rng.random() < 0.1),
                }
            )  # fmt: skip
    return {
        "images": [
            {"id": i, "height": height, "width": width, "file_name": f"{i}.jpg"} for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 8, "name": "truck"}],
    }


def perturbed(
    raw: dict[str, Any], rng: np.random.Generator, wanted: set[int], class_ids: dict[int, int]
) -> dict[int, Instances]:
    """Ground truth shifted, missed, doubled, mislabelled and scored at random; empty without objects."""
    sizes = {i["id"]: (i["height"], i["width"]) for i in raw["images"] if i["id"] in wanted}
    found: dict[int, list[tuple[float, int, RoiMask]]] = {i: [] for i in sizes}
    coco = COCO()
    coco.dataset = copy.deepcopy(raw)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    for annotation in raw["annotations"]:
        image_id, category = annotation["image_id"], annotation["category_id"]
        if image_id not in sizes or category not in class_ids:
            continue
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            dense = coco.annToMask(annotation).astype(np.bool_)
            dense = np.roll(dense, rng.integers(-3, 4, 2), (0, 1))
            if not dense.any():
                continue
            x, y, w, h = (int(v) for v in box_of(dense))
            label = class_ids[category] if rng.random() < 0.9 else int(rng.choice(list(class_ids.values())))
            found[image_id].append((rng.random(), label, RoiMask(x, y, dense[y : y + h, x : x + w])))
    return {i: instances_of(sizes[i], sorted(f, key=lambda e: -e[0])) for i, f in found.items()}


def instances_of(size: tuple[int, int], found: list[tuple[float, int, RoiMask]]) -> Instances:
    boxes = [[m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]] for _, _, m in found]
    return Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([s for s, _, _ in found], np.float32),
        np.array([c for _, c, _ in found], np.int32),
        tuple(m for _, _, m in found),
        size,
    )


def oracle(
    raw: dict[str, Any], predictions: dict[int, Instances], kind: str, category_of: dict[int, int]
) -> tuple[np.ndarray, COCOeval]:
    """The numbers of pycocotools, by its own summary."""
    results: list[dict[str, Any]] = []
    for image_id, instances in predictions.items():
        for i, dense in enumerate(instances.to_dense()):
            result: dict[str, Any] = {
                "image_id": image_id,
                "category_id": category_of[int(instances.class_ids[i])],
                "score": float(instances.scores[i]),
            }
            if kind == "segm":
                result["segmentation"] = oracle_mask.encode(np.asfortranarray(dense.astype(np.uint8)))
            else:
                x0, y0, x1, y1 = instances.boxes[i].tolist()
                result["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(raw)
        for number, annotation in enumerate(truth.dataset["annotations"]):
            annotation["id"] = number + 1
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), kind)
        run.params.catIds = sorted(category_of.values())
        run.params.imgIds = list(predictions)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats, run


def assert_equal_to_oracle(
    raw: dict[str, Any],
    predictions: dict[int, Instances],
    classes: tuple[ClassInfo, ...],
    category_of: dict[int, int],
) -> dict[str, Any]:
    result = evaluate_predictions(copy.deepcopy(raw), predictions, classes)
    assert result["images"] == len(predictions)
    order = sorted(category_of.values())
    for kind, name in (("segm", "mask"), ("bbox", "box")):
        stats, run = oracle(raw, predictions, kind, category_of)
        for key, index in STATS.items():
            expected = None if stats[index] == -1 else pytest.approx(stats[index], abs=1e-6)
            assert result[name][key] == expected, (name, key)
        for info in classes:
            column = run.eval["precision"][:, :, order.index(category_of[info.id]), 0, -1]
            for key, values in (("AP", column), ("AP50", column[0])):
                expected = None if (values == -1).all() else pytest.approx(values.mean(), abs=1e-6)
                assert result[name]["per_class"][info.name][key] == expected, (name, info.name, key)
    return result


@pytest.fixture(params=["faster-coco-eval", "pycocotools"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    return str(request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools_on_made_up_predictions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = made_up(rng)
    predictions = perturbed(raw, rng, {i["id"] for i in raw["images"]}, {1: 1, 3: 3})
    result = assert_equal_to_oracle(raw, predictions, CLASSES, {c.id: c.id for c in CLASSES})
    assert 0.05 < result["mask"]["AP"] < 0.95
    assert result["mask"]["per_class"]["truck"] == {"AP": None, "AP50": None}
    json.dumps(result, allow_nan=False)


@pytest.mark.usefixtures("library")
@pytest.mark.skipif(not REAL.is_file(), reason=f"real annotations are not at {REAL}")
def test_equal_to_pycocotools_on_perturbed_real_objects() -> None:
    raw = json.loads(REAL.read_text())
    wanted = {image["id"] for image in raw["images"][:40]}
    predictions = perturbed(raw, np.random.default_rng(0), wanted, {1: 1, 3: 3, 8: 8})
    assert_equal_to_oracle(raw, predictions, CLASSES, {c.id: c.id for c in CLASSES})


@pytest.mark.usefixtures("library")
@pytest.mark.skipif(not REAL.is_file(), reason=f"real annotations are not at {REAL}")
def test_equal_to_pycocotools_on_predictions_of_the_shipped_model() -> None:
    dataset = open_coco(REAL, REAL.parent / "images").first(16)
    options = RuntimeOptions(runtime="onnxruntime", threads=1)
    with Segmenter.open(options, SegmentOptions(score_threshold=0.001)) as segmenter:
        classes = segmenter.card.classes
        predictions = {e["id"]: segmenter.segment(dataset.load(e)).instances for e in dataset.entries}
    raw = json.loads(REAL.read_text(encoding="utf-8"))
    result = assert_equal_to_oracle(raw, predictions, classes, {c.id: c.id for c in classes})
    assert result["mask"]["AP50"] > 0.1
    assert result["box"]["AP50"] > 0.1


def test_categories_are_matched_by_name() -> None:
    rng = np.random.default_rng(7)
    raw = made_up(rng)
    predictions = perturbed(raw, rng, {i["id"] for i in raw["images"]}, {1: 1, 3: 3})
    expected = evaluate_predictions(raw, predictions, CLASSES)
    renumbered = copy.deepcopy(raw)
    for entry in (*renumbered["categories"], *renumbered["annotations"]):
        key = "category_id" if "category_id" in entry else "id"
        entry[key] = {1: 40, 3: 20, 8: 30}[entry[key]]
    assert evaluate_predictions(renumbered, predictions, CLASSES) == expected


@pytest.mark.usefixtures("library")
def test_perfect_and_absent_predictions(tmp_path: Path) -> None:
    raw = made_up(np.random.default_rng(3))
    for annotation in raw["annotations"]:
        annotation["iscrowd"] = 0
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(raw))
    found: dict[int, list[tuple[float, int, RoiMask]]] = {i["id"]: [] for i in raw["images"]}
    for a in raw["annotations"]:
        dense = oracle_mask.decode({**a["segmentation"], "counts": a["segmentation"]["counts"].encode()})
        found[a["image_id"]].append((0.9, a["category_id"], RoiMask(0, 0, dense.astype(np.bool_))))
    perfect = {i: instances_of((120, 160), f) for i, f in found.items()}
    assert evaluate_predictions(path, perfect, CLASSES)["mask"]["AP"] == pytest.approx(1.0)
    nothing = {i: Instances.empty((120, 160)) for i in found}
    result = evaluate_predictions(path, nothing, CLASSES)
    assert result["mask"]["AP"] == result["box"]["AP"] == 0.0
    assert result["images"] == 12


def test_classes_that_an_image_does_not_label_do_not_count_there() -> None:
    raw = made_up(np.random.default_rng(5))
    predictions = perturbed(raw, np.random.default_rng(6), {i["id"] for i in raw["images"]}, {1: 1, 3: 3})
    for image in raw["images"]:
        image["labelled_classes"] = "person"
    result = evaluate_predictions(raw, predictions, CLASSES)["mask"]
    assert result["per_class"]["car"]["AP"] is None
    assert result["AP"] == pytest.approx(result["per_class"]["person"]["AP"])


def test_objects_without_a_mask_are_neither_found_nor_missed() -> None:
    raw = made_up(np.random.default_rng(7))
    ids = {i["id"] for i in raw["images"]}
    predictions = perturbed(raw, np.random.default_rng(8), ids, {1: 1, 3: 3})
    unknown, crowd = copy.deepcopy(raw), copy.deepcopy(raw)
    for number in (2, 9, 17):
        x, y, w, h = raw["annotations"][number]["bbox"]
        del unknown["annotations"][number]["segmentation"]
        unknown["annotations"][number] |= {"box_only": True, "iscrowd": 0}
        crowd["annotations"][number] |= {
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "iscrowd": 1,
        }  # fmt: skip
    expected = evaluate_predictions(crowd, predictions, CLASSES)
    assert evaluate_predictions(unknown, predictions, CLASSES) == expected
    assert expected != evaluate_predictions(raw, predictions, CLASSES)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"segmentation": None}, "no segmentation"),
        ({"segmentation": [[1, 2]]}, "no polygon"),
        ({"bbox": [1, 2, 3]}, "4 numbers"),
        ({"bbox": None}, "cannot be compared"),
        ({"area": float("nan")}, "not finite"),
    ],
)
def test_broken_ground_truth_is_named(change: dict[str, Any], match: str) -> None:
    raw = made_up(np.random.default_rng(1))
    raw["annotations"][3] |= change
    image = raw["annotations"][3]["image_id"]
    with pytest.raises(InputError, match=rf"annotation 3 of image {image} .*{match}"):
        evaluate_predictions(raw, {image: Instances.empty((120, 160))}, CLASSES)


def test_predictions_that_do_not_fit_are_refused() -> None:
    raw = made_up(np.random.default_rng(1))
    with pytest.raises(InputError, match="image 99"):
        evaluate_predictions(raw, {99: Instances.empty((120, 160))}, CLASSES)
    with pytest.raises(InputError, match=r"\(160, 120\).*\(120, 160\)"):
        evaluate_predictions(raw, {2: Instances.empty((160, 120))}, CLASSES)
    with pytest.raises(InputError, match="none of the classes zebra"):
        evaluate_predictions(raw, {}, [ClassInfo(1, "zebra", (0, 0, 0))])


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    raw = made_up(np.random.default_rng(1))
    with pytest.raises(ConfigError, match="pip install faster-coco-eval"):
        evaluate_predictions(raw, {2: Instances.empty((120, 160))}, CLASSES)
