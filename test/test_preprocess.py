"""The resize to the network's input, against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest

from fassst_ros.preprocess import Geometry, input_buffer, prepare
from fassst_ros.types import Frame, InputError


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear sampling at pixel centres, edges repeated; float64."""

    def taps(n_out: int, n_in: int) -> np.ndarray:
        at = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n_in)))

    down, along = taps(height, image.shape[0]), taps(width, image.shape[1])
    return np.einsum("yr,rcd,xc->yxd", down, image.astype(np.float64), along)


@pytest.mark.parametrize("size", [(24, 40), (48, 64), (96, 31), (101, 203)])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_stretches_to_rgb(size: tuple[int, int], color: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    out = input_buffer(48, 64)
    geometry = prepare(Frame(image, color), 48, 64, out)  # type: ignore[arg-type]
    expected = bilinear(image if color == "rgb" else image[..., ::-1], 48, 64)
    assert np.abs(out[0] - expected).max() <= 1.0  # OpenCV rounds its weights to 11 bits
    assert geometry == Geometry(size, (48, 64))
    assert geometry.scale == (size[1] / 64, size[0] / 48)


def test_padded_rows_give_the_same_as_packed_rows() -> None:
    padded = np.random.default_rng(1).integers(0, 256, (50, 90, 3), np.uint8)
    strided = padded[:, :70]
    assert not strided.flags.c_contiguous
    first, second = input_buffer(32, 32), input_buffer(32, 32)
    prepare(Frame(strided, "bgr"), 32, 32, first)
    prepare(Frame(strided.copy(), "bgr"), 32, 32, second)
    assert (first == second).all()


def test_read_only_source_is_left_alone_and_the_buffer_is_reused() -> None:
    data = bytes(range(256)) * 12
    image = np.frombuffer(data, np.uint8).reshape(32, 32, 3)
    out = np.full((1, 32, 32, 3), 7, np.uint8)
    prepare(Frame(image, "bgr"), 32, 32, out)
    assert (out[0] == image[..., ::-1]).all()
    assert image.tobytes() == data
    prepare(Frame(image, "rgb"), 32, 32, out)
    assert (out[0] == image).all()


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((48, 64, 3), np.uint8),
        np.zeros((1, 48, 64, 3), np.float32),
        np.zeros((1, 48, 128, 3), np.uint8)[:, :, ::2],
    ],
)
def test_wrong_buffer_is_refused(out: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"\(1, 48, 64, 3\)"):
        prepare(Frame(np.zeros((8, 8, 3), np.uint8)), 48, 64, out)
