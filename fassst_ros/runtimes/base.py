"""The one interface through which every exported graph is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Self

#: Names of the graph's tensors (docs/contract: "Raw outputs").
INPUT_NAME = "images"
OUTPUT_NAMES = ("scores", "labels", "boxes", "masks")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, static shape and numpy type of one input or output of a graph."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Runtime(Protocol):
    """A loaded graph, ready to run. Specs can be read before the first `infer`.

    Use as a context manager, or call `close`; closing twice does no harm.
    """

    name: str  # "tensorrt" | "openvino" | "onnxruntime" | "torch"
    device: str  # what it runs on, for people: "CPU (2 threads)", "NVIDIA Orin"
    precision: str  # what it computes in: "f32", "bf16", "fp16", "int8"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once. feeds: one array an input, shape and type as in `inputs`.

        The arrays returned stay valid until the next `infer` of this runtime only.
        Raises InputError for a feed that does not fit `inputs`.
        """
        ...

    def close(self) -> None:
        """Free memory, streams and device."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
