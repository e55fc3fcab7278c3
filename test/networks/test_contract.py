"""What base.py asks of every network in NETWORKS; a new one is tested here without a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scenes import scene

from fassst_ros.card import ClassInfo, MaskInfo, ModelCard, load_card
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.export import export_model, load_network
from fassst_ros.networks import NETWORKS, build_network
from fassst_ros.networks.base import SegmentationNetwork
from fassst_ros.parity import TOLERANCE
from fassst_ros.pipeline import Segmenter
from fassst_ros.runtimes.half_precision import to_half
from fassst_ros.runtimes.tensorrt_engine import build_engine
from fassst_ros.types import Frame

CLASSES = tuple(ClassInfo(i, name, (0, 0, 0)) for i, name in ((1, "red"), (2, "green"), (3, "blue")))
CONFIG = {"num_classes": len(CLASSES), "input_size": [128, 160], "backbone": "cspdarknet_nano"}


@pytest.fixture(scope="module", params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> SegmentationNetwork:
    """A few steps old, as trained under autocast: its slots differ, its norms know their input."""
    torch.manual_seed(0)
    network = build_network(name, **CONFIG).to(memory_format=torch.channels_last)
    images, targets = scene()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16):
            losses = network.loss(images, targets, 0.5)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of what comes, not a slow mean
    with torch.no_grad():
        network(images)
    return network.eval()


@pytest.fixture(scope="module")
def exported(name: str, network: SegmentationNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    masks = MaskInfo(network.mask_kind, *network.mask_size, network.mask_threshold, network.mask_padding)
    card = ModelCard("model", name, "0.0.0", 1, 1, CLASSES, masks, 1, config=CONFIG)
    model, errors = export_model(network, card, tmp_path_factory.mktemp(name))
    assert all(errors[tensor] < TOLERANCE[tensor] for tensor in TOLERANCE), errors
    return model


def test_outputs(network: SegmentationNetwork) -> None:
    images, _ = scene()
    with torch.no_grad():
        out = network(images)
    assert out.scores.shape == out.labels.shape == (2, network.slots)
    assert out.boxes.shape == (2, network.slots, 4)
    assert out.masks.shape == (2, network.slots, *network.mask_size)
    assert [t.dtype for t in out] == [torch.float32, torch.int32, torch.float32, torch.float32]
    assert ((out.scores >= 0) & (out.scores <= 1)).all()
    assert ((out.masks >= 0) & (out.masks <= 1)).all()
    assert (out.scores.diff() <= 0).all(), "slots must come best first"
    assert ((out.labels >= 0) & (out.labels < len(CLASSES))).all()
    stated = out.scores > 1e-4
    assert (out.boxes[stated][:, 2:] > out.boxes[stated][:, :2]).all()
    assert 2 < out.boxes.max() <= 1.5 * 160, "pixels of the input, not fractions of it"


def test_loss_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, **CONFIG)
    images, targets = scene()
    losses = network.loss(images, targets, 0.5)
    assert all(torch.isfinite(term) and term.dtype == torch.float32 for term in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_loss_without_objects(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, **CONFIG)
    images, targets = scene()
    for target in targets:
        empty = {key: target[key][:0] for key in ("boxes", "labels", "masks")}  # type: ignore[literal-required]
        target.update(empty)  # type: ignore[typeddict-item]
    losses = network.loss(images, targets, 0.5)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_weights_fit_every_input_size(name: str, network: SegmentationNetwork) -> None:
    larger = build_network(name, **{**CONFIG, "input_size": [192, 256]})
    larger.load_state_dict(network.state_dict())
    with torch.no_grad():
        out = larger.eval()(torch.zeros(1, 192, 256, 3, dtype=torch.uint8))
    assert out.masks.shape == (1, network.slots, *larger.mask_size)


def test_graph_stays_within_what_the_runtimes_take(exported: Path) -> None:
    operators = {node.op_type for node in onnx.load(str(exported)).graph.node}
    assert not operators & {
        *("NonZero", "NonMaxSuppression", "RoiAlign", "Loop", "If", "Scan", "BatchNormalization", "Einsum"),
    }


@pytest.mark.parametrize("precision", ["f32", "fp16"])
def test_graph_becomes_an_engine(exported: Path, precision: str) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    data = exported.read_bytes()
    engine = build_engine(rtx, to_half(data) if precision == "fp16" else data, precision, print)
    assert len(engine) > len(data) * (0.9 if precision == "f32" else 0.45)


def test_files_say_what_they_are(network: SegmentationNetwork, exported: Path) -> None:
    masks = load_card(exported).masks
    assert (masks.kind, masks.height, masks.width) == (network.mask_kind, *network.mask_size)
    again, _ = load_network(exported.with_suffix(".safetensors"))
    images, _ = scene()
    with torch.no_grad():
        torch.testing.assert_close(again(images).scores, network(images).scores, atol=1e-4, rtol=0)


def test_runtimes_agree_on_instances(exported: Path) -> None:
    """What the pipeline tells of an image is the same whatever executes the model."""
    image = scene()[0][0].numpy()
    found = {}
    for runtime in ("onnxruntime", "openvino", "torch"):
        options = RuntimeOptions(model=str(exported), runtime=runtime, precision="f32", threads=1)
        with Segmenter.open(options, SegmentOptions(score_threshold=0.0, max_instances=2)) as segmenter:
            found[runtime] = segmenter.segment(Frame(image)).instances
    expected = found["onnxruntime"]
    assert len(expected) == 2
    for runtime, instances in found.items():
        np.testing.assert_allclose(instances.scores, expected.scores, atol=1e-4, err_msg=runtime)
        np.testing.assert_array_equal(instances.class_ids, expected.class_ids, err_msg=runtime)
        np.testing.assert_allclose(instances.boxes, expected.boxes, atol=2e-2, err_msg=runtime)
        assert (instances.to_dense() != expected.to_dense()).mean() < 1e-3, runtime
