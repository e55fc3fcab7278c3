"""Where models are: a path of the user's, or a model that was shipped with the package."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fassst_ros.types import ModelError

_WEIGHTS = (".safetensors", ".pt")  # what training writes
DEFAULT_MODEL = "fassst_768_street"


def shared_folders(kind: str) -> list[Path]:
    """Existing folders named `kind` ("models", "config") that belong to the package, first one first.

    In this order: of a source checkout, inside the installed package, share/fassst_ros of this
    Python, and of each ROS prefix in AMENT_PREFIX_PATH.
    """
    package = Path(__file__).resolve().parent
    folders = [package / kind, Path(sys.prefix) / "share" / "fassst_ros" / kind]
    if (package.parent / "package.xml").is_file():
        folders.insert(0, package.parent / kind)
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix:
            folders.append(Path(prefix) / "share" / "fassst_ros" / kind)
    return [folder for folder in folders if folder.is_dir()]


def shipped_models() -> dict[str, Path]:
    """Name -> file of each shipped model; the first folder that has a name wins."""
    found: dict[str, Path] = {}
    for folder in shared_folders("models"):
        for path in sorted(folder.glob("*.onnx")):
            found.setdefault(path.stem, path)
    return found


def resolve_model(name: str) -> Path:
    """The model file that `name` means: a path, the name of a shipped model, or "" = the default.

    Links are not followed: the card lies beside the link. Raises ModelError, listing the shipped
    models, if there is no such file, and for weights that were not exported.
    """
    wanted = name or DEFAULT_MODEL
    shipped = shipped_models()
    if wanted in shipped:
        return shipped[wanted]
    path = Path(wanted).expanduser()
    if path.is_file():
        if path.suffix in _WEIGHTS:
            raise ModelError(f"{path} holds weights, and no graph that can be run. {_exported(path)}")
        return path.absolute()
    if path.suffix or len(path.parts) > 1:
        reason = f"model file {wanted} " + ("is a folder" if path.is_dir() else "does not exist")
    else:
        reason = f"no shipped model is named {wanted!r}"
    known = ", ".join(f"{n} ({p})" for n, p in shipped.items())
    places = ", ".join(map(str, shared_folders("models"))) or "no models folder was found"
    raise ModelError(
        f"{reason}. Give the path of an .onnx file with its card beside it, or one of: {known or 'none'} "
        f"(looked in: {places})"
    )


def _exported(weights: Path) -> str:
    """How to get the model of a file with weights."""
    model = weights.with_suffix(".onnx")
    if model.is_file():
        return f"Give the model beside it: {model}"
    source = weights if weights.suffix == ".safetensors" else weights.parent / "NAME.safetensors"
    return f"Export it first: fassst export {source} --out models"
