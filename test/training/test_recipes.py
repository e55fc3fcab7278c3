"""Recipes: defaults, presets, changes from the command line, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import recipe_file

from fassst_ros.training.augment import AugmentOptions
from fassst_ros.training.options import Optimisation, build_recipe, load_recipe
from fassst_ros.training.recipes import as_mapping, differences
from fassst_ros.training.state import build, make_optimiser, rate_factor
from fassst_ros.types import ConfigError

CONFIG = Path(__file__).resolve().parents[2] / "config"


RECIPES = sorted([*CONFIG.glob("train_*.yaml"), *CONFIG.glob("compare/*"), *CONFIG.glob("ablations/*")])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipes_are_valid_and_survive_their_resolved_form(path: Path) -> None:
    recipe = load_recipe(path)
    build(recipe, recipe.schedule[0])
    text = yaml.safe_dump(as_mapping(recipe))
    assert build_recipe(yaml.safe_load(text), "resolved") == recipe


def test_a_phase_changes_entries_of_the_common_augmentation(tmp_path: Path) -> None:
    phases = [
        {"steps": 3, "mosaic": 0.0, "augment": {"scale": [0.5, 1]}},
        {"epochs": 2, "input_height": 512, "input_width": 1024},
    ]
    path = recipe_file(tmp_path, schedule=phases, augment={"flip": 0.0, "scale": [0.9, 1.1]})
    first, second = load_recipe(path).in_steps(11).schedule
    assert first.augment == AugmentOptions(scale=(0.5, 1.0), mosaic=0.0, flip=0.0)
    assert second.augment == AugmentOptions(scale=(0.9, 1.1), flip=0.0)
    assert (second.steps, second.epochs) == (11, 0)  # two passes of 11 images, 2 a step


def test_overrides_and_preset(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, val={"annotations": "set.json", "images": "."})
    changes = ["optimisation.lr=1e-2", "schedule.1.steps=7", "config.grid=4", "val.every=5", "seed=3"]
    recipe = load_recipe(path, changes)
    assert recipe.optimisation == Optimisation(lr=0.01, batch=2, warmup=2)
    assert [s.steps for s in recipe.schedule] == [3, 7]
    assert (recipe.config["grid"], recipe.seed) == (4, 3)
    assert recipe.val is not None
    assert recipe.val.every == 5
    paper = load_recipe(path, ["optimisation.batch=4"], preset="paper")
    assert (paper.optimisation.optimiser, paper.optimisation.lr, paper.optimisation.batch) == (
        "sgd",
        0.005,
        4,
    )
    assert paper.config["loss_weights"] == {"mask": 5.75, "box": 3.0, "class": 1.25}
    (phase,) = paper.in_steps(40).schedule
    assert (phase.input_height, phase.input_width, phase.steps) == (96, 128, 1000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimisation.lr", "expected NAME=VALUE"),
        ("optimisation..lr=1", "expected NAME=VALUE"),
        ("optimisation.rate=1", "optimisation: unknown setting rate"),
        ("optimisation.lr=fast", "lr = 'fast'; expected a number"),
        ("optimisation.lr=[", "not YAML"),
        ("optimisation.milestones=[0.5, 2]", r"milestones\[1\] = 2"),
        ("schedule.2.steps=5", "'2' is none of the 2 entries"),
        ("schedule.x.steps=5", "'x' is none of the 2 entries"),
        ("name.x=5", "which has no entries"),
        ("schedule.0.epochs=1", "3 steps, 1.0 epochs; expected one of them"),
        ("schedule.0.steps=0", "0 steps, 0.0 epochs; expected one of them"),
        ("schedule.0.augment={scale: [2, 1]}", "two rising numbers"),
        ("augment={flap: 0.5}", "unknown setting flap"),
        ("val={annotations: a.json}", "val: images is missing"),
        ("val={annotations: a.json, images: b, every: 0}", "every = 0"),
        ("seed=-1", "seed = -1"),
        ("name=", "name = None; expected the name of the model's files"),
        ("schedule.0.input_height=-32", "expected a value of at least"),
        ("schedule=[]", "list of one phase or more"),
    ],
)
def test_wrong_changes_are_refused(tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe_file(tmp_path), [change])


def test_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="preset 'quick'; known: paper"):
        load_recipe(recipe_file(tmp_path), preset="quick")


def test_differences_are_named(tmp_path: Path) -> None:
    def mapping(*changes: str) -> dict[str, Any]:
        return as_mapping(load_recipe(recipe_file(tmp_path), changes))

    assert list(differences(mapping(), mapping())) == []
    found = list(
        differences(mapping(), mapping("optimisation.lr=0.5", "schedule.1.steps=9", "config.width=8"))
    )
    assert found == [
        "config.width: 16 before, 8 now",
        "schedule.1.steps: 3 before, 9 now",
        "optimisation.lr: 0.001 before, 0.5 now",
    ]


def test_learning_rate() -> None:
    cosine = Optimisation(warmup=10)
    assert rate_factor(cosine, 0, 110) == pytest.approx(0.1)
    assert rate_factor(cosine, 10, 110) == pytest.approx(1.0)
    assert rate_factor(cosine, 60, 110) == pytest.approx(0.505)
    assert rate_factor(cosine, 110, 110) == pytest.approx(0.01)
    step = Optimisation(warmup=0, decay="step", milestones=(0.5, 0.75), gamma=0.1)
    assert [rate_factor(step, n, 100) for n in (0, 49, 50, 75)] == pytest.approx([1, 1, 0.1, 0.01])


def test_only_a_backbone_with_weights_learns_slowly(tmp_path: Path) -> None:
    def peaks(*changes: str) -> set[float]:
        recipe = load_recipe(recipe_file(tmp_path), ["optimisation.backbone_scale=0.1", *changes])
        optimiser = make_optimiser(build(recipe, recipe.schedule[0]), recipe)
        return {round(group["peak"], 9) for group in optimiser.param_groups}

    assert peaks() == {0.001}
    assert peaks("backbone_weights=weights.pt") == peaks("initial_weights=a.safetensors") == {0.001, 0.0001}
