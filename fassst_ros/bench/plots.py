"""The plots of `fassst bench` and `fassst compare`: SVG files drawn by matplotlib."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fassst_ros.bench.report import Plot, Suite, plot_name
from fassst_ros.evaluation.curves import GREY, save
from fassst_ros.types import ConfigError

#: Colours that are told apart in grey, too; each comes with a marker of its own.
STYLES = (("#1f5fa8", "o"), ("#d9822b", "s"), ("#6b7280", "^"), ("#2e7d4f", "D"), ("#8e4ec6", "v"))
_SIZE, _WIDE = (6.4, 3.4), (10.0, 4.2)  # inches; wide: with names beside it


def write_plots(suites: Mapping[str, Suite], markdown: Path, note: Callable[[str], None]) -> dict[str, str]:
    """Draw all plots beside a Markdown file that is to be written, in images/<its name>/.

    Returns `plot_name` -> link from that file; nothing, with a note, where matplotlib is missing.
    Raises ConfigError if a file cannot be written.
    """
    plots = [plot for suite in suites.values() for plot in suite.plots]
    if not plots:
        return {}
    if importlib.util.find_spec("matplotlib") is None:
        note("plots: not drawn: matplotlib is not installed (pip install matplotlib)")
        return {}
    folder = Path("images", markdown.stem)
    links = {}
    for plot in plots:
        link = folder / f"{plot_name(plot)}.svg"
        write_plot(plot, markdown.parent / link)
        links[plot_name(plot)] = link.as_posix()
    return links


def check_plot(path: Path) -> None:
    """Fail before a long run if the plot cannot be drawn or has no place. Raises ConfigError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install matplotlib")
    place = path if path.exists() else path.parent
    if path.suffix != ".svg" or path.is_dir() or not os.access(place, os.W_OK):
        raise ConfigError(f"--plot {path} cannot be written; expected NAME.svg in an existing folder")


def write_plot(plot: Plot, path: Path) -> None:
    """Draw one plot as SVG. Raises ConfigError if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        dots = min(map(len, plot.series.values())) == 1
        save(path, _WIDE if dots else _SIZE, lambda figure: draw(plot, figure))
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror or err}") from err


def draw(plot: Plot, figure: Any) -> None:
    """Lines with markers; a series of one point is a dot with a number, named beside the plot."""
    axes = figure.subplots()
    dots = min(map(len, plot.series.values())) == 1
    for number, (name, points) in enumerate(plot.series.items()):
        color, marker = STYLES[number % len(STYLES)]
        xs, ys = zip(*points, strict=True)
        if len(points) > 1 and dots:  # a line through some of the dots
            axes.plot(xs, ys, color=GREY, ls="--", lw=1, label=name)
        elif len(points) > 1:
            axes.plot(xs, ys, marker=marker, color=color, ms=5, lw=1.5, label=name)
        else:
            axes.plot(xs, ys, marker=marker, color=color, ms=6, ls="none", label=f"{number + 1} {name}")
            axes.annotate(str(number + 1), (xs[0], ys[0]), (4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel=plot.x, ylabel=plot.y, title=plot.title)
    if plot.from_zero:
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    else:
        axes.margins(0.15)
    if dots:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        axes.legend(frameon=False, fontsize=8)
