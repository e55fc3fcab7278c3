"""Files of Cityscapes: which frames there are, and their instance maps.

A file is ROOT/TYPE/SPLIT/CITY/CITY_SEQUENCE_FRAME_TYPE.EXT. An instance map holds for each pixel
label id * 1000 + n, or the label id alone: of a label without instances, or of a group whose members
cannot be told apart. Source: Cordts et al., CVPR 2016, and the label table of cityscapesScripts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.types import InputError, RoiMask

UInt16Array = NDArray[np.uint16]
Box = tuple[float, float, float, float]

_NAMES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel",
    "pole", "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider",
    "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
#: Name -> id of every label of the annotations.
LABEL_IDS = {**{name: i for i, name in enumerate(_NAMES)}, "license plate": -1}
#: Labels that no evaluation counts.
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
#: Labels with instances: the eight classes, caravan (29) and trailer (30).
WITH_INSTANCES = tuple(range(24, 34))
#: Values of an instance map from here on are instances.
FIRST_INSTANCE = 1000


@dataclass(frozen=True, slots=True)
class CityscapesFrame:
    """One annotated image. annotation: its instance map (.png) or polygons (.json); size: (H, W)."""

    name: str
    image: Path
    annotation: Path
    size: tuple[int, int]


def list_frames(root: Path, split: str, warn: Callable[[str], None]) -> list[CityscapesFrame]:
    """The annotated frames of a split, by name. warn: is told of each that is left out, and why.

    Raises InputError, saying what was looked for and what is there, if the split has no frame.
    """
    folder, truth = root / "leftImg8bit" / split, root / "gtFine" / split
    images = sorted(folder.glob("*/*_leftImg8bit.png"))
    if not images or not truth.is_dir():
        raise InputError(_not_found(root, folder, truth))
    frames = []
    for image in images:
        name = image.name.removesuffix("_leftImg8bit.png")
        stem = truth / image.parent.name / name
        candidates = [Path(f"{stem}_gtFine_{kind}") for kind in ("instanceIds.png", "polygons.json")]
        annotation = next((path for path in candidates if path.is_file()), None)
        if annotation is None:
            warn(f"{name}: neither {' nor '.join(p.name for p in candidates)} is in {stem.parent}: skipped")
            continue
        try:
            size = png_size(image)
            if annotation.suffix == ".png" and png_size(annotation) != size:
                raise InputError(f"image is {size}, its annotation {png_size(annotation)} (height, width)")
        except InputError as err:
            warn(f"{name}: {err}: skipped")
            continue
        frames.append(CityscapesFrame(name, image, annotation, size))
    return frames


def _not_found(root: Path, folder: Path, truth: Path) -> str:
    looked = (folder / "CITY" / "*_leftImg8bit.png", truth / "CITY" / "*_gtFine_instanceIds.png")
    there = next(p for p in (folder, truth, *folder.parents) if p.is_dir())
    names = ", ".join(sorted(p.name for p in there.iterdir())[:8]) or "nothing"
    return (
        f"no Cityscapes frames in {root}. Looked for {looked[0]} and {looked[1]} (or polygons.json); "
        f"{there} holds: {names}. Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there"
    )


def png_size(path: Path) -> tuple[int, int]:
    """(height, width) of a PNG file from its header alone. Raises InputError if it is none."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as err:
        raise InputError(f"{path} cannot be read ({err.strerror})") from err
    if len(head) < 24 or not head.startswith(b"\x89PNG\r\n\x1a\n"):
        raise InputError(f"{path} is no PNG file")
    width, height = struct.unpack(">II", head[16:])
    return height, width


def read_ids(frame: CityscapesFrame) -> UInt16Array:
    """The instance map (H, W) of a frame, drawn from its polygons where there is no such file.

    Raises InputError if the file is broken, of another size, or holds unknown labels.
    """
    path = frame.annotation
    if path.suffix == ".json":
        ids = draw_polygons(_read_json(path), str(path))
    else:
        decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None or decoded.ndim != 2 or decoded.dtype != np.uint16:
            came = "not decodable" if decoded is None else f"{decoded.dtype} {decoded.shape}"
            raise InputError(f"{path} is {came}; expected 16 bit grey (not the file of labelIds)")
        ids = decoded.view(np.uint16)
    if ids.shape != frame.size:
        raise InputError(f"{path} is {ids.shape}, its image {frame.size} (height, width)")
    present = present_values(ids)
    labels = np.where(present < FIRST_INSTANCE, present, present // 1000)
    valid = np.where(present < FIRST_INSTANCE, labels < len(_NAMES), np.isin(labels, WITH_INSTANCES))
    if not valid.all():
        raise InputError(f"{path} holds the values {present[~valid][:5].tolist()}, which mean no label")
    return ids


def present_values(ids: UInt16Array) -> UInt16Array:
    """The values of an instance map, ascending; looks only where neighbours differ, which is fast."""
    flat = ids.ravel()
    return np.unique(np.append(flat[:1], flat[1:][flat[1:] != flat[:-1]]))


def only_void(ids: UInt16Array) -> bool:
    """Whether nothing is annotated, as in the public files of the test split."""
    return bool(np.isin(present_values(ids), VOID).all())


def draw_polygons(raw: Any, source: str) -> UInt16Array:
    """The instance map that the objects of a polygons file draw, later ones over earlier ones.

    Outlines differ from those of the official map by a pixel at most. source: the file, for errors.
    Raises InputError if the file is malformed or an object has an unknown label.
    """
    try:
        ids = np.zeros((int(raw["imgHeight"]), int(raw["imgWidth"])), np.uint16)
        numbers = dict.fromkeys(WITH_INSTANCES, 0)
        for entry in raw["objects"]:
            if entry.get("deleted"):
                continue
            label = str(entry["label"])
            group = label not in LABEL_IDS and label.endswith("group")
            value = LABEL_IDS.get(label.removesuffix("group") if group else label)
            if value is None:
                raise InputError(f"{source}: unknown label {label!r}")
            if value in numbers and not group:
                numbers[value] += 1
                value = value * 1000 + numbers[value] - 1
            points = np.round(np.array(entry["polygon"], np.float64)).astype(np.int32)
            if points.ndim != 2 or points.shape[1] != 2:
                raise InputError(f"{source}: polygon of a {label} is no list of x, y pairs")
            if value >= 0:  # license plates are not drawn: they belong to their car
                cv2.fillPoly(ids, [points], value)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise InputError(f"{source} is no polygons file of Cityscapes ({type(err).__name__}: {err})") from err
    return ids


def instance_masks(ids: UInt16Array) -> dict[int, RoiMask]:
    """The pixels of each instance, by its value in the map (1000 or more)."""
    width = ids.shape[1]
    flat = ids.ravel()
    at = np.flatnonzero(flat >= FIRST_INSTANCE)
    if not at.size:
        return {}
    at = at[np.argsort(flat[at], kind="stable")]  # an instance after the other, rows in order
    values, starts = np.unique(flat[at], return_index=True)
    masks = {}
    for value, pixels in zip(values.tolist(), np.split(at, starts[1:]), strict=True):
        y, x = np.divmod(pixels, width)
        left = int(x.min())
        bits = np.zeros((int(y[-1] - y[0]) + 1, int(x.max()) - left + 1), np.bool_)
        bits[y - y[0], x - left] = True
        masks[value] = RoiMask(left, int(y[0]), bits)
    return masks


def group_masks(ids: UInt16Array) -> Iterator[tuple[int, RoiMask]]:
    """(label id, connected region) of what is labelled as a group of several objects."""
    for label in WITH_INSTANCES:
        region = ids == label
        if not region.any():
            continue
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(region.view(np.uint8))
        for number, (x, y, w, h, _area) in enumerate(stats.tolist()[1:], 1):
            yield label, RoiMask(x, y, numbers[y : y + h, x : x + w] == number)


def person_ignore_boxes(path: Path) -> list[Box]:
    """xyxy boxes of a CityPersons file that are neither a person nor background.

    Source: Zhang et al., "CityPersons", CVPR 2017. Raises InputError if the file is malformed.
    """
    raw = _read_json(path)
    try:
        boxes = [o["bbox"] for o in raw["objects"] if o["label"] in ("ignore", "person group")]
        return [(float(x), float(y), float(x + w), float(y + h)) for x, y, w, h in boxes]
    except (KeyError, TypeError, ValueError) as err:
        raise InputError(f"{path} is no CityPersons file ({type(err).__name__}: {err})") from err


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(f"cannot read {path}: {err}") from err
