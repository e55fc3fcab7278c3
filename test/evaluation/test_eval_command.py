"""`fassst eval` as its user runs it, on a model whose answer and AP can be told by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapes_files import write_frame
from constant_model import write_constant_model

from fassst_ros.card import load_card
from fassst_ros.cli import main

HEIGHT, WIDTH = 96, 128  # the model's box is (32, 12, 96, 84) in such an image


def write_set(folder: Path, images: int = 4) -> Path:
    """Images with a car where the model finds one; in the last image the car is elsewhere."""
    entries, annotations = [], []
    for i in range(1, images + 1):
        name = f"{i}.jpg"
        cv2.imwrite(str(folder / name), np.full((HEIGHT, WIDTH, 3), 40 * i, np.uint8))
        entries.append({"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH})
        x0, y0, x1, y1 = (32, 12, 96, 84) if i < images else (0, 0, 20, 20)
        annotations.append(
            {
                "id": i, "image_id": i, "category_id": 3, "iscrowd": 0, "area": (x1 - x0) * (y1 - y0),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            }
        )  # fmt: skip
    path = folder / "truth.json"
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
    path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return path


def evaluate(
    folder: Path, model: Path, *more: str, runtime: str = "onnxruntime"
) -> tuple[int, dict[str, Any]]:
    out = folder / "result.json"
    arguments = ["eval", str(model), "--annotations", str(folder / "truth.json"), "--images", str(folder)]
    status = main([*arguments, "--runtime", runtime, "--json", str(out), *more])
    return status, json.loads(out.read_text()) if out.is_file() else {}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_accuracy_and_latency_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: str
) -> None:
    write_set(tmp_path)
    status, result = evaluate(tmp_path, write_constant_model(tmp_path), runtime=runtime)
    assert status == 0
    # 3 of 4 cars are found before the false alarm in the last image: precision is 1 up to a recall
    # of 0.75, that is at 76 of the 101 recall points. No person is there and none is found.
    car = result["mask"]["per_class"]["car"]
    assert car["AP"] == pytest.approx(76 / 101)
    assert result["box"]["AP"] == pytest.approx(car["AP"], abs=1e-6)
    assert result["mask"]["AP"] == car["AP"]
    assert result["mask"]["per_class"]["person"] == {"AP": None, "AP50": None}
    assert set(result["mask"]) == {"AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "per_class"}
    assert result["images"] == 4
    assert result["failed"] == {}
    assert result["model"] == "found"
    assert result["runtime"] == runtime
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
    shown = capsys.readouterr().out
    assert f"{100 * car['AP']:.1f}" in shown
    assert "car, mask" in shown


def test_results_go_into_the_card_when_asked(tmp_path: Path) -> None:
    write_set(tmp_path)
    model = write_constant_model(tmp_path)
    assert load_card(model).metrics == {}
    _, result = evaluate(tmp_path, model, "--update-card")
    card = load_card(model)  # the model still fits its card
    assert card.metrics["mask"] == result["mask"]
    assert card.metrics["annotations"] == "truth.json"
    assert card.metrics["images"] == 4


def test_limit_takes_the_first_images(tmp_path: Path) -> None:
    write_set(tmp_path)
    status, result = evaluate(tmp_path, write_constant_model(tmp_path), "--limit", "3")
    assert status == 0
    assert result["images"] == 3
    assert result["mask"]["AP"] == pytest.approx(1.0)  # the car in another place is in image 4


def test_wrong_class_is_not_a_hit(tmp_path: Path) -> None:
    write_set(tmp_path)
    _, result = evaluate(tmp_path, write_constant_model(tmp_path, label=0))
    assert result["mask"]["AP"] == result["box"]["AP"] == 0.0


def test_broken_and_missing_images_are_named_and_fail_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path)
    (tmp_path / "1.jpg").unlink()
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:200])
    cv2.imwrite(str(tmp_path / "4.jpg"), np.zeros((10, 10, 3), np.uint8))
    status, result = evaluate(tmp_path, write_constant_model(tmp_path))
    assert status == 1
    assert set(result["failed"]) == {"1.jpg", "2.jpg", "4.jpg"}
    assert "truncated" in result["failed"]["2.jpg"]
    assert result["images"] == 1
    assert result["mask"]["AP"] == pytest.approx(1.0)
    shown = capsys.readouterr().out
    assert "left out 1.jpg" in shown
    assert "3 images could not be segmented" in shown


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--images", "/nowhere"], "none of the 4 images is in /nowhere"),
        (["--annotations", "/nowhere/truth.json"], "cannot read annotations /nowhere/truth.json"),
        (["--json", "/nowhere/out.json"], "cannot be written"),
        (["--limit", "-1"], "--limit is -1"),
        (["--runtime", "abacus"], "expected one of auto, tensorrt"),
        (["--threads", "-4"], "threads = -4"),
    ],
)
def test_unusable_arguments_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], match: str
) -> None:
    write_set(tmp_path)
    status, result = evaluate(tmp_path, write_constant_model(tmp_path), *arguments)
    assert status == 1
    assert result == {}
    assert match in capsys.readouterr().err


def test_unknown_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path)
    assert evaluate(tmp_path, tmp_path / "absent.onnx")[0] == 1
    assert "absent.onnx does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval", "compare"])
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("tiny.safetensors", "Export it first: fassst export {folder}/tiny.safetensors --out models"),
        ("checkpoint.pt", "Export it first: fassst export {folder}/NAME.safetensors --out models"),
        ("found.safetensors", "Give the model beside it: {folder}/found.onnx"),
    ],
)
def test_weights_must_be_exported_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, match: str
) -> None:
    write_set(tmp_path)
    write_constant_model(tmp_path)
    (tmp_path / name).write_bytes(b"weights")
    words = [command, tmp_path / name, "--annotations", tmp_path / "truth.json", "--images", tmp_path]
    assert main([str(word) for word in words]) == 1
    message = capsys.readouterr().err
    assert f"{name} holds weights" in message
    assert match.format(folder=tmp_path) in message


def test_set_of_broken_images_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path)
    for path in tmp_path.glob("*.jpg"):
        path.write_bytes(b"")
    assert evaluate(tmp_path, write_constant_model(tmp_path))[0] == 1
    assert "none of 4 images could be segmented" in capsys.readouterr().err


def test_evaluation_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import fassst_ros.evaluation.command"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cityscapes_by_both_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = np.full((HEIGHT, WIDTH), 7, np.uint16)
    ids[12:84, 32:96] = 26000  # the car that the model finds
    ids[:10, :20] = 25000  # a rider that it does not know
    for number in (1, 2):
        write_frame(tmp_path, number, ids, "val")
    out = tmp_path / "result.json"
    model = write_constant_model(tmp_path)
    arguments = ["eval", str(model), "--cityscapes", str(tmp_path), "--runtime", "onnxruntime"]
    assert main([*arguments, "--json", str(out), "--update-card"]) == 0
    result = json.loads(out.read_text())
    assert result["annotations"] == "Cityscapes val"
    assert result["images"] == 2
    scores = result["cityscapes"]
    assert scores["per_class"]["car"] == {"AP": 1.0, "AP50": 1.0}
    assert scores["per_class"]["rider"] == {"AP": 0.0, "AP50": 0.0}
    assert scores["AP"] == scores["AP50"] == 0.5
    assert scores["unknown_classes"] == ["rider", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert result["mask"]["per_class"]["car"]["AP"] == pytest.approx(1.0)
    shown = capsys.readouterr().out
    assert "by the rules of Cityscapes" in shown
    assert "does not know rider, truck" in shown
    metrics = load_card(model).metrics
    assert metrics["cityscapes"] == scores
    assert metrics["command"] == "fassst eval found --cityscapes DIR --split val --runtime onnxruntime"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "expected either --annotations FILE.json with --images DIR, or --cityscapes ROOT"),
        (["--annotations", "a.json"], "expected either --annotations"),
        (["--annotations", "a.json", "--images", ".", "--cityscapes", "."], "expected either --annotations"),
        (["--cityscapes", "/nowhere"], "Looked for /nowhere/leftImg8bit/val/CITY"),
    ],
)
def test_set_must_be_named_in_one_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], match: str
) -> None:
    assert main(["eval", str(write_constant_model(tmp_path)), *arguments]) == 1
    assert match in capsys.readouterr().err
