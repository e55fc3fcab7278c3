"""Ablations: every variant starts, and a study ends in one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_run import recipe_file, write_cars

from fassst_ros.networks.base import Target
from fassst_ros.training.ablate import STUDIES, ablate, variants
from fassst_ros.training.state import build
from fassst_ros.types import ConfigError

VAL = {"annotations": "set.json", "images": ".", "limit": 4}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cars(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("study", STUDIES)
def test_every_variant_of_every_study_starts(data_root: Path, tmp_path: Path, study: str) -> None:
    path = recipe_file(tmp_path, val=VAL, schedule=[{"input_height": 160, "input_width": 160, "steps": 1}])
    names = []
    for label, recipe in variants(study, path, data_root):
        names.append(recipe.name)
        network = build(recipe, recipe.schedule[0]).train()
        target = Target(
            boxes=torch.tensor([[20.0, 20.0, 100.0, 90.0]]),
            labels=torch.tensor([2]),
            masks=torch.full((1, 80, 80), 255, dtype=torch.uint8),
            labelled=torch.ones(7, dtype=torch.bool),
            ignore=torch.zeros(0, 4),
        )
        losses = network.loss(torch.full((2, 160, 160, 3), 99, dtype=torch.uint8), [target, target], 0.5)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        assert torch.isfinite(total), label
    expected = (
        1 if study == "pretraining" else len(STUDIES[study])
    )  # the tiny recipe has no weights to leave out
    assert len(set(names)) == len(names) == expected


def test_a_study_is_trained_and_tabled(data_root: Path, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, val=VAL)
    rows = ablate("fusion", path, data_root, tmp_path / "study", steps=1, workers=0, pictures_every=0)
    assert [(r.variant, r.steps, r.weights) for r in rows] == [
        ("with RFF", 2, "random"),
        ("without RFF", 2, "random"),
    ]
    table = (tmp_path / "study" / "table.md").read_text().splitlines()
    assert len(table) == 4
    assert table[2].startswith("| with RFF | random | 3.")
    assert len(json.loads((tmp_path / "study" / "table.json").read_text())) == 2
    again = ablate("fusion", path, data_root, tmp_path / "study", steps=1, workers=0, pictures_every=0)
    assert again == rows
    with pytest.raises(ConfigError, match="has no `val`"):
        list(variants("fusion", recipe_file(tmp_path), data_root))
