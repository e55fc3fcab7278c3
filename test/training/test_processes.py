"""`fassst train` as real processes: two that share every batch, and one that is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import read_log, recipe_file, write_cars

from fassst_ros.networks.fassst import FASSST
from fassst_ros.training.loop import train
from fassst_ros.training.options import load_recipe
from fassst_ros.training.stopping import Stopped

# BatchNorm and bf16 see how a batch is divided; without them two processes must equal one.
EXACT = {"batch": 4, "warmup": 0, "lr": 0.01, "optimiser": "sgd", "precision": "f32", "frozen_norm": True}
VAL = {"annotations": "set.json", "images": ".", "every": 4, "limit": 5}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cars(tmp_path_factory.mktemp("data"))


def command(recipe: Path, data_root: Path, run: Path, *more: str) -> list[str]:
    options = [
        "--data-root",
        str(data_root),
        "--run-folder",
        str(run),
        "--log-every",
        "1",
        "--pictures-every",
        "0",
    ]
    return ["-m", "fassst_ros", "train", str(recipe), *options, *more]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_two_processes_learn_what_one_learns(data_root: Path, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, optimisation=EXACT, val=VAL)
    train(load_recipe(path), data_root, tmp_path / "one", workers=0, log_every=1, pictures_every=0)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = subprocess.run(
        [sys.executable, *launch, *command(path, data_root, tmp_path / "two", "--workers", "0")],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-3000:]
    assert "BatchNorm normalises over each one's own images" in two.stderr
    assert two.stdout.count("trained weights") == 1
    ours, theirs = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("loss", "class", "box", "mask", "mask_AP"):
            assert a.get(name, 0.0) == pytest.approx(b.get(name, 0.0), rel=1e-3, abs=1e-3)
    a, b = (
        torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)["network"] for run in ("one", "two")
    )
    start = torch.load(tmp_path / "one" / "checkpoint.pt", weights_only=True)["average"]
    moved = max(float((a[k] - start[k]).abs().max()) for k in a if a[k].is_floating_point())
    apart = max(float((a[k] - b[k]).abs().max()) for k in a if a[k].is_floating_point())
    assert apart < 1e-4 < moved


#: `fassst train` that gets Ctrl-C, as its loader's processes do, while it takes its second step.
CTRL_C = """
import os, signal, sys
from fassst_ros.cli import main
from fassst_ros.networks.fassst import FASSST
original, calls = FASSST.loss, []
def interrupted(*args):
    calls.append(1)
    if len(calls) == 2:
        os.killpg(0, signal.SIGINT)
    return original(*args)
FASSST.loss = interrupted
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_stopped_by_signals_equals_an_uninterrupted_one(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe_file(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def go(run: Path) -> None:
        train(load_recipe(path), data_root, run, workers=0, log_every=1, pictures_every=0)

    go(whole)
    original = FASSST.loss
    calls: list[int] = []

    def terminated(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(FASSST, "loss", terminated)
    with pytest.raises(Stopped, match=r"SIGTERM after step 2 of 6; .* The same command goes on"):
        go(parts)
    monkeypatch.undo()

    arguments = command(path, data_root, parts, "--workers", "1", "--threads", str(torch.get_num_threads()))
    second = subprocess.run(
        [sys.executable, "-c", CTRL_C, *arguments[2:]],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=240, start_new_session=True,
    )  # fmt: skip
    assert second.returncode == 128 + signal.SIGINT, second.stderr[-3000:]
    assert "stopped by SIGINT after step 4 of 6" in second.stdout  # in the second phase
    assert "Traceback" not in second.stderr
    go(parts)

    def losses(run: Path) -> list[tuple[float, ...]]:
        return [
            tuple(line[k] for k in ("step", "loss", "class", "box", "mask", "lr")) for line in read_log(run)
        ]

    assert losses(parts) == losses(whole)
    a, b = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, parts))
    for part in ("network", "average"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
