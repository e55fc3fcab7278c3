"""`fassst label fill` and `check`: a teacher's boxes beside, and against, what a set labels."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fassst_ros.coco_format import load_image, read_coco
from fassst_ros.labels import COCO
from fassst_ros.predict import write_text
from fassst_ros.training.label_run import Detections, provenance, report, say, track
from fassst_ros.training.teacher import Teacher, group_of
from fassst_ros.types import Float32Array, InputError, UInt8Array
from fassst_ros.yolox import Boxes

_SAME_IOU = 0.5  # from which two boxes show the same object
_IN_CROWD = 0.5  # part of a box in a crowd's box from which it is one of the crowd
_PART = 0.8  # part of a box in an object's box from which it shows a part of that object
_IDS = {c.name: c.id for c in COCO}
_NAMES = {c.id: c.name for c in COCO}


class Objects(NamedTuple):
    """What is annotated in an image. boxes: (n, 4) xyxy; ids: (n,) COCO's category ids; crowd: (n,) bool."""

    boxes: Float32Array
    ids: NDArray[np.int32]
    crowd: NDArray[np.bool_]


class Labelled(NamedTuple):
    """An image entry of a file with its annotations, and the names of the classes that it labels fully."""

    entry: dict[str, Any]
    objects: Objects
    classes: set[str]


class Count(NamedTuple):
    """Of one class: annotated objects, detections (without those in crowds), and pairs of them."""

    objects: int
    detections: int
    right: int


def fill(args: argparse.Namespace, teacher: Detections) -> int:
    """Add what the teacher finds of unlabelled classes; returns 1 if an image could not be read."""
    raw = read_coco(args.annotations)
    names = _category_names(raw, args.annotations)
    ids = {name: number for number, name in names.items()}
    looked = {*args.classes, *args.incomplete}
    for name in sorted(looked - set(ids)):
        say(f"{args.annotations.name} has no category {name}: not added")
    number = max((a["id"] for a in raw["annotations"] if isinstance(a.get("id"), int)), default=0)
    added = dict.fromkeys((name for name in ids if name in looked), 0)
    complete = True  # no image leaves a class out, so that none is even opened
    failures: list[str] = []
    for image in track(_labelled_images(raw, names, args.annotations), "filling"):
        labelled = image.classes - set(args.incomplete)
        if args.incomplete:
            image.entry["labelled_classes"] = ", ".join(name for name in ids if name in labelled)
        wanted = {_IDS[name] for name in set(added) - labelled}
        complete = complete and not wanted
        pixels = _read(image.entry, args.images, failures) if wanted else None
        if pixels is None:
            continue
        found = teacher.detect(image.entry["file_name"], pixels)
        for i in missing(found, image.objects, wanted):
            name = _NAMES[int(found.category_ids[i])]
            added[name] += 1
            number += 1
            annotation = box_annotation(found.boxes[i], found.scores[i], ids[name], image.entry["id"])
            raw["annotations"].append({"id": number, **annotation})
    raw.setdefault("info", {})["filled"] = provenance(args)
    write_text(args.out, json.dumps(raw))
    said = f"added {', '.join(f'{name} {n}' for name, n in added.items())}"
    if complete:
        said = "every image labels every class that is looked for: nothing to add, no image was read"
    say(f"{args.out}: {said}")
    return report(failures)


def check(args: argparse.Namespace, teacher: Teacher) -> int:
    """Print precision and recall of the teacher, class by class; returns 1 if an image could not be read."""
    raw = read_coco(args.annotations)
    names = _category_names(raw, args.annotations)
    totals = {name: Count(0, 0, 0) for name in args.classes}
    failures: list[str] = []
    for image in track(_labelled_images(raw, names, args.annotations), "checking"):
        pixels = _read(image.entry, args.images, failures)
        if pixels is None:
            continue
        found = teacher.detect(pixels, args.threshold)
        for name in set(totals) & image.classes:
            total, one = totals[name], count(found, image.objects, _IDS[name])
            totals[name] = Count(*(a + b for a, b in zip(total, one, strict=True)))
    limits = f"score >= {args.threshold:g}, IoU >= {_SAME_IOU:g}"
    print(f"{'class':<12} objects  found  precision  recall    {limits}")
    for name, total in totals.items():
        precision, recall = (
            f"{total.right / n:.2f}" if n else "-" for n in (total.detections, total.objects)
        )
        print(f"{name:<12} {total.objects:7d} {total.detections:6d} {precision:>10} {recall:>7}")
    return report(failures)


def _category_names(raw: Mapping[str, Any], path: Path) -> dict[Any, str]:
    try:
        return {c["id"]: str(c["name"]) for c in raw["categories"]}
    except KeyError as err:
        raise InputError(f"{path}: a category has no {err}; expected id and name") from err


def _labelled_images(raw: Mapping[str, Any], names: Mapping[Any, str], path: Path) -> list[Labelled]:
    """The images of a file, each with its annotations. Raises InputError, naming what is malformed."""
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in raw["annotations"]:
        by_image.setdefault(annotation.get("image_id"), []).append(annotation)
    images = []
    for entry in raw["images"]:
        if not {"id", "file_name", "height", "width"} <= entry.keys():
            raise InputError(f"{path}: image entry {entry.get('id')!r} lacks id, file_name, height or width")
        try:
            objects = _objects(by_image.get(entry["id"], ()), names)
            listed = entry["labelled_classes"].split(",") if "labelled_classes" in entry else names.values()
        except (AttributeError, KeyError, TypeError, ValueError) as err:
            raise InputError(
                f"{path}: image {entry['id']} has labelled_classes that are no text, or an annotation "
                f"without a bbox of x, y, width, height ({type(err).__name__}: {err})"
            ) from err
        images.append(Labelled(entry, objects, {name.strip() for name in listed}))
    if not images:
        raise InputError(f"{path}: no images")
    return images


def _objects(annotations: Iterable[Mapping[str, Any]], names: Mapping[Any, str]) -> Objects:
    """The annotations whose category is one of COCO's by name."""
    known = [a for a in annotations if names.get(a.get("category_id")) in _IDS]
    boxes = np.array([a["bbox"] for a in known], np.float32).reshape(len(known), 4)
    boxes[:, 2:] += boxes[:, :2]
    ids = [_IDS[names[a["category_id"]]] for a in known]
    crowd = [bool(a.get("iscrowd")) for a in known]
    return Objects(boxes, np.array(ids, np.int32), np.array(crowd, np.bool_))


def _read(entry: Mapping[str, Any], folder: Path, failures: list[str]) -> UInt8Array | None:
    """The image of an entry; None, noted in `failures`, if it cannot be read."""
    try:
        return load_image(folder / entry["file_name"], (entry["height"], entry["width"]))
    except InputError as err:
        failures.append(str(err))
        return None


def missing(found: Boxes, there: Objects, wanted: Collection[int]) -> NDArray[np.intp]:
    """Indices of the detections of `wanted` categories that show nothing that is annotated already.

    Cars, trucks, buses and trains are taken for each other, as are two-wheelers: a box on one of them
    shows the same object. A box within an object of its group is a part of it, one mostly in a crowd
    one of the crowd.
    """
    same_group = group_of(found.category_ids)[:, None] == group_of(there.ids)
    shared = _shared(found.boxes, there.boxes)
    own, other = _area(found.boxes)[:, None], _area(there.boxes)[None]
    within = np.where(there.crowd, _IN_CROWD, _PART)
    known = (shared >= _SAME_IOU * (own + other - shared)) | (shared >= within * own)
    new = np.isin(found.category_ids, list(wanted)) & ~(known & same_group).any(axis=1)
    return np.flatnonzero(new)


def count(found: Boxes, there: Objects, category: int) -> Count:
    """How the detections of one category fit: best score first, each object once, IoU 0.5, as in COCO."""
    boxes = found.boxes[found.category_ids == category]
    own = there.ids == category
    objects, crowds = there.boxes[own & ~there.crowd], there.boxes[own & there.crowd]
    shared, areas = _shared(boxes, objects), _area(boxes)
    iou = shared / (areas[:, None] + _area(objects) - shared)
    crowded = _shared(boxes, crowds) >= _IN_CROWD * areas[:, None]
    right = ignored = 0
    for row, in_crowds in zip(iou, crowded, strict=True):
        if row.max(initial=0) >= _SAME_IOU:
            iou[:, row.argmax()] = 0  # taken
            right += 1
        elif in_crowds.any():
            ignored += 1
    return Count(len(objects), len(boxes) - ignored, right)


def _area(boxes: Float32Array) -> Float32Array:
    sides = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def _shared(a: Float32Array, b: Float32Array) -> Float32Array:
    """(n, m) areas that boxes (n, 4) and (m, 4) xyxy have in common."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    sides: Float32Array = np.maximum(np.minimum(a[:, None, 2:], b[None, :, 2:]) - low, 0)
    return sides[..., 0] * sides[..., 1]


def box_annotation(box: Float32Array, score: float, category_id: int, image_id: Any) -> dict[str, Any]:
    """A COCO annotation, yet without id, of an object of which only the box (xyxy) is known."""
    x0, y0, x1, y1 = (float(v) for v in box)
    return {
        "image_id": image_id, "category_id": category_id, "iscrowd": 0, "box_only": True,
        "bbox": [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)],
        "area": round((x1 - x0) * (y1 - y0), 2), "score": round(float(score), 5),
    }  # fmt: skip
