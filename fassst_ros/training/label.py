"""`fassst label`: training data that nobody labelled by hand, with the help of a detector as teacher."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fassst_ros.coco_format import load_image, read_coco
from fassst_ros.labels import COCO, STREET
from fassst_ros.predict import prepare_output, write_text
from fassst_ros.training.label_fill import (
    Count,
    box_annotation,
    count,
    labelled_in,
    missing,
    objects_of,
)
from fassst_ros.training.teacher import TILES, Teacher
from fassst_ros.types import ConfigError, InputError
from fassst_ros.yolox import YoloxDetector

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst label`."""
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    summary = "instances out of CamVid's semantic labels, cut by the teacher's boxes"
    camvid = kinds.add_parser("camvid", help=summary, description=summary)
    camvid.add_argument("folder", type=Path, metavar="DIR", help="holds images/*.jpg and labels/*.png")
    camvid.add_argument("--pictures", type=Path, metavar="DIR", help="write what was found as pictures, too")
    summary = "add the objects of classes that images do not label, as boxes without masks"
    fill = kinds.add_parser("fill", help=summary, description=summary)
    summary = "precision and recall of the teacher on what is labelled"
    check = kinds.add_parser("check", help=summary, description=summary)
    for sub in (fill, check):
        sub.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json", help="COCO annotations")
        sub.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
        sub.add_argument(
            "--classes", type=_names, default=tuple(c.name for c in STREET), metavar="NAME,NAME",
            help="what to look for (the street classes)",
        )  # fmt: skip
    fill.add_argument(
        "--incomplete", type=_names, default=(), metavar="NAME,NAME",
        help="classes of which images may hold more objects than are labelled, whatever the file says: "
        "they count as not labelled and are added, too",
    )  # fmt: skip
    for sub, threshold in ((camvid, 0.3), (fill, 0.5), (check, 0.5)):
        sub.add_argument("--teacher", type=Path, required=True, metavar="FILE", help="a raw YOLOX, ONNX")
        sub.add_argument(
            "--threshold", type=float, default=threshold, metavar="X", help=f"least score ({threshold})"
        )
        sub.add_argument(
            "--tiles", type=_shares, default=TILES, metavar="X,X",
            help="look again in overlapping square tiles of so many shorter image sides; none: whole image "
            f"only ({','.join(map(str, TILES))})",
        )  # fmt: skip
        sub.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (0: all cores)")
    for sub in (camvid, fill):
        sub.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="annotations to write")
        sub.add_argument("--overwrite", action="store_true", help="replace FILE.json if it is there")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _shares(text: str) -> tuple[float, ...]:
    shares = () if text == "none" else tuple(float(part) for part in text.split(","))
    if not all(0.1 <= share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text}: expected none, or numbers from 0.1 to 1")
    return shares


def run(args: argparse.Namespace) -> int:
    """Label, fill or check; returns 1 if an image had to be left out."""
    if not 0 < args.threshold < 1:
        raise ConfigError(f"--threshold is {args.threshold}; expected a number between 0 and 1")
    if args.kind != "check":
        if args.out.exists() and not args.overwrite:
            raise ConfigError(f"{args.out} exists; add --overwrite to replace it, or choose another --out")
        prepare_output(args.out.parent, args.out)
    with YoloxDetector(args.teacher, args.threads) as detector:
        teacher = Teacher(detector, args.tiles)
        if args.kind == "camvid":
            from fassst_ros.training.label_camvid import label

            return label(args, teacher)
        return (_fill if args.kind == "fill" else _check)(args, teacher)


def _fill(args: argparse.Namespace, teacher: Teacher) -> int:
    raw = read_coco(args.annotations)
    names = {c["id"]: c["name"] for c in raw["categories"]}
    ids = {name: number for number, name in names.items()}
    coco = {c.id: c.name for c in COCO}
    by_image = _by_image(raw["annotations"])
    number = max((int(a["id"]) for a in raw["annotations"]), default=0)
    failures, added = [], dict.fromkeys(args.classes, 0)
    for entry in track(raw["images"], "filling"):
        labelled = labelled_in(entry, names.values()) - set(args.incomplete)
        wanted = {
            c.id for c in COCO if c.name in {*args.classes, *args.incomplete} - labelled and c.name in ids
        }
        if "labelled_classes" in entry or args.incomplete:
            entry["labelled_classes"] = ", ".join(n for n in ids if n in labelled)
        if not wanted:
            continue
        try:
            image = load_image(args.images / entry["file_name"], (entry["height"], entry["width"]))
        except InputError as err:
            failures.append(str(err))
            continue
        found = teacher.detect(image, args.threshold)
        there = objects_of(by_image.get(entry["id"], ()), names)
        for i in missing(found, there, wanted):
            name = coco[int(found.category_ids[i])]
            number += 1
            added[name] = added.get(name, 0) + 1
            raw["annotations"].append(
                box_annotation(found.boxes[i], found.scores[i], ids[name], entry["id"], number)
            )
    raw.setdefault("info", {})["filled"] = provenance(args)
    write_text(args.out, json.dumps(raw))
    say(f"{args.out}: added {', '.join(f'{name} {n}' for name, n in added.items())}")
    return report(failures)


def _check(args: argparse.Namespace, teacher: Teacher) -> int:
    raw = read_coco(args.annotations)
    names = {c["id"]: c["name"] for c in raw["categories"]}
    by_image = _by_image(raw["annotations"])
    totals = {c.id: Count(0, 0, 0) for c in COCO if c.name in args.classes}
    coco = {c.id: c.name for c in COCO}
    failures = []
    for entry in track(raw["images"], "checking"):
        try:
            image = load_image(args.images / entry["file_name"], (entry["height"], entry["width"]))
        except InputError as err:
            failures.append(str(err))
            continue
        found = teacher.detect(image, args.threshold)
        there = objects_of(by_image.get(entry["id"], ()), names)
        labelled = labelled_in(entry, names.values())
        for category in totals:
            if coco[category] in labelled:
                one = count(found, there, category)
                totals[category] = Count(*map(sum, zip(totals[category], one, strict=True)))
    print(f"{'class':<12} objects  detections  precision  recall   (score >= {args.threshold:g}, IoU 0.5)")
    for category, total in totals.items():
        precision = total.right / total.detections if total.detections else float("nan")
        recall = total.right / total.objects if total.objects else float("nan")
        print(
            f"{coco[category]:<12} {total.objects:7d}  {total.detections:10d}  {precision:9.2f}  {recall:6.2f}"
        )
    return report(failures)


def _by_image(annotations: Sequence[Mapping[str, Any]]) -> dict[Any, list[Mapping[str, Any]]]:
    grouped: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in annotations:
        grouped.setdefault(annotation.get("image_id"), []).append(annotation)
    return grouped


def provenance(args: argparse.Namespace) -> dict[str, Any]:
    """How a file came about, for its `info`."""
    from fassst_ros.card import sha256

    return {
        "command": shlex.join(["fassst", *sys.argv[1:]]),
        "teacher": args.teacher.name,
        "teacher_sha256": sha256(args.teacher),
        "score_threshold": args.threshold,
        "tiles": list(args.tiles),
    }


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr)


def report(failures: Sequence[str]) -> int:
    """Name what was left out; the exit status."""
    for failure in failures:
        say(f"left out: {failure}")
    return 1 if failures else 0


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a bar and the time left on a terminal, else with a line every tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield from progress.track(items, description=what)
