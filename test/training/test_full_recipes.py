"""The recipes for Cityscapes and COCO: valid as they are, and run for two small steps on made-up data."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapes_files import street, write_frame
from coco_files import image_entry, rectangle_annotation
from safetensors.torch import load_file

from fassst_ros.card import load_card
from fassst_ros.export import load_network
from fassst_ros.labels import CITYSCAPES, COCO
from fassst_ros.models import shipped_models
from fassst_ros.training.distributed import Group
from fassst_ros.training.loop import train
from fassst_ros.training.options import load_recipe
from fassst_ros.training.pretrained import find_initial
from fassst_ros.training.state import TrainingState
from fassst_ros.types import InputError, ModelError

CONFIG = Path(__file__).parents[2] / "config"
SMALL = (
    "optimisation.batch=2",
    "optimisation.warmup=1",
    "val.every=2",
    "schedule=[{input_height: 128, input_width: 128, steps: 2}]",
)


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for number in range(3):
        write_frame(root / "cityscapes", number, street(), "train")
    write_frame(root / "cityscapes", 9, street(), "val")
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        images = [image_entry(root / split, i, 60, 80) for i in (1, 2)]
        objects = [
            rectangle_annotation(i, c, 10, 10, 50, 40) for i, c in ((1, 17), (2, 90))
        ]  # cat, toothbrush
        content = {
            "images": images,
            "annotations": [{"id": i + 1, "iscrowd": 0, **a} for i, a in enumerate(objects)],
            "categories": [{"id": c.id, "name": c.name} for c in COCO],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def test_cityscapes_recipe_starts_from_the_shipped_model(
    cityscapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe(CONFIG / "train_cityscapes.yaml")
    assert (recipe.schedule[0].input_height, recipe.schedule[0].input_width) == (768, 768)
    assert recipe.schedule[0].epochs >= 50
    assert recipe.config["grid"] ** 2 == 49
    shipped = load_card(shipped_models()[recipe.initial_weights]).config
    own = {k: v for k, v in shipped.items() if k not in ("num_classes", "input_size")}
    assert recipe.config == own  # else its weights do not fit

    recipe = load_recipe(CONFIG / "train_cityscapes.yaml", SMALL)
    with caplog.at_level(logging.INFO):
        weights = train(recipe, cityscapes, tmp_path, workers=0)
    _, card = load_network(weights)
    assert card.classes == CITYSCAPES
    assert card.training["data"] == ["cityscapes (train)"]
    taken = next(r.message for r in caplog.records if "tensors from" in r.message)
    assert taken.endswith("new: none")
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert any("mask_AP" in line for line in log)  # measured on the val split
    assert all(np.isfinite(line["loss"]) for line in log if "loss" in line)


def test_classes_of_the_shipped_model_are_taken_by_name(tmp_path: Path) -> None:
    recipe = load_recipe(CONFIG / "train_cityscapes.yaml", SMALL)
    weights = find_initial(recipe.initial_weights, tmp_path)
    given, own = (
        load_file(weights),
        TrainingState.start(recipe, tmp_path, Group(torch.device("cpu"))).network.state_dict(),
    )
    theirs, ours = [c.name for c in load_card(weights).classes], [c.name for c in CITYSCAPES]
    differing = [n for n in given if given[n].shape != own[n].shape]
    assert differing
    for name in differing:
        for i, label in enumerate(ours):
            row = theirs.index("person" if label == "rider" else label)
            torch.testing.assert_close(own[name][i], given[name][row].float())


def test_coco_recipe_trains_80_classes(coco: Path, tmp_path: Path) -> None:
    recipe = load_recipe(CONFIG / "train_coco.yaml")
    assert {(s.input_height, s.input_width) for s in recipe.schedule} == {(416, 416)}
    assert recipe.config["grid"] ** 2 == 36
    weights = train(
        load_recipe(CONFIG / "train_coco.yaml", [*SMALL, "backbone_weights="]), coco, tmp_path, workers=0
    )
    network, card = load_network(weights)
    assert card.classes == COCO
    assert network.slots == 36


def test_mistyped_data_root_says_what_was_looked_for(coco: Path, tmp_path: Path) -> None:
    recipe = load_recipe(CONFIG / "train_coco.yaml", SMALL)
    with pytest.raises(
        InputError, match=r"looked for .*instances_train2017.json \(missing\) and .*train2017/"
    ):
        train(recipe, tmp_path / "nowhere", tmp_path / "run", workers=0)
    recipe = load_recipe(CONFIG / "train_cityscapes.yaml", SMALL)
    with pytest.raises(InputError, match=r"Looked for .*cityscapes/leftImg8bit/train/CITY"):
        train(recipe, coco, tmp_path / "run", workers=0)


def test_unknown_initial_weights_name_the_shipped_ones(cityscapes: Path, tmp_path: Path) -> None:
    recipe = load_recipe(CONFIG / "train_cityscapes.yaml", [*SMALL, "initial_weights=fassst_9000"])
    with pytest.raises(ModelError, match=r"no file .*fassst_9000, and no shipped model .*fassst_768_street"):
        train(recipe, cityscapes, tmp_path, workers=0)
