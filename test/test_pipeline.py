"""Segmenter with a real graph in ONNX Runtime, and where models are found."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_model import make_tiny_model, tiny_card

from fassst_ros import models
from fassst_ros.card import card_path, sha256
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.pipeline import Segmenter
from fassst_ros.runtimes import create_runtime
from fassst_ros.runtimes.onnxruntime_runtime import OnnxRuntimeRuntime
from fassst_ros.types import ConfigError, Frame, ModelError, RuntimeUnavailable

BOXES = np.float32([[8, 6, 40, 30], [0, 0, 16, 12], [50, 40, 60, 46]])
LABELS = np.int32([1, 0, 0])
FACTORS = np.float32([1.0, 0.8, 0.5])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path, BOXES, LABELS, FACTORS)


@pytest.fixture
def segmenter(model: Path) -> Iterator[Segmenter]:
    with Segmenter.open(RuntimeOptions(model=str(model), runtime="onnxruntime")) as opened:
        yield opened


def red(value: int, size: tuple[int, int] = (96, 128)) -> Frame:
    """An RGB frame whose red channel is `value` and whose others are 255 - value."""
    image = np.full((*size, 3), 255 - value, np.uint8)
    image[..., 0] = value
    return Frame(image)


def test_the_answer_is_told_by_the_frame(segmenter: Segmenter) -> None:
    found = segmenter.segment(red(255)).instances
    np.testing.assert_allclose(found.scores, FACTORS)
    assert found.class_ids.tolist() == [3, 1, 1]
    np.testing.assert_array_equal(found.boxes, BOXES * 2)
    assert found.size == (96, 128)
    half = segmenter.segment(red(128)).instances
    np.testing.assert_allclose(half.scores, FACTORS[:2] * np.float32(128 / 255), rtol=1e-6)


def test_bgr_frames_are_swapped(segmenter: Segmenter) -> None:
    as_bgr = Frame(np.ascontiguousarray(red(255).image[..., ::-1]), "bgr")
    np.testing.assert_allclose(segmenter.segment(as_bgr).instances.scores, FACTORS)
    assert len(segmenter.segment(Frame(red(255).image, "bgr")).instances) == 0


def test_sizes_may_change_from_frame_to_frame(segmenter: Segmenter) -> None:
    for size in ((48, 64), (7, 300), (1080, 1920), (1, 1)):
        found = segmenter.segment(red(255, size)).instances
        assert found.size == size
        scale = np.float32([size[1] / 64, size[0] / 48] * 2)
        np.testing.assert_allclose(found.boxes[0], BOXES[0] * scale, rtol=1e-6)


def test_stages_are_told(segmenter: Segmenter) -> None:
    stages = segmenter.segment(red(255)).stages
    assert list(stages) == ["resize", "infer", "postprocess"]
    assert all(0 < ms < 60_000 for ms in stages.values())


def test_options_change_between_frames(segmenter: Segmenter) -> None:
    segmenter.options = SegmentOptions(classes=("person",), score_threshold=0.6)
    np.testing.assert_allclose(segmenter.segment(red(255)).instances.scores, [0.8])
    segmenter.options = SegmentOptions()
    assert len(segmenter.segment(red(255)).instances) == 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (SegmentOptions(classes=("person", "dog")), "does not know 'dog'; it knows: person, car"),
        (SegmentOptions(score_threshold=-0.5), "score_threshold = -0.5"),
        (SegmentOptions(mask_threshold=float("nan")), "mask_threshold = nan"),
    ],
)
def test_options_that_do_not_fit_leave_the_old_ones(
    segmenter: Segmenter, options: SegmentOptions, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        segmenter.options = options
    assert segmenter.options == SegmentOptions()
    with pytest.raises(ConfigError, match=problem):
        Segmenter(segmenter.runtime, segmenter.card, options)


def test_numbers_that_are_not_finite_are_told_once(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path, BOXES, LABELS, np.float32([1.0, np.nan, 0.5]))
    told: list[str] = []
    options = RuntimeOptions(model=str(model), runtime="onnxruntime")
    with Segmenter.open(options, log=told.append) as segmenter:
        told.clear()
        for _ in range(3):
            np.testing.assert_allclose(segmenter.segment(red(255)).instances.scores, [1.0, 0.5])
    assert [("not finite in 1 of 3 slots" in line) for line in told] == [True]


def test_graph_that_does_not_fit_its_card(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path, BOXES, LABELS, FACTORS)
    wrong = dataclasses.replace(tiny_card(height=96), files={model.name: sha256(model)})
    card_path(model).write_text(wrong.to_json(), encoding="utf-8")
    with pytest.raises(ModelError, match=r"48.*96"):
        Segmenter.open(RuntimeOptions(model=str(model), runtime="onnxruntime"))


def test_frames_from_several_threads_do_not_mix(segmenter: Segmenter) -> None:
    wrong: list[tuple[int, int]] = []

    def work(value: int) -> None:
        frame = red(value, (40 + value, 60))
        for _ in range(30):
            found = segmenter.segment(frame).instances
            if found.size != frame.size or abs(found.scores[0] - value / 255) > 1e-5:
                wrong.append((value, len(found)))

    threads = [threading.Thread(target=work, args=(value,)) for value in (120, 180, 250)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        segmenter.options = SegmentOptions(max_instances=2)
        segmenter.options = SegmentOptions()
    for thread in threads:
        thread.join()
    assert not wrong


class TwoLanes(OnnxRuntimeRuntime):
    """Computes only when two frames are there at once, and `may_end` is set."""

    lanes = 2

    def __init__(self, model: Path) -> None:
        super().__init__(model, RuntimeOptions(threads=1))
        self.both = threading.Barrier(2, timeout=60)
        self.may_end = threading.Event()

    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.both.wait()
        self.may_end.wait(60)
        return super()._run(feeds)


def test_as_many_frames_at_once_as_the_runtime_has_lanes(model: Path) -> None:
    runtime = TwoLanes(model)
    runtime.may_end.set()
    found: dict[int, list[float]] = {200: [], 250: []}

    def work(value: int) -> None:
        for _ in range(20):
            found[value].append(float(segmenter.segment(red(value)).instances.scores[0]))

    with Segmenter(runtime, tiny_card()) as segmenter:
        threads = [threading.Thread(target=work, args=(value,)) for value in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for value, scores in found.items():
        np.testing.assert_allclose(scores, [value / 255] * 20, rtol=1e-6)


def test_closing_waits_for_the_frames_of_all_lanes(model: Path) -> None:
    runtime = TwoLanes(model)
    segmenter = Segmenter(runtime, tiny_card())
    done: list[str] = []

    def run(what: str, call: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=lambda: (call(), done.append(what)))
        thread.start()
        return thread

    runtime.both = threading.Barrier(3, timeout=60)
    frames = [run("frame", lambda: segmenter.segment(red(200))) for _ in range(2)]
    runtime.both.wait()  # both are computed now
    closing = [run("closed", segmenter.close) for _ in range(2)]
    closing[0].join(0.05)
    assert done == []
    runtime.may_end.set()
    for thread in (*frames, *closing):
        thread.join(60)
    assert sorted(done) == ["closed", "closed", "frame", "frame"]
    with pytest.raises(RuntimeUnavailable, match="closed"):
        runtime.lend()


def test_closing_twice_and_using_it_afterwards(model: Path) -> None:
    segmenter = Segmenter.open(RuntimeOptions(model=str(model), runtime="onnxruntime"))
    segmenter.warm_up()
    segmenter.close()
    segmenter.close()
    with pytest.raises(RuntimeUnavailable, match="closed"):
        segmenter.segment(red(255))


def test_segmenter_of_a_runtime_made_elsewhere(model: Path) -> None:
    runtime = create_runtime(model, RuntimeOptions(runtime="onnxruntime"))
    with Segmenter(runtime, dataclasses.replace(tiny_card(), score_threshold=0.9)) as segmenter:
        np.testing.assert_allclose(segmenter.segment(red(255)).instances.scores, [1.0])


def test_models_are_found_by_path_name_and_default(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "prefix" / "share" / "fassst_ros" / "models"
    share.mkdir(parents=True)
    for name in ("tiny_shipped.onnx", "other_shipped.onnx"):
        (share / name).write_bytes(b"graph")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'nothing'}:{tmp_path / 'prefix'}")
    assert models.resolve_model("tiny_shipped") == share / "tiny_shipped.onnx"
    assert models.resolve_model(str(model)) == model
    monkeypatch.chdir(model.parent)
    assert models.resolve_model("tiny.onnx") == model
    link = tmp_path / "links" / "linked.onnx"
    link.parent.mkdir()
    link.symlink_to(model)
    assert models.resolve_model(str(link)) == link
    monkeypatch.setattr(models, "DEFAULT_MODEL", "other_shipped")
    assert models.resolve_model("") == share / "other_shipped.onnx"


def test_an_unknown_model_lists_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "share" / "fassst_ros" / "models"
    share.mkdir(parents=True)
    (share / "tiny_shipped.onnx").write_bytes(b"graph")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    for name, problem in (
        ("absent", "no shipped model is named 'absent'"),
        ("absent.onnx", "model file absent.onnx does not exist"),
        (str(tmp_path / "share"), "is a folder"),
    ):
        with pytest.raises(ModelError, match=problem) as raised:
            models.resolve_model(name)
        assert f"tiny_shipped ({share / 'tiny_shipped.onnx'})" in str(raised.value)
