"""The data sets of a recipe, opened; what is wrong with their files is logged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fassst_ros.card import ClassInfo
from fassst_ros.cityscapes_format import list_frames
from fassst_ros.training.cityscapes import CityscapesInstances
from fassst_ros.training.datasets import CocoInstances, SampleSet
from fassst_ros.training.options import DataSource
from fassst_ros.types import InputError

_log = logging.getLogger(__name__)
_SHOWN = 20  # warnings of a set in the log


def open_sources(
    sources: Sequence[DataSource], data_root: Path, classes: Sequence[ClassInfo]
) -> list[SampleSet]:
    """All sets of a recipe. Raises InputError as `open_source` does, and if they hold no object at all."""
    opened = [open_source(source, data_root, classes) for source in sources]
    if not any(any(samples.counts().values()) for samples in opened):
        names = ", ".join(c.name for c in classes)
        defects = [defect for samples in opened for defect in samples.warnings[:3]]
        raise InputError(
            f"{', '.join(s.name for s in sources)}: no object of the classes {names}, nothing to learn from"
            + (f"; first defects: {'; '.join(defects)}" if defects else "")
        )
    return opened


def open_source(source: DataSource, data_root: Path, classes: Sequence[ClassInfo]) -> SampleSet:
    """The samples of one set. Logs its size, its objects by class and the first of its defects.

    Raises InputError, saying what was looked for, if files are missing or the set cannot be used.
    """
    check_source(source, data_root)
    labelled = source.labelled or None
    opened: SampleSet
    if source.format == "cityscapes":
        opened = CityscapesInstances(data_root / source.root, source.split, classes, labelled)
    else:
        annotations, images = data_root / source.annotations, data_root / source.images
        riders = source.mapping == "cityscapes"
        opened = CocoInstances(annotations, images, classes, labelled, riders=riders)
    objects = ", ".join(f"{name} {n}" for name, n in opened.counts().items() if n)
    _log.info("%s: %d images; %s", source.name, len(opened), objects or "no objects")
    for warning in opened.warnings[:_SHOWN]:
        _log.warning("%s", warning)
    if len(opened.warnings) > _SHOWN:
        _log.warning("%s: %d more defects like these", source.name, len(opened.warnings) - _SHOWN)
    for note in opened.notes:
        _log.warning("%s", note)
    return opened


def check_source(source: DataSource, data_root: Path) -> None:
    """Raises InputError, saying what was looked for, if the files of a set are not there; reads none."""
    if source.format == "cityscapes":
        list_frames(data_root / source.root, source.split, lambda _: None)
        return
    annotations, images = data_root / source.annotations, data_root / source.images
    if not annotations.is_file() or not images.is_dir():
        raise InputError(_missing(annotations, images, data_root))


def _missing(annotations: Path, images: Path, data_root: Path) -> str:
    looked = [f"{annotations} ({'found' if annotations.is_file() else 'missing'})"]
    looked.append(f"{images}/ ({'found' if images.is_dir() else 'missing'})")
    there = sorted(p.name for p in data_root.iterdir())[:8] if data_root.is_dir() else None
    held = "does not exist" if there is None else f"holds: {', '.join(there) or 'nothing'}"
    return f"looked for {' and '.join(looked)}. The data root {data_root} {held}. Check --data-root"
