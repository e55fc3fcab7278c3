"""Fixtures of the node's tests; what they are made of is in node_bench.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.register_assert_rewrite("node_bench")
import rclpy  # noqa: E402
from node_bench import Bench, Gate  # noqa: E402
from rclpy.context import Context  # noqa: E402


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The module test/tiny_model.py."""
    path = Path(__file__).parents[1] / "tiny_model.py"
    spec = importlib.util.spec_from_file_location("tiny_node_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_node_model"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_path(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds three overlapping rectangles with scores by brightness; 64x48 input."""
    boxes = np.array([[4, 4, 30, 30], [20, 10, 60, 40], [40, 2, 50, 46]], np.float32)
    rng = np.random.default_rng(1)
    masks = rng.random((3, 8, 8)).astype(np.float32)
    labels, factors = np.array([0, 1, 1], np.int32), np.array([0.95, 0.9, 0.8], np.float32)
    return Path(tiny.make_tiny_model(tmp_path_factory.mktemp("model"), boxes, labels, factors, masks))


@pytest.fixture(scope="session")
def context() -> Iterator[Context]:
    made = Context()
    rclpy.init(context=made)
    yield made
    made.try_shutdown()


@pytest.fixture
def bench(context: Context, tiny_path: Path) -> Iterator[Bench]:
    made = Bench(context, tiny_path)
    yield made
    made.stop()


@pytest.fixture
def gate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open(1000)  # the worker must end
