"""Frame, RoiMask, Instances and the exception tree; numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]


class FassstError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(FassstError):
    """An image, message or file that cannot be segmented as it is."""


class ConfigError(FassstError):
    """A parameter, option or configuration file with a wrong name, type or value."""


class ModelError(FassstError):
    """A model file or its card that is missing, broken or does not match."""


class RuntimeUnavailable(FassstError):
    """A runtime that is not installed, or that has no device to run on."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image.

    image: (H, W, 3) uint8; rows may be strided, the last two axes are contiguous.
    color: order of the last axis.
    Raises InputError for another shape, type or an empty image.
    """

    image: UInt8Array
    color: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            came = getattr(image, "dtype", type(image).__name__)
            raise InputError(f"Frame.image is {came}; expected a uint8 array (H, W, 3)")
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(f"Frame.image has shape {image.shape}; expected (H, W, 3), none zero")
        if self.color not in ("rgb", "bgr"):
            raise InputError(f"Frame.color is {self.color!r}; expected 'rgb' or 'bgr'")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True)
class RoiMask:
    """A binary mask known only inside a rectangle of the source image.

    x, y: left and top pixel of the rectangle; bits: (h, w) bool, row-major.
    """

    x: int
    y: int
    bits: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Number of set pixels."""
        return int(np.count_nonzero(self.bits))

    def run_lengths(self) -> NDArray[np.uint32]:
        """Row-major run lengths over `bits`, background first (so the first may be 0)."""
        flat = self.bits.ravel()
        if flat.size == 0:
            return np.zeros(0, np.uint32)
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        bounds = np.concatenate(([0], edges, [flat.size]))
        runs = np.diff(bounds).astype(np.uint32)
        return np.concatenate(([np.uint32(0)], runs)) if flat[0] else runs

    @classmethod
    def from_run_lengths(cls, x: int, y: int, width: int, height: int, counts: Any) -> RoiMask:
        """The inverse of `run_lengths`. Raises InputError if the runs do not fill the rectangle."""
        runs = np.asarray(counts, dtype=np.int64)
        total = int(runs.sum())
        if total != width * height or (runs < 0).any():
            raise InputError(
                f"mask runs add up to {total} pixels; expected {width} x {height} = {width * height}"
            )
        values = np.zeros(runs.size, np.bool_)
        values[1::2] = True
        return cls(x, y, np.repeat(values, runs).reshape(height, width))


@dataclass(frozen=True, slots=True)
class Instances:
    """The instances of one image, best score first.

    boxes: (n, 4) float32, x_min y_min x_max y_max in SOURCE pixels.
    scores: (n,) float32 in [0, 1]. class_ids: (n,) int32, the ids of the model card (never 0).
    masks: n RoiMask inside the image. size: (H, W) of the source image.
    track_ids: (n,) int64, 0 = no track, or None if tracking is off.
    Raises InputError when lengths, types or ranges do not agree.
    """

    boxes: Float32Array
    scores: Float32Array
    class_ids: NDArray[np.int32]
    masks: tuple[RoiMask, ...]
    size: tuple[int, int]
    track_ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.masks)
        if self.boxes.shape != (n, 4) or self.boxes.dtype != np.float32:
            raise InputError(f"boxes are {self.boxes.dtype} {self.boxes.shape}; expected float32 {(n, 4)}")
        if self.scores.shape != (n,) or self.scores.dtype != np.float32:
            raise InputError(f"scores are {self.scores.dtype} {self.scores.shape}; expected float32 {(n,)}")
        if self.class_ids.shape != (n,) or self.class_ids.dtype != np.int32:
            raise InputError(
                f"class_ids are {self.class_ids.dtype} {self.class_ids.shape}; expected int32 {(n,)}"
            )
        if self.track_ids is not None and self.track_ids.shape != (n,):
            raise InputError(f"track_ids have shape {self.track_ids.shape}; expected {(n,)}")
        height, width = self.size
        for mask in self.masks:
            h, w = mask.bits.shape
            if mask.x < 0 or mask.y < 0 or mask.x + w > width or mask.y + h > height:
                raise InputError(
                    f"mask rectangle x={mask.x} y={mask.y} {w}x{h} leaves the image {width}x{height}"
                )

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def empty(cls, size: tuple[int, int]) -> Instances:
        """No instance in an image of `size` (H, W)."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), (), size)

    def to_dense(self) -> NDArray[np.bool_]:
        """(n, H, W) bool masks over the whole source image; costly, for evaluation."""
        dense = np.zeros((len(self), *self.size), np.bool_)
        for full, mask in zip(dense, self.masks, strict=True):
            h, w = mask.bits.shape
            full[mask.y : mask.y + h, mask.x : mask.x + w] = mask.bits
        return dense

    def to_rle(self) -> list[dict[str, Any]]:
        """COCO uncompressed run lengths (column-major over the whole image), one dict a mask."""
        height, width = self.size
        result = []
        for mask in self.masks:
            h, w = mask.bits.shape
            columns = np.zeros((w, height), np.bool_)  # transposed: COCO counts down columns
            columns[:, mask.y : mask.y + h] = mask.bits.T
            counts = RoiMask(0, 0, columns).run_lengths().tolist() or [0]
            counts[0] += mask.x * height  # columns left of the rectangle
            right = (width - mask.x - w) * height
            if len(counts) % 2:  # ends with background
                counts[-1] += right
            elif right:
                counts.append(right)
            result.append({"size": [height, width], "counts": counts})
        return result
