"""The figures of the evaluation report, as SVG files drawn by matplotlib (imported inside functions)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ClassInfo
from fassst_ros.evaluation.analysis import ThresholdCurve

#: Two lines of a figure: told apart in grey, too.
BLUE, ORANGE, GREY = "#1f5fa8", "#d9822b", "#6b7280"
#: IoU threshold -> its index in COCO's precision array, and its colour.
IOUS = {0.5: (0, BLUE), 0.75: (5, ORANGE)}
_COLUMNS = 4  # panels a row
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small files, and it can be searched
    "text.parse_math": False,  # names may hold a dollar sign
    "svg.hashsalt": "fassst_ros",  # the same numbers give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
}


def precision_recall(
    path: Path, precision: NDArray[np.float64], classes: Sequence[ClassInfo], objects: Mapping[str, int]
) -> None:
    """One panel a class: precision over recall at mask IoU 0.5 and 0.75.

    precision: COCOeval's own array, (10 IoU thresholds, 101 recalls, classes), -1 without objects;
    so each line is what the AP of the tables is the mean of. objects: class name -> how many.
    """
    recalls = np.linspace(0, 1, precision.shape[1])
    columns = min(_COLUMNS, len(classes))
    rows = -(-len(classes) // columns)

    def draw(figure: Any) -> None:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for index, (info, axes) in enumerate(zip(classes, panels, strict=False)):
            for iou, (threshold, color) in IOUS.items():
                values = precision[threshold, :, index]
                if (values > -1).any():
                    label = f"IoU {iou:g}: AP {100 * values.mean():.1f}"
                    axes.plot(recalls, values, color=color, label=label, gid=f"pr-{info.id}-{100 * iou:.0f}")
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
            axes.set_title(f"{info.name} ({objects[info.name]})", fontsize=10)
            if axes.lines:
                axes.legend(fontsize=7, frameon=False, loc="upper right")
            else:
                axes.text(0.5, 0.5, "no object", color=GREY, ha="center")
        for axes in panels[len(classes) :]:
            axes.set_axis_off()
        figure.supxlabel("recall")
        figure.supylabel("precision")

    save(path, (2.4 * columns + 0.5, 2.1 * rows + 0.4), draw)


def class_bars(
    path: Path, per_class: Mapping[str, Mapping[str, float | None]], objects: Mapping[str, int]
) -> None:
    """Mask AP and AP50 of each class, in percent; per_class: as in `evaluate_predictions`."""
    names = list(per_class)
    places = np.arange(len(names))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for shift, key, color in ((-0.2, "AP50", BLUE), (0.2, "AP", ORANGE)):
            values = [100 * (per_class[name][key] or 0.0) for name in names]
            bars = axes.barh(places + shift, values, 0.38, color=color, label=f"mask {key}")
            texts = [
                "-" if per_class[n][key] is None else f"{v:.1f}" for n, v in zip(names, values, strict=True)
            ]
            axes.bar_label(bars, texts, padding=2, fontsize=8)
            for name, bar in zip(names, bars, strict=True):
                bar.set_gid(f"bar-{key}-{names.index(name)}")
        axes.set_yticks(places, [f"{name} ({objects[name]})" for name in names])
        axes.invert_yaxis()  # the first class on top
        axes.set(xlim=(0, 100), xlabel="%")
        axes.legend(frameon=False, loc="lower right")

    save(path, (8.5, 0.55 * len(names) + 1.0), draw)


def threshold_figure(path: Path, curve: ThresholdCurve, card_threshold: float) -> None:
    """Precision, recall and F1 over the score threshold; the best F1 and the card's threshold marked."""
    best = curve.best()["threshold"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, color, style in (("precision", BLUE, "--"), ("recall", ORANGE, "-."), ("f1", "black", "-")):
            axes.step(
                curve.scores, getattr(curve, name), where="pre", color=color, linestyle=style,
                label="F1" if name == "f1" else name, gid=f"threshold-{name}",
            )  # fmt: skip
        axes.axvline(
            card_threshold,
            color=GREY,
            label=f"the card's threshold: {card_threshold:.3g}",
            gid="card-threshold",
        )
        if best is not None:
            label = f"best F1 {curve.f1.max():.2f} at {best:.3g}"
            axes.plot([best], [curve.f1.max()], "o", color="black", label=label, gid="best-f1")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="score threshold")
        axes.legend(frameon=False, loc="upper right")

    save(path, (8.5, 3.6), draw)


def save(path: Path | IO[bytes], size: tuple[float, float], draw: Callable[[Any], None]) -> None:
    """Draw on a figure of `size` (width, height) in inches and write it. No global state is left behind."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(path, format="svg", metadata={"Date": None})
