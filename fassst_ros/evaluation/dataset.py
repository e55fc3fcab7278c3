"""What a model is measured on: images with ground truth, whatever format they were stored in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fassst_ros.card import ClassInfo
from fassst_ros.coco_format import load_image, read_coco
from fassst_ros.types import ConfigError, Frame, InputError, Instances

#: Image id -> what was found there, in pixels of the original image.
Predictions = Mapping[int, Instances]
#: Further metrics of a set beside COCO's: (predictions, classes) -> entries of the report.
Metric = Callable[[Predictions, Sequence[ClassInfo]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Images and their true objects.

    name: for people. content: images, annotations and categories as in a COCO file. folder: what
    the images' `file_name` is relative to. arguments: options of `fassst eval` that name the set, without
    folders. metrics: what is measured beside COCO's numbers.
    """

    name: str
    content: Mapping[str, Any]
    folder: Path
    arguments: tuple[str, ...]
    metrics: tuple[Metric, ...] = field(default=())

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The images: dicts with id, file_name, height and width."""
        entries: list[dict[str, Any]] = self.content["images"]
        return entries

    def load(self, entry: Mapping[str, Any]) -> Frame:
        """The image of an entry. Raises InputError if it is missing, broken or of another size."""
        try:
            name, size = str(entry["file_name"]), (entry["height"], entry["width"])
        except KeyError as err:
            raise InputError(f"image {entry.get('id')!r} has no {err} in its entry") from err
        return Frame(load_image(self.folder / name, size))

    def first(self, count: int) -> EvaluationSet:
        """The set with its first `count` images only; 0: all. Raises ConfigError for fewer."""
        if count < 0:
            raise ConfigError(f"--limit is {count}; expected a number of images, or 0 for all")
        content = {**self.content, "images": self.entries[: count or None]}
        return replace(self, content=content)


def open_coco(annotations: Path, folder: Path) -> EvaluationSet:
    """A COCO annotation file and the folder of its images.

    Raises InputError if the file is none, lists no image, or none of its images is in the folder.
    """
    arguments = ("--annotations", annotations.name, "--images", "DIR")
    found = EvaluationSet(annotations.name, read_coco(annotations), folder, arguments)
    if not found.entries:
        raise InputError(f"{annotations} lists no image")
    if not any((folder / str(e.get("file_name"))).is_file() for e in found.entries):
        raise InputError(
            f"none of the {len(found.entries)} images is in {folder} (the first is "
            f"{found.entries[0].get('file_name')}). Check --images"
        )
    return found
