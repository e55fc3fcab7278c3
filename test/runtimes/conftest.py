"""Real graphs for the runtimes: a small one made here, and the shipped one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graph import HEIGHT, WIDTH, write_model

SHIPPED = Path(__file__).parents[2] / "models" / "fassst_768_street.onnx"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small graph with its card."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def shipped_model() -> Path:
    """The default model of the repository."""
    if not SHIPPED.is_file():
        pytest.skip(f"{SHIPPED.name} is not in models/")
    return SHIPPED


@pytest.fixture
def make_images() -> Callable[..., NDArray[np.uint8]]:
    """A function that makes network inputs of noise over a gradient: (1, H, W, 3) uint8."""

    def make(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        gradient = np.linspace(0, 200, width)[None, None, :, None]
        noise = rng.integers(0, 56, (1, height, width, 3))
        return (gradient + noise).astype(np.uint8)

    return make
