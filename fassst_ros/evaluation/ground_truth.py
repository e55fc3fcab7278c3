"""What of a COCO file counts for a model's classes, checked before anything is compared with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fassst_ros.card import ClassInfo
from fassst_ros.coco_format import parse_shape
from fassst_ros.types import InputError


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The images and objects of a file, restricted to the classes of a model.

    images: id -> entry. counted: image id -> ids of the classes that count there.
    objects: annotations of these classes in COCO's format, yet without id, class ids for category ids; with
    track_id, None where there is none.
    undefined: category ids of annotations which the file does not define, as text.
    """

    classes: tuple[ClassInfo, ...]
    images: dict[int, dict[str, Any]]
    counted: dict[int, set[int]]
    objects: list[dict[str, Any]]
    undefined: tuple[str, ...]

    @classmethod
    def read(
        cls, raw: Mapping[str, Any], classes: Sequence[ClassInfo], only: Collection[int] | None = None
    ) -> GroundTruth:
        """Of the content of a COCO file; categories are matched to `classes` by name.

        To a model that has persons but no riders, as those of COCO, a rider may be a person or not: riders
        of the file are crowds of persons then.
        only: ids of the images whose objects are wanted; None: all. Raises InputError, naming image or
        annotation, for what is malformed, and if none of the classes is there.
        """
        ids = {c.name: c.id for c in classes}
        known = {c.get("id"): ids[c["name"]] for c in raw["categories"] if c.get("name") in ids}
        if not known:
            raise InputError(f"the annotations have none of the classes {', '.join(ids)}")
        riders = _riders(raw, ids)
        known |= dict.fromkeys(riders, ids.get("person", 0))
        images: dict[int, dict[str, Any]] = {}
        for entry in raw["images"]:
            _check_image(entry, images)
            images[entry["id"]] = entry
        counted = {
            image_id: set(known.values()) & _labelled(entry, ids)
            for image_id, entry in images.items()
            if only is None or image_id in only
        }
        objects = []
        for annotation in raw["annotations"]:
            class_id = known.get(annotation.get("category_id"))
            if class_id is not None and class_id in counted.get(annotation.get("image_id"), ()):
                crowd = annotation["category_id"] in riders
                objects.append(_object(annotation, class_id, images[annotation["image_id"]], crowd))
        defined = [repr(c.get("id")) for c in raw["categories"]]
        used = dict.fromkeys(repr(a.get("category_id")) for a in raw["annotations"])
        undefined = tuple(name for name in used if name not in defined)
        return cls(tuple(classes), images, counted, objects, undefined)

    def with_objects(self) -> GroundTruth:
        """Itself. Raises InputError if no object is there to be found: no number would mean anything."""
        if any(not o["iscrowd"] for o in self.objects):
            return self
        names = ", ".join(c.name for c in self.classes)
        reason = ", only crowds or boxes" if self.objects else ""
        if self.undefined:
            reason += f"; categories {', '.join(self.undefined[:5])} of annotations are not defined there"
        raise InputError(
            f"the annotations hold no object of the classes {names} in these images{reason}. Check "
            "category_id, labelled_classes and --limit"
        )

    def of(self, images: Iterable[int]) -> dict[str, Any]:
        """The part of some images, in their order, as the content of a COCO file."""
        wanted = dict.fromkeys(images)
        objects = [o for o in self.objects if o["image_id"] in wanted]
        return {
            "info": {},
            "images": [self.images[i] for i in wanted],
            # Numbers start at 1, for COCO's code takes 0 for "no match"; it adds keys, hence the copies.
            "annotations": [{"id": number, **o} for number, o in enumerate(objects, 1)],
            "categories": [{"id": c.id, "name": c.name} for c in self.classes],
        }


def _check_image(entry: Mapping[str, Any], others: Collection[int]) -> None:
    lacking = [key for key in ("id", "height", "width") if not isinstance(entry.get(key), int)]
    if lacking:
        name = entry.get("file_name", entry.get("id"))
        raise InputError(f"the annotations' entry of image {name!r} has no whole number as {lacking[0]}")
    if entry["id"] in others:
        raise InputError(f"the annotations have two images with the id {entry['id']}")


def _labelled(entry: Mapping[str, Any], ids: Mapping[str, int]) -> set[int]:
    """Ids of the classes that an image labels: of all, unless it says which."""
    names = entry.get("labelled_classes")
    if names is None:
        return set(ids.values())
    if not isinstance(names, str):
        raise InputError(
            f"labelled_classes of image {entry['id']} is {names!r}; expected names with commas between them"
        )
    return {ids[name] for part in names.split(",") if (name := part.strip()) in ids}


def _riders(raw: Mapping[str, Any], ids: Mapping[str, int]) -> list[Any]:
    """Categories that count as crowds of persons."""
    if "person" not in ids or "rider" in ids:
        return []
    return [c.get("id") for c in raw["categories"] if c.get("name") == "rider"]


def _object(
    annotation: Mapping[str, Any], class_id: int, image: Mapping[str, Any], crowd: bool
) -> dict[str, Any]:
    """A checked copy of an annotation, made a crowd if `crowd`.

    An object of which only the box is known counts as a crowd that fills it: nobody can tell a right mask.
    """
    box_only = bool(annotation.get("box_only"))
    try:
        box = [float(v) for v in annotation["bbox"]]
        if len(box) != 4:
            raise ValueError(f"bbox {box} does not hold 4 numbers")
        x, y, w, h = box
        shape = [[x, y, x + w, y, x + w, y + h, x, y + h]] if box_only else annotation.get("segmentation")
        parse_shape(shape, (image["height"], image["width"]))
        area = float(annotation["area"])
        if not np.isfinite([*box, area]).all():
            raise ValueError(f"bbox {box} and area {area} are not finite")
    except (InputError, KeyError, TypeError, ValueError) as err:
        raise InputError(
            f"annotation {annotation.get('id')!r} of image {image['id']} cannot be compared with: "
            f"{type(err).__name__}: {err}"
        ) from err
    return {
        "image_id": image["id"],
        "category_id": class_id,
        "segmentation": shape,
        "bbox": box,
        "area": area,
        "iscrowd": int(crowd or box_only or annotation.get("iscrowd", 0)),
        "track_id": annotation.get("track_id"),
    }
