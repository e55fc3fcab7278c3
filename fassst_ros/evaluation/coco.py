"""COCO average precision of masks and boxes, over the classes of a model card.

The metric is that of COCO detection (IoU 0.50:0.95, 101 recall points, 100 detections an image),
computed by faster-coco-eval, or by pycocotools where only that is installed.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ClassInfo
from fassst_ros.coco_format import read_coco
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.types import ConfigError, InputError, Instances


@dataclass(frozen=True, slots=True)
class CocoResult:
    """What was compared, and what came out.

    summary: see `evaluate_predictions`. precision: "mask" and "box" -> (10 IoU thresholds .50:.05:.95,
    101 recalls 0:.01:1, classes in the order that was asked for), -1 where a class has no object.
    truth: what counted of the annotations, as COCO's format with class ids as category ids.
    detections: the masks that were compared, in COCO's result format.
    """

    summary: dict[str, Any]
    precision: dict[str, NDArray[np.float64]]
    truth: dict[str, Any]
    detections: list[dict[str, Any]]


def evaluate_predictions(
    annotations: Mapping[str, Any] | Path, predictions: Mapping[int, Instances], classes: Sequence[ClassInfo]
) -> dict[str, Any]:
    """Mask and box AP of `predictions` (image id -> instances, in pixels of the original image).

    annotations: a COCO file or its content; categories are matched to `classes` by name. Only the
    images in `predictions` count, so put Instances.empty where nothing was found. Where an image
    says which classes it labels (`labelled_classes`), the others do not count there.
    Returns {"mask": ..., "box": ...}, each with AP, AP50, AP75, AP_S, AP_M, AP_L and per_class:
    {name: {AP, AP50}}; numbers in 0..1, None without ground truth; and "images", their number.
    Raises InputError for annotations or predictions that do not fit, ConfigError if neither
    faster-coco-eval nor pycocotools is installed.
    """
    raw = read_coco(annotations) if isinstance(annotations, Path) else annotations
    return evaluate_in_full(GroundTruth.read(raw, classes, predictions), predictions).summary


def evaluate_in_full(truth: GroundTruth, predictions: Mapping[int, Instances]) -> CocoResult:
    """As `evaluate_predictions` on what was read before, with all that curves are drawn from."""
    _check_predictions(predictions, truth)
    classes, content = truth.classes, truth.of(predictions)
    masks, boxes = _detections(predictions, truth.counted)
    precision = {
        "mask": _precision(content, masks, "segm", classes),
        "box": _precision(content, boxes, "bbox", classes),
    }
    summary = {kind: _summary(values, classes) for kind, values in precision.items()}
    everything = {kind: values[..., 0] for kind, values in precision.items()}
    return CocoResult({**summary, "images": len(predictions)}, everything, content, masks)


def library() -> tuple[Any, Any, Any]:
    """COCO, COCOeval and the mask module of what is installed."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
        from faster_coco_eval.core import mask

        return COCO, COCOeval_faster, mask
    except ImportError:
        pass
    try:
        from pycocotools import mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as err:
        raise ConfigError("accuracy needs faster-coco-eval: pip install faster-coco-eval") from err
    return COCO, COCOeval, mask


def _check_predictions(predictions: Mapping[int, Instances], truth: GroundTruth) -> None:
    for image_id, instances in predictions.items():
        image = truth.images.get(image_id)
        if image is None:
            raise InputError(f"predictions name image {image_id}, which the annotations do not have")
        size = (image["height"], image["width"])
        if instances.size != size:
            raise InputError(
                f"instances of image {image_id} are for {instances.size} (height, width); "
                f"the annotations say {size}"
            )


def _detections(
    predictions: Mapping[int, Instances], counted: Mapping[int, set[int]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Results in COCO's format, masks and boxes apart: the area of a result with a box is the box's."""
    _, _, mask_api = library()
    masks, boxes = [], []
    for image_id, instances in predictions.items():
        for i, runs in enumerate(instances.to_rle()):
            class_id = int(instances.class_ids[i])
            if class_id not in counted[image_id]:
                continue
            common = {"image_id": image_id, "category_id": class_id, "score": float(instances.scores[i])}
            masks.append({**common, "segmentation": mask_api.frPyObjects(runs, *instances.size)})
            x0, y0, x1, y1 = (float(v) for v in instances.boxes[i])
            boxes.append({**common, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    return masks, boxes


def _precision(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: str, classes: Sequence[ClassInfo]
) -> NDArray[np.float64]:
    """(IoU thresholds, recalls, classes as given, areas: all, small, medium, large); -1: no object."""
    coco, evaluation, _ = library()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        reference = coco()
        reference.dataset = truth
        reference.createIndex()
        detected = coco()
        if results:
            detected = reference.loadRes([dict(r) for r in results])  # it adds keys
        else:  # loadRes of pycocotools cannot take an empty list
            detected.dataset = {**truth, "annotations": []}
            detected.createIndex()
        run = evaluation(reference, detected, kind)
        run.params.catIds = [c.id for c in classes]
        run.params.imgIds = [image["id"] for image in truth["images"]]
        run.evaluate()
        run.accumulate()
    ascending = sorted(c.id for c in classes)  # its own order
    columns = [ascending.index(c.id) for c in classes]
    return np.asarray(run.eval["precision"], np.float64)[..., -1][:, :, columns]


def _summary(precision: NDArray[np.float64], classes: Sequence[ClassInfo]) -> dict[str, Any]:
    everything = precision[..., 0]
    return {
        "AP": _mean(everything),
        "AP50": _mean(everything[0]),
        "AP75": _mean(everything[5]),
        "AP_S": _mean(precision[..., 1]),
        "AP_M": _mean(precision[..., 2]),
        "AP_L": _mean(precision[..., 3]),
        "per_class": {
            c.name: {"AP": _mean(everything[:, :, i]), "AP50": _mean(everything[0, :, i])}
            for i, c in enumerate(classes)
        },
    }


def _mean(precision: Any) -> float | None:
    """Mean over what has ground truth (the rest is -1)."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None
