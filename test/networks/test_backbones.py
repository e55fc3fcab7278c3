"""Backbones against the published graphs that their weights come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fassst_ros.networks.backbones import CspDarknetNano, MobileNetV2, _unfold_focus
from fassst_ros.training.pretrained import load_backbone
from fassst_ros.types import ModelError

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="published weights are not on this machine")


@pytest.mark.parametrize(("depth", "channels", "stride"), [(4, 32, 8), (5, 64, 16), (6, 96, 16)])
def test_mobilenet_raw_features_follow_the_head_depth(depth: int, channels: int, stride: int) -> None:
    backbone = MobileNetV2(depth).eval()
    features = backbone(torch.zeros(1, 3, 96, 128))
    assert (backbone.raw_channels, backbone.raw_stride) == (channels, stride)
    assert features.raw.shape == (1, channels, 96 // stride, 128 // stride)
    assert [tuple(x.shape[1:]) for x in features.levels] == [(32, 12, 16), (96, 6, 8), (320, 3, 4)]


def test_unknown_head_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="4, 5 or 6"):
        MobileNetV2(3)
    with pytest.raises(ValueError, match="depth 5 only"):
        CspDarknetNano(4)


def test_yolox_stem_equals_space_to_depth() -> None:
    weight = torch.randn(16, 12, 3, 3)
    rgb = torch.rand(2, 3, 20, 24) * 255
    bgr = rgb.flip(1)
    corners = (bgr[..., ::2, ::2], bgr[..., 1::2, ::2], bgr[..., ::2, 1::2], bgr[..., 1::2, 1::2])
    expected = F.conv2d(torch.cat(corners, 1), weight, padding=1)
    got = F.conv2d(rgb, _unfold_focus(weight), stride=2, padding=2)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-2)


@needs_weights
def test_cspdarknet_equals_the_yolox_graph() -> None:
    import onnx
    import onnxruntime

    graph = onnx.load(str(WEIGHTS / "yolox_nano.onnx"))
    # the last convolution of the neck at each stride; its activation is the neck's output
    ends = {node.name: node.output[0] for node in graph.graph.node}
    outputs = []
    for name in ("Conv_244", "Conv_270", "Conv_296"):
        activation = next(n for n in graph.graph.node if n.op_type == "Mul" and ends[name] in n.input)
        graph.graph.output.append(onnx.helper.make_tensor_value_info(activation.output[0], 1, None))
        outputs.append(activation.output[0])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    bgr = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    expected = session.run(outputs, {"images": bgr})

    backbone = CspDarknetNano().eval()
    load_backbone(backbone, WEIGHTS / "yolox_nano.onnx")
    with torch.no_grad():
        got = backbone(torch.from_numpy(bgr[:, ::-1].copy())).levels
    for a, b in zip(got, expected, strict=True):
        assert np.abs(b).max() > 1.0  # the graph does say something
        np.testing.assert_allclose(a.numpy(), b, atol=1e-3)


@needs_weights
def test_mobilenet_with_its_classifier_recognises_as_published() -> None:
    import cv2

    photo = WEIGHTS.parent / "data" / "camvid" / "val" / "images"
    image = cv2.imread(str(sorted(photo.glob("*.jpg"))[0]))[:, :, ::-1]
    path = WEIGHTS / "mobilenet_v2_imagenet_bnfolded.pt"
    backbone = MobileNetV2().eval()
    load_backbone(backbone, path)
    state = torch.load(path, weights_only=True)
    batch = torch.from_numpy(cv2.resize(image, (224, 224))).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        x = F.relu6(F.conv2d(backbone(batch).levels[2], state["51.conv_2d.weight"], state["51.conv_2d.bias"]))
        logits = F.conv2d(x.mean((2, 3), keepdim=True), state["52.conv_2d.weight"], state["52.conv_2d.bias"])
    top = set(logits.flatten().topk(5).indices.tolist())
    # background is class 0: 920 street sign, 921 traffic light, 437 beach wagon, 469 cab, 657 minivan ...
    street = {409, 437, 469, 512, 628, 657, 706, 718, 752, 818, 830, 865, 868, 875, 920, 921}
    assert top & street, f"top five classes of a street frame: {sorted(top)}"


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    torch.save({"00.weight": torch.zeros(1), "00.bias": torch.zeros(1)}, tmp_path / "few.pt")
    with pytest.raises(ModelError, match=r"few\.pt.*1 convolutions came"):
        load_backbone(MobileNetV2(), tmp_path / "few.pt")
    with pytest.raises(ModelError, match=r"none\.pt"):
        load_backbone(MobileNetV2(), tmp_path / "none.pt")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ModelError, match=r"text\.onnx"):
        load_backbone(CspDarknetNano(), tmp_path / "text.onnx")
