"""Annotated photos, and scenes drawn by lot from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fassst_ros.coco_format import Shape, load_image, parse_shape
from fassst_ros.evaluation.tracking_scene import Camera, CutOut, Scene, Still, Walker
from fassst_ros.training.cut_outs import STANCE, in_one_piece, shared
from fassst_ros.training.shapes import bbox, clip, clip_shape
from fassst_ros.types import Float32Array, InputError

_BORDER = 2.0  # px: a box that comes nearer to its photo's border counts as cut there
_SMALLEST = 60.0  # px, shorter side of an object that is cut out
_OVERLAP = 0.15  # of the smaller box: objects that overlap more with others are not cut out
_HORIZON = (0.15, 0.65)  # of the image height; elsewhere the photo is no street
_HEIGHT = (0.12, 0.6)  # of the image height: moving objects, at the middle of their way
_ENLARGED = 1.2  # at most, of an object's height in its own photo
_SPEED = 1.6  # own heights a second, at most
_PERSON_SPEED = 0.8
_GROWTH = 0.12  # 1/s, at most


@dataclass(frozen=True, slots=True)
class Photo:
    """An annotated photo.

    objects: name of the class, shape, box xyxy in pixels, and whether it can be cut out: it is seen whole,
    alone and large enough. crowded: it has regions where objects of the classes cannot be told apart.
    """

    path: Path
    size: tuple[int, int]
    objects: tuple[tuple[str, Shape, Float32Array, bool], ...]
    crowded: bool

    @property
    def horizon(self) -> float | None:
        """The row where objects of no height would stand; None where no object tells a credible one."""
        height = self.size[0]
        boxes = [b for _, _, b, _ in self.objects if b[1] >= _BORDER and b[3] <= height - _BORDER]
        if not boxes:
            return None
        found = float(np.median([box[3] - STANCE * (box[3] - box[1]) for box in boxes]))
        return found if _HORIZON[0] * height <= found <= _HORIZON[1] * height else None

    @property
    def is_street(self) -> bool:
        """Whether objects can move over it: wide, without crowds, with something that is no person."""
        height, width = self.size
        vehicle = any(name != "person" for name, *_ in self.objects)
        return width > height and not self.crowded and vehicle and self.horizon is not None

    def cut_outs(self, indices: Sequence[int]) -> list[CutOut]:
        """Some of its objects, with the image that shows them. Raises InputError if it cannot be read."""
        image = load_image(self.path, self.size)
        return [CutOut(image, shape, box, name) for name, shape, box, _ in (self.objects[i] for i in indices)]


def read_photos(raw: Mapping[str, Any], folder: Path, classes: Sequence[str]) -> list[Photo]:
    """The photos of a COCO file with the objects of some classes.

    Raises InputError if none of the classes is there, or an entry is malformed.
    """
    names = {c.get("id"): c["name"] for c in raw["categories"] if c.get("name") in classes}
    if not names:
        raise InputError(f"the annotations have none of the classes {', '.join(classes)}")
    of_image: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in raw["annotations"]:
        of_image.setdefault(annotation.get("image_id"), []).append(annotation)
    photos = []
    for entry in raw["images"]:
        try:
            photos.append(_photo(entry, of_image.get(entry["id"], []), folder, names))
        except (InputError, KeyError, TypeError, ValueError) as err:
            name = entry.get("file_name", entry.get("id"))
            raise InputError(f"annotations of photo {name!r}: {type(err).__name__}: {err}") from err
    return photos


def _photo(
    entry: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], folder: Path, names: Mapping[Any, str]
) -> Photo:
    size = (int(entry["height"]), int(entry["width"]))
    boxes = np.array([clip(bbox(a), size)[0] for a in annotations], np.float32).reshape(-1, 4)
    crossed = (shared(boxes, boxes) > _OVERLAP).sum(1) > 1  # each crosses itself
    objects = []
    crowded = False
    for annotation, box, crosses in zip(annotations, boxes, crossed, strict=True):
        name = names.get(annotation["category_id"])
        if name is None:
            continue
        if annotation.get("iscrowd") or annotation.get("box_only"):
            crowded = True
            continue
        shape = clip_shape(parse_shape(annotation.get("segmentation"), size), size)
        limit = np.array(size[::-1]) - _BORDER
        inside = box[:2].min() >= _BORDER and (box[2:] <= limit).all()
        large = (box[2:] - box[:2]).min() >= _SMALLEST
        objects.append((name, shape, box, bool(inside and large and not crosses and in_one_piece(shape))))
    return Photo(folder / str(entry["file_name"]), size, tuple(objects), crowded)


def make_scene(
    photos: Sequence[Photo], index: int, objects: int, frames: int, rate: float, rng: np.random.Generator
) -> Scene:
    """The street of photo `index` with so many objects of other photos that move over it."""
    photo = photos[index]
    stills = [Still(cut_out) for cut_out in photo.cut_outs(range(len(photo.objects)))]
    background = load_image(photo.path, photo.size)
    walkers = [_walker(cut_out, photo, frames / rate, rng) for cut_out in _draw(photos, index, objects, rng)]
    steps = rng.normal(0, 0.15, (frames, 2)).cumsum(axis=0)  # px: the road
    camera = Camera(
        photo.size,
        zoom=rng.uniform(1.15, 1.5),
        growth=rng.uniform(-0.02, 0.04),
        period=rng.uniform(5, 10),
        phase=rng.uniform(0, 2 * np.pi),
        shake=steps + rng.normal(0, 0.4, (frames, 2)),
    )
    return Scene(background, camera, (*stills, *walkers))


def _draw(photos: Sequence[Photo], index: int, count: int, rng: np.random.Generator) -> list[CutOut]:
    """`count` objects of other photos than `index`; those of rare classes more often than they are."""
    places = [
        (i, j)
        for i, photo in enumerate(photos)
        for j in range(len(photo.objects))
        if i != index and photo.objects[j][3]
    ]
    kinds = [photos[i].objects[j][0] for i, j in places]
    weights = np.array([kinds.count(kind) ** -0.5 for kind in kinds])
    number = min(count, len(places))
    drawn = rng.choice(len(places), number, replace=False, p=weights / weights.sum()) if number else ()
    return [photos[i].cut_outs([j])[0] for i, j in (places[int(k)] for k in drawn)]


def _walker(cut_out: CutOut, photo: Photo, seconds: float, rng: np.random.Generator) -> Walker:
    """An object that crosses the street of `photo` at some time."""
    height, width = photo.size
    horizon = photo.horizon
    assert horizon is not None  # is_street
    aspect = float(cut_out.box[2] - cut_out.box[0]) / cut_out.height
    tallest = min(_HEIGHT[1] * height, _ENLARGED * cut_out.height, 0.6 * width / aspect)
    tallest = min(tallest, (height - horizon) / STANCE)  # it stands in the picture
    shortest = min(_HEIGHT[0] * height, tallest)
    fastest = _PERSON_SPEED if cut_out.name == "person" else _SPEED
    return Walker(
        cut_out,
        height=float(np.exp(rng.uniform(np.log(shortest), np.log(tallest)))),
        x=rng.uniform(0.1, 0.9) * width,
        middle=rng.uniform(0, seconds),
        speed=rng.uniform(-fastest, fastest),
        growth=rng.uniform(-_GROWTH, _GROWTH),
        horizon=horizon,
        mirrored=bool(rng.random() < 0.5),
    )
