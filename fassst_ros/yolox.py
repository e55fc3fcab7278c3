"""YOLOX: a detector of the 80 COCO classes. numpy and OpenCV only, no torch.

A reference to compare with, and a teacher for images without labels. It is not one of the
package's networks: it finds no masks, and its graph leaves decoding and NMS to the caller.
YOLOX: Ge et al., 2021, arXiv 2107.08430; the steps are those of its released demo.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.config import RuntimeOptions
from fassst_ros.labels import COCO
from fassst_ros.runtimes import create_runtime
from fassst_ros.types import Float32Array, Frame, InputError, ModelError, UInt8Array

if TYPE_CHECKING:
    from typing_extensions import Self

STRIDES = (8, 16, 32)
#: Class of the output -> COCO's category id.
CATEGORY_IDS = np.array([c.id for c in COCO], np.int32)
_GREY = 114  # what surrounds the image in training


@dataclass(frozen=True, slots=True)
class Boxes:
    """What was detected in one image, best score first.

    boxes: (n, 4) float32 xyxy in SOURCE pixels, inside the image. scores: (n,) float32 in [0, 1].
    category_ids: (n,) int32, COCO's category ids (person 1, bicycle 2, car 3, ...).
    """

    boxes: Float32Array
    scores: Float32Array
    category_ids: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.scores)


class YoloxDetector:
    """A raw YOLOX graph on the CPU: input (1, 3, S, S) float32 BGR 0..255, output (1, N, 85).

    Not for several threads at once. Use as a context manager, or call `close`.
    infer_ms: how long the graph took in the last `detect`, in milliseconds.
    """

    def __init__(
        self, path: Path, threads: int = 0, runtime: str = "onnxruntime", precision: str = "default"
    ) -> None:
        """Load the graph. threads: of the CPU; 0: all cores. runtime, precision: as in RuntimeOptions.

        Raises ModelError if the file is missing or no such graph, RuntimeUnavailable without the runtime.
        """
        self.path = path
        options = RuntimeOptions(runtime=runtime, precision=precision, threads=threads)
        self.runtime = create_runtime(path, options)
        try:
            self.side = self._check()
        except BaseException:
            self.runtime.close()
            raise
        self._corners, self._strides = _grid(self.side)
        self.infer_ms = 0.0

    def detect(self, image_rgb: UInt8Array, score_threshold: float = 0.3, nms_iou: float = 0.65) -> Boxes:
        """Detect in an RGB image (H, W, 3) uint8.

        A position stands for its best class, with score objectness * class; of boxes of one class
        that overlap by more than `nms_iou` the best stays. Raises InputError for another array.
        """
        height, width = Frame(image_rgb).size
        scale = min(self.side / height, self.side / width)
        raw = self._infer(image_rgb, scale)
        classes = raw[:, 5:].argmax(axis=1)
        scores = raw[:, 4] * raw[np.arange(len(raw)), 5 + classes]
        centers = (raw[:, :2] + self._corners) * self._strides
        halves = np.exp(raw[:, 2:4]) * self._strides / 2
        limits = np.array([width, height, width, height], np.float32)
        boxes: Float32Array = np.clip(
            np.hstack([centers - halves, centers + halves]) / np.float32(scale), 0, limits
        )
        sure = (scores >= score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        found = np.flatnonzero(sure)
        kept = found[nms(boxes[found], scores[found], classes[found], nms_iou)]
        return Boxes(boxes[kept], scores[kept], CATEGORY_IDS[classes[kept]])

    def _infer(self, image: UInt8Array, scale: float) -> Float32Array:
        """(N, 85): x, y in strides from the cell's corner, log w, h in strides, objectness, classes."""
        height, width = (max(1, int(length * scale)) for length in image.shape[:2])
        canvas = np.full((self.side, self.side, 3), _GREY, np.uint8)
        canvas[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        feed = canvas[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
        start = time.perf_counter()
        outputs = self.runtime.infer({self.runtime.inputs[0].name: feed})
        self.infer_ms = (time.perf_counter() - start) * 1e3
        raw: Float32Array = outputs[self.runtime.outputs[0].name][0]
        if not np.isfinite(raw).all():
            raise InputError(f"{self.path.name} gives numbers that are not finite for this image")
        return raw

    def _check(self) -> int:
        """The side of the input in pixels. Raises ModelError unless this is a raw YOLOX of 80 classes."""
        inputs, outputs = self.runtime.inputs, self.runtime.outputs
        side = inputs[0].shape[-1]
        cells = sum((side // stride) ** 2 for stride in STRIDES)
        if [s.shape for s in inputs] != [(1, 3, side, side)] or [s.shape for s in outputs] != [
            (1, cells, 85)
        ]:
            came = "; ".join(map(str, inputs + outputs))
            raise ModelError(
                f"{self.path} is no raw YOLOX detector: its tensors are {came}. Expected one input "
                "(1, 3, S, S) and one output (1, N, 85): a YOLOX of COCO exported without decoding"
            )
        return side

    def close(self) -> None:
        """Free the graph. Closing twice does no harm."""
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _grid(side: int) -> tuple[Float32Array, Float32Array]:
    """Corners (N, 2) of the cells in strides, and their strides (N, 1), in the order of the output."""
    corners, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: side // stride, : side // stride]
        corners.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)


def nms(boxes: Float32Array, scores: Float32Array, classes: NDArray[np.intp], iou: float) -> NDArray[np.intp]:
    """Indices of the boxes (n, 4) xyxy that stay, best score first; boxes of two classes do not meet."""
    if not len(boxes):
        return np.zeros(0, np.intp)
    apart = classes[:, None] * (float(boxes.max()) + 1)  # each class has a plane of its own
    corners = (boxes[:, :2] + apart).tolist()
    rectangles = [
        (*corner, *side) for corner, side in zip(corners, (boxes[:, 2:] - boxes[:, :2]).tolist(), strict=True)
    ]
    kept = cv2.dnn.NMSBoxes(rectangles, scores.tolist(), 0.0, iou)
    return np.asarray(kept, np.intp).reshape(-1)
