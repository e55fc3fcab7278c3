#!/usr/bin/env python3
"""Make the sample bag of the demo, test/data/street_sample, from COCO photos.

Users need not run this: the bag is in the repository. It is here so that anybody can see, check and
change how its frames came about. A slow pan or zoom over each photo gives 2048x1024 frames at 10 Hz,
the format of a CityScapes camera. The masks of COCO, moved in the same way, become ground_truth.json in
the bag's folder, which `fassst replay` finds there. Only val images with a licence that allows it (CC BY)
are used; the script refuses others, and writes ATTRIBUTION.md beside the bag.

    python scripts/make_sample_bag.py --coco FOLDER   # with val.json and images/
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from fassst_ros.evaluation.coco import library
from fassst_ros.evaluation.matching import run_lengths
from fassst_ros.labels import STREET

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 2048, 1024
FRAMES, RATE = 6, 10.0  # frames of a shot; Hz
QUALITY = 66  # JPEG; the enlarged photos hold no detail that more would keep
TOPIC, FRAME_ID = "/camera/image_raw/compressed", "camera_front_optical"
START_NS = 1_700_000_000_000_000_000
LICENCES = {4: "CC BY 2.0", 5: "CC BY-SA 2.0", 7: "no known copyright restrictions"}


@dataclass(frozen=True)
class Shot:
    """A camera move over one photo: the window's left, top and width in photo pixels, first and last."""

    image_id: int
    first: tuple[float, float, float]
    last: tuple[float, float, float]


SHOTS = (
    Shot(184324, (0, 104, 640), (30, 125, 590)),  # street in Paris: whole crossing, driving on
    Shot(184324, (0, 185, 400), (60, 185, 400)),  # left half, van and people
    Shot(184324, (230, 190, 400), (170, 190, 400)),  # right half, bicycles and the blue car
    Shot(261888, (0, 106, 640), (60, 130, 560)),  # cyclist on a road
    Shot(261888, (100, 142, 500), (135, 145, 500)),
    Shot(5001, (0, 20, 640), (40, 40, 590)),  # people in front of a shop
    Shot(520707, (0, 130, 640), (20, 140, 600)),  # people in a hall
    Shot(520707, (40, 150, 480), (120, 150, 480)),
)


def windows(shot: Shot) -> Iterator[tuple[float, float, float]]:
    """Left, top [photo pixels] and scale of the shot's frames."""
    for step in np.linspace(0, 1, FRAMES):
        left, top, width = np.array(shot.first) * (1 - step) + np.array(shot.last) * step
        yield float(left), float(top), WIDTH / float(width)


def frames(shot: Shot, photo: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The shot's frames, (HEIGHT, WIDTH, 3) uint8 BGR, cut out of the photo with subpixel steps."""
    for left, top, scale in windows(shot):
        width = WIDTH / scale
        if left < 0 or top < 0 or left + width > photo.shape[1] or top + HEIGHT / scale > photo.shape[0]:
            raise SystemExit(f"{shot}: the window leaves the photo of {photo.shape[1]}x{photo.shape[0]}")
        yield warp(photo, left, top, scale, cv2.INTER_CUBIC)


def warp(photo: NDArray[Any], left: float, top: float, scale: float, interpolation: int) -> NDArray[Any]:
    """(HEIGHT, WIDTH, ...) of the photo's window."""
    shift = (scale - 1) / 2  # keeps pixel centres in place
    matrix = np.array([[scale, 0, shift - left * scale], [0, scale, shift - top * scale]])
    return cv2.warpAffine(
        photo, matrix, (WIDTH, HEIGHT), flags=interpolation, borderMode=cv2.BORDER_REPLICATE
    )


def ground_truth(coco: dict[str, Any]) -> dict[str, Any]:
    """The objects of every frame in COCO's format, images with the stamps of their frames.

    Polygons are moved as the pictures are, and cut at the frame's edges; crowd regions are masks.
    """
    names = {c["id"]: c["name"] for c in coco["categories"]}
    classes = {c.name: c.id for c in STREET}
    images, annotations = [], []
    for shot in SHOTS:
        objects = [
            a
            for a in coco["annotations"]
            if a["image_id"] == shot.image_id and names[a["category_id"]] in classes
        ]
        for window in windows(shot):
            image_id = len(images) + 1
            stamp = START_NS + int(len(images) * 1e9 / RATE)
            images.append({"id": image_id, "stamp": stamp, "height": HEIGHT, "width": WIDTH})
            for source in objects:
                found = annotation(source, *window)
                if found is not None:
                    common = {"id": len(annotations) + 1, "image_id": image_id}
                    annotations.append(
                        {**common, "category_id": classes[names[source["category_id"]]], **found}
                    )
    categories = [{"id": number, "name": name} for name, number in classes.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def annotation(source: dict[str, Any], left: float, top: float, scale: float) -> dict[str, Any] | None:
    """An object of the photo in a frame; None if it is out of the window, or a pixel or less is left."""
    shape: Any
    if source["iscrowd"]:
        _, _, mask_api = library()
        size = tuple(source["segmentation"]["size"])
        pixels = np.asarray(mask_api.decode(run_lengths(source["segmentation"], size)))
        moved = warp(pixels, left, top, scale, cv2.INTER_NEAREST)
        runs = mask_api.encode(np.asfortranarray(moved))
        shape = {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}
    else:
        polygons = [
            clipped((np.reshape(flat, (-1, 2)) - (left, top)) * scale) for flat in source["segmentation"]
        ]
        shape = [p.round(1).ravel().tolist() for p in polygons if len(p) >= 3]
    if not shape:
        return None
    _, _, mask_api = library()
    runs = run_lengths(shape, (HEIGHT, WIDTH))
    area = int(mask_api.area(runs))
    if area <= 1:
        return None
    box = [float(v) for v in mask_api.toBbox(runs)]
    return {"segmentation": shape, "bbox": box, "area": area, "iscrowd": source["iscrowd"]}


def clipped(polygon: NDArray[Any]) -> NDArray[Any]:
    """(k, 2) a polygon cut to the frame (Sutherland and Hodgman, 1974)."""
    for axis, limit in ((0, WIDTH), (1, HEIGHT)):
        for sign, bound in ((1.0, 0.0), (-1.0, -float(limit))):
            kept = []
            for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                a, b = sign * start[axis] - bound, sign * end[axis] - bound  # at least 0: inside
                if a >= 0:
                    kept.append(start)
                if (a >= 0) != (b >= 0):
                    kept.append(start + (end - start) * (a / (a - b)))
            polygon = np.array(kept).reshape(-1, 2)
    return polygon


def usable(coco: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Image id -> image of each shot. Stops if one is not there or may not be redistributed."""
    images = {image["id"]: image for image in coco["images"]}
    for image_id in sorted({shot.image_id for shot in SHOTS}):
        if image_id not in images:
            raise SystemExit(f"image {image_id} is not in val.json")
        if images[image_id]["license"] not in LICENCES:
            raise SystemExit(
                f"image {image_id} has licence id {images[image_id]['license']}: not to be shipped"
            )
    return {shot.image_id: images[shot.image_id] for shot in SHOTS}


def write_bag(folder: Path, images: dict[int, dict[str, Any]], photos: Path) -> int:
    """Write the bag; returns the number of frames. Version 8 is what Humble reads."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types
    kind = "sensor_msgs/msg/CompressedImage"
    count = 0
    with Writer(folder, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection(TOPIC, kind, typestore=store)
        for shot in SHOTS:
            path = photos / images[shot.image_id]["file_name"]
            photo = cv2.imread(str(path))
            if photo is None:
                raise SystemExit(f"cannot read {path}")
            for frame in frames(shot, photo):
                stamp = START_NS + int(count * 1e9 / RATE)
                jpeg = cv2.imencode(
                    ".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
                )[1]
                time = types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
                header = types["std_msgs/msg/Header"](time, FRAME_ID)
                message = types[kind](header, "bgr8; jpeg compressed bgr8", jpeg.ravel())
                writer.write(connection, stamp, store.serialize_cdr(message, kind))
                count += 1
    return count


def attribution(images: dict[int, dict[str, Any]], licences: dict[int, str]) -> str:
    """ATTRIBUTION.md: photo, source and licence of every frame, and what was changed."""
    rows = []
    for image_id, image in images.items():
        frames_of = [i for i, shot in enumerate(SHOTS) if shot.image_id == image_id]
        places = ", ".join(f"{i * FRAMES}-{i * FRAMES + FRAMES - 1}" for i in frames_of)
        photo = image["flickr_url"].rsplit("/", 1)[1].split("_")[0]
        rows.append(
            f"| {places} | {photo} | <{image['flickr_url']}> | {image_id} | "
            f"[{LICENCES[image['license']]}]({licences[image['license']]}) |"
        )
    table = "\n".join(rows)
    return f"""# Where the pictures of this bag come from

The frames show photos that their authors put on Flickr under licences that allow redistribution
with attribution. They were taken from the validation part of COCO 2017 (<https://cocodataset.org>);
no network of this repository was trained on them.

| frames (from 0) | Flickr photo id | source | COCO image id | licence |
|---|---|---|---|---|
{table}

Author: the owner of the Flickr photo. COCO records the photo's address, not the owner's name.
Flickr redirects `https://www.flickr.com/photo.gne?id=PHOTO_ID` to the photo's page, where the
author's name is shown.

Changes made: each photo was cut to 2:1 windows that move slowly, enlarged to {WIDTH}x{HEIGHT}
(bicubic), and compressed again as JPEG of quality {QUALITY}; `scripts/make_sample_bag.py` does exactly
this. The masks in `ground_truth.json` are those of COCO 2017 (annotations under
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)), moved and cut by the same script. The
frames, and pictures drawn over them, are offered under the licence of their photo, not under the
licence of this repository's code.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coco", type=Path, required=True, help="folder with val.json and images/")
    parser.add_argument("--out", type=Path, default=ROOT / "test/data/street_sample")
    options = parser.parse_args()
    coco = json.loads((options.coco / "val.json").read_text(encoding="utf-8"))
    images = usable(coco)
    if options.out.exists():
        shutil.rmtree(options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    count = write_bag(options.out, images, options.coco / "images")
    text = attribution(images, {licence["id"]: licence["url"] for licence in coco["licenses"]})
    truth = json.dumps(ground_truth(coco), separators=(",", ":"))
    (options.out / "ground_truth.json").write_text(truth.replace("},{", "},\n{") + "\n", encoding="utf-8")
    (options.out / "ATTRIBUTION.md").write_text(text, encoding="utf-8")
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {count} frames, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
