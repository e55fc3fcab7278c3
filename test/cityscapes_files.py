"""A small Cityscapes tree with known content, written for a test."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CITY = "testville"


def write_frame(
    root: Path, number: int, ids: np.ndarray | None, split: str = "train", image: np.ndarray | None = None
) -> str:
    """Write an image and its instance map (None: without); returns the frame's name.

    The image is one that shows where instances are, unless it is given.
    """
    name = f"{CITY}_{number:06d}_000019"
    pictures, truth = (root / kind / split / CITY for kind in ("leftImg8bit", "gtFine"))
    for folder in (pictures, truth):
        folder.mkdir(parents=True, exist_ok=True)
    if image is None:
        assert ids is not None
        image = np.where(ids[..., None] >= 1000, (40, 200, 240), (80, 80, 80)).astype(np.uint8)
    cv2.imwrite(str(pictures / f"{name}_leftImg8bit.png"), image)
    if ids is not None:
        cv2.imwrite(str(truth / f"{name}_gtFine_instanceIds.png"), ids.astype(np.uint16))
    return name


def street(height: int = 96, width: int = 192) -> np.ndarray:
    """An instance map: road, a car, a person, a rider on a bicycle, a group of cars, a caravan, void."""
    ids = np.full((height, width), 7, np.uint16)
    ids[:10] = 4  # static: void
    ids[30:60, 20:60] = 26000
    ids[30:70, 70:80] = 24000
    ids[35:60, 90:100] = 25000
    ids[55:75, 85:105] = 33000
    ids[30:45, 120:150] = 26  # group of cars
    ids[60:80, 120:160] = 29000  # caravan
    ids[88:] = 1  # ego vehicle
    return ids
