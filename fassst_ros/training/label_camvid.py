"""`fassst label camvid`: reads the frames, writes the annotations and the pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fassst_ros.card import MaskInfo, ModelCard
from fassst_ros.coco_format import file_problem, load_image
from fassst_ros.labels import STREET
from fassst_ros.overlay import draw
from fassst_ros.predict import write_text
from fassst_ros.rle import coco_results, compress
from fassst_ros.training.camvid import LABELLED_CLASSES, LABELS, FrameLabels, label_frame
from fassst_ros.training.label import provenance, report, say, track
from fassst_ros.training.label_fill import box_annotation
from fassst_ros.training.teacher import Teacher
from fassst_ros.types import InputError, Instances, UInt8Array

_LICENCE = {
    "id": 1,
    "name": "CC BY-NC 4.0 (CamVid)",
    "url": "https://creativecommons.org/licenses/by-nc/4.0/",
}
#: What drawing needs to know of the classes.
_CARD = ModelCard("labels", "none", "0", 1, 1, STREET, MaskInfo("frame", 1, 1), 1)


def label(args: argparse.Namespace, teacher: Teacher) -> int:
    """Label every frame of a folder. Raises InputError if it has none; returns 1 if one was left out."""
    paths = sorted((args.folder / "images").glob("*.jpg"))
    if not paths:
        raise InputError(f"{args.folder}: no images/*.jpg; expected CamVid frames there, and labels/*.png")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    failures = []
    for path in track(paths, "labelling"):
        try:
            labels = read_labels(args.folder / "labels" / f"{path.stem}.png")
            image = load_image(path, labels.shape)
        except InputError as err:
            failures.append(str(err))
            continue
        frame = label_frame(labels, teacher.detect(image, args.threshold))
        images.append(_entry(len(images) + 1, path.name, labels))
        annotations += _annotations(frame, len(images), len(annotations) + 1)
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(args.pictures / path.name), _picture(image, frame)[..., ::-1])
    content = {
        "info": {"description": "pseudo labels of CamVid frames", **provenance(args)},
        "licenses": [_LICENCE],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c.id, "name": c.name} for c in STREET],
    }
    write_text(args.out, json.dumps(content))
    say(f"{args.out}: {len(images)} images, {len(annotations)} annotations")
    return report(failures)


def read_labels(path: Path) -> UInt8Array:
    """CamVid's labels (H, W). Raises InputError unless it is a grey 8 bit PNG of the labels 0 to 11."""
    problem = file_problem(path)
    if problem:
        raise InputError(f"labels {path}: {problem}")
    labels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        came = "not decodable" if labels is None else f"{labels.dtype} {labels.shape}"
        raise InputError(f"labels {path}: {came}; expected a grey PNG of 8 bits with the labels 0 to 11")
    if labels.max() >= LABELS:
        raise InputError(f"labels {path}: holds label {labels.max()}; expected 0 to {LABELS - 1}")
    return labels  # type: ignore[return-value]


def _entry(number: int, name: str, labels: UInt8Array) -> dict[str, Any]:
    height, width = labels.shape
    return {
        "id": number, "file_name": name, "height": height, "width": width, "license": 1,
        "labelled_classes": ", ".join(LABELLED_CLASSES),
    }  # fmt: skip


def _annotations(frame: FrameLabels, image_id: int, number: int) -> list[dict[str, Any]]:
    masks = frame.instances.masks
    results: list[dict[str, Any]] = [
        {**result, "area": mask.area, "iscrowd": 0}
        for result, mask in zip(coco_results(frame.instances, image_id), masks, strict=True)
    ]
    for box, score, category in zip(
        frame.boxes.boxes, frame.boxes.scores, frame.boxes.category_ids, strict=True
    ):
        results.append(box_annotation(box, score, int(category), image_id, 0))
    n, size = len(frame.regions), frame.instances.size
    regions = Instances(
        np.array(
            [(m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]) for _, m in frame.regions], np.float32
        ).reshape(-1, 4),
        np.ones(n, np.float32),
        np.array([c for c, _ in frame.regions], np.int32),
        tuple(m for _, m in frame.regions),
        size,
    )
    for result, mask in zip(coco_results(regions, image_id), regions.masks, strict=True):
        del result["score"]
        results.append({**result, "area": mask.area, "iscrowd": 1})
    return [{**result, "id": number + i} for i, result in enumerate(results)]


def _picture(image: UInt8Array, frame: FrameLabels) -> UInt8Array:
    """Instances as everywhere, boxes without mask in yellow, ignored regions grey."""
    image = image.copy()
    for _, mask in frame.regions:
        h, w = mask.bits.shape
        region = image[mask.y : mask.y + h, mask.x : mask.x + w]
        region[mask.bits] = region[mask.bits] // 2 + 100
    picture = draw(image, frame.instances, _CARD)
    for box in frame.boxes.boxes:
        x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
        cv2.rectangle(picture, (x0, y0), (x1, y1), (255, 255, 0), 1)
    return picture
