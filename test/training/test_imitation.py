"""Training a network to be like another: `teacher` in a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_run import read_log, recipe_file, write_cars
from torch import nn

from fassst_ros.export import save_weights
from fassst_ros.networks import build_network
from fassst_ros.networks.base import SegmentationNetwork
from fassst_ros.training.distributed import Group
from fassst_ros.training.imitation import Imitation
from fassst_ros.training.loop import train
from fassst_ros.training.options import Teacher, load_recipe
from fassst_ros.training.reactivation import reactivate
from fassst_ros.training.state import TrainingState
from fassst_ros.types import ConfigError, ModelError

CONFIG = {"backbone": "cspdarknet_nano", "peaks": "levels", "grid": 3, "width": 16, "roi_size": 8}
OPTIONS = Teacher("teacher.safetensors", features=10.0, answers=1.0)


def network(**changes: object) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network("fassst", num_classes=7, **{**CONFIG, "input_size": (96, 96), **changes})


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and the weights of a teacher with SiLU."""
    root = write_cars(tmp_path_factory.mktemp("data"))
    recipe = load_recipe(recipe_file(root, config=CONFIG))
    state = TrainingState.start(recipe, root, Group(torch.device("cpu")))
    save_weights(state.average, state.card(), root / "teacher.safetensors")
    return root


def losses(own: SegmentationNetwork, teacher: SegmentationNetwork) -> dict[str, float]:
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8, generator=torch.manual_seed(1))
    target = {
        "boxes": torch.tensor([[10.0, 10.0, 70.0, 60.0]]),
        "labels": torch.tensor([2]),
        "masks": torch.full((1, 48, 48), 255, dtype=torch.uint8),
        "labelled": torch.ones(7, dtype=torch.bool),
        "ignore": torch.zeros(0, 4),
    }
    terms = Imitation(own, teacher, OPTIONS).eval()(images, [target, target], 0.0)
    return {name: float(term.detach()) for name, term in terms.items()}


def test_nothing_is_left_to_learn_from_oneself() -> None:
    terms = losses(network(), network())
    assert terms["features"] == terms["answers"] == 0
    assert {"class", "box", "mask"} < set(terms)
    other = losses(network(activation="relu"), network())
    assert other["features"] > 0.1
    assert other["answers"] > 0


def test_the_teacher_stays_as_it_is_and_is_not_saved() -> None:
    own = network(activation="relu")
    module = Imitation(own, network(), OPTIONS).train()
    assert not module.teacher.training
    assert not any(p.requires_grad for p in module.teacher.parameters())
    assert all(p.requires_grad for p in own.parameters())
    assert not any("teacher" in name for name in own.state_dict())


def test_a_run_comes_nearer_to_its_teacher(data_root: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        recipe_file(
            tmp_path,
            config={**CONFIG, "activation": "relu"},
            initial_weights="teacher.safetensors",
            teacher={"weights": "teacher.safetensors"},
            optimisation={"batch": 2, "warmup": 2, "lr": 0.002, "backbone_scale": 1.0, "precision": "f32"},
        ),
        ["schedule.0.steps=12", "schedule.1.steps=12"],
    )
    train(recipe, data_root, tmp_path / "run", workers=0, log_every=2, pictures_every=0)
    log = [line for line in read_log(tmp_path / "run") if "features" in line]
    assert log[-1]["step"] == 24  # over both input sizes
    assert log[-1]["features"] < 0.7 * log[0]["features"]
    assert load_recipe(tmp_path / "run" / "recipe.yaml") == recipe


def test_relu_starts_near_what_silu_gave(data_root: Path) -> None:
    def parts(kind: SegmentationNetwork, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            levels = kind.features(x).levels  # type: ignore[operator]
        return torch.cat([(level - level.mean((0, 2, 3), keepdim=True)).flatten() for level in levels])

    images = [cv2.imread(str(data_root / f"{i}.jpg")) for i in range(8)]
    x = torch.from_numpy(np.stack([cv2.resize(image, (96, 96)) for image in images]))
    teacher, plain, fitted = network().eval(), network(activation="relu").eval(), network(activation="relu")
    for module in teacher.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:  # the signal keeps its size
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.5)
    teacher.backbone.stem[0].weight.data /= 100  # type: ignore[index, union-attr, operator]
    for other in (plain, fitted):
        other.load_state_dict(teacher.state_dict())
    reactivate(fitted.eval(), teacher, x[:4])  # type: ignore[arg-type]
    wanted = parts(teacher, x[4:])
    error, naive = ((parts(n, x[4:]) - wanted).square().mean() for n in (fitted, plain))
    assert error < 0.5 * wanted.square().mean()
    assert error < 0.3 * naive


@pytest.mark.parametrize(("activation", "fits"), [("relu", True), ("hardswish", False), ("silu", False)])
def test_a_run_begins_with_fitted_weights(
    data_root: Path, tmp_path: Path, activation: str, fits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = recipe_file(
        tmp_path,
        config={**CONFIG, "activation": activation},
        initial_weights="teacher.safetensors",
        teacher={"weights": "teacher.safetensors"},
    )
    with caplog.at_level("INFO"):
        train(load_recipe(path, ["schedule.0.steps=1", "schedule.1.steps=1"]), data_root, tmp_path / "run")
    assert ("fitting ReLU to the SiLU" in caplog.text) == fits


def test_rates_follow_the_size_of_each_tensor(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path), ["optimisation.relative=true", "optimisation.lr=0.01"])
    state = TrainingState.start(recipe, tmp_path, Group(torch.device("cpu")))
    for group in state.optimiser.param_groups:
        (tensor,) = group["params"]
        assert group["peak"] == pytest.approx(0.01 * max(1e-3, float(tensor.detach().square().mean().sqrt())))


def test_what_cannot_teach_is_refused(data_root: Path, tmp_path: Path) -> None:
    def state(teacher: str, **config: object) -> TrainingState:
        path = recipe_file(tmp_path, config={**CONFIG, **config}, teacher={"weights": teacher})
        return TrainingState.start(load_recipe(path), data_root, Group(torch.device("cpu")))

    with pytest.raises(ModelError, match=r"teacher: weights: no file .*none\.safetensors, and no shipped"):
        state("none.safetensors").losses(data_root)
    with pytest.raises(ConfigError, match=r"layers of teacher\.safetensors differ"):
        state("teacher.safetensors", width=32).losses(data_root)
    coco = dataclasses.replace(state("teacher.safetensors").recipe, classes="coco")
    with pytest.raises(ConfigError, match=r"knows \['person', .*expected"):
        TrainingState.start(coco, data_root, Group(torch.device("cpu"))).losses(data_root)
    with pytest.raises(ConfigError, match="only fassst with matching task_aligned"):
        Imitation(build_network("fassst", num_classes=7, matching="cell"), nn.Module(), OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="teacher: weights is missing"):
        load_recipe(recipe_file(tmp_path, teacher={"features": 1.0}))
