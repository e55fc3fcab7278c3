"""Which persons of a COCO set are riders in the sense of Cityscapes.

COCO labels a cyclist as a person and a bicycle, Cityscapes as a rider and a bicycle. Boxes tell most
cases: a rider's feet are within the height of the vehicle, the upper body is above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

#: How many persons may ride one.
_SEATS = {"bicycle": 1, "motorcycle": 2}
#: Categories that must all be labelled in an image to know its riders.
NEEDED = frozenset({"person", *_SEATS})


class Riders(NamedTuple):
    """Positions in the list of annotations. unsure: may be riders, or stand beside or behind."""

    sure: frozenset[int]
    unsure: frozenset[int]


class _Pair(NamedTuple):
    """A person on or near a vehicle; sure: by their boxes alone. offset: between centres, in widths."""

    sure: bool
    offset: float
    person: int
    vehicle: int


def find_riders(annotations: Sequence[Mapping[str, Any]], names: Mapping[Any, Any]) -> Riders:
    """Riders among the annotations of a COCO file; crowds and malformed boxes count as nothing.

    names: category id -> name.
    """
    persons: dict[Any, list[int]] = {}
    vehicles: dict[Any, list[int]] = {}
    for i, annotation in enumerate(annotations):
        name = names.get(annotation.get("category_id"))
        if name in NEEDED and not annotation.get("iscrowd") and _is_box(annotation.get("bbox")):
            kind = persons if name == "person" else vehicles
            kind.setdefault(annotation.get("image_id"), []).append(i)
    sure: set[int] = set()
    near: set[int] = set()
    for image_id, numbers in vehicles.items():
        boxes = {i: annotations[i]["bbox"] for i in (*numbers, *persons.get(image_id, ()))}
        seats = {i: _SEATS[names[annotations[i]["category_id"]]] for i in numbers}
        # The most centred person of all takes a seat first.
        for pair in sorted(_pairs(boxes, persons.get(image_id, ()), numbers), key=lambda p: p.offset):
            near.add(pair.person)
            if pair.sure and pair.person not in sure and seats[pair.vehicle]:
                seats[pair.vehicle] -= 1
                sure.add(pair.person)
    return Riders(frozenset(sure), frozenset(near - sure))


def _pairs(boxes: Mapping[int, Any], persons: Sequence[int], vehicles: Sequence[int]) -> Iterator[_Pair]:
    """Persons with the vehicles that they may ride, from boxes x, y, width, height.

    The limits were set on the photos of COCO, looked at one by one.
    """
    for person in persons:
        x, y, w, h = boxes[person]
        for vehicle in vehicles:
            left, top, width, height = boxes[vehicle]
            across = (min(x + w, left + width) - max(x, left)) / min(w, width)
            down = (min(y + h, top + height) - max(y, top)) / height
            feet = (y + h - top) / height  # 0: at the vehicle's top, 1: at its bottom
            above = (top - y) / h
            if across > 0.6 and down > 0.4 and 0.4 < feet < 1.15 and above > 0.15:
                sure = across > 0.8 and above > 0.25
                yield _Pair(sure, abs(x + w / 2 - left - width / 2) / width, person, vehicle)


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)
    return numbers and box[2] > 0 and box[3] > 0
