"""Frame -> network input; numpy and OpenCV only.

The image is stretched to the network's input with plain bilinear sampling (cv2.INTER_LINEAR),
as in training: evaluation, node and exported resize must sample alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from fassst_ros.types import Frame, InputError, UInt8Array


@dataclass(frozen=True, slots=True)
class Geometry:
    """How network-input pixels lie on the source image; both are edges, not pixel centres.

    source, network: (height, width) in pixels.
    """

    source: tuple[int, int]
    network: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) source pixels of one network pixel."""
        return self.source[1] / self.network[1], self.source[0] / self.network[0]


def input_buffer(height: int, width: int) -> UInt8Array:
    """A (1, height, width, 3) uint8 array for `prepare` to write into."""
    return np.empty((1, height, width, 3), np.uint8)


def prepare(frame: Frame, height: int, width: int, out: UInt8Array) -> Geometry:
    """Stretch `frame` to height x width and write it as RGB into `out`.

    out: (1, height, width, 3) uint8, C-contiguous; its former content is lost.
    Raises InputError if `out` is not such an array.
    """
    if out.shape != (1, height, width, 3) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise InputError(
            f"out is {out.dtype} {out.shape}; expected a C-contiguous uint8 array {(1, height, width, 3)}"
        )
    source: Any = frame.image
    if frame.size != (height, width):
        source = cv2.resize(source, (width, height), dst=out[0], interpolation=cv2.INTER_LINEAR)
    if frame.color == "bgr":
        cv2.cvtColor(source, cv2.COLOR_BGR2RGB, dst=out[0])
    elif source is frame.image:
        np.copyto(out[0], source)
    return Geometry(frame.size, (height, width))
