"""The model card: the JSON beside a model that says what it is and how to use it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fassst_ros.types import ModelError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class. id: 1..255 as in messages and the class map; color: RGB for drawing."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class MaskInfo:
    """What the graph's `masks` output is.

    kind: "box" (inside the box grown by `padding` of its width and height on each side) or
    "frame" (over the whole input). height, width: cells. threshold: probability of a set pixel.
    """

    kind: str
    height: int
    width: int
    threshold: float = 0.5
    padding: float = 0.1


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything that the pipeline must know of a model, and where it comes from.

    input_height, input_width: what the graph takes, in pixels, RGB; images are stretched to it, and boxes are
    in its pixels. resize: (height, width) to which the graph itself resizes that, where it was exported for
    whole frames of a camera; else None. slots: K of the raw outputs. files: name -> sha256 of the model's own
    files.
    """

    name: str
    network: str
    version: str
    input_height: int
    input_width: int
    classes: tuple[ClassInfo, ...]
    masks: MaskInfo
    slots: int
    score_threshold: float = 0.35
    resize: tuple[int, int] | None = None
    licence: str = "Apache-2.0"
    config: dict[str, Any] = field(default_factory=dict)  # arguments of the network's class
    training: dict[str, Any] = field(default_factory=dict)  # data, split, recipe, licences
    quantisation: dict[str, Any] = field(
        default_factory=dict
    )  # of an INT8 model: how, from what, with which images
    metrics: dict[str, Any] = field(default_factory=dict)  # measured accuracy, with its command
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [c.id for c in self.classes]
        if not ids or len(set(ids)) != len(ids) or not all(1 <= i <= 255 for i in ids):
            raise ModelError(f"card {self.name!r}: class ids are {ids}; expected unique ids in 1..255")
        if self.masks.kind not in ("box", "frame"):
            raise ModelError(
                f"card {self.name!r}: masks.kind is {self.masks.kind!r}; expected 'box' or 'frame'"
            )
        sizes = (self.input_height, self.input_width, self.slots, self.masks.height, self.masks.width)
        if min(sizes + (self.resize or ())) < 1:
            raise ModelError(f"card {self.name!r}: input, mask and slot sizes must be 1 or more")

    def to_json(self) -> str:
        """The card as the text of its file."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> ModelCard:
        """Parse a card; `source` names it in errors. Raises ModelError if it is not one."""
        try:
            raw = json.loads(text)
            if not isinstance(raw, dict):
                raise TypeError(f"the top level is a {type(raw).__name__}, not an object")
            if raw.pop("format", None) != FORMAT:
                raise ValueError(f"'format' is not {FORMAT}")
            raw["classes"] = tuple(ClassInfo(**{**c, "color": tuple(c["color"])}) for c in raw["classes"])
            raw["masks"] = MaskInfo(**raw["masks"])
            if raw.get("resize") is not None:
                height, width = raw["resize"]
                raw["resize"] = (int(height), int(width))
            return cls(**raw)
        except (ValueError, TypeError, KeyError) as err:
            raise ModelError(
                f"{source}: not a model card of format {FORMAT}: {err}. Export the model again with "
                "`fassst export`, or take card and model from the same release"
            ) from err


def embed_card(model: Any, card: ModelCard) -> None:
    """Put the card into the metadata of an ONNX model, for those who get the file alone."""
    import onnx

    onnx.helper.set_model_props(model, {"fassst_ros.card": json.dumps(json.loads(card.to_json()))})


def card_path(model: Path) -> Path:
    """Where the card of a model file lies: the same name with .json."""
    return model.with_suffix(".json")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_card(model: Path) -> ModelCard:
    """The card of a model file, checked against the file's hash.

    Raises ModelError when model or card are missing, unreadable, or do not belong together.
    """
    if not model.is_file():
        raise ModelError(f"model file {model} does not exist. Give the path of an .onnx file with its card")
    path = card_path(model)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ModelError(
            f"no readable card {path} beside the model ({err}). Copy the .json that came with the model"
        ) from err
    card = ModelCard.from_json(text, str(path))
    expected = card.files.get(model.name)
    if expected is None:
        raise ModelError(
            f"{path} does not list {model.name} (it lists: {', '.join(card.files) or 'nothing'})"
        )
    actual = sha256(model)
    if actual != expected:
        raise ModelError(
            f"{model} has sha256 {actual[:12]}..., its card {path.name} expects {expected[:12]}...: one of "
            "them is from another export or damaged. Copy both from the same release"
        )
    return card
