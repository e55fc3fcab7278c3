"""The one interface through which every exported graph is executed."""

from __future__ import annotations

import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fassst_ros.runtimes.turns import Turns
from fassst_ros.types import FassstError, InputError, RuntimeUnavailable

if TYPE_CHECKING:
    from typing_extensions import Self

#: Names of the graph's tensors (docs/contract: "Raw outputs").
INPUT_NAME = "images"
OUTPUT_NAMES = ("scores", "labels", "boxes", "masks")

#: Takes one line for people. The node passes its own logger.
Log = Callable[[str], None]
default_log: Log = logging.getLogger("fassst_ros.runtimes").info


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, static shape and numpy type of one input or output of a graph."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {self.shape}"


class Runtime(Protocol):
    """A loaded graph, ready to run. Specs can be read before the first `infer`.

    Use as a context manager, or call `close`; closing twice does no harm.
    """

    name: str  # "tensorrt" | "openvino" | "onnxruntime" | "torch"
    device: str  # what it runs on, for people: "CPU (2 threads)", "NVIDIA Orin"
    precision: str  # what it computes in: "f32", "tf32", "bf16", "fp16", "int8"
    lanes: int  # how many threads may be in `infer` at once; others wait there
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def lend(self) -> dict[str, NDArray[Any]]:
        """Arrays for the inputs, from which `infer` needs no copy: write a frame into them, then feed them.

        Each call lends others, for good. Whoever has `lanes` sets can use them from as many threads at once,
        each with one of its own; the outputs of a frame then stay valid until the next with the same set.
        """
        ...

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once. feeds: one array an input, shape and type as in `inputs`.

        The arrays returned stay valid until the next `infer` of this runtime only (but see `lend`).
        Raises InputError for a feed that does not fit `inputs`.
        """
        ...

    def close(self) -> None:
        """Free memory, streams and device."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class GraphRuntime(ABC):
    """What all runtimes share: checked feeds, turns, and a `close` that may come at any moment.

    A subclass sets the attributes of `Runtime` in its constructor and writes `_run` and `_free`; one with
    more than one lane writes `_lend`, too.
    """

    name: str
    device: str
    precision: str
    lanes: int = 1
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self) -> None:
        self._turns = Turns(self.lanes)  # `close` waits for an `infer` of another thread
        self._closed = False

    def lend(self) -> dict[str, NDArray[Any]]:
        """Arrays for the inputs; see `Runtime.lend`. Raises RuntimeUnavailable after `close`."""
        with self._turns.one():
            self._check_open()
            return self._lend()

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; see `Runtime.infer`. Raises RuntimeUnavailable after `close`, or if execution fails."""
        with self._turns.one():
            self._check_open()
            checked = check_feeds(self.inputs, feeds)
            try:
                return self._run(checked)
            except FassstError:
                raise
            except Exception as err:  # each library has its own kinds; a node must survive them all
                raise RuntimeUnavailable(
                    f"{self.name} failed to execute the model: {err}. If this comes again with every frame, "
                    "open the model again or choose another runtime"
                ) from err

    def close(self) -> None:
        """Free everything. Calling it again does nothing."""
        with self._turns.all():
            if not self._closed:
                self._closed = True
                self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeUnavailable(f"this {self.name} runtime is closed; open the model again")

    def _lend(self) -> dict[str, NDArray[Any]]:
        return {spec.name: np.empty(spec.shape, spec.dtype) for spec in self.inputs}

    @abstractmethod
    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Execute with feeds that fit `inputs` and are contiguous."""

    @abstractmethod
    def _free(self) -> None:
        """Release what the constructor took; called once."""


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The feeds in the order of `inputs`, contiguous. Raises InputError if names, shapes or types differ."""
    names = [spec.name for spec in inputs]
    if set(feeds) != set(names):
        raise InputError(
            f"the graph was fed {', '.join(sorted(feeds)) or 'nothing'}; expected {', '.join(names)}"
        )
    checked = {}
    for spec in inputs:
        array = feeds[spec.name]
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {spec.name!r} is a {type(array).__name__}; expected an array: {spec}")
        if array.shape != spec.shape or array.dtype != spec.dtype:
            raise InputError(f"input {spec.name!r} is {array.dtype} {array.shape}; expected {spec}")
        checked[spec.name] = np.ascontiguousarray(array)
    return checked


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPU cores that this process may use: affinity (taskset) and container limit (`quota`) counted in."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    try:
        limit, period = quota.read_text(encoding="ascii").split()
        return max(1, min(cores, math.ceil(int(limit) / int(period))))
    except (OSError, ValueError):  # no cgroups of version 2, or "max": no limit
        return cores
