"""`fassst bench`: the report is complete and true to what was run. Nothing here depends on speed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_model import make_tiny_model, tiny_card

from fassst_ros.bench import command, peak
from fassst_ros.bench.command import SUITES
from fassst_ros.bench.measure import machine_facts, measure, timing
from fassst_ros.bench.network import thread_counts
from fassst_ros.bench.scenes import HEIGHT, WIDTH, bench_image, made_up_objects
from fassst_ros.cli import main
from fassst_ros.postprocess import postprocess
from fassst_ros.preprocess import Geometry
from fassst_ros.runtimes.base import usable_cores
from fassst_ros.types import Instances

BOXES = np.float32([[8, 6, 40, 30], [30, 20, 60, 46]])


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's peak is measured with matrices that take no time."""
    monkeypatch.setattr(peak, "SIDE", 16)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Finds two objects in any image that is not black."""
    card = tiny_card(slots=2, threshold=0.001)
    return make_tiny_model(tmp_path, BOXES, np.int32([1, 0]), np.float32([1.0, 0.5]), card=card)


def bench(model: Path, *arguments: Any) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON report."""
    target = model.parent / "bench.json"
    options = ["--model", model, "--repeats", 3, "--json", target, *arguments]
    status = main(["bench", *map(str, options)])
    loaded: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return status, loaded


def rows_of(report: dict[str, Any], suite: str, table: int = 0) -> list[dict[str, Any]]:
    """Rows of a table of the report as column -> cell."""
    found = report["suites"][suite]["tables"][table]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def test_measure_counts_only_what_comes_after_the_warm_up() -> None:
    calls: list[float] = []

    def call() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.05 if len(calls) <= 2 else 0.001)

    found = measure("sleep", call, repeats=5, warm_up=2, note="a nap")
    assert (len(calls), found.repeats, found.name, found.note) == (7, 5, "sleep", "a nap")
    assert 1.0 <= found.p50 <= found.p90 <= found.p99


def test_percentiles_are_of_the_samples() -> None:
    found = timing("x", list(range(1, 101)))
    assert (found.p50, found.p90, found.p99, found.repeats) == (50, 90, 99, 100)
    with pytest.raises(ValueError, match="x: nothing was measured"):
        timing("x", [])


def test_machine_facts_name_what_decides() -> None:
    facts = machine_facts()
    assert facts["cpu"]
    assert int(facts["cores"]) >= 1
    assert facts["numpy"] == np.__version__


def test_network_and_stages(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = bench(model, "--suite", "network", "--runtime", "onnxruntime")
    assert status == 0
    rows = rows_of(report, "network")
    assert {row["runtime"] for row in rows} == {"onnxruntime f32"}
    assert [row["threads"] for row in rows] == [usable_cores(), *thread_counts(usable_cores())[:-1]]
    assert all(0 < row["p50"] <= row["p90"] <= row["p99"] for row in rows)
    assert all(row["images/s"] == pytest.approx(1e3 / row["p50"]) for row in rows)
    assert "int8: not measured: there is no tiny_int8.onnx beside tiny.onnx" in report["notes"]
    assert "onnxruntime f32" in capsys.readouterr().out

    status, report = bench(model, "--suite", "stages", "--runtime", "onnxruntime")
    assert status == 0
    rows = rows_of(report, "stages")
    assert [r["part"] for r in rows] == [
        *("decode JPEG", "resize", "infer", "postprocess", "sum", "run lengths", "overlay")
    ]
    assert rows[3]["what"] == "2 instances in the image"
    growth = rows_of(report, "stages", 1)
    assert [r["instances"] for r in growth] == [0, 10, 20, 30, 40, 49]
    assert report["suites"]["stages"]["summary"][0][0].endswith("run lengths of 2 instances")
    assert all(0 < r["p50"] <= r["p90"] <= r["p99"] for r in rows)
    assert report["image"] == f"{WIDTH}x{HEIGHT}, made up"


def test_thread_counts() -> None:
    assert [thread_counts(n) for n in (1, 2, 3, 4, 6)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 6]]


def test_one_number_of_threads_and_one_precision_as_asked(model: Path) -> None:
    asked = ("--runtime", "openvino", "--precision", "f32", "--threads", "1")
    status, report = bench(model, "--suite", "network", *asked)
    assert status == 0
    (row,) = rows_of(report, "network")
    assert (row["runtime"], row["threads"]) == ("openvino f32", 1)
    assert report["suites"]["network"]["plots"] == []
    assert report["command"].endswith("--precision f32 --threads 1 --repeats 3")


def test_several_suites_in_one_run_and_in_their_order(model: Path) -> None:
    status, report = bench(model, "--suite", "stages", "network", "--runtime", "onnxruntime", "--threads", 1)
    assert status == 0
    assert list(report["suites"]) == ["network", "stages"]
    assert report["summary"][0][0] == "network alone, fastest: onnxruntime f32"
    assert any(note.startswith("the run took") for note in report["notes"])
    assert any(note.startswith("a fixed operation took") for note in report["notes"])


def test_a_suite_without_space_on_the_disk_does_not_cost_the_others(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "network_suite", fail)
    status, report = bench(model, "--suite", "network", "stages", "--runtime", "onnxruntime")
    assert status == 1
    assert list(report["suites"]) == ["stages"]
    assert report["notes"][0] == "network: not measured: [Errno 28] No space left on device"


def test_help_names_the_suites(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}: {words}" in shown for name, words in SUITES.items())


def test_all_runtimes_say_why_one_is_missing(model: Path) -> None:
    status, report = bench(model, "--suite", "network", "--runtime", "all")
    assert status == 0
    measured = {row["runtime"].partition(" ")[0] for row in rows_of(report, "network")}
    told = {note.split()[2] for note in report["notes"] if note.startswith("network in")}
    assert measured | told == {"tensorrt", "openvino", "onnxruntime", "torch"}
    assert not measured & told
    assert "onnxruntime" in measured


def test_markdown_report(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "docs" / "performance.md"
    bench(model, "--suite", "stages", "--runtime", "onnxruntime", "--markdown", target)
    text = target.read_text(encoding="utf-8")
    assert text.startswith("# Performance")
    assert "| decode JPEG |" in text
    assert "- cores: " in text


def test_photo_is_scaled_and_objects_are_chosen_by_score(model: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.full((300, 500, 3), 90, np.uint8))
    assert bench_image(photo).shape == (HEIGHT, WIDTH, 3)
    arguments = ("--suite", "stages", "--runtime", "onnxruntime", "--image", photo)
    _, report = bench(model, *arguments, "--objects", 1)
    assert rows_of(report, "stages")[3]["what"] == "1 instances in the image"
    assert report["image"] == f"{WIDTH}x{HEIGHT}, photo.png"
    assert "so that 1 instances are kept" in report["notes"][0]


def sizes(found: Instances) -> Any:
    """(n, 2) width and height of the boxes."""
    return found.boxes[:, 2:] - found.boxes[:, :2]


@pytest.mark.parametrize("kind", ["box", "frame"])
def test_made_up_objects_are_all_found(kind: str) -> None:
    card = tiny_card(768, 768, 30, 32 if kind == "box" else 384, kind)
    found = postprocess(made_up_objects(30, card), Geometry((HEIGHT, WIDTH), (768, 768)), card)
    assert len(found) == 30
    # each is the ellipse in its box, whatever the masks of the model are
    filled = [mask.bits.sum() / (w * h) for mask, (w, h) in zip(found.masks, sizes(found), strict=True)]
    inside = (found.boxes > 0).all(axis=1) & (found.boxes[:, 2:] < (WIDTH, HEIGHT)).all(axis=1)
    assert np.array(filled)[inside] == pytest.approx(np.pi / 4, abs=0.08)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--repeats", "0"), "--repeats is 0"),
        (("--objects", "-1"), "--objects is -1"),
        (("--image", "absent.jpg"), "absent.jpg: No such file"),
        (("--model", "absent"), "no shipped model is named 'absent'"),
    ],
)
def test_wrong_options(
    model: Path, arguments: tuple[str, str], problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    base = ["bench", "--suite", "network", "--runtime", "onnxruntime", "--model", str(model)]
    assert main([*base, *arguments]) == 1
    assert problem in capfd.readouterr().err


def test_unwritable_report(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = [
        "bench",
        "--suite",
        "network",
        "--runtime",
        "onnxruntime",
        "--repeats",
        "1",
        "--model",
        str(model),
    ]
    assert main([*base, "--json", "/dev/null/bench.json"]) == 1
    assert "cannot write /dev/null/bench.json" in capfd.readouterr().err


def test_node_suite_without_ros_says_what_it_needs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)  # as if it were not installed
    status, report = bench(model, "--suite", "node")
    assert status == 1
    assert "it needs ROS 2 and the built messages" in report["notes"][0]
