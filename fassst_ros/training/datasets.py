"""COCO instance annotations as training samples, with every defect of a file named.

A set may label only some classes of an image (`labelled_classes` in its image entry); a sample
says which, so that the loss does not punish a true detection that nobody annotated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ClassInfo
from fassst_ros.coco_format import Shape, file_problem, load_image, parse_shape, read_coco
from fassst_ros.training.riders import NEEDED, find_riders
from fassst_ros.training.shapes import Box, bbox, clip, clip_shape, extent
from fassst_ros.types import ConfigError, Float32Array, InputError, RoiMask, UInt8Array

#: Polygons of COCO leave the image by rounding; only more than this many pixels is a defect.
_EDGE_TOLERANCE = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its objects, all coordinates in pixels of that image.

    image: (H, W, 3) uint8 RGB. boxes: (n, 4) float32 xyxy. labels: (n,) int64 indices into the
    classes. shapes: n shapes, () where only the box is known. labelled: (C,) bool, True where every
    object of the class is annotated. ignore: (m, 4) float32 regions that are neither object nor background.
    """

    image: UInt8Array
    boxes: Float32Array
    labels: NDArray[np.int64]
    shapes: tuple[Shape, ...]
    labelled: NDArray[np.bool_]
    ignore: Float32Array
    image_id: int


@dataclass(slots=True)
class Record:
    """An image entry and what was kept of its annotations."""

    image_id: int
    path: Path
    size: tuple[int, int]
    labelled: NDArray[np.bool_]
    boxes: list[Box] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    shapes: list[Shape | PackedMask] = field(default_factory=list)
    ignore: list[Box] = field(default_factory=list)


class PackedMask(NamedTuple):
    """A RoiMask as run lengths: thousands of them fit into memory."""

    x: int
    y: int
    width: int
    height: int
    runs: NDArray[np.uint32]

    @classmethod
    def of(cls, mask: RoiMask) -> PackedMask:
        """The same mask in few bytes."""
        height, width = mask.bits.shape
        return cls(mask.x, mask.y, width, height, mask.run_lengths())

    def unpack(self) -> RoiMask:
        """The mask as it was."""
        return RoiMask.from_run_lengths(*self)


class SampleSet:
    """Annotated images of any format as samples. Subclasses read a format and keep its records.

    classes: the card's, in order. warnings: every defect that was found, with what became of it.
    notes: what the set as a whole does not have of what was asked for.
    """

    def __init__(self, source: str, classes: Sequence[ClassInfo]) -> None:
        """source: what warnings call the set."""
        self.classes = tuple(classes)
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self._source = source
        self._index = {c.name: i for i, c in enumerate(self.classes)}
        self._records: list[Record] = []
        #: Indices of the images that show an object; of all images where none does.
        self.with_objects: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Load one sample. Raises InputError (naming the file) if its image is broken."""
        record = self._records[index]
        shapes = (s.unpack() if isinstance(s, PackedMask) else s for s in record.shapes)
        return Sample(
            image=load_image(record.path, record.size),
            boxes=np.array(record.boxes, np.float32).reshape(-1, 4),
            labels=np.array(record.labels, np.int64),
            shapes=tuple(shapes),
            labelled=record.labelled,
            ignore=np.array(record.ignore, np.float32).reshape(-1, 4),
            image_id=record.image_id,
        )

    def counts(self) -> dict[str, int]:
        """Objects of each class, by name."""
        labels = [label for record in self._records for label in record.labels]
        totals = np.bincount(np.array(labels, np.int64), minlength=len(self.classes))
        return {c.name: int(n) for c, n in zip(self.classes, totals, strict=True)}

    def _keep(self, records: Iterable[Record]) -> None:
        """Take over what was read. Raises InputError if that is nothing."""
        self._records = list(records)
        if not self._records:
            raise InputError(
                f"{self._source}: no usable image; first defects: {'; '.join(self.warnings[:3])}"
            )
        shown = [i for i, record in enumerate(self._records) if record.labels]
        self.with_objects = shown or range(len(self._records))

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self._source}: {text}")

    def _note_absent(self, present: NDArray[np.bool_]) -> None:
        """present: (C,) bool, False where the set has no such class."""
        if absent := [c.name for c, there in zip(self.classes, present, strict=True) if not there]:
            self.notes.append(f"{self._source}: not labelled, as it has no such class: {', '.join(absent)}")

    def _check_labelled(self, names: Sequence[str], present: NDArray[np.bool_]) -> None:
        """Note which names of a recipe's `labelled` change nothing. Raises InputError if none is a class."""
        if names and not any(name in self._index for name in names):
            raise InputError(f"labelled classes {list(names)} are none of {', '.join(self._index)}")
        there = {c.name for c, known in zip(self.classes, present, strict=True) if known}
        if unused := [name for name in names if name not in there]:
            self.notes.append(
                f"{self._source}: without effect in `labelled`, as the set or the class list of the recipe "
                f"has no such class: {', '.join(unused)}"
            )

    def _labelled(self, names: Sequence[str] | None, present: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(C,) bool of the named classes that are present; of all where `names` is None."""
        return present if names is None else np.logical_and(present, [c.name in names for c in self.classes])


class CocoInstances(SampleSet):
    """A COCO annotation file and its images, restricted to the classes of a model card.

    Categories are matched by name. classes: the card's, in order. labelled: names of the classes
    annotated exhaustively, for all images; None: as each image's `labelled_classes` says, else all.
    An annotation with `box_only` true is an object whose mask is not known: it trains class and box.
    riders: persons on bicycles and motorcycles become class rider, unclear cases are ignored (riders.py);
    riders then count as labelled where persons, bicycles and motorcycles are.
    Raises InputError if the file is unusable as a whole, if no image is left, or if `labelled`
    names no class, ConfigError for riders without such a class.
    """

    def __init__(
        self,
        annotation_file: Path,
        image_dir: Path,
        classes: Sequence[ClassInfo],
        labelled: Sequence[str] | None = None,
        *,
        riders: bool = False,
    ) -> None:
        super().__init__(annotation_file.name, classes)
        raw = read_coco(annotation_file)
        categories = {c.get("id"): c.get("name") for c in raw["categories"]}
        if riders and "rider" not in self._index:
            raise ConfigError(f"mapping cityscapes makes riders; the classes are {', '.join(self._index)}")
        self._riders = find_riders(raw["annotations"], categories) if riders else None
        names = self._with_rider([str(name) for name in categories.values()])
        present = np.array([c.name in names for c in self.classes])
        if not present.any():
            known = ", ".join(str(n) for n in categories.values())
            raise InputError(
                f"{annotation_file} holds none of the classes {', '.join(self._index)}; it has: {known}"
            )
        self._note_absent(present)
        if labelled is None:
            self._note_names(raw["images"], names)
        else:
            self._check_labelled(labelled, present)
        records = self._read_images(raw["images"], image_dir, labelled, present)
        for number, annotation in enumerate(raw["annotations"]):
            self._read_annotation(number, annotation, records, categories)
        self._keep(records.values())

    def _with_rider(self, names: Sequence[str]) -> Sequence[str]:
        """What is labelled where `names` are: riders are known by persons and vehicles together."""
        return [*names, "rider"] if self._riders and NEEDED.issubset(names) else names

    def _read_images(
        self,
        entries: Sequence[Mapping[str, Any]],
        image_dir: Path,
        labelled: Sequence[str] | None,
        present: NDArray[np.bool_],
    ) -> dict[int, Record]:
        records: dict[int, Record] = {}
        for entry in entries:
            try:
                image_id, size = int(entry["id"]), (int(entry["height"]), int(entry["width"]))
                path = image_dir / entry["file_name"]
                names = labelled
                if names is None and "labelled_classes" in entry:
                    names = _split(entry["labelled_classes"])
                names = None if names is None else self._with_rider(names)
                record = Record(image_id, path, size, self._labelled(names, present))
            except (KeyError, TypeError, ValueError, AttributeError) as err:
                self._warn(
                    f"image entry {entry.get('id')!r} is malformed ({type(err).__name__}: {err}): skipped"
                )
                continue
            problem = file_problem(path)
            if problem or image_id in records:
                self._warn(f"image {path} {problem or f'repeats the id {image_id}'}: skipped")
                continue
            records[image_id] = record
        return records

    def _note_names(self, entries: Sequence[Mapping[str, Any]], categories: Sequence[str]) -> None:
        """Note the names in `labelled_classes` that are no category of the file, as mistyped ones."""
        texts = [e["labelled_classes"] for e in entries if isinstance(e.get("labelled_classes"), str)]
        images = Counter(name for text in texts for name in _split(text) if name not in categories)
        for name, count in images.items():
            self.notes.append(
                f"{self._source}: {name} is no category of the file: without effect in labelled_classes of "
                f"{count} images"
            )

    def _read_annotation(
        self,
        number: int,
        annotation: Mapping[str, Any],
        records: Mapping[int, Record],
        categories: Mapping[Any, Any],
    ) -> None:
        """File one annotation under its image, as an object or as a region to ignore.

        number: its position in the file, by which riders are named.
        """
        name = f"annotation {annotation.get('id')!r} of image {annotation.get('image_id')!r}"
        category = annotation.get("category_id")
        if category not in categories:
            self._warn(f"{name} has category_id {category!r}, which the file does not define: skipped")
            return
        record = records.get(annotation.get("image_id", -1))
        if record is None:
            self._warn(f"{name}: the image is not in the set: skipped")
            return
        rider = self._riders is not None and number in self._riders.sure
        label = self._index.get("rider" if rider else categories[category])
        if label is None:
            return  # another category: background to this model
        unclear = self._riders is not None and number in self._riders.unsure
        if annotation.get("iscrowd") or unclear:
            self._ignore(record, annotation, name)
            return
        try:
            shape: Shape = ()
            if not annotation.get("box_only"):
                shape = parse_shape(annotation.get("segmentation"), record.size)
            box, outside = clip(extent(shape) if shape else bbox(annotation), record.size)
        except InputError as err:
            self._warn(f"{name}: {err}: its box is ignored")
            self._ignore(record, annotation, name)
            return
        if outside > _EDGE_TOLERANCE:
            self._warn(f"{name} leaves the image by {outside:.0f} px: clipped")
        record.boxes.append(box)
        record.labels.append(label)
        record.shapes.append(clip_shape(shape, record.size))

    def _ignore(self, record: Record, annotation: Mapping[str, Any], name: str) -> None:
        try:
            record.ignore.append(clip(bbox(annotation), record.size)[0])
        except InputError as err:
            self._warn(f"{name}: no usable bbox ({err}): skipped")


def _split(names: str) -> list[str]:
    """The names in a text with commas between them."""
    return [name for part in names.split(",") if (name := part.strip())]
