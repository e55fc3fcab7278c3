"""How far an exported graph is from the network that it was made of: both executed on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fassst_ros.runtimes.base import INPUT_NAME, OUTPUT_NAMES

if TYPE_CHECKING:
    from fassst_ros.networks.base import SegmentationNetwork

#: What an export may differ by, absolute; boxes in pixels.
TOLERANCE = {"scores": 1e-4, "boxes": 1e-2, "masks": 1e-3}


def parity(
    network: SegmentationNetwork, model: Path, images: NDArray[np.uint8] | None = None
) -> dict[str, float]:
    """Largest absolute difference of each output between torch and ONNX Runtime, both in float32.

    images (n, H, W, 3) uint8; without them, smooth random pictures. Slots are paired by score, label and
    box, as rounding decides the rank of slots that nearly agree; those that state nothing (score below
    1e-4) are left out. Infinite where torch states nothing at all.
    """
    import onnxruntime
    import torch
    from scipy.optimize import linear_sum_assignment

    if images is None:
        images = _random_images(*network.input_size)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    worst = dict.fromkeys(TOLERANCE, 0.0)
    for image in images:
        with torch.no_grad():
            expected = [t[0].numpy() for t in network(torch.from_numpy(image[None]))]
        got = [a[0] for a in session.run(list(OUTPUT_NAMES), {INPUT_NAME: image[None]})]
        stated = expected[0] > 1e-4
        scores, labels, boxes, masks = (a[stated] for a in expected)
        gap = np.abs(scores[:, None] - got[0]) * 1e3 + np.abs(boxes[:, None] - got[2]).sum(2)
        gap = gap + 1e3 * (labels[:, None] != got[1])
        if not stated.any():
            return dict.fromkeys(TOLERANCE, float("inf"))
        pair = linear_sum_assignment(np.nan_to_num(gap, nan=1e9, posinf=1e9))[1]
        for name, a, b in (("scores", scores, got[0]), ("boxes", boxes, got[2]), ("masks", masks, got[3])):
            gap = np.nan_to_num(np.abs(a - b[pair]), nan=np.inf)
            worst[name] = max(worst[name], float(gap.max()))
    return worst


def _random_images(height: int, width: int, count: int = 2) -> NDArray[np.uint8]:
    import cv2

    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (height // 32, width // 32, 3), np.uint8) for _ in range(count)]
    return np.stack([cv2.resize(n, (width, height), interpolation=cv2.INTER_CUBIC) for n in noise])
