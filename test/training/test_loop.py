"""The training loop on a tiny made-up set: it learns, resumes exactly, and stops when it must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from fassst_ros.export import load_network
from fassst_ros.networks.fassst import FASSST
from fassst_ros.training.loop import TrainingError, train
from fassst_ros.training.options import load_recipe
from fassst_ros.types import ConfigError


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with a bright car each, as COCO JSON."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(12):
        image = random.integers(60, 100, (96, 128, 3), np.uint8)
        x, y = (int(v) for v in random.integers(5, 50, 2))
        image[y : y + 40, x : x + 60] = (40, 200, 240)
        cv2.imwrite(str(root / f"{i}.jpg"), image)
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 96, "width": 128})
        corners = [x, y, x + 60, y, x + 60, y + 40, x, y + 40]
        annotations.append(
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 3,
                "bbox": [x, y, 60, 40],
                "area": 2400,
                "iscrowd": 0,
                "segmentation": [corners],
            }
        )
    names = {1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 6: "bus", 7: "train", 8: "truck"}
    categories = [{"id": k, "name": v} for k, v in names.items()]
    (root / "set.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return root


def recipe_file(folder: Path, **changes: Any) -> Path:
    recipe: dict[str, Any] = {
        "name": "tiny",
        "network": "fassst",
        "config": {"grid": 3, "width": 16, "roi_size": 8},
        "classes": "street",
        "data": [{"annotations": "set.json", "images": "."}],
        "schedule": [
            {"input_height": 96, "input_width": 96, "steps": 3},
            {"input_height": 96, "input_width": 128, "steps": 3},
        ],
        "optimisation": {"batch": 2, "warmup": 2, "lr": 0.001},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def read_log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_interrupted_run_equals_an_uninterrupted_one(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(recipe_file(tmp_path))
    weights = train(recipe, data_root, tmp_path / "whole", workers=0, save_every=2)

    original = FASSST.loss
    calls = 0

    def killed(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:  # in step 4, in the second phase; the checkpoint is of step 2
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(FASSST, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data_root, tmp_path / "parts", workers=0, save_every=2)
    monkeypatch.undo()
    resumed = train(recipe, data_root, tmp_path / "parts", workers=0, save_every=2)

    assert read_log(tmp_path / "whole")[-1]["loss"] == read_log(tmp_path / "parts")[-1]["loss"]
    a, b = (load_network(w)[0].state_dict() for w in (weights, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_weights_carry_a_card(data_root: Path, tmp_path: Path) -> None:
    weights = train(load_recipe(recipe_file(tmp_path)), data_root, tmp_path / "run", workers=0)
    network, card = load_network(weights)
    assert network.input_size == (96, 128)
    assert card.training["steps"] == 6
    assert card.config["grid"] == 3
    assert [c.id for c in card.classes] == [1, 2, 3, 4, 6, 7, 8]


def test_non_finite_loss_stops_and_keeps_its_batch(data_root: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        recipe_file(tmp_path, optimisation={"batch": 2, "warmup": 0, "lr": 1e30, "optimiser": "sgd"})
    )
    with pytest.raises(TrainingError, match="not finite"):
        train(recipe, data_root, tmp_path / "run", workers=0)
    batch = torch.load(tmp_path / "run" / "bad_batch.pt", weights_only=True)
    assert batch["images"].shape == (2, 96, 96, 3)
    assert len(batch["targets"]) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 1}, "unknown entry learning_rate"),
        ({"classes": "animals"}, "street, cityscapes"),
        ({"optimisation": {"lr": -1.0}}, "lr = -1"),
        ({"optimisation": {"optimiser": "adam"}}, "adamw, sgd"),
        ({"schedule": [3]}, "schedule"),
        ({"data": [{"annotation": "set.json"}]}, "annotation"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe_file(tmp_path, **change))


def test_missing_entries_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("name: x\nnetwork: fassst\n")
    with pytest.raises(ConfigError, match="classes, config, data, schedule"):
        load_recipe(path)
