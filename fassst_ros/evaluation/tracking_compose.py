"""`fassst compose-tracks`: videos with exact identities, made of annotated photos.

Written are frames as JPEG and annotations.json: COCO's instance format with videos beside it, as in TAO
(Dave et al., ECCV 2020, arXiv 2005.10356), so `fassst eval` reads it too:
    videos        id, name, width, height, fps
    images        beside COCO's keys video_id, frame_index (from 0) and stamp [s]
    annotations   beside COCO's keys video_id and track_id, the same for an object in all frames of its video;
                  iscrowd 1: hardly visible, so neither found nor missed
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from fassst_ros.coco_format import read_coco
from fassst_ros.evaluation.tracking_photos import make_scene, read_photos
from fassst_ros.evaluation.tracking_scene import Scene, Visible
from fassst_ros.rle import compress
from fassst_ros.types import ConfigError, InputError, Instances, UInt8Array

CLASSES = "person,bicycle,car,motorcycle,bus,train,truck"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst compose-tracks`."""
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instance annotations (.json)")
    parser.add_argument("--images", type=Path, required=True, help="folder of the photos")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write, new or empty"
    )
    parser.add_argument("--classes", default=CLASSES, help=f"names with commas between them ({CLASSES})")
    parser.add_argument("--videos", type=int, default=8, metavar="N", help="how many (8)")
    parser.add_argument("--frames", type=int, default=90, metavar="N", help="of each video (90)")
    parser.add_argument("--rate", type=float, default=15.0, metavar="HZ", help="frames a second (15)")
    parser.add_argument("--objects", type=int, default=8, metavar="N", help="that move in each video (8)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn by lot (0)")


def run(args: argparse.Namespace) -> int:
    """Compose and write all videos. Raises FassstError for arguments or photos that cannot be used."""
    for name, least in (("videos", 1), ("frames", 1), ("objects", 0), ("seed", 0)):
        if (value := getattr(args, name)) < least:
            raise ConfigError(f"--{name} is {value}; expected {least} or more")
    if not 0 < args.rate <= 1000:
        raise ConfigError(f"--rate is {args.rate}; expected frames a second, above 0 and at most 1000")
    classes = [name.strip() for name in args.classes.split(",") if name.strip()]
    photos = read_photos(read_coco(args.annotations), args.images, classes)
    streets = [i for i, photo in enumerate(photos) if photo.is_street]
    if not streets:
        raise InputError(
            f"{args.annotations}: no photo serves as background; expected a wide one without crowd "
            f"regions, with a vehicle, of the classes {', '.join(classes)}"
        )
    _make_folder(args.out)
    order = np.random.default_rng(args.seed).permutation(streets)
    content: dict[str, Any] = {
        "info": {"description": f"composed by fassst compose-tracks, seed {args.seed}"},
        "videos": [],
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }
    for number in track(range(1, args.videos + 1), "composing", transient=True):
        rng = np.random.default_rng((args.seed, number))
        background = int(order[(number - 1) % len(order)])
        scene = make_scene(photos, background, args.objects, args.frames, args.rate, rng)
        _write_video(scene, number, args, content)
    _write(args.out / "annotations.json", json.dumps(content).encode())
    tracks = {a["track_id"] for a in content["annotations"]}
    print(f"{args.out}: {args.videos} videos, {len(content['images'])} frames, {len(tracks)} objects")
    return 0


def _write_video(scene: Scene, number: int, args: argparse.Namespace, content: dict[str, Any]) -> None:
    """Write the frames of video `number` (from 1) and add what is in them to `content`."""
    height, width = scene.background.shape[:2]
    name = f"{number:03d}"
    video = {"id": number, "name": name, "width": width, "height": height, "fps": args.rate}
    content["videos"].append(video)
    first = 1 + len({a["track_id"] for a in content["annotations"]})
    tracks: dict[int, int] = {}
    for frame in range(args.frames):
        picture, visible = scene.draw(frame, frame / args.rate)
        file_name = f"{name}_{frame:05d}.jpg"
        _write(args.out / "images" / file_name, _jpeg(picture))
        entry = {"id": len(content["images"]) + 1, "file_name": file_name, "width": width, "height": height}
        entry |= {"video_id": number, "frame_index": frame, "stamp": frame / args.rate}
        content["images"].append(entry)
        for item, rle in zip(visible, _run_lengths(visible, (height, width)), strict=True):
            track_id = tracks.setdefault(item.index, first + len(tracks))
            h, w = item.mask.bits.shape
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": entry["id"],
                    "video_id": number,
                    "track_id": track_id,
                    "category_id": _category(scene, item, content),
                    "segmentation": rle,
                    "bbox": [item.mask.x, item.mask.y, w, h],
                    "area": item.mask.area,
                    "iscrowd": int(not item.clear),
                }
            )


def _category(scene: Scene, item: Visible, content: dict[str, Any]) -> int:
    name = scene.actors[item.index].cut_out.name
    return next(int(c["id"]) for c in content["categories"] if c["name"] == name)


def _run_lengths(visible: list[Visible], size: tuple[int, int]) -> list[dict[str, Any]]:
    """The masks in COCO's compressed run lengths."""
    n = len(visible)
    zeros = (np.zeros((n, 4), np.float32), np.zeros(n, np.float32), np.zeros(n, np.int32))
    found = Instances(*zeros, masks=tuple(item.mask for item in visible), size=size).to_rle()
    return [{"size": rle["size"], "counts": compress(rle["counts"])} for rle in found]


def _jpeg(picture: UInt8Array) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def _make_folder(out: Path) -> None:
    """Raises ConfigError unless `out` can be made, or is a folder without files."""
    try:
        # A run that failed at its first photo leaves an empty folder in it.
        if out.exists() and (not out.is_dir() or any(not p.is_dir() for p in out.rglob("*"))):
            raise ConfigError(f"--out {out} is there already; expected a new or empty folder")
        (out / "images").mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f"cannot make {out}: {err.strerror or err}. Choose another --out") from err


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror or err}") from err
