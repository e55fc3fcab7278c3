"""The torch runtime gives the same answer as the exported graph, from the weights beside it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from fassst_ros.card import card_path, load_card, sha256
from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes import check_specs, create_runtime
from fassst_ros.types import ConfigError, InputError, ModelError, RuntimeUnavailable

pytest.importorskip("torch", reason="torch is not installed")

OPTIONS = RuntimeOptions(runtime="torch")


@pytest.fixture
def copy(shipped_model: Path, tmp_path: Path) -> Path:
    """The three files of the shipped model, to be damaged."""
    for suffix in (".onnx", ".json", ".safetensors"):
        shutil.copy(shipped_model.with_suffix(suffix), tmp_path)
    return tmp_path / shipped_model.name


def rewrite_card(model: Path, **changes: object) -> None:
    """Change the card; the hash of the weights is brought up to date."""
    weights = model.with_suffix(".safetensors")
    card = load_card(model)
    files = {**card.files, weights.name: sha256(weights)}
    card = dataclasses.replace(card, **{"files": files, **changes})
    card_path(model).write_text(card.to_json(), encoding="utf-8")


def test_torch_and_onnxruntime_agree(shipped_model: Path, make_images) -> None:
    card = load_card(shipped_model)
    images = make_images(1, card.input_height, card.input_width)
    with create_runtime(shipped_model, OPTIONS) as torch_runtime:
        check_specs(torch_runtime, card)
        came = torch_runtime.infer({"images": images})
        for spec in torch_runtime.outputs:
            assert came[spec.name].shape == spec.shape
            assert came[spec.name].dtype == spec.dtype
        with pytest.raises(InputError, match="fed nothing"):
            torch_runtime.infer({})
    torch_runtime.close()
    with pytest.raises(RuntimeUnavailable, match="closed"):
        torch_runtime.infer({"images": images})
    with create_runtime(shipped_model, RuntimeOptions(runtime="onnxruntime")) as runtime:
        expected = runtime.infer({"images": images})
    np.testing.assert_allclose(came["scores"], expected["scores"], atol=1e-4, rtol=0)


def test_precisions(model: Path) -> None:
    with pytest.raises(ConfigError, match="torch offers default and f32"):
        create_runtime(model, RuntimeOptions(runtime="torch", precision="fp16"))


def test_missing_weights(model: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights .*tiny\.safetensors beside the model"):
        create_runtime(model, OPTIONS)


def test_weights_that_are_not_those_of_the_card(copy: Path) -> None:
    weights = copy.with_suffix(".safetensors")
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(ModelError, match="does not have the sha256 of its card"):
        create_runtime(copy, OPTIONS)


def test_damaged_weights(copy: Path) -> None:
    weights = copy.with_suffix(".safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    rewrite_card(copy)
    with pytest.raises(ModelError, match="does not fit network"):
        create_runtime(copy, OPTIONS)


def test_weights_of_another_network(copy: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"layer.weight": torch.zeros(2, 2)}, copy.with_suffix(".safetensors"))
    rewrite_card(copy)
    with pytest.raises(ModelError, match="does not fit network"):
        create_runtime(copy, OPTIONS)


def test_an_unknown_network(copy: Path) -> None:
    rewrite_card(copy, network="unheard_of")
    with pytest.raises(ModelError, match="unheard_of"):
        create_runtime(copy, OPTIONS)
