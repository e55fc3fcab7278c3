"""Weighted mixing of data sets into batches of torch tensors, the same for any number of workers."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fassst_ros.networks.base import Target
from fassst_ros.training.augment import AugmentOptions, TrainingImage, augment
from fassst_ros.training.copy_paste import copy_paste
from fassst_ros.training.datasets import Sample, SampleSet
from fassst_ros.types import ConfigError, InputError

_log = logging.getLogger(__name__)
_EMPTY = 0.15  # chance to draw from all images, most of which may show none of the classes
_ATTEMPTS = 20  # draws of an image before giving up on a set full of broken files


class Batch(NamedTuple):
    """images: (B, H, W, 3) uint8 RGB. targets: one an image; their masks are 0..255 coverage.

    seconds: what it took one process to make it.
    """

    images: Tensor
    targets: list[Target]
    seconds: float = 0.0


def collate(images: Sequence[TrainingImage]) -> Batch:
    """Stack images; targets stay lists, for their numbers differ."""
    targets = [
        Target(
            boxes=torch.from_numpy(image.boxes),
            labels=torch.from_numpy(image.labels),
            masks=torch.from_numpy(image.masks),
            labelled=torch.from_numpy(image.labelled),
            ignore=torch.from_numpy(image.ignore),
        )
        for image in images
    ]
    return Batch(torch.from_numpy(np.stack([image.image for image in images])), targets)


class MixedSamples(Dataset[TrainingImage]):
    """`length` augmented images from number `first` on; number i depends on (seed, i) alone.

    datasets: with the same classes. weights: chance of each to be drawn from, any positive scale.
    out_size: (H, W). The four images of a mosaic come from one set, as sets label different classes;
    pasted objects may come from any.
    """

    def __init__(
        self,
        datasets: Sequence[SampleSet],
        weights: Sequence[float],
        out_size: tuple[int, int],
        length: int,
        seed: int = 0,
        options: AugmentOptions = AugmentOptions(),  # noqa: B008 - frozen
        first: int = 0,
    ) -> None:
        if not datasets or len(weights) != len(datasets) or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(
                f"{len(datasets)} data sets with weights {list(weights)}; expected one >= 0 each"
            )
        if any(d.classes != datasets[0].classes for d in datasets):
            raise ConfigError("data sets to mix have different classes; build them from one list")
        self.datasets = tuple(datasets)
        self.weights = np.array(weights, np.float64) / sum(weights)
        self.out_size = out_size
        self.length = length
        self.seed = seed
        self.options = options
        self.first = first

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> tuple[list[TrainingImage], float]:
        """Several images, and the seconds that they took: what a DataLoader asks for."""
        started = time.perf_counter()
        images = [self[index] for index in indices]
        return images, time.perf_counter() - started

    def __getitem__(self, index: int) -> TrainingImage:
        rng = np.random.default_rng((self.seed, self.first + index))
        dataset = self._choose(rng)
        number = 4 if rng.random() < self.options.mosaic else 1
        samples = [_draw(dataset, rng) for _ in range(number)]
        # No number is drawn where the chance is 0: images of a seed stay what they were.
        if number == 1 and self.options.copy_paste and rng.random() < self.options.copy_paste:
            samples = [copy_paste(samples[0], _draw(self._choose(rng), rng), self.options, rng)]
        return augment(samples, self.out_size, self.options, rng)

    def _choose(self, rng: np.random.Generator) -> SampleSet:
        return self.datasets[int(rng.choice(len(self.datasets), p=self.weights))]


def _draw(dataset: SampleSet, rng: np.random.Generator) -> Sample:
    """A random sample, rarely one without objects; a broken image is named and replaced."""
    for _ in range(_ATTEMPTS):
        indices = dataset.with_objects if rng.random() > _EMPTY else range(len(dataset))
        try:
            return dataset[indices[int(rng.integers(len(indices)))]]
        except InputError as err:
            _log.warning("skipped: %s", err)
    raise InputError(f"{_ATTEMPTS} images in a row could not be read; the last ones are named above")


def make_loader(
    datasets: Sequence[SampleSet],
    weights: Sequence[float],
    out_size: tuple[int, int],
    batch_size: int,
    length: int,
    *,
    workers: int = 0,
    seed: int = 0,
    options: AugmentOptions = AugmentOptions(),  # noqa: B008 - frozen
    pin_memory: bool = False,
    first: int = 0,
    share: tuple[int, int] = (0, 1),
) -> DataLoader[TrainingImage]:
    """Batches over `length` images from number `first` on, in order, without an incomplete last one.

    share: (rank, number) of the processes that share each batch: this one gets every number-th image.
    Pass another seed for each epoch or phase: the same seed gives the same images again.
    """
    rank, processes = share
    if batch_size % processes:
        raise ConfigError(
            f"a batch of {batch_size} cannot be shared by {processes} processes; expected a multiple of them"
        )
    return DataLoader(
        MixedSamples(datasets, weights, out_size, length, seed, options, first),
        batch_size=batch_size // processes,
        sampler=range(rank, length, processes),
        num_workers=workers,
        collate_fn=_collate_timed,
        drop_last=True,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
    )


def _collate_timed(timed: Any) -> Batch:
    """What `MixedSamples.__getitems__` gives, as a batch."""
    return collate(timed[0])._replace(seconds=timed[1])


def _start_worker(_worker: int) -> None:
    """OpenCV's own threads would fight with the other workers'. When to stop is the main process's to say."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # any other status is an error to the DataLoader
