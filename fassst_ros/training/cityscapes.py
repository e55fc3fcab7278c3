"""A split of Cityscapes as training samples, with every defect of its files named.

Every object of the eight classes is annotated, so all of them count as labelled. Neither object nor
background are: groups, caravans and trailers, and what CityPersons says to ignore, where its
folder gtBboxCityPersons is there. Other void (the own bonnet, static, ...) is background.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ClassInfo
from fassst_ros.cityscapes_format import (
    FIRST_INSTANCE,
    Box,
    CityscapesFrame,
    group_masks,
    instance_masks,
    list_frames,
    only_void,
    person_ignore_boxes,
    read_ids,
)
from fassst_ros.coco_format import file_problem
from fassst_ros.labels import CITYSCAPES
from fassst_ros.training.datasets import PackedMask, Record, SampleSet
from fassst_ros.training.shapes import extent
from fassst_ros.types import InputError

_log = logging.getLogger(__name__)
_AMBIGUOUS = (29, 30)  # caravan, trailer: look like trucks and cars, but are none of the eight classes


class CityscapesInstances(SampleSet):
    """The frames of ROOT/leftImg8bit/SPLIT, restricted to the classes of a model card.

    Classes are matched by name. Where the card knows no rider, riders are persons, as in COCO.
    labelled: names of the classes annotated exhaustively; None: all eight.
    All instance maps are read here, once; the masks stay in memory as run lengths.
    Raises InputError if no frame is found or left, or if none of the classes is known.
    """

    def __init__(
        self, root: Path, split: str, classes: Sequence[ClassInfo], labelled: Sequence[str] | None = None
    ) -> None:
        super().__init__(f"{root.resolve().name} {split}", classes)
        index = {c.id: self._index[c.name] for c in CITYSCAPES if c.name in self._index}
        if not index:
            known = ", ".join(c.name for c in CITYSCAPES)
            raise InputError(f"Cityscapes has none of the classes {', '.join(self._index)}; it has: {known}")
        present = np.isin(np.arange(len(self.classes)), list(index.values()))
        if "person" in self._index and "rider" not in self._index:
            index[25] = self._index["person"]
        self._note_absent(present)
        if labelled is not None:
            self._check_labelled(labelled, present)
        frames = list_frames(root, split, self._warn)
        _log.info("reading the annotations of %d frames in %s", len(frames), root)
        read = partial(
            _read,
            labelled=self._labelled(labelled, present),
            index=index,
            persons=root / "gtBboxCityPersons" / split,
        )
        records = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            results = pool.map(read, range(1, len(frames) + 1), frames)
            for frame, (record, defects) in zip(frames, results, strict=True):
                for defect in defects:
                    self._warn(f"{frame.name}: {defect}")
                if record is not None:
                    records.append(record)
        self._keep(records)


def _read(
    image_id: int,
    frame: CityscapesFrame,
    labelled: NDArray[np.bool_],
    index: Mapping[int, int],
    persons: Path,
) -> tuple[Record | None, list[str]]:
    """What to keep of a frame (None: nothing), and its defects.

    index: label id -> class index. persons: folder of the cities in CityPersons' annotations.
    """
    problem = file_problem(frame.image)
    if problem:
        return None, [f"image {problem}: skipped"]
    try:
        ids = read_ids(frame)
    except InputError as err:
        return None, [f"{err}: skipped"]
    if only_void(ids):
        return None, ["nothing but void is annotated (as in the test split): skipped"]
    record = Record(image_id, frame.image, frame.size, labelled)
    for value, mask in instance_masks(ids).items():
        label = value // FIRST_INSTANCE
        if label in index:
            record.boxes.append(extent(mask))
            record.labels.append(index[label])
            record.shapes.append(PackedMask.of(mask))
        elif label in _AMBIGUOUS:
            record.ignore.append(extent(mask))
    record.ignore += [extent(m) for label, m in group_masks(ids) if label in index or label in _AMBIGUOUS]
    boxes, defects = _person_boxes(frame, persons)
    record.ignore += boxes
    return record, defects


def _person_boxes(frame: CityscapesFrame, persons: Path) -> tuple[list[Box], list[str]]:
    path = persons / frame.image.parent.name / f"{frame.name}_gtBboxCityPersons.json"
    if not path.is_file():
        return [], []
    try:
        return person_ignore_boxes(path), []
    except InputError as err:
        return [], [f"{err}: without its ignore boxes"]
