"""The averaged network on whole images while it trains: mask AP, and pictures to look at."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from fassst_ros.card import ClassInfo, ModelCard
from fassst_ros.coco_format import file_problem
from fassst_ros.config import SegmentOptions
from fassst_ros.evaluation.cityscapes import open_cityscapes
from fassst_ros.evaluation.coco import evaluate_predictions
from fassst_ros.evaluation.dataset import EvaluationSet, open_coco
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.networks.base import RawOutputs, SegmentationNetwork, Target
from fassst_ros.overlay import draw
from fassst_ros.postprocess import postprocess
from fassst_ros.preprocess import input_buffer, prepare
from fassst_ros.training.distributed import Group
from fassst_ros.training.options import Validation
from fassst_ros.types import ConfigError, Frame, InputError, Instances, RoiMask, UInt8Array

_log = logging.getLogger(__name__)
_ALL = SegmentOptions(score_threshold=0.001, max_instances=100)  # as AP wants it
_PICTURES = 4  # images of a batch in a picture


class Scores(NamedTuple):
    """mask_AP and mask_AP50 in 0..1; ms: median time of the network for one image."""

    mask_AP: float
    mask_AP50: float
    ms: float


def open_validation(options: Validation, data_root: Path, classes: Sequence[ClassInfo]) -> EvaluationSet:
    """The images that a run is measured on, all annotations checked. Broken image files are logged, left out.

    Raises InputError or ConfigError if annotations or images cannot be used.
    """
    source = options.source
    if source.format == "cityscapes":
        images = open_cityscapes(data_root / source.root, source.split, options.limit)
    elif source.mapping != "none":
        raise ConfigError(
            f"val: mapping {source.mapping}; a run can be measured on annotations as they are. Leave "
            "`val` out, and measure the trained model with `fassst eval`"
        )
    else:
        images = open_coco(data_root / source.annotations, data_root / source.images).first(options.limit)
    GroundTruth.read(images.content, classes).with_objects()
    entries = []
    for entry in images.entries:
        path = images.folder / str(entry.get("file_name"))
        if problem := file_problem(path):
            _log.warning("val: image %s %s: left out", path, problem)
        else:
            entries.append(entry)
    if not entries:
        raise InputError(f"val: none of the {len(images.entries)} images can be used; the reasons are above")
    return replace(images, content={**images.content, "images": entries})


def segment(
    network: SegmentationNetwork, card: ModelCard, frame: Frame, options: SegmentOptions = _ALL
) -> tuple[Instances, float]:
    """The instances of an image by the deployed pipeline's own functions; and the network's milliseconds."""
    buffer = input_buffer(card.input_height, card.input_width)
    geometry = prepare(frame, card.input_height, card.input_width, buffer)
    device = next(network.parameters()).device
    start = time.perf_counter()
    with torch.inference_mode():
        outputs: RawOutputs = network(torch.from_numpy(buffer).to(device))
    arrays = {name: value.cpu().numpy() for name, value in outputs._asdict().items()}
    elapsed = time.perf_counter() - start
    return postprocess(arrays, geometry, card, options), elapsed * 1e3


def evaluate(
    network: SegmentationNetwork, card: ModelCard, images: EvaluationSet, group: Group
) -> Scores | None:
    """Mask AP of a network in evaluation mode; the processes share the images. None but in the first.

    Images that cannot be decoded are logged and left out; None, too, if that is all of them.
    """
    own: dict[int, Instances] = {}
    times: list[float] = []
    failed: list[str] = []
    for entry in images.entries[group.rank :: group.size]:
        try:
            frame = images.load(entry)
        except InputError as err:
            failed.append(str(err))
            continue
        own[entry["id"]], elapsed = segment(network, card, frame)
        times.append(elapsed)
    parts = group.gather((own, times, failed))
    if not group.first:
        return None
    for reason in [reason for *_, reasons in parts for reason in reasons]:
        _log.warning("val: %s: left out", reason)
    found = {image: instances for part, *_ in parts for image, instances in part.items()}
    if not found:
        _log.warning("val: no image could be read: not measured")
        return None
    masks = evaluate_predictions(images.content, found, card.classes)["mask"]
    median = float(np.median([elapsed for _, part, _ in parts for elapsed in part]))
    return Scores(masks["AP"] or 0.0, masks["AP50"] or 0.0, median)


def picture(
    network: SegmentationNetwork, card: ModelCard, images: torch.Tensor, targets: list[Target]
) -> UInt8Array:
    """The first images of a batch, one a row: left with their targets, right with what the network says."""
    rows = []
    for image, target in list(zip(images.cpu().numpy(), targets, strict=True))[:_PICTURES]:
        options = SegmentOptions(score_threshold=card.score_threshold)
        found, _ = segment(network, card, Frame(image), options)
        truth = _truth(target, card, image.shape[:2])
        rows.append(np.hstack([draw(image, truth, card, scores=False), draw(image, found, card)]))
    return np.vstack(rows)


def _truth(target: Target, card: ModelCard, size: tuple[int, int]) -> Instances:
    """Targets as instances of the network's input, so that they can be drawn."""
    ids = np.array([c.id for c in card.classes], np.int32)
    masks, kept = [], []
    for i, coverage in enumerate(target["masks"].cpu().numpy()):
        bits = cv2.resize(coverage, (size[1], size[0]), interpolation=cv2.INTER_NEAREST) > 127
        rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
        if rows.size:
            x, y = int(columns[0]), int(rows[0])
            masks.append(RoiMask(x, y, bits[y : rows[-1] + 1, x : columns[-1] + 1]))
            kept.append(i)
    return Instances(
        boxes=target["boxes"].cpu().numpy()[kept],
        scores=np.ones(len(kept), np.float32),
        class_ids=ids[target["labels"].cpu().numpy()[kept]],
        masks=tuple(masks),
        size=size,
    )
