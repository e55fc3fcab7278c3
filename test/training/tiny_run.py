"""A tiny made-up set of cars, and a recipe whose run on it takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml


def write_cars(root: Path) -> Path:
    """Twelve images with a bright car each, as COCO JSON."""
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
