"""The `data` entries of a recipe: what they may say, and what a mistyped path is answered."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from cityscapes_files import street, write_frame
from coco_files import CLASSES, image_entry, rectangle_annotation, write_coco

from fassst_ros.labels import CITYSCAPES
from fassst_ros.training.options import DataSource, load_recipe
from fassst_ros.training.sources import open_source, open_sources
from fassst_ros.types import ConfigError, InputError


def sources(folder: Path, *entries: Any) -> tuple[DataSource, ...]:
    path = folder / "recipe.yaml"
    schedule = [{"steps": 1}]
    recipe = {"name": "x", "network": "fassst", "config": {}, "classes": "cityscapes", "schedule": schedule}
    path.write_text(yaml.safe_dump({**recipe, "data": list(entries)}))
    return load_recipe(path).data


COCO_SET = {"annotations": "a.json", "images": "images"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"annotations": "a.json"},
            r"data\[1\]: images is missing; format coco needs annotations and images",
        ),
        ({"format": "cityscapes"}, r"data\[1\]: root is missing; format cityscapes needs root and split"),
        (
            {"format": "cityscapes", "root": "c", "images": "i"},
            r"images has no meaning for format cityscapes",
        ),
        (
            {"format": "cityscapes", "root": "c", "mapping": "cityscapes"},
            r"mapping has no meaning for format",
        ),
        (
            {**COCO_SET, "split": "val"},
            r"split has no meaning for format coco; its entries: annotations, images",
        ),
        ({**COCO_SET, "format": "yolo"}, r"data\[1\]: format = 'yolo'; expected one of coco, cityscapes"),
        ({**COCO_SET, "mapping": "voc"}, r"expected one of none, cityscapes"),
        ({**COCO_SET, "labelled": "car"}, r"labelled = 'car'; expected a list of strings"),
        (3, r"data\[1\] holds 3"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, entry: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sources(tmp_path, COCO_SET, entry)


def test_at_least_one_set_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data holds \[\]; expected a list of one set or more"):
        sources(tmp_path)


def test_both_formats_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_frame(tmp_path / "city", 1, street())
    objects = [rectangle_annotation(1, 1, 5, 5, 30, 40), rectangle_annotation(1, 3, 5, 5, 30, 40)]
    write_coco(tmp_path, [image_entry(tmp_path, 1, 60, 80)], objects)
    entries = ({"format": "cityscapes", "root": "city"}, {"annotations": "annotations.json", "images": "."})
    with caplog.at_level(logging.INFO):
        opened = [open_source(s, tmp_path, CITYSCAPES) for s in sources(tmp_path, *entries)]
    assert [s.counts()["car"] for s in opened] == [1, 1]
    assert opened[0].classes == opened[1].classes
    assert "city (train): 1 images; person 1, rider 1, car 1, bicycle 1" in caplog.text
    absent = "rider, truck, bus, train, motorcycle, bicycle"
    assert f"annotations.json: not labelled, as it has no such class: {absent}" in caplog.text


def test_many_defects_do_not_hide_absent_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    objects = [rectangle_annotation(1, 3, 5, 5, 30, 40), *[rectangle_annotation(1, 99, 5, 5, 30, 40)] * 30]
    write_coco(tmp_path, [image_entry(tmp_path, 1, 60, 80)], objects)
    (source,) = sources(tmp_path, {"annotations": "annotations.json", "images": "."})
    open_source(source, tmp_path, CITYSCAPES)
    assert "10 more defects like these" in caplog.text
    assert caplog.messages[-1].startswith("annotations.json: not labelled, as it has no such class: rider")


def test_labelled_classes_of_an_entry(tmp_path: Path) -> None:
    write_coco(tmp_path, [image_entry(tmp_path, 1, 60, 80)], [rectangle_annotation(1, 3, 5, 5, 30, 40)])
    (source,) = sources(tmp_path, {"annotations": "annotations.json", "images": ".", "labelled": ["car"]})
    assert open_source(source, tmp_path, CLASSES)[0].labelled.tolist() == [False, True]


def test_mistyped_paths_say_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "coco2017").mkdir()
    (source,) = sources(tmp_path, {"annotations": "coco/annotations/x.json", "images": "coco2017"})
    words = r"looked for .*coco/annotations/x.json \(missing\) and .*coco2017/ \(found\).* holds: coco2017"
    with pytest.raises(InputError, match=words):
        open_source(source, tmp_path, CITYSCAPES)
    with pytest.raises(InputError, match=r"The data root .*nowhere does not exist. Check --data-root"):
        open_source(source, tmp_path / "nowhere", CITYSCAPES)
    (source,) = sources(tmp_path, {"format": "cityscapes", "root": "cityscapes"})
    words = r"Looked for .*cityscapes/leftImg8bit/train/CITY/\*_leftImg8bit.png and .* holds: coco2017"
    with pytest.raises(InputError, match=words):
        open_source(source, tmp_path, CITYSCAPES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_id": "3"}, r"category_id '3', which the file does not define"),
        ({"category_id": 5}, r"annotations.json.*: no object of the classes person, car"),
    ],
)
def test_sets_without_any_object_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    objects = [{**rectangle_annotation(1, 3, 5, 5, 30, 40), **change}]
    write_coco(tmp_path, [image_entry(tmp_path, 1, 60, 80)], objects)
    empty, full = sources(
        tmp_path, *[{"annotations": f"{n}.json", "images": "."} for n in ("annotations", "b")]
    )
    with pytest.raises(InputError, match=words):
        open_sources([empty], tmp_path, CLASSES)
    good = write_coco(
        tmp_path, [image_entry(tmp_path, 1, 60, 80)], [rectangle_annotation(1, 3, 5, 5, 30, 40)]
    )
    good.rename(tmp_path / "b.json")
    write_coco(tmp_path, [image_entry(tmp_path, 1, 60, 80)], objects)
    assert (
        len(open_sources([empty, full], tmp_path, CLASSES)) == 2
    )  # photos without objects may be one of them
