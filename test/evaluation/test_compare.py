"""`fassst compare` on tiny models and a made-up detector; nothing here depends on speed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cityscapes_files import street, write_frame
from constant_model import write_constant_model
from test_eval_command import write_set
from test_yolox import write_graph

from fassst_ros.cli import main
from fassst_ros.evaluation.compare_plot import front
from fassst_ros.evaluation.compare_table import BEGIN, END


def compare(folder: Path, models: Sequence[Path | str], *more: Any) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON."""
    out = folder / "compared.json"
    out.unlink(missing_ok=True)
    words = ["compare", *models, "--annotations", folder / "truth.json", "--images", folder]
    status = main([str(w) for w in (*words, "--runtime", "onnxruntime", "--json", out, *more)])
    return status, json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """One that finds the cars, and one that calls them persons."""
    folders = tmp_path / "right", tmp_path / "wrong"
    for folder in folders:
        folder.mkdir()
    write_set(tmp_path)
    return [write_constant_model(folder, label) for folder, label in zip(folders, (1, 0), strict=True)]


def detector(folder: Path) -> Path:
    """A YOLOX that finds a car at (32, 12, 96, 84) of a 128x96 image, as the right model does.

    Its input is half as large; the box is centred at (32, 24), in the third of 8 cells of stride 8.
    """
    box = [0.0, 0.0, float(np.log(32 / 8)), float(np.log(36 / 8))]
    return write_graph(folder, [(3 * 8 + 4, box, 0.9, 2, 1.0)])


def test_models_and_references_are_measured_on_the_same_images(
    tmp_path: Path, models: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = compare(tmp_path, models, "--boxes", detector(tmp_path))
    assert status == 0
    right, wrong, filled, ellipse = report["models"]
    assert right["mask"]["AP"] == pytest.approx(76 / 101)
    assert wrong["mask"]["AP"] == 0.0
    assert [row["reference"] for row in report["models"]] == [False, False, True, True]
    assert filled["name"] == "yolox, boxes filled"
    # The detector is surest in the brightest image, where it is wrong: precision is at most 3 of 4.
    assert filled["mask"]["AP"] == pytest.approx(0.75 * 76 / 101)
    # An ellipse covers pi / 4 = 0.785 of its box: right up to an IoU of 0.75, 6 of 10 thresholds.
    assert ellipse["mask"]["AP"] == pytest.approx(0.6 * 0.75 * 76 / 101)
    assert ellipse["box"]["AP"] == filled["box"]["AP"]
    assert right["ratio"] == 1.0
    for row in report["models"]:
        assert 0 < row["network_ms"]["p50"] <= row["total_ms"]["p99"]
        assert row["ratio"] > 0
        assert row["file_bytes"] > 0
    assert report["images"] == 4
    shown = capsys.readouterr().out
    assert "1: found, 64x64, onnxruntime f32" in shown
    assert "references: times are those of the detector" in shown


def test_parameters_are_counted_in_the_file(tmp_path: Path, models: list[Path]) -> None:
    _, report = compare(tmp_path, models[:1])
    # scores, boxes and masks of two slots, and a zero; the labels are integers
    assert report["models"][0]["parameters"] == 2 + 8 + 2 * 12 * 12 + 1
    assert report["models"][0]["training_steps"] is None


def test_markdown_goes_between_its_markers(tmp_path: Path, models: list[Path]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    for _ in range(2):  # again: it is replaced, not added
        status, _ = compare(tmp_path, models, "--markdown", page, "--limit", 3)
        assert status == 0
        text = page.read_text(encoding="utf-8")
        assert text.startswith("# Before\n\n" + BEGIN)
        assert text.endswith(END + "\n\nafter\n")
        assert text.count("| found |") == 2
        assert "old" not in text
    assert "| found | 100.0 | 100.0 | 100.0 |" in text
    assert "--annotations truth.json --images DIR --limit 3 --runtime onnxruntime" in text
    assert str(tmp_path) not in text
    header, rule, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in (header, rule, *rows)} == {header.count("|")}


def test_a_new_markdown_file_is_written(tmp_path: Path, models: list[Path]) -> None:
    page = tmp_path / "new.md"
    assert compare(tmp_path, models[:1], "--markdown", page)[0] == 0
    assert page.read_text(encoding="utf-8").startswith(BEGIN)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("# no place\n", "Write these two lines"),
        (f"{BEGIN}\n", "Write these two lines"),
        (None, "existing folder"),
    ],
)
def test_a_file_without_a_place_fails_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, match: str
) -> None:
    write_set(tmp_path)
    page = tmp_path / ("page.md" if text else "absent/page.md")
    if text:
        page.write_text(text, encoding="utf-8")
    status, _ = compare(tmp_path, [tmp_path / "absent.onnx"], "--markdown", page)
    assert status == 1
    assert match in capsys.readouterr().err
    assert not text or page.read_text(encoding="utf-8") == text


def test_cityscapes_adds_columns(tmp_path: Path, models: list[Path]) -> None:
    write_frame(tmp_path, 1, street(), "val")
    page = tmp_path / "page.md"
    words = ["compare", *models, "--cityscapes", tmp_path, "--runtime", "onnxruntime", "--markdown", page]
    assert main([str(word) for word in words]) == 0
    text = page.read_text(encoding="utf-8")
    assert "| box AP | Cityscapes AP | Cityscapes AP50 |" in text
    assert "--cityscapes DIR --split val" in text


def test_broken_images_are_left_out_for_all(tmp_path: Path, models: list[Path]) -> None:
    (tmp_path / "2.jpg").write_bytes(b"")
    status, report = compare(tmp_path, models)
    assert status == 1
    assert set(report["failed"]) == {"2.jpg"}
    assert report["images"] == 3


def test_a_wrong_detector_is_told(
    tmp_path: Path, models: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, models, "--boxes", models[0])[0] == 1
    assert "no raw YOLOX detector" in capsys.readouterr().err


def test_front_holds_what_nothing_beats_in_both() -> None:
    points = [(30.0, 24.0), (20.0, 20.0), (25.0, 19.0), (20.0, 21.0), (40.0, 24.0)]
    assert front(points) == [(20.0, 21.0), (30.0, 24.0)]


def test_plot_shows_every_model_in_its_precision(tmp_path: Path, models: list[Path]) -> None:
    plot = tmp_path / "front.svg"
    chosen = [f"{models[0]}@f32", models[1]]
    status, report = compare(tmp_path, chosen, "--plot", plot)
    assert status == 0
    assert [row["runtime"] for row in report["models"]] == ["onnxruntime f32"] * 2
    drawn = plot.read_text(encoding="utf-8")
    assert ">1 found, onnxruntime f32<" in drawn
    assert ">2 found, onnxruntime f32 (2)<" in drawn
    assert ">mask AP [%]<" in drawn


def test_a_precision_that_the_runtime_does_not_have(
    tmp_path: Path, models: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, [f"{models[0]}@bf16"])[0] == 1
    assert "precision 'bf16' was asked for" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["absent/front.svg", "front.png"])
def test_a_plot_without_a_place_fails_before_the_run(
    tmp_path: Path, models: list[Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert compare(tmp_path, models, "--plot", tmp_path / name)[0] == 1
    assert "expected NAME.svg in an existing folder" in capsys.readouterr().err
