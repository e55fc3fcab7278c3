"""Small COCO sets with known content, written for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fassst_ros.card import ClassInfo

CLASSES = (ClassInfo(1, "person", (220, 20, 60)), ClassInfo(3, "car", (0, 0, 142)))
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 5, "name": "airplane"}]


def write_image(path: Path, height: int, width: int, seed: int = 0) -> None:
    """A smooth random picture, so that resampling errors stay small."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def write_coco(
    folder: Path,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    categories: list[dict[str, Any]] | None = None,
) -> Path:
    path = folder / "annotations.json"
    content = {
        "images": images,
        "annotations": [{"id": i + 1, "iscrowd": 0, **a} for i, a in enumerate(annotations)],
        "categories": CATEGORIES if categories is None else categories,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def image_entry(folder: Path, image_id: int, height: int, width: int, **more: Any) -> dict[str, Any]:
    """An image on disk with its entry."""
    name = f"{image_id:06d}.jpg"
    write_image(folder / name, height, width, image_id)
    return {"id": image_id, "file_name": name, "height": height, "width": width, **more}


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def rectangle_annotation(
    image_id: int, category: int, x0: float, y0: float, x1: float, y1: float
) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "segmentation": [rectangle(x0, y0, x1, y1)],
    }
