"""The report of `fassst bench`: suites of tables and plots, for a terminal and as Markdown.

A suite is data only: whoever measures returns a `Suite`, and all that is shown, written or drawn
is made from its fields. As JSON: `dataclasses.asdict`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fassst_ros.bench.measure import Timing

#: A cell of a table. Numbers stay numbers in JSON; None, shown as "-", is what was not measured.
Cell = str | int | float | None

INTRODUCTION = """# Performance

Written by `fassst bench`, in one run on the machine named at the end. Times are milliseconds: each part is
run again and again after a warm-up; p50, p90 and p99 are percentiles, cpu is the time of all cores together
for one run, which other programs on the machine hardly change. For your own machine (about eight minutes on
two cores; from a checkout also by `make bench`, with the options in `ARGS`):

    fassst bench --suite all --runtime all --image PHOTO.jpg --markdown performance.md
"""


@dataclass(frozen=True, slots=True)
class Table:
    """rows: one cell a column. words: what a reader must know, one sentence or paragraph each."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """series: name -> points (x, y) in order of x. x, y: labels of the axes, with units.

    A series of one point is drawn as a dot with its name beside it. words: the law, as found.
    from_zero: both axes begin at 0.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    words: tuple[str, ...] = ()
    from_zero: bool = True


@dataclass(frozen=True, slots=True)
class Suite:
    """What one suite found.

    summary: rows (what, result) of the table at the top of the report; few, for those who read no further.
    """

    title: str
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    summary: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = field(default=())


def timing_table(title: str, timings: Sequence[Timing], words: tuple[str, ...] = ()) -> Table:
    """Percentiles of measured parts. The column cpu is left out where it is known of none."""
    columns: list[str] = ["part", "p50", "p90", "p99"]
    known = any(t.cpu is not None for t in timings)
    rows = []
    for t in timings:
        cpu: tuple[Cell, ...] = (t.cpu,) if known else ()
        rows.append((t.name, t.p50, t.p90, t.p99, *cpu, t.repeats, t.note))
    columns += ["cpu", "runs", "what"] if known else ["runs", "what"]
    return Table(title, tuple(columns), tuple(rows), words)


def cell_text(cell: Cell) -> str:
    """A cell as people read it: three digits of a measured number, and no more than three decimals."""
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return str(cell)
    size = abs(cell)
    return f"{cell:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3}f}"


def plot_name(plot: Plot) -> str:
    """Name of the file of a plot, without its suffix."""
    return re.sub(r"[^a-z0-9]+", "_", plot.title.lower()).strip("_")


def summary_table(suites: Mapping[str, Suite]) -> Table:
    """The rows that the suites wish to have on top."""
    return Table("Summary", ("what", "result"), tuple(row for s in suites.values() for row in s.summary))


def print_report(facts: Mapping[str, Any], suites: Mapping[str, Suite], notes: Sequence[str]) -> None:
    """Print all tables on standard output; facts: as for `to_markdown`."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"\n{facts['model']}; image {facts['image']}", markup=False)
    machine = facts["machine"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores: {machine['cpu features']}", markup=False)
    for suite in suites.values():
        if suite.tables or suite.plots:
            console.print(f"\n{suite.title}", style="bold", markup=False)
        for table in suite.tables:
            _print_table(console, table)
        for plot in suite.plots:
            for line in plot.words:
                console.print(f"{plot.title}: {line}", markup=False, soft_wrap=True)
        for line in suite.words:
            console.print(line, markup=False, soft_wrap=True)
    for note in notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    summary = summary_table(suites)
    if summary.rows:
        _print_table(console, summary)
    for warning in facts["warnings"]:
        console.print(f"{warning}.", style="bold red", markup=False, soft_wrap=True)


def _print_table(console: Any, table: Table) -> None:
    from rich.markup import escape
    from rich.table import Table as RichTable

    shown = RichTable(title=escape(table.title), title_justify="left")
    for index, name in enumerate(table.columns):
        shown.add_column(escape(name), justify="right" if _numeric(table, index) else "left")
    for row in table.rows:
        shown.add_row(*(escape(cell_text(cell)) for cell in row))
    console.print(shown)
    for line in table.words:
        console.print(line, markup=False, soft_wrap=True)


def to_markdown(
    facts: Mapping[str, Any], suites: Mapping[str, Suite], notes: Sequence[str], pictures: Mapping[str, str]
) -> str:
    """The whole report as a Markdown document.

    facts: command, date, machine (name -> value), model, image and warnings (list). pictures: `plot_name` ->
    file of the plot, as a link from the document; plots without one are told by their words only.
    """
    lines = [INTRODUCTION]
    for warning in facts["warnings"]:
        lines += [f"**{warning}.**", ""]
    summary = summary_table(suites)
    if summary.rows:
        lines += ["## Summary", "", *_markdown_table(summary), ""]
    for suite in suites.values():
        if not (suite.tables or suite.plots):
            continue
        lines += [f"## {suite.title}", ""]
        for line in suite.words:
            lines += [line, ""]
        for table in suite.tables:
            lines += [f"### {table.title}", "", *_markdown_table(table), ""]
            for line in table.words:
                lines += [line, ""]
        for plot in suite.plots:
            lines += [f"### {plot.title}", ""]
            if (file := pictures.get(plot_name(plot))) is not None:
                lines += [f"![{plot.title}]({file})", ""]
            lines += [*(f"- {line}" for line in plot.words), *([""] if plot.words else [])]
    lines += ["## Machine and run", "", f"- command: `{facts['command']}`", f"- date: {facts['date']}"]
    lines += [f"- {key}: {value}" for key, value in facts["machine"].items()]
    lines += [f"- model: {facts['model']}", f"- image: {facts['image']}"]
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def _markdown_table(table: Table) -> list[str]:
    lines = [_line(table.columns)]
    lines.append("|" + "".join("---:|" if _numeric(table, i) else "---|" for i in range(len(table.columns))))
    return lines + [_line([cell_text(cell) for cell in row]) for row in table.rows]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _numeric(table: Table, index: int) -> bool:
    return any(isinstance(row[index], (int, float)) for row in table.rows)
