"""The table of `fassst compare`: for a terminal, and as Markdown between marker comments of a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fassst_ros.evaluation.report import percent
from fassst_ros.types import ConfigError

BEGIN, END = "<!-- fassst compare: begin -->", "<!-- fassst compare: end -->"
#: Classes whose AP50 has a column of its own.
NAMED = ("person", "car")

Column = tuple[str, Callable[[Mapping[str, Any]], str]]


def _named(name: str) -> Column:
    def value(row: Mapping[str, Any]) -> str:
        return percent(row["mask"]["per_class"].get(name, {}).get("AP50"))

    return f"{name} AP50", value


def _mask(key: str, title: str) -> Column:
    return title, lambda row: percent(row["mask"][key])


ACCURACY: tuple[Column, ...] = (
    _mask("AP", "mask AP"),
    _mask("AP50", "AP50"),
    _mask("AP75", "AP75"),
    _mask("AP_S", "S"),
    _mask("AP_M", "M"),
    _mask("AP_L", "L"),
    *map(_named, NAMED),
    ("box AP", lambda row: percent(row["box"]["AP"])),
)
CITYSCAPES: tuple[Column, ...] = (
    ("Cityscapes AP", lambda row: percent(row["cityscapes"]["AP"])),
    ("Cityscapes AP50", lambda row: percent(row["cityscapes"]["AP50"])),
)
COST: tuple[Column, ...] = (
    ("network ms", lambda row: f"{row['network_ms']['p50']:.1f}"),
    ("total ms", lambda row: f"{row['total_ms']['p50']:.1f}"),
    ("ratio", lambda row: f"{row['ratio']:.2f}"),
    ("parameters", lambda row: f"{row['parameters'] / 1e6:.2f} M"),
    ("file MB", lambda row: f"{row['file_bytes'] / 1e6:.1f}"),
    ("steps", lambda row: "-" if row["training_steps"] is None else str(row["training_steps"])),
)
WORDS: tuple[Column, ...] = (
    ("input", lambda row: str(row["input"])),
    ("runtime", lambda row: str(row["runtime"])),
)


def accuracy_columns(report: Mapping[str, Any]) -> tuple[Column, ...]:
    """COCO's numbers, and those of Cityscapes where they were measured."""
    return (*ACCURACY, *CITYSCAPES) if "cityscapes" in report["models"][0] else ACCURACY


def print_comparison(report: Mapping[str, Any], console: Console) -> None:
    """Two tables, for a terminal is narrow: accuracy, then time and size; models by number."""
    title = f"{report['data']}: {report['images']} images"
    for number, row in enumerate(report["models"], 1):
        words = ", ".join([row["name"], *(value(row) for _, value in WORDS)])
        console.print(f"{number}: {words}", markup=False, highlight=False, soft_wrap=True)
    for columns, unit in ((accuracy_columns(report), "AP in %"), (COST, "times are medians")):
        table = Table(title=escape(f"{title}, {unit}"))
        table.add_column("")
        for name, _ in columns:
            table.add_column(name, justify="right")
        for number, row in enumerate(report["models"], 1):
            table.add_row(str(number), *(value(row) for _, value in columns))
        console.print(table)
    for note in notes(report):
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the table."""
    machine, rows = report["machine"], report["models"]
    found = [
        f"{report['data']}, {report['images']} images; {machine['cpu']}, {machine['cores']} cores, load "
        f"before {machine['load before']}; {report['date']}",
        "total: image in memory to instances, with every detection of at least 0.001; ratio: median over "
        "images of the total time to that of the first model on the same image. All take turns on each "
        "image, with a pause before each",
    ]
    if any(row["reference"] for row in rows):
        found.append("references: times are those of the detector in ONNX Runtime and of making the masks")
    if len({tuple(row["mask"]["per_class"]) for row in rows}) > 1:
        found.append("the models have different class lists: their means are not over the same classes")
    if report["failed"]:
        found.append(f"{len(report['failed'])} images could not be read and are in no number")
    return found


def to_markdown(report: Mapping[str, Any]) -> str:
    """The table with its notes and its command, between the marker comments."""
    columns = (*accuracy_columns(report), *COST, *WORDS)
    lines = [BEGIN, "", f"    {report['command']}", ""]
    lines.append("| | " + " | ".join(name for name, _ in columns) + " |")
    lines.append("|---|" + "---:|" * len(columns))
    for row in report["models"]:
        name = row["name"].replace("|", "\\|")
        lines.append(f"| {name} | " + " | ".join(value(row) for _, value in columns) + " |")
    lines += ["", *(f"- {note}" for note in notes(report)), "", END]
    return "\n".join(lines)


def check_markdown(path: Path) -> None:
    """Fail before the long run if the table has no place. Raises ConfigError."""
    place = path if path.exists() else path.parent
    if path.is_dir() or not place.exists() or not os.access(place, os.W_OK):
        raise ConfigError(f"--markdown {path} cannot be written; expected a file in an existing folder")
    if path.is_file():
        _split(path)


def write_markdown(path: Path, report: Mapping[str, Any]) -> None:
    """Put the table between the marker comments of a file, or into a new file."""
    before, after = _split(path) if path.is_file() else ("", "\n")
    try:
        path.write_text(before + to_markdown(report) + after, encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror or err}") from err


def _split(path: Path) -> tuple[str, str]:
    """The text before and after the table. Raises ConfigError without one pair of markers."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read {path}: {err}") from err
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after:
        raise ConfigError(
            f"--markdown {path} exists and has no place for the table. Write these two lines where it "
            f"belongs: {BEGIN} and {END}"
        )
    return before, after
