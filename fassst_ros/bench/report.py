"""The report of `fassst bench`: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TITLES = {
    "network": "Network alone: one inference of one image",
    "stages": "Stages of a 2048x1024 frame, without ROS",
    "node": "The real node: its own process, frames over DDS from another process",
}
INTRODUCTION = """# Performance

Milliseconds, measured by `fassst bench` on the machine below: each part is run again and again after a
warm-up; p50, p90 and p99 are percentiles, and cpu is the time of all cores together for one run, which
other programs on the machine hardly change. Run it on your own machine to get this report for it:

    fassst bench --runtime all --image PHOTO.jpg --markdown performance.md

What the parts of the node are: `transport` is from the stamp in the header, set just before the camera
process publishes, to the node's callback; `decode` turns the message into pixels; `resize` makes the
network's input; `postprocess` makes boxes and masks in source pixels; `fill` makes the message; `publish`
hands it to the middleware. `own work` is the sum of decode, resize, postprocess, fill and publish: what
the node does to a frame after it was taken from the middleware, without the network. `processing` is
from callback to published result, `total` from stamp to published result.
"""


def print_report(report: Mapping[str, Any]) -> None:
    """Print all tables on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"\n{report['model']}; image {report['image']}", markup=False)
    machine = report["machine"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores: {machine['cpu features']}\n", markup=False)
    for suite, rows in report["suites"].items():
        if not rows:
            continue
        table = Table(title=f"{TITLES[suite]} [ms]", title_justify="left")
        table.add_column("part")
        for name in ("p50", "p90", "p99", "cpu", "runs"):
            table.add_column(name, justify="right")
        table.add_column("what")
        for row in rows:
            times = _times(row)
            table.add_row(row["name"], *times, str(row["repeats"]), row["note"])
        console.print(table)
    for note in report["notes"]:
        console.print(f"- {note}", markup=False, soft_wrap=True)


def to_markdown(report: Mapping[str, Any]) -> str:
    """The whole report as a Markdown document."""
    lines = [INTRODUCTION, "## Machine", ""]
    lines += [f"- {key}: {value}" for key, value in report["machine"].items()]
    lines += [f"- model: {report['model']}", f"- image: {report['image']}"]
    for suite, rows in report["suites"].items():
        if rows:
            lines += ["", f"## {TITLES[suite]}", "", "| part | p50 | p90 | p99 | cpu | runs | what |"]
            lines.append("|---|---:|---:|---:|---:|---:|---|")
        for row in rows:
            cells = [row["name"], *_times(row), str(row["repeats"]), row["note"]]
            lines.append(f"| {' | '.join(cells)} |")
    if report["notes"]:
        lines += ["", "## Notes", "", *(f"- {note}" for note in report["notes"])]
    return "\n".join(lines) + "\n"


def _times(row: Mapping[str, Any]) -> list[str]:
    return ["" if row[key] is None else f"{row[key]:.2f}" for key in ("p50", "p90", "p99", "cpu")]
