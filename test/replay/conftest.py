"""A tiny model and a way to run `fassst replay` with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import make_tiny_model

from fassst_ros.cli import main
from fassst_ros.replay.record import ReplayRecord, load_record

#: In pixels of the network's input, 64 x 48; frames of replay_bags.py are twice as large.
BOXES = np.float32([[8, 6, 40, 30], [30, 20, 60, 46]])


def tiny(folder: Path, labels: tuple[int, int] = (1, 0)) -> Path:
    """A model that finds two rectangles, with scores red and 0.6 * red; labels: 0 person, 1 car."""
    folder.mkdir()
    return make_tiny_model(folder, BOXES, np.int32(labels), np.float32([1.0, 0.6]))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("replay") / "model")


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
