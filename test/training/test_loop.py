"""The training loop on a tiny made-up set: it learns, resumes exactly, and stops when it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import read_log, recipe_file, write_cars

from fassst_ros.export import load_network
from fassst_ros.networks.fassst import FASSST
from fassst_ros.training.loop import TrainingError, train
from fassst_ros.training.options import load_recipe
from fassst_ros.types import ConfigError, ModelError


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cars(tmp_path_factory.mktemp("data"))


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


def test_non_finite_gradient_stops_before_the_weights_are_lost(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FASSST.loss
    calls: list[int] = []

    def loss(network: FASSST, *args: Any) -> Any:
        calls.append(1)
        losses = original(network, *args)
        if len(calls) == 2:  # the root of 0: its value is finite, its gradient is not
            losses["box"] = losses["box"] + torch.sqrt(next(network.parameters()).sum() * 0)
        return losses

    monkeypatch.setattr(FASSST, "loss", loss)
    recipe = load_recipe(recipe_file(tmp_path), ["optimisation.clip=0.0"])
    with pytest.raises(TrainingError, match="gradient is not finite"):
        train(recipe, data_root, tmp_path / "run", workers=0, save_every=1, pictures_every=0)
    assert (tmp_path / "run" / "bad_batch.pt").is_file()
    monkeypatch.undo()
    train(recipe, data_root, tmp_path / "run", workers=0, pictures_every=0)
    assert read_log(tmp_path / "run")[-1]["step"] == 6


def test_weights_of_no_use_do_not_replace_a_checkpoint(data_root: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path))
    train(recipe, data_root, tmp_path / "run", workers=0, pictures_every=0)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    changes = ["schedule.1.steps=4", "optimisation.lr=1.0e+9", "optimisation.ema=0.0"]
    longer = load_recipe(tmp_path / "recipe.yaml", changes)
    with pytest.raises(ModelError, match="not finite in float16"):
        train(longer, data_root, tmp_path / "run", workers=0, changed=True, pictures_every=0)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


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
