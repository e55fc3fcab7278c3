"""The model card: round trip, and what is said of a card that is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_model import tiny_card

from fassst_ros.card import ClassInfo, ModelCard, card_path, load_card, sha256
from fassst_ros.types import ModelError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with a card that fits it; its content does not matter here."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"graph")
    card = dataclasses.replace(tiny_card(), files={"net.onnx": sha256(path)})
    card_path(path).write_text(card.to_json(), encoding="utf-8")
    return path


def test_round_trip() -> None:
    card = dataclasses.replace(tiny_card(), metrics={"mask_ap": 0.2}, config={"depth": 5})
    assert ModelCard.from_json(card.to_json(), "text") == card
    whole = dataclasses.replace(card, resize=(24, 32))
    assert ModelCard.from_json(whole.to_json(), "text") == whole


def test_load_checks_the_file(model: Path) -> None:
    assert load_card(model).name == "tiny"
    model.write_bytes(b"another graph")
    with pytest.raises(ModelError, match="another export or damaged"):
        load_card(model)


def test_missing_model_card_or_entry(model: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_card(model.with_name("other.onnx"))
    other = model.with_name("other.onnx")
    other.write_bytes(b"graph")
    with pytest.raises(ModelError, match=r"no readable card .*other\.json"):
        load_card(other)
    other.with_suffix(".json").write_bytes(card_path(model).read_bytes())
    with pytest.raises(ModelError, match=r"does not list other\.onnx \(it lists: net\.onnx\)"):
        load_card(other)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, "'format' is not 1"),
        ({"classes": []}, r"class ids are \[\]"),
        ({"classes": [{"id": 0, "name": "x", "color": [1, 2, 3]}]}, r"\[0\]"),
        ({"classes": [{"id": 1, "name": "x"}]}, "color"),
        ({"masks": {"kind": "polygon", "height": 4, "width": 4}}, "polygon"),
        ({"slots": 0}, "must be 1 or more"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_wrong_cards_are_named(change: dict[str, Any], problem: str) -> None:
    raw = json.loads(tiny_card().to_json()) | change
    with pytest.raises(ModelError, match=problem):
        ModelCard.from_json(json.dumps(raw), "net.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"text"'])
def test_not_a_card_at_all(text: str) -> None:
    with pytest.raises(ModelError, match=r"net\.json: not a model card"):
        ModelCard.from_json(text, "net.json")


def test_class_ids_are_unique() -> None:
    twice = (ClassInfo(1, "a", (0, 0, 0)), ClassInfo(1, "b", (0, 0, 0)))
    with pytest.raises(ModelError, match=r"\[1, 1\]"):
        dataclasses.replace(tiny_card(), classes=twice)
