"""Targets given back as a perfect network's outputs must score as perfect as their cells allow.

A shift of half a pixel anywhere between annotations, targets, postprocessing and AP shows here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from coco_files import CLASSES, image_entry, write_coco

from fassst_ros.card import MaskInfo, ModelCard
from fassst_ros.config import SegmentOptions
from fassst_ros.evaluation.coco import evaluate_predictions
from fassst_ros.postprocess import postprocess
from fassst_ros.preprocess import Geometry
from fassst_ros.training.augment import TrainingImage, stretch
from fassst_ros.training.datasets import CocoInstances
from fassst_ros.types import Instances

INPUT, CELLS, SLOTS, PADDING = (256, 320), 32, 16, 0.1


def ellipses(folder: Path, images: int = 8) -> Path:
    """Images of several aspects with ellipses of 12 to 160 pixels, as polygons of odd coordinates."""
    rng = np.random.default_rng(0)
    entries, annotations = [], []
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    for image_id in range(1, images + 1):
        height, width = ((240, 320), (200, 400), (320, 240))[image_id % 3]
        entries.append(image_entry(folder, image_id, height, width))
        for _ in range(6):
            a, b = np.exp(rng.uniform(np.log(6), np.log(80), 2))
            x, y = rng.uniform(a, width - a), rng.uniform(b, height - b)
            points = np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], 1)
            box = [x - a, y - b, 2 * a, 2 * b]
            annotations.append(
                {
                    "image_id": image_id, "category_id": int(rng.choice([1, 3])), "area": np.pi * a * b,
                    "bbox": box, "segmentation": [points.ravel().tolist()],
                }
            )  # fmt: skip
    return write_coco(folder, entries, annotations)


def perfect_outputs(target: TrainingImage) -> dict[str, np.ndarray]:
    """What a network would say that had learnt the target by heart."""
    n = len(target.boxes)
    boxes = torch.from_numpy(target.boxes)
    margin = PADDING * (boxes[:, 2:] - boxes[:, :2])
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    steps = (torch.arange(CELLS) + 0.5) / CELLS
    unit = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    points = low[:, None, None] + unit * (high - low)[:, None, None]
    grid = 2 * points / torch.tensor([INPUT[1], INPUT[0]]) - 1
    cells = torch.nn.functional.grid_sample(
        torch.from_numpy(target.masks)[:, None].float() / 255, grid, align_corners=False
    )
    outputs = {
        "scores": np.zeros((1, SLOTS), np.float32),
        "labels": np.zeros((1, SLOTS), np.int32),
        "boxes": np.zeros((1, SLOTS, 4), np.float32),
        "masks": np.zeros((1, SLOTS, CELLS, CELLS), np.float32),
    }
    outputs["scores"][0, :n] = 0.9
    outputs["labels"][0, :n] = target.labels
    outputs["boxes"][0, :n] = target.boxes
    outputs["masks"][0, :n] = cells[:, 0].numpy()
    return outputs


def test_perfect_network_scores_perfectly(tmp_path: Path) -> None:
    path = ellipses(tmp_path)
    dataset = CocoInstances(path, tmp_path, CLASSES)
    masks = MaskInfo("box", CELLS, CELLS, padding=PADDING)
    card = ModelCard("perfect", "none", "1", *INPUT, CLASSES, masks, SLOTS)
    predictions: dict[int, Instances] = {}
    for i in range(len(dataset)):
        sample = dataset[i]
        geometry = Geometry(sample.image.shape[:2], INPUT)
        outputs = perfect_outputs(stretch(sample, INPUT))
        predictions[sample.image_id] = postprocess(
            outputs, geometry, card, SegmentOptions(score_threshold=0.1)
        )
    result = evaluate_predictions(path, predictions, CLASSES)
    assert result["box"]["AP"] > 0.99
    assert result["mask"]["AP"] > 0.95
    assert result["mask"]["AP75"] > 0.99
