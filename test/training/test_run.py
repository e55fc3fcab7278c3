"""What a run leaves behind and tells: its folder, log, curves, pictures, evaluations."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import read_log, recipe_file, write_cars

from fassst_ros.cli import main
from fassst_ros.export import load_network
from fassst_ros.networks.fassst import FASSST
from fassst_ros.training.distributed import Group, open_group
from fassst_ros.training.loop import train
from fassst_ros.training.options import load_recipe
from fassst_ros.training.progress import Reporter, Speed
from fassst_ros.training.state import TrainingError, TrainingState
from fassst_ros.types import ConfigError, FassstError

VAL = {"annotations": "set.json", "images": ".", "every": 3, "limit": 4}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cars(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps, evaluated after three and six."""
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe(recipe_file(folder, val=VAL))
    train(recipe, data_root, folder / "run", workers=0, log_every=2, pictures_every=4)
    return folder / "run"


def test_the_folder_tells_what_was_run(run: Path) -> None:
    assert load_recipe(run / "recipe.yaml") == load_recipe(run.parent / "recipe.yaml")
    (start,) = (json.loads(line) for line in (run / "environment.jsonl").read_text().splitlines())
    assert (start["device"], start["processes"], start["from_step"]) == ("cpu", 1, 0)
    assert start["torch"] == torch.__version__
    lines = read_log(run)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    assert all(line["images_a_second"] > 0 and 0 <= line["waiting"] <= 1 for line in lines if "loss" in line)
    assert [line["step"] for line in lines if "mask_AP" in line] == [3, 6]


def test_curves_and_pictures(run: Path) -> None:
    events = EventAccumulator(str(run))
    events.Reload()
    assert [s.step for s in events.Scalars("loss/total")] == [2, 4, 6]
    assert [s.step for s in events.Scalars("val/mask_AP")] == [3, 6]
    assert [i.step for i in events.Images("truth_and_prediction")] == [4, 6]
    shapes = [cv2.imread(str(path)).shape for path in sorted((run / "pictures").iterdir())]
    assert shapes == [(2 * 96, 2 * 128, 3)] * 2  # two images a batch; truth beside prediction


def test_the_best_weights_are_kept(run: Path) -> None:
    _, card = load_network(run / "tiny_best.safetensors")
    best = max(line["mask_AP"] for line in read_log(run) if "mask_AP" in line)
    assert card.name == "tiny_best"
    assert card.metrics["mask"]["AP"] == pytest.approx(best, abs=1e-5)
    assert torch.load(run / "checkpoint.pt", weights_only=True)["best"] == pytest.approx(best, abs=1e-5)


def test_another_recipe_is_refused_unless_wanted(run: Path, data_root: Path) -> None:
    path = run.parent / "recipe.yaml"
    longer = load_recipe(path, ["schedule.1.steps=4"])
    with pytest.raises(ConfigError, match=r"schedule\.1\.steps: 3 before, 4 now.*--changed-recipe"):
        train(longer, data_root, run, workers=0)
    assert read_log(run)[-1]["step"] == 6


def test_a_changed_recipe_brings_its_own_rates(run: Path, data_root: Path) -> None:
    def state(*changes: str) -> TrainingState:
        recipe = load_recipe(run.parent / "recipe.yaml", changes)
        return TrainingState.start(recipe, data_root, Group(torch.device("cpu")))

    changes = ("lr=0.03", "weight_decay=0.3")
    resumed, wanted = (state(*(f"optimisation.{c}" for c in changes)) for _ in range(2))
    resumed.resume(run / "checkpoint.pt")
    assert resumed.optimiser.state
    for group, own in zip(resumed.optimiser.param_groups, wanted.optimiser.param_groups, strict=True):
        assert (group["peak"], group["weight_decay"]) == (own["peak"], own["weight_decay"])
    with pytest.raises(TrainingError, match=r"state of adamw, the recipe says sgd\. Take another run folder"):
        state("optimisation.optimiser=sgd").resume(run / "checkpoint.pt")


def test_a_schedule_that_ends_before_what_is_done_is_refused(run: Path, data_root: Path) -> None:
    shorter = load_recipe(run.parent / "recipe.yaml", ["schedule.1.steps=2"])
    with pytest.raises(ConfigError, match=r"step 6, but the schedule ends after 5\. Take a longer schedule"):
        train(shorter, data_root, run, workers=0, changed=True)


def test_a_killed_run_loses_its_last_lines(data_root: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path))
    train(recipe, data_root, tmp_path / "run", workers=0, log_every=3, pictures_every=0)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "loss": 1}\n{"step": 8, "lo')
    longer = load_recipe(tmp_path / "recipe.yaml", ["schedule.1.steps=4"])
    train(longer, data_root, tmp_path / "run", workers=0, changed=True, pictures_every=0)
    assert [line["step"] for line in read_log(tmp_path / "run")] == [3, 6, 7]


def test_a_signal_in_the_last_step_comes_too_late(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FASSST.loss

    def terminated(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(FASSST, "loss", terminated)
    recipe = load_recipe(
        recipe_file(tmp_path, schedule=[{"input_height": 96, "input_width": 96, "steps": 1}])
    )
    weights = train(recipe, data_root, tmp_path / "run", workers=0, pictures_every=0)
    assert load_network(weights)[1].training["steps"] == 1
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["done"] == 1


@pytest.mark.parametrize("content", [b"not one", b"\x80\x02]q\x00.", b"", {"network": 5}, [1]])
def test_a_foreign_checkpoint_is_refused(run: Path, data_root: Path, tmp_path: Path, content: Any) -> None:
    if isinstance(content, bytes):
        (tmp_path / "checkpoint.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "checkpoint.pt")
    recipe = load_recipe(run.parent / "recipe.yaml")
    state = TrainingState.start(recipe, data_root, Group(torch.device("cpu")))
    with pytest.raises(TrainingError, match="damaged or of another network"):
        state.resume(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("folder", ["file", "file/run", "/proc/run"])
def test_a_run_folder_that_cannot_be_written(data_root: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"cannot write the run folder .*{folder}: .*--run-folder"):
        train(load_recipe(recipe_file(tmp_path)), data_root, tmp_path / folder, workers=0)


@pytest.mark.parametrize("options", ["--save-every 0", "--log-every 0", "--workers -1", "--threads -2"])
def test_numbers_that_cannot_be(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "recipe.yaml", *options.split()])
    assert "expected a whole number from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("config.loss_weights={masks: 1.0}", r"loss_weights are .*'masks'"),
        ("config.loss_weights=5", "loss_weights are 5; expected numbers"),
        ("config.loss_weights={mask: high}", "expected numbers >= 0 for mask"),
        ("config.grid=abc", "grid is 'abc'; expected a whole number from 1 on"),
        ("config.width=-3", "width is -3"),
        ("config.fusion=5", "fusion is 5; expected true or false"),
        ("config.backbone=5", "backbone is 5; expected a string"),
        ("config.gird=3", "unknown argument gird; known: num_classes, input_size, grid"),
        ("schedule.1.input_width=100", r"input_size is \(96, 100\)"),
        ("backbone_weights=none.pt", "cannot start MobileNetV2 from"),
        ("val={annotations: none.json, images: .}", r"none\.json"),
    ],
)
def test_what_is_wrong_shows_before_the_data_are_read(tmp_path: Path, change: str, words: str) -> None:
    (tmp_path / "set.json").write_text("is not read")
    recipe = load_recipe(recipe_file(tmp_path), [change])
    with pytest.raises(FassstError, match=words):
        train(recipe, tmp_path, tmp_path / "run", workers=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(ConfigError, match="sees 0"), open_group("cuda"):
        pass


def test_speed() -> None:
    speed = Speed(batch=8, workers=2)
    for _ in range(2):
        speed.add(waited=1.0, computed=3.0, loading=4.0)
    expected = {"seconds_a_step": 4.0, "images_a_second": 2.0, "loader_images_a_second": 4.0, "waiting": 0.25}
    assert speed.read() == expected


def test_a_terminal_gets_a_bar_and_other_output_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    speed = Speed(8, 1)
    speed.add(1.0, 3.0, 2.0)
    numbers = speed.read()
    screen = io.StringIO()
    with caplog.at_level(logging.INFO):
        with Reporter(tmp_path, 10, 0) as reporter:
            reporter.numbers(5, {"mask": 1.0}, 0.1, numbers)
        assert "pip install tensorboard" in caplog.text
        assert "step 5/10  loss 1.000 (mask 1.000)  2.0 images/s (loader 4.0, 25 % waiting)" in caplog.text
        caplog.clear()
        terminal = Console(file=screen, force_terminal=True, width=120)
        with Reporter(tmp_path, 10, 0, terminal) as reporter:
            reporter.numbers(5, {"mask": 1.0}, 0.1, numbers)
    assert "25 % waiting" in screen.getvalue()
    assert "step 5" not in caplog.text
