"""`fassst label camvid`: reads the frames, writes the annotations and the pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fassst_ros.card import MaskInfo, ModelCard
from fassst_ros.coco_format import file_problem, load_image
from fassst_ros.labels import STREET
from fassst_ros.overlay import draw
from fassst_ros.predict import prepare_output, write_text
from fassst_ros.rle import coco_results
from fassst_ros.sources import PictureWriter, Source
from fassst_ros.training.camvid import LABELLED_CLASSES, LABELS, FrameLabels, extents, label_frame
from fassst_ros.training.label_fill import box_annotation
from fassst_ros.training.label_run import Detections, provenance, report, say, track
from fassst_ros.types import InputError, Instances, UInt8Array

_LICENCE = {
    "id": 1,
    "name": "CC BY-NC 4.0 (CamVid): research only",
    "url": "https://creativecommons.org/licenses/by-nc/4.0/",
}
#: What drawing needs to know of the classes.
_CARD = ModelCard("labels", "none", "0", 1, 1, STREET, MaskInfo("frame", 1, 1), 1)
_PALETTE = 3  # colour type in the header of a PNG


def label_camvid(args: argparse.Namespace, teacher: Detections) -> int:
    """Label every frame of a folder; returns 1 if one was left out. Raises InputError if none is left."""
    paths = sorted((args.folder / "images").glob("*.jpg"))
    if not paths:
        raise InputError(f"{args.folder}: no images/*.jpg; expected CamVid's frames there, and labels/*.png")
    if args.pictures:
        prepare_output(args.pictures, args.out)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    failures: list[str] = []
    for path in track(paths, "labelling"):
        try:
            labels = read_labels(args.folder / "labels" / f"{path.stem}.png")
            image = load_image(path, (labels.shape[0], labels.shape[1]))
        except InputError as err:
            failures.append(str(err))
            continue
        frame = label_frame(labels, teacher.detect(path.name, image))
        images.append(_entry(len(images) + 1, path.name, labels))
        annotations += _annotations(frame, len(images))
        if args.pictures:
            target = Source("image", str(path), args.pictures / path.name)
            PictureWriter(target).write(np.ascontiguousarray(draw_frame(image, frame)[..., ::-1]))
    if not images:
        raise InputError(f"{args.folder}: no usable frame; first defects: {'; '.join(failures[:3])}")
    licence = {"licence": _LICENCE["name"]}
    content = {
        "info": {"description": "pseudo labels of CamVid's frames", **licence, **provenance(args)},
        "licenses": [_LICENCE],
        "images": images,
        "annotations": [{"id": number, **a} for number, a in enumerate(annotations, 1)],
        "categories": [{"id": c.id, "name": c.name} for c in STREET],
    }
    write_text(args.out, json.dumps(content))
    say(f"{args.out}: {len(images)} images; {_summary(annotations)}")
    return report(failures)


def read_labels(path: Path) -> UInt8Array:
    """CamVid's labels (H, W). Raises InputError unless it is a grey 8 bit PNG of the labels 0 to 11."""
    problem = file_problem(path)
    if problem:
        raise InputError(f"labels {path}: {problem}")
    data = np.fromfile(path, np.uint8)
    labels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    expected = f"expected a grey PNG of 8 bits with the labels 0 to {LABELS - 1}"
    if labels is None:
        raise InputError(f"labels {path}: not decodable; {expected}")
    if labels.ndim != 2 or labels.dtype != np.uint8:
        palette = bytes(data[:4]) == b"\x89PNG" and data[25] == _PALETTE
        came = "colours of a palette" if palette else f"{labels.dtype} of shape {labels.shape}"
        raise InputError(f"labels {path}: {came}; {expected}")
    if labels.max() >= LABELS:
        raise InputError(f"labels {path}: holds label {labels.max()}; {expected}")
    return labels  # type: ignore[return-value]


def _entry(number: int, name: str, labels: UInt8Array) -> dict[str, Any]:
    height, width = labels.shape
    return {
        "id": number, "file_name": name, "height": height, "width": width, "license": _LICENCE["id"],
        "labelled_classes": ", ".join(LABELLED_CLASSES),
    }  # fmt: skip


def _annotations(frame: FrameLabels, image_id: int) -> list[dict[str, Any]]:
    """COCO's annotations of a frame, yet without ids: objects, boxes, regions to ignore as crowds."""
    masks = tuple(mask for _, mask in frame.regions)
    regions = Instances(
        extents(masks),
        np.ones(len(masks), np.float32),
        np.array([category for category, _ in frame.regions], np.int32),
        masks,
        frame.instances.size,
    )
    boxes = zip(frame.boxes.boxes, frame.boxes.scores, frame.boxes.category_ids.tolist(), strict=True)
    crowds = _with_area(regions, image_id, 1)
    for crowd in crowds:
        del crowd["score"]
    return [
        *_with_area(frame.instances, image_id, 0),
        *(box_annotation(box, score, category, image_id) for box, score, category in boxes),
        *crowds,
    ]


def _with_area(instances: Instances, image_id: int, crowd: int) -> list[dict[str, Any]]:
    results = zip(coco_results(instances, image_id), instances.masks, strict=True)
    return [{**result, "area": mask.area, "iscrowd": crowd} for result, mask in results]


def _summary(annotations: list[dict[str, Any]]) -> str:
    """Objects with masks and with boxes only by class, and regions."""

    def of(kind: Sequence[Mapping[str, Any]]) -> str:
        found = {c.name: sum(a["category_id"] == c.id for a in kind) for c in STREET}
        return ", ".join(f"{name} {n}" for name, n in found.items() if n) or "none"

    masks = [a for a in annotations if "segmentation" in a and not a["iscrowd"]]
    boxes = [a for a in annotations if a.get("box_only")]
    regions = len(annotations) - len(masks) - len(boxes)
    return f"with masks: {of(masks)}; boxes only: {of(boxes)}; {regions} regions to ignore"


def draw_frame(image: UInt8Array, frame: FrameLabels) -> UInt8Array:
    """Instances as everywhere, objects without a mask as yellow boxes, regions to ignore in grey; RGB."""
    image = image.copy()
    for _, mask in frame.regions:
        h, w = mask.bits.shape
        region = image[mask.y : mask.y + h, mask.x : mask.x + w]
        region[mask.bits] = region[mask.bits] // 2 + 96
    picture = draw(image, frame.instances, _CARD)
    for x0, y0, x1, y1 in np.rint(frame.boxes.boxes).astype(int).tolist():
        cv2.rectangle(picture, (x0, y0), (x1, y1), (255, 255, 0), 1)
    return picture
