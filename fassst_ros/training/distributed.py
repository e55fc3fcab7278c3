"""One process or several (torchrun): who this one is, what it computes on, and what all agree on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fassst_ros.networks.base import SegmentationNetwork, Target
from fassst_ros.types import ConfigError

log = logging.getLogger(__name__)


class Losses(nn.Module):
    """A network whose `forward` is its `loss`: what DistributedDataParallel can wrap."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: list[Target], progress: float) -> dict[str, Tensor]:
        return self.network.loss(images, targets, progress)


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run. rank: number of this one; size: how many; device: of this one."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def wrap(self, module: Losses) -> nn.Module:
        """What a training step calls; gradients are averaged over the group in its backward pass.

        A network may leave parts unused in a batch without objects: DDP has to look for them.
        """
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)

    def synchronise_norms(self, network: SegmentationNetwork) -> SegmentationNetwork:
        """The network with BatchNorm over the whole batch, where torch has that: on GPUs only.

        On CPUs every process normalises its own images, and the first one's statistics are kept.
        """
        if self.size == 1 or self.device.type != "cuda":
            return network
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-any-return,no-untyped-call]

    def mean(self, values: Tensor) -> Tensor:
        """Element by element over the processes; all must ask."""
        if self.size > 1:
            distributed.all_reduce(values)
            values = values / self.size
        return values

    def highest(self, number: int) -> int:
        """Of the processes' numbers; all must ask."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return int(value)

    def gather(self, value: Any) -> list[Any]:
        """The value of every process in the first one; an empty list in the others. All must ask."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.first else None
        distributed.gather_object(value, values)
        return values or []

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def open_group(device: str) -> Iterator[Group]:
    """The group that torchrun started this process in, or this process alone.

    device: auto (CUDA where torch sees a GPU), cpu or cuda. Raises ConfigError if there is no such device.
    """
    rank, size, local = (
        int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    chosen = _choose(device, local)
    if size == 1:
        yield Group(chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        if chosen.type == "cpu" and rank == 0:
            log.warning("several processes on CPUs: BatchNorm normalises over each one's own images")
        yield Group(chosen, rank, size)
    finally:
        distributed.destroy_process_group()


def _choose(name: str, local: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r}; expected auto, cpu or cuda")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    if local >= gpus:
        raise ConfigError(
            f"device {name}: process {local} of this machine needs a GPU of its own, and torch "
            f"{torch.__version__} sees {gpus}. Start fewer, take --device cpu, or install torch for CUDA"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
    return device
