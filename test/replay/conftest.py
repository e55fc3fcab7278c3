"""A tiny model and a way to run `fassst replay` with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_bags import BOXES
from tiny_model import make_tiny_model

from fassst_ros.cli import main
from fassst_ros.replay.record import ReplayRecord, load_record


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds a car and a person, with scores of red / 255 and 0.6 * red / 255."""
    return make_tiny_model(tmp_path_factory.mktemp("model"), BOXES, np.int32([1, 0]), np.float32([1.0, 0.6]))


@pytest.fixture
def replay(model: Path, tmp_path: Path) -> Callable[..., tuple[int, ReplayRecord]]:
    """Runs the command; returns the exit status and the record. Without a video unless asked for."""

    def run(bag: Path, *arguments: Any, out: str = "out", video: bool = False) -> tuple[int, ReplayRecord]:
        options = ["--out", tmp_path / out, *([] if video else ["--no-video"]), *arguments]
        if "--model" not in arguments:
            options += ["--model", model]
        status = main(["replay", str(bag), "--runtime", "onnxruntime", *map(str, options)])
        return status, load_record(tmp_path / out)[0]

    return run
