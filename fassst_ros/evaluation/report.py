"""The evaluation report: one HTML page with a folder of pictures, to be scrolled offline."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fassst_ros.card import ModelCard
from fassst_ros.evaluation import curves, markup
from fassst_ros.evaluation.analysis import SIZES, threshold_curve
from fassst_ros.evaluation.coco import CocoResult
from fassst_ros.evaluation.dataset import EvaluationSet, Predictions
from fassst_ros.evaluation.matching import FAULTS, ImageMatch
from fassst_ros.evaluation.pictures import draw_pair, ranked
from fassst_ros.types import ConfigError

PICTURES = "pictures"
COLUMNS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation. report: what --json holds; the rest is what it was made from."""

    report: Mapping[str, Any]
    card: ModelCard
    dataset: EvaluationSet
    predictions: Predictions
    result: CocoResult
    matches: Sequence[ImageMatch]


def check_report_folder(folder: Path) -> None:
    """Make the folder and its pictures folder, and fail before the long run if that cannot work.

    Raises ConfigError if the folder cannot be written to, or matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as err:
        raise ConfigError("--report needs matplotlib: pip install matplotlib") from err
    try:
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / PICTURES):
            with tempfile.TemporaryFile(dir=place):
                pass
    except OSError as err:
        raise ConfigError(
            f"--report {folder} cannot be written to: {err.strerror or err}. Give a folder of your own"
        ) from err


def write_report(folder: Path, done: Evaluation) -> Path:
    """Write index.html and its pictures into `folder`; returns the page.

    Raises ConfigError if a file cannot be written.
    """
    check_report_folder(folder)
    report = done.report
    title = f"{report['model']} on {report['annotations']}"
    parts = [markup.heading(1, title), _facts(report, done.card)]
    parts += accuracy_parts(report)
    parts += _figures(folder / PICTURES, done)
    parts += error_parts(report["at_threshold"])
    parts += _latency(report)
    parts += _images(folder / PICTURES, done)
    page = folder / "index.html"
    try:
        page.write_text(markup.page(title, parts), encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"cannot write {page}: {err.strerror or err}") from err
    return page


def percent(value: float | None) -> str:
    """A share as people read it; "-" where it is not defined."""
    return "-" if value is None else f"{100 * value:.1f}"


def _facts(report: Mapping[str, Any], card: ModelCard) -> str:
    size = f"{card.input_width}x{card.input_height}"
    failed = f", {len(report['failed'])} failed" if report["failed"] else ""
    return markup.facts(
        [
            ("model", f"{card.name} {card.version}, network {card.network}, input {size}"),
            *((f"sha256 of {name}", digest) for name, digest in card.files.items()),
            ("runtime", f"{report['runtime']}, {report['precision']}, {report['device']}"),
            ("data", f"{report['annotations']}: {report['images']} images{failed}"),
            ("score threshold of the card", f"{card.score_threshold:g}"),
            ("training steps", str(card.training.get("steps", "not in the card"))),
            *((name, report["machine"][name]) for name in ("cpu", "cores", "load before")),
            ("date", report["date"]),
            ("command", report["command"]),
        ]
    )


def accuracy_parts(report: Mapping[str, Any]) -> list[str]:
    """Tables of AP, all classes and each; report: as --json has it."""
    rows = [(kind, *(percent(report[kind][c]) for c in COLUMNS)) for kind in ("mask", "box")]
    each = []
    for name, objects in report["objects"].items():
        numbers = [report[kind]["per_class"][name] for kind in ("mask", "box")]
        cells = [percent(n[key]) for n in numbers for key in ("AP", "AP50")]
        each.append((name, str(objects), *cells))
    header = ("class", "objects", "mask AP", "mask AP50", "box AP", "box AP50")
    parts = [
        markup.heading(2, "Average precision"),
        markup.table(("%", *COLUMNS), rows, "accuracy"),
        markup.paragraph(
            "COCO's metric: AP is the mean over IoU 0.50:0.05:0.95; S, M and L are objects below 32², up to "
            "96² and above 96² pixels."
        ),
        markup.table(header, each, "classes"),
    ]
    return parts + (_cityscapes(report["cityscapes"]) if "cityscapes" in report else [])


def _cityscapes(result: Mapping[str, Any]) -> list[str]:
    rows = [("all", percent(result["AP"]), percent(result["AP50"]))]
    rows += [(name, percent(row["AP"]), percent(row["AP50"])) for name, row in result["per_class"].items()]
    parts = [
        markup.heading(3, "By the rules of Cityscapes"),
        markup.table(("%", "mask AP", "mask AP50"), rows, "cityscapes"),
    ]
    if result["unknown_classes"]:
        names = ", ".join(result["unknown_classes"])
        parts.append(markup.paragraph(f"The model does not know {names}: AP 0 where there are some."))
    return parts


def _figures(folder: Path, done: Evaluation) -> list[str]:
    report, card, objects = done.report, done.card, done.report["objects"]
    precision = done.result.precision["mask"]
    curves.class_bars(folder / "classes.svg", report["mask"]["per_class"], objects)
    curves.precision_recall(folder / "precision_recall.svg", precision, card.classes, objects)
    curves.threshold_figure(folder / "threshold.svg", threshold_curve(done.matches), card.score_threshold)
    at, best = report["at_threshold"], report["best_threshold"]
    keys = ("threshold", "precision", "recall", "f1")
    rows = [
        (name, *("-" if row[key] is None else f"{row[key]:.3f}" for key in keys))
        for name, row in (("card", at), ("best F1 here", best))
    ]
    return [
        markup.image(f"{PICTURES}/classes.svg", "bars: mask AP and AP50 of each class"),
        markup.heading(2, "Precision and recall of each class"),
        markup.image(f"{PICTURES}/precision_recall.svg", "curves: precision over recall of each class"),
        markup.paragraph("Masks, at IoU 0.5 and 0.75; the number of objects is in brackets."),
        markup.heading(2, "Score threshold"),
        markup.image(f"{PICTURES}/threshold.svg", "curves: precision, recall and F1 over the threshold"),
        markup.table(("", "threshold", "precision", "recall", "F1"), rows, "thresholds"),
        markup.paragraph(
            "Masks at IoU 0.5, all classes together. The best threshold is found on these very images, so "
            "its numbers are flattered a little."
        ),
    ]


def error_parts(at: Mapping[str, Any]) -> list[str]:
    """Tables of missed objects and false alarms; at: "at_threshold" of the report."""
    lost = []
    for name, row in at["missed"].items():
        sizes = [f"{missed} of {objects}" for missed, objects in row["sizes"].values()]
        lost.append((name, f"{row['missed']} of {row['objects']}", *sizes))
    wrong = [(name, *map(str, row.values())) for name, row in at["false_alarms"].items()]
    return [
        markup.heading(2, f"Errors at the score threshold {at['threshold']:g}"),
        markup.heading(3, "Missed objects"),
        markup.table(("class", "all", *SIZES), lost, "missed"),
        markup.heading(3, "False alarms"),
        markup.table(("class", "detections", "right", *FAULTS), wrong, "false_alarms"),
        markup.paragraph("Masks at IoU 0.5. The first cause that applies counts:"),
        markup.bullets(f"{name}: {meaning}" for name, meaning in FAULTS.items()),
    ]


def _latency(report: Mapping[str, Any]) -> list[str]:
    rows = [("frame to instances", *(f"{report['latency_ms'][p]:.1f}" for p in ("p50", "p90", "p99")))]
    for stage, times in report["stages_ms"].items():
        rows.append((stage, *(f"{times[p]:.1f}" for p in ("p50", "p90", "p99"))))
    return [
        markup.heading(2, "Latency"),
        markup.table(("ms an image", "p50", "p90", "p99"), rows, "latency"),
        markup.paragraph(
            "With every detection of at least 0.001 kept, so more of them than in use; without reading the "
            "image."
        ),
    ]


def _images(folder: Path, done: Evaluation) -> list[str]:
    parts = []
    card = done.card
    for name, chosen in zip(("best", "worst"), ranked(done.matches, card.score_threshold), strict=True):
        parts.append(markup.heading(2, f"The {len(chosen)} {name} images"))
        if name == "best":
            parts.append(
                markup.paragraph(
                    "Ranked by image PQ: the sum of the mask IoUs of found objects / (found + half of the "
                    "false alarms + half of the missed), at the card's threshold and IoU 0.5, all classes "
                    "together. Yellow frames: missed on the left, wrong on the right."
                )
            )
        for number, match in enumerate(chosen, 1):
            predicted = done.predictions[match.image_id]
            entry = next(e for e in done.dataset.entries if e["id"] == match.image_id)
            image, title = done.dataset.load(entry).image, entry["file_name"]
            threshold = card.score_threshold
            pair = draw_pair(folder / f"{name}_{number:02}", title, image, match, predicted, card, threshold)
            truth, found = f"{PICTURES}/{pair.truth}", f"{PICTURES}/{pair.found}"
            parts.append(markup.heading(3, pair.title))
            parts.append(markup.pair((truth, "ground truth"), (found, "prediction")))
            parts.append(markup.bullets(pair.notes))
    return parts
