"""The report of `fassst eval --report`: its numbers and figures are those of the evaluation."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from cityscapes_files import street, write_frame
from constant_model import write_constant_model
from test_eval_command import write_set

from fassst_ros.card import ClassInfo, ModelCard, card_path, load_card
from fassst_ros.cli import main
from fassst_ros.evaluation.curves import precision_recall

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Tables (id -> rows of texts), pictures, headings, list items, and every tag of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.images: list[str] = []
        self.links: list[str] = []
        self.texts: dict[str, list[str]] = {"h1": [], "h2": [], "h3": [], "li": [], "p": []}
        self.tags: set[str] = set()
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self._open, f"tags left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.links += [str(given[k]) for k in ("src", "href") if k in given]
        if tag == "img":
            self.images.append(str(given["src"]))
        if tag == "table":
            self.tables[str(given["id"])] = []
        if tag == "tr":
            next(reversed(self.tables.values())).append([])
        if tag in ("td", "th"):
            next(reversed(self.tables.values()))[-1].append("")
        if tag in self.texts:
            self.texts[tag].append("")
        if tag not in ("img", "meta"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("td", "th"):
            next(reversed(self.tables.values()))[-1][-1] += data
        elif self._open and self._open[-1] in self.texts:
            self.texts[self._open[-1]][-1] += data

    def row(self, table: str, first: str) -> list[str]:
        """The cells beside the one that says `first`."""
        return next(row[1:] for row in self.tables[table] if row[0] == first)


def report(folder: Path, model: Path, *more: str) -> tuple[int, Page, dict[str, Any]]:
    """Exit status, page and JSON of an evaluation."""
    target, numbers = folder / "out" / "report", folder / "result.json"
    command = ["eval", model, "--annotations", folder / "truth.json", "--images", folder, "--runtime"]
    command += ["onnxruntime", "--report", target, "--json", numbers, *more]
    status = main([str(word) for word in command])
    return status, Page(target / "index.html"), json.loads(numbers.read_text(encoding="utf-8"))


def gids(path: Path) -> set[str]:
    """Ids of the elements of a figure."""
    return {e.get("id", "") for e in ElementTree.parse(path).iter()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page, dict[str, Any]]:
    """A model that finds the car in 3 of 4 images, and a false alarm in the last."""
    folder = tmp_path_factory.mktemp("report")
    write_set(folder)
    status, page, numbers = report(folder, write_constant_model(folder))
    assert status == 0
    return folder, page, numbers


def test_tables_hold_the_numbers(done: tuple[Path, Page, dict[str, Any]]) -> None:
    folder, page, numbers = done
    ap = f"{100 * 76 / 101:.1f}"
    assert page.row("accuracy", "mask")[:3] == [ap] * 3
    assert page.row("accuracy", "box")[0] == ap
    assert page.row("classes", "car") == ["4", ap, ap, ap, ap]
    assert page.row("classes", "person") == ["0", "-", "-", "-", "-"]
    assert page.row("missed", "car") == ["1 of 4", "1 of 1", "0 of 3", "0 of 0"]  # the small one
    assert page.row("false_alarms", "car") == ["4", "3", "0", "0", "0", "0", "1"]
    # 3 hits, 1 false alarm, 1 missed, all with the score 0.9
    assert page.row("thresholds", "card") == ["0.350", "0.750", "0.750", "0.750"]
    assert page.row("thresholds", "best F1 here") == ["0.900", "0.750", "0.750", "0.750"]
    for row, stage in (
        ("frame to instances", numbers["latency_ms"]),
        ("infer", numbers["stages_ms"]["infer"]),
    ):
        assert page.row("latency", row) == [f"{stage[p]:.1f}" for p in ("p50", "p90", "p99")]
    facts = {row[0]: row[1] for row in page.tables["facts"]}
    assert facts["sha256 of found.onnx"] == load_card(folder / "found.onnx").files["found.onnx"]
    assert facts["data"] == "truth.json: 4 images"
    assert facts["runtime"].startswith("onnxruntime, f32")
    assert numbers["at_threshold"]["image_pq"] == pytest.approx(0.75, abs=0.01)  # 1, 1, 1, 0
    assert numbers["objects"] == {"person": 0, "car": 4}


def test_figures_hold_the_curves(done: tuple[Path, Page, dict[str, Any]]) -> None:
    folder, _, _ = done
    pictures = folder / "out" / "report" / "pictures"
    curves = {name for name in gids(pictures / "precision_recall.svg") if name.startswith("pr-")}
    assert curves == {"pr-3-50", "pr-3-75"}  # there is no person to find
    assert {"bar-AP-0", "bar-AP50-1"} <= gids(pictures / "classes.svg")
    marks = {"threshold-precision", "threshold-recall", "threshold-f1", "card-threshold", "best-f1"}
    assert marks <= gids(pictures / "threshold.svg")


def test_curves_are_those_of_cocoeval(tmp_path: Path) -> None:
    classes = [ClassInfo(5, "a", (0, 0, 0)), ClassInfo(2, "b", (0, 0, 0))]
    precision = np.full((10, 101, 2), -1.0)
    precision[:, :, 0] = np.linspace(1, 0, 101)
    precision[5, :, 0] /= 2
    precision_recall(tmp_path / "pr.svg", precision, classes, {"a": 3, "b": 0})
    heights = {}
    for element in ElementTree.parse(tmp_path / "pr.svg").iter(f"{SVG}g"):
        if element.get("id", "").startswith("pr-"):
            numbers = re.findall(r"-?[\d.]+", element.find(f"{SVG}path").get("d"))  # type: ignore[union-attr,arg-type]
            y = np.array(numbers, float).reshape(-1, 2)[:, 1]
            heights[element.get("id")] = abs(y[-1] - y[0])
    assert heights.keys() == {"pr-5-50", "pr-5-75"}
    assert heights["pr-5-75"] == pytest.approx(heights["pr-5-50"] / 2, rel=1e-3)


def test_best_and_worst_images_beside_their_truth(done: tuple[Path, Page, dict[str, Any]]) -> None:
    folder, page, _ = done
    root = folder / "out" / "report"
    assert page.images[:3] == [f"pictures/{n}.svg" for n in ("classes", "precision_recall", "threshold")]
    photos = page.images[3:]
    assert photos == [
        f"pictures/{n}_{k}.jpg"
        for n in ("best_01", "best_02", "worst_01", "worst_02")
        for k in ("truth", "found")
    ]
    titles = [t for t in page.texts["h3"] if "image PQ" in t]
    assert [t.rpartition(" ")[2] for t in titles] == ["1.00", "1.00", "0.00", "1.00"]
    assert titles[2].startswith("4.jpg")
    assert "found: 0 of 1 objects" in page.texts["li"]
    assert "missed: 1 small car" in page.texts["li"]
    assert "false alarms: 1 car (background)" in page.texts["li"]
    for photo in photos:
        assert cv2.imread(str(root / photo)).shape == (96, 128, 3)
    truth, found = (
        cv2.imread(str(root / f"pictures/worst_01_{k}.jpg")).astype(int) for k in ("truth", "found")
    )
    plain = 160  # the grey of image 4
    assert np.abs(truth[5:14, 3:14] - plain).max() > 40  # the car that was missed is drawn here
    assert np.abs(found[30:80, 40:90] - plain).max() > 40  # and the false alarm there
    assert np.abs(truth[30:80, 40:90] - plain).max() < 12


def test_cityscapes_has_its_own_table(tmp_path: Path) -> None:
    write_frame(tmp_path, 1, street(), "val")
    model = write_constant_model(tmp_path)
    words = ["eval", model, "--cityscapes", tmp_path, "--runtime", "onnxruntime", "--report", tmp_path / "r"]
    assert main([str(word) for word in (*words, "--json", tmp_path / "r.json")]) == 0
    page, numbers = Page(tmp_path / "r" / "index.html"), json.loads((tmp_path / "r.json").read_text())
    shown = page.row("cityscapes", "all")
    assert shown == [f"{100 * numbers['cityscapes'][key]:.1f}" for key in ("AP", "AP50")]
    assert any(text.startswith("The model does not know rider") for text in page.texts["p"])


def test_page_needs_nothing_from_elsewhere(done: tuple[Path, Page, dict[str, Any]]) -> None:
    folder, page, _ = done
    assert not {"script", "link", "iframe"} & page.tags
    for link in page.links:
        assert (folder / "out" / "report" / link).is_file(), link


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = '<b onclick="x">&amp;$car_{[/]'
    truth = json.loads(write_set(tmp_path).read_text())
    truth["categories"][1]["name"] = evil
    picture = "a<i>&'\"4.jpg"
    (tmp_path / "4.jpg").rename(tmp_path / picture)
    truth["images"][3]["file_name"] = picture
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    model = write_constant_model(tmp_path)
    card = load_card(model)
    renamed: ModelCard = dataclasses.replace(
        card, name="m<script>", classes=(card.classes[0], dataclasses.replace(card.classes[1], name=evil))
    )
    card_path(model).write_text(renamed.to_json())
    status, page, _ = report(tmp_path, model)
    assert status == 0
    assert page.row("classes", evil)[0] == "4"
    assert page.texts["h1"] == ["m<script> on truth.json"]
    assert any(t.startswith(picture) for t in page.texts["h3"])
    assert any(evil in t for t in page.texts["li"])
    assert not {"b", "i", "script"} & page.tags
    figure = tmp_path / "out" / "report" / "pictures" / "classes.svg"
    assert f"{evil} (4)" in [e.text for e in ElementTree.parse(figure).iter(f"{SVG}text")]


def test_a_folder_that_cannot_be_written_fails_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path)
    (tmp_path / "file").write_text("taken")
    for folder in (tmp_path / "file", tmp_path / "file" / "report"):
        arguments = ["eval", str(tmp_path / "absent.onnx"), "--annotations", str(tmp_path / "truth.json")]
        assert main([*arguments, "--images", str(tmp_path), "--report", str(folder)]) == 1
        told = capsys.readouterr().err
        assert "--report" in told  # not the model, which would be looked for next
        assert "cannot be written" in told


def test_missing_matplotlib_is_told_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ["eval", str(tmp_path / "absent.onnx"), "--annotations", str(tmp_path / "truth.json")]
    assert main([*arguments, "--images", str(tmp_path), "--report", str(tmp_path / "r")]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


def test_evaluation_without_a_report_needs_no_matplotlib() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import fassst_ros.evaluation.command"
    subprocess.run([sys.executable, "-c", code], check=True)
