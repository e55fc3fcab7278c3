"""Models that take whole camera frames: the resize inside is that of cv2, and the answer stays the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from fassst_ros.bag import ImageBag
from fassst_ros.card import load_card
from fassst_ros.cli import main
from fassst_ros.config import RuntimeOptions
from fassst_ros.networks.base import RawOutputs, SegmentationNetwork
from fassst_ros.networks.frame_input import FrameInput
from fassst_ros.pipeline import Segmenter
from fassst_ros.runtimes.half_precision import to_half
from fassst_ros.runtimes.tensorrt_engine import build_engine
from fassst_ros.types import Frame, Instances

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "models" / "fassst_768_street.safetensors"
SIZE = (1024, 2048)  # of the sample bag's camera


class Echo(SegmentationNetwork):
    """Returns what it sees as masks: (B, 3, H, W)."""

    slots, mask_size, mask_kind, mask_padding = 3, (64, 96), "frame", 0.0

    def __init__(self) -> None:
        super().__init__()
        self.input_size = self.mask_size

    def forward(self, images: Tensor) -> RawOutputs:
        boxes = torch.tensor([[[8.0, 8.0, 96.0, 64.0]] * 3])
        return RawOutputs(torch.ones(1, 3), torch.zeros(1, 3), boxes, images.float().permute(0, 3, 1, 2))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photo of the sample bag, (1024, 2048, 3) uint8 BGR."""
    with ImageBag(ROOT / "test/data/street_sample") as bag:
        image = cv2.imdecode(next(iter(bag)).message.data, cv2.IMREAD_COLOR)
    assert image.shape == (*SIZE, 3)
    return image


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights, for a camera of 1024x2048."""
    if not WEIGHTS.is_file():
        pytest.skip(f"{WEIGHTS.name} is not in models/")
    folder = tmp_path_factory.mktemp("frame")
    assert main(["export", str(WEIGHTS), "--out", str(folder), "--frame-size", "1024X2048"]) == 0
    return folder / "fassst_768_street_1024x2048.onnx"


def segment(model: Path, frame: Frame, runtime: str, runs: int = 1) -> tuple[Instances, list[str]]:
    told: list[str] = []
    options = RuntimeOptions(model=str(model), runtime=runtime, precision="f32", threads=1)
    with Segmenter.open(options, log=told.append) as segmenter:
        told.clear()
        return [segmenter.segment(frame).instances for _ in range(runs)][-1], told


@pytest.mark.parametrize("size", [(128, 192), (96, 128), (341, 201), (64, 96), (40, 50)])
def test_the_resize_is_that_of_opencv(size: tuple[int, int], photo: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for image in (noise, photo[200 : 200 + size[0], 300 : 300 + size[1]]):
        outputs = FrameInput(Echo(), size)(torch.from_numpy(image.copy())[None])
        expected = cv2.resize(image, (96, 64), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
        assert np.abs(outputs.masks[0].numpy() - expected).max() < 1.0  # OpenCV rounds to whole numbers
        in_frame = np.array([8, 8, 96, 64]) * ([size[1] / 96, size[0] / 64] * 2)
        np.testing.assert_allclose(outputs.boxes[0, 0], in_frame, rtol=1e-6)


def test_card_and_graph_say_what_they_take(exported: Path) -> None:
    card = load_card(exported)
    assert (card.input_height, card.input_width, card.resize) == (*SIZE, (768, 768))
    nodes = onnx.load(str(exported)).graph.node
    # TensorRT transposes no uint8, and resizes the last axes only
    assert [node.op_type for node in nodes[:3]] == ["Cast", "Transpose", "Resize"]
    plain = load_card(WEIGHTS.with_suffix(".onnx"))
    assert plain.resize is None
    assert dataclasses.replace(
        card, name=plain.name, files=plain.files, resize=None, input_height=768, input_width=768
    ) == dataclasses.replace(plain, config=card.config)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_the_same_instances_are_found(exported: Path, photo: np.ndarray, runtime: str) -> None:
    frame = Frame(photo, "bgr")
    plain, _ = segment(WEIGHTS.with_suffix(".onnx"), frame, "onnxruntime")
    found, told = segment(exported, frame, runtime)
    assert told == []
    assert found.size == plain.size == SIZE
    # half a grey level decides over a few instances at the threshold, and over the order of equals
    sure = np.flatnonzero(plain.scores > 0.37)
    assert len(sure) >= 10
    for i in sure:
        near = np.abs(found.boxes - plain.boxes[i]).max(1) < 4.0  # px of 2048
        near &= found.class_ids == plain.class_ids[i]
        near &= np.abs(found.scores - plain.scores[i]) < 0.02
        assert near.any(), (plain.boxes[i], plain.scores[i])
        overlaps = [iou(plain, i, found, j) for j in np.flatnonzero(near)]
        assert max(overlaps) > 0.95


def iou(one: Instances, i: int, other: Instances, j: int) -> float:
    a, b = one.to_dense()[i], other.to_dense()[j]
    return float((a & b).sum() / (a | b).sum())


def test_frames_of_another_size_are_told_once(exported: Path, photo: np.ndarray) -> None:
    small = cv2.resize(photo, (1280, 720), interpolation=cv2.INTER_AREA)
    found, told = segment(exported, Frame(small, "bgr"), "openvino", runs=2)
    assert found.size == (720, 1280)
    assert len(found) >= 10
    assert len(told) == 1
    assert "frames are 720x1280" in told[0]
    assert "--frame-size 720x1280" in told[0]


@pytest.mark.parametrize("precision", ["f32", "fp16"])
def test_tensorrt_builds_the_resize(exported: Path, precision: str) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    data = exported.read_bytes()
    if precision == "fp16":
        data = to_half(data)
        graph = onnx.load_model_from_string(data).graph
        # pixels are whole numbers: half the bytes for the resize of a whole frame
        assert [node.op_type for node in graph.node[:4]] == ["Cast", "Transpose", "Resize", "Conv"]
        assert graph.node[0].attribute[0].i == onnx.TensorProto.FLOAT16
    assert len(build_engine(rtx, data, precision, print)) > 2 * WEIGHTS.stat().st_size


def test_a_wrong_size_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for size in ("1024", "0x5", "-4x4", "1024x2048x3", "99999x99999"):
        assert main(["export", "absent.safetensors", f"--frame-size={size}"]) != 0
        assert f"--frame-size '{size}'; expected HEIGHTxWIDTH" in capsys.readouterr().err
