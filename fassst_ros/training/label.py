"""`fassst label`: training data that nobody labelled by hand, with the help of a detector as teacher.

camvid: instances out of semantic labels. fill: objects of classes that a set does not label, as boxes.
check: how good the teacher is, on what is labelled. No torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fassst_ros.labels import COCO, STREET
from fassst_ros.predict import prepare_output
from fassst_ros.training.label_camvid import label_camvid
from fassst_ros.training.label_fill import check, fill
from fassst_ros.training.label_run import Detections, say
from fassst_ros.training.teacher import TILES, Teacher
from fassst_ros.types import ConfigError
from fassst_ros.yolox import YoloxDetector


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst label`."""
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    summary = "instances out of CamVid's semantic labels, cut by the teacher's boxes"
    camvid = kinds.add_parser("camvid", help=summary, description=summary)
    camvid.add_argument("folder", type=Path, metavar="DIR", help="holds images/*.jpg and labels/*.png")
    camvid.add_argument("--pictures", type=Path, metavar="DIR", help="also draw what was found")
    summary = "add objects of the classes that images do not label, as boxes without masks"
    filling = kinds.add_parser("fill", help=summary, description=summary)
    summary = "precision and recall of the teacher on what is labelled"
    checking = kinds.add_parser("check", help=summary, description=summary)
    for sub in (filling, checking):
        sub.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json", help="COCO annotations")
        sub.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
        sub.add_argument(
            "--classes", type=_names, default=tuple(c.name for c in STREET), metavar="NAME,NAME",
            help="what to look for (the street classes)",
        )  # fmt: skip
    filling.add_argument(
        "--incomplete", type=_names, default=(), metavar="NAME,NAME",
        help="classes of which images show more objects than are labelled, whatever the file says: they "
        "then count as not labelled, and are added, too",
    )  # fmt: skip
    for sub, threshold in ((camvid, 0.35), (filling, 0.5), (checking, 0.5)):
        _add_teacher(sub, threshold)
    for sub in (camvid, filling):
        sub.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="annotations to write")
        sub.add_argument("--overwrite", action="store_true", help="replace FILE.json if it is there")


def _add_teacher(parser: argparse.ArgumentParser, threshold: float) -> None:
    parser.add_argument("--teacher", type=Path, required=True, metavar="FILE", help="a raw YOLOX, ONNX")
    parser.add_argument(
        "--threshold", type=float, default=threshold, metavar="X", help=f"least score ({threshold})"
    )
    parser.add_argument(
        "--tiles", type=_shares, default=TILES, metavar="X,X",
        help="look again in overlapping square tiles of so many shorter image sides, or none "
        f"({','.join(map(str, TILES))})",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (0: all cores)")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(set(names) - {c.name for c in COCO})
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown) or 'nothing'}: expected names of COCO's classes"
        )
    return names


def _shares(text: str) -> tuple[float, ...]:
    shares = () if text == "none" else tuple(float(part) for part in text.split(","))
    if not all(0.1 <= share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text}: expected none, or numbers from 0.1 to 1")
    return shares


def run(args: argparse.Namespace) -> int:
    """Label, fill or check; returns 1 if an image had to be left out.

    Raises ConfigError if the output is there already or cannot be written, InputError for unusable data.
    """
    if not 0 < args.threshold < 1:
        raise ConfigError(f"--threshold is {args.threshold}; expected a number between 0 and 1")
    if args.kind != "check":
        if args.out.exists() and not args.overwrite:
            raise ConfigError(f"{args.out} exists; add --overwrite to replace it, or choose another --out")
        prepare_output(args.out.parent, args.out)
    with YoloxDetector(args.teacher, args.threads) as detector:
        teacher = Teacher(detector, args.tiles)
        if args.kind == "check":
            return check(args, teacher)
        detections, done = Detections(teacher, args), False
        try:
            status = (label_camvid if args.kind == "camvid" else fill)(args, detections)
            done = True
        except KeyboardInterrupt:
            say(f"the same command goes on from here, by {detections.path}")
            raise
        finally:
            detections.close(done)
        return status
