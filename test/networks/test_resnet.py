"""ResNet-50-FPN against a plain functional ResNet that reads the same made-up torchvision weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from fassst_ros.card import MaskInfo, ModelCard
from fassst_ros.export import export_model
from fassst_ros.labels import STREET
from fassst_ros.networks import build_network
from fassst_ros.networks.resnet import ResNet50Fpn
from fassst_ros.parity import TOLERANCE
from fassst_ros.training.pretrained import load_backbone
from fassst_ros.types import ModelError

# name, width, blocks, stride of torchvision's stages
STAGES = (("layer1", 64, 3, 1), ("layer2", 128, 4, 2), ("layer3", 256, 6, 2), ("layer4", 512, 3, 2))


def torchvision_state(seed: int = 0) -> dict[str, Tensor]:
    """Names and shapes of torchvision's resnet50, random numbers."""
    random = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def layer(conv: str, norm: str, cin: int, cout: int, kernel: int) -> None:
        fan = cin * kernel * kernel
        shape = (cout, cin, kernel, kernel)
        state[f"{conv}.weight"] = torch.randn(shape, generator=random) * (2 / fan) ** 0.5
        state[f"{norm}.weight"] = 0.3 + 0.5 * torch.rand(cout, generator=random)
        state[f"{norm}.bias"] = 0.2 * torch.randn(cout, generator=random)
        state[f"{norm}.running_mean"] = 0.2 * torch.randn(cout, generator=random)
        state[f"{norm}.running_var"] = 0.5 + torch.rand(cout, generator=random)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    layer("conv1", "bn1", 3, 64, 7)
    cin = 64
    for name, width, blocks, _ in STAGES:
        for block in range(blocks):
            at = f"{name}.{block}"
            layer(f"{at}.conv1", f"{at}.bn1", cin, width, 1)
            layer(f"{at}.conv2", f"{at}.bn2", width, width, 3)
            layer(f"{at}.conv3", f"{at}.bn3", width, 4 * width, 1)
            if block == 0:
                layer(f"{at}.downsample.0", f"{at}.downsample.1", cin, 4 * width, 1)
            cin = 4 * width
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 2048), torch.zeros(1000)
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return torchvision_state()


@pytest.fixture(scope="module")
def weights(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "resnet50-made-up.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def loaded(weights: Path) -> ResNet50Fpn:
    backbone = ResNet50Fpn().eval()
    load_backbone(backbone, weights)
    return backbone


def plain_forward(state: dict[str, Tensor], rgb: Tensor) -> list[Tensor]:
    """C2 to C5 of RGB in 0..1, with the norms as norms."""

    def layer(x: Tensor, conv: str, norm: str, stride: int, padding: int) -> Tensor:
        x = F.conv2d(x, state[f"{conv}.weight"], None, stride, padding)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return F.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"])

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (rgb - mean[:, None, None]) / deviation[:, None, None]
    x = F.max_pool2d(layer(x, "conv1", "bn1", 2, 3).relu(), 3, 2, 1)
    ends = []
    for name, _, blocks, stage_stride in STAGES:
        for block in range(blocks):
            at, stride = f"{name}.{block}", stage_stride if block == 0 else 1
            y = layer(x, f"{at}.conv1", f"{at}.bn1", 1, 0).relu()
            y = layer(y, f"{at}.conv2", f"{at}.bn2", stride, 1).relu()
            y = layer(y, f"{at}.conv3", f"{at}.bn3", 1, 0)
            if block == 0:
                x = layer(x, f"{at}.downsample.0", f"{at}.downsample.1", stride, 0)
            x = (x + y).relu()
        ends.append(x)
    return ends


def test_published_weights_give_the_published_features(state: dict[str, Tensor], loaded: ResNet50Fpn) -> None:
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 255
    with torch.no_grad():
        expected = plain_forward(state, images / 255)
        x = F.max_pool2d(F.relu(loaded.conv1((images - loaded.mean) / loaded.deviation)), 3, 2, 1)
        got = []
        for layer in (loaded.layer1, loaded.layer2, loaded.layer3, loaded.layer4):
            x = layer(x)
            got.append(x)
        raw = loaded(images).raw
    for a, b in zip(got, expected, strict=True):
        assert b.std() > 0.1  # the made-up weights do say something
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
    torch.testing.assert_close(raw, got[2])


def test_safetensors_give_the_same(state: dict[str, Tensor], loaded: ResNet50Fpn, tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.safetensors")
    other = ResNet50Fpn()
    load_backbone(other, tmp_path / "model.safetensors")
    for name, conv in other.convolutions().items():
        torch.testing.assert_close(conv.weight, loaded.get_submodule(name).weight)


def test_it_is_resnet_50(loaded: ResNet50Fpn) -> None:
    body = {k: v for k, v in loaded.state_dict().items() if not k.startswith("pyramid.")}
    # 25,557,032 parameters of torchvision's resnet50, without the classifier; a folded norm is one bias
    # a channel instead of gain and shift
    classifier, channels = 2048 * 1000 + 1000, 26_560
    assert sum(v.numel() for v in body.values()) == 25_557_032 - classifier - channels


@pytest.mark.parametrize(("depth", "channels", "stride"), [(4, 512, 8), (5, 1024, 16), (6, 2048, 16)])
def test_raw_features_follow_the_head_depth(depth: int, channels: int, stride: int) -> None:
    backbone = ResNet50Fpn(depth).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert (backbone.raw_channels, backbone.raw_stride) == (channels, stride)
    assert features.raw.shape == (1, channels, 64 // stride, 96 // stride)
    assert [tuple(x.shape[1:]) for x in features.levels] == [(256, 8, 12), (256, 4, 6), (256, 2, 3)]


def test_pyramid_sums_from_the_top(loaded: ResNet50Fpn) -> None:
    """A change of C5 alone reaches all levels, one of C3 alone only the finest."""
    pyramid = loaded.pyramid
    c3, c4, c5 = torch.rand(1, 512, 8, 8), torch.rand(1, 1024, 4, 4), torch.rand(1, 2048, 2, 2)
    with torch.no_grad():
        before, top, bottom = pyramid(c3, c4, c5), pyramid(c3, c4, c5 + 1), pyramid(c3 + 1, c4, c5)
    assert all((a != b).any() for a, b in zip(before, top, strict=True))
    assert [bool((a != b).any()) for a, b in zip(before, bottom, strict=True)] == [True, False, False]


def test_unknown_head_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="4, 5 or 6"):
        ResNet50Fpn(3)


def without(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k != key}


def zeros(*shape: int) -> Tensor:
    """One number in memory and on disk."""
    return torch.zeros(()).expand(shape)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: without(s, "layer3.5.bn2.running_var"), r"layer3\.5\.bn2\.running_var is missing"),
        (lambda s: s | {"layer2.0.conv2.weight": zeros(128, 64, 3, 3)}, r"layer2\.0\.conv2: \(128, 64"),
        (lambda s: s | {"layer1.0.downsample.1.bias": zeros(64)}, r"downsample\.1\.bias: \(64,\) came"),
        (lambda s: s | {"layer3.6.conv1.weight": zeros(1)}, r"left over, such as layer3\.6\.conv1"),
        (lambda s: {"state_dict": s}, "expected a state dict"),
        (lambda s: list(s), "expected a state dict"),
    ],
)
def test_weights_of_another_kind_are_named(
    state: dict[str, Tensor], change: Any, words: str, tmp_path: Path
) -> None:
    small = {name: zeros(*tensor.shape) for name, tensor in state.items()}
    torch.save(change(small), tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"ResNet50Fpn from .*other\.pth: .*" + words):
        load_backbone(ResNet50Fpn(), tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "empty.pth"])
def test_files_without_weights_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("" if name.startswith("empty") else "no weights at all")
    with pytest.raises(ModelError, match=f"cannot start ResNet50Fpn from .*{name}"):
        load_backbone(ResNet50Fpn(), tmp_path / name)


def test_the_pyramid_learns_at_the_full_rate() -> None:
    network = build_network("fassst", num_classes=2, input_size=(64, 96), grid=3, backbone="resnet50_fpn")
    groups = network.parameter_groups(lr=1.0, weight_decay=0.0, backbone_scale=0.1)
    slow = {id(p) for group in groups if group["lr"] == 0.1 for p in group["params"]}  # type: ignore[attr-defined]
    named = network.backbone.named_parameters()
    assert {name.split(".")[0] for name, p in named if id(p) not in slow} == {"pyramid"}
    assert len(slow) == 2 * 53  # weight and bias of ResNet-50's convolutions


def test_export_equals_torch(weights: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"num_classes": 7, "input_size": [96, 128], "grid": 4, "width": 16}
    config |= {"backbone": "resnet50_fpn", "head_depth": 6, "roi_size": 8}
    card = ModelCard("r50", "fassst", "0.0.0", 1, 1, STREET, MaskInfo("frame", 1, 1), 1, config=config)
    torch.manual_seed(0)
    network = build_network("fassst", **config)
    load_backbone(network.backbone, weights)  # type: ignore[arg-type]
    torch.nn.init.normal_(network.iam.answer.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    _, errors = export_model(network, card, tmp_path)
    assert all(errors[name] < TOLERANCE[name] for name in TOLERANCE), errors
    assert all(np.isfinite(value) for value in errors.values())
