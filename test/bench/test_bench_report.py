"""What is made of suites: tables for people, plots, and numbers that stay numbers."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from fassst_ros.bench import mood, plots
from fassst_ros.bench.measure import timing
from fassst_ros.bench.mood import Mood
from fassst_ros.bench.plots import write_plots
from fassst_ros.bench.report import Plot, Suite, Table, cell_text, print_report, timing_table, to_markdown
from fassst_ros.types import ConfigError

FACTS = {
    "command": "fassst bench",
    "date": "today",
    "machine": {"cpu": "a [CPU]", "cores": "2", "cpu features": "avx2"},
    "model": "tiny 1, 64x48",
    "image": "2048x1024, made up",
    "warnings": ["It was busy"],
}
PLOT = Plot("Time & size", "side", "ms", {"line": [(1, 2), (2, 4)], "dot": [(1.5, 3)]}, ("2 ms per side.",))
TABLE = Table("Parts", ("part", "ms", "rest"), (("a|b", 1.234, None), ("c", 20, 0.5)), ("Of a [word].",))
SUITES = {
    "one": Suite("First", (TABLE,), (PLOT,), (("speed", "20 ms"),), ("All of it.",)),
    "none": Suite("Empty"),
}


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"),
        ("x", "x"),
        (12, "12"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.0123, "0.012"),
    ],
)
def test_cells(cell: Any, text: str) -> None:
    assert cell_text(cell) == text


def test_timings_have_a_column_cpu_only_where_it_is_known() -> None:
    known = timing("x", [1.0, 2.0], "note", 1.5)
    assert timing_table("t", [known]).columns[-3:] == ("cpu", "runs", "what")
    assert timing_table("t", [known]).rows[0] == ("x", 1.0, 2.0, 2.0, 1.5, 2, "note")
    assert timing_table("t", [timing("x", [1.0])]).columns == ("part", "p50", "p90", "p99", "runs", "what")


def test_markdown() -> None:
    text = to_markdown(FACTS, SUITES, ["a note"], {"time_size": "images/x/time_size.svg"})
    assert text.startswith("# Performance\n")
    assert text.index("## Summary") < text.index("| speed | 20 ms |") < text.index("## First")
    assert "| part | ms | rest |\n|---|---:|---:|\n| a\\|b | 1.23 | - |\n| c | 20 | 0.50 |\n" in text
    assert "![Time & size](images/x/time_size.svg)\n\n- 2 ms per side.\n\n##" in text
    assert "Empty" not in text
    assert text.index("**It was busy.**") < text.index("## Summary")
    assert text.endswith("## Notes\n\n- a note\n")


def test_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(FACTS, SUITES, ["a note"])
    shown = capsys.readouterr().out
    for words in (
        "a [CPU]",
        "a|b",
        "1.23",
        "Of a [word].",
        "Time & size: 2 ms per side.",
        "- a note",
        "speed",
    ):
        assert words in shown
    assert shown.rstrip().endswith("It was busy.")
    assert shown.index("a note") < shown.index("speed")  # what most want to know stands last on a terminal


def test_plots_are_drawn_beside_the_document(tmp_path: Path) -> None:
    notes: list[str] = []
    links = write_plots(SUITES, tmp_path / "docs" / "speed.md", notes.append)
    assert links == {"time_size": "images/speed/time_size.svg"}
    drawn = (tmp_path / "docs" / links["time_size"]).read_text(encoding="utf-8")
    assert all(f">{words}<" in drawn for words in ("side", "ms", "line", "2 dot", "Time &amp; size"))
    assert notes == []


def test_without_matplotlib_there_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda _: None)
    notes: list[str] = []
    assert write_plots(SUITES, tmp_path / "speed.md", notes.append) == {}
    assert "matplotlib is not installed" in notes[0]


def test_a_plot_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot write"):
        write_plots(SUITES, tmp_path / "speed.md", builtins.print)


def test_a_steady_machine_and_a_moody_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # total, busy and our own seconds of CPU time at the end of a look and at the beginning of the next
    seconds = iter([None, (0.0, 0.0, 0.0), (10.0, 5.0, 4.9), (10.0, 5.0, 4.9), (20.0, 15.0, 9.9), None])
    times = iter([4.0, 4.1, 6.0])
    monkeypatch.setattr(mood, "machine_seconds", lambda: next(seconds))
    monkeypatch.setattr(mood, "_fixed_operation", lambda: next(times))
    found = Mood()
    found.look()
    found.look("network")
    assert "4.00 to 4.10 ms" in found.words()
    assert "at most 1 % of the cores (network)" in found.words()
    assert found.warnings() == []
    found.look("node")
    assert "spread 50 %" in found.words()
    busy, slow = found.warnings()
    assert "used 50 % of the cores during the suite node" in busy
    assert slow.endswith("slowest after the suite node")
