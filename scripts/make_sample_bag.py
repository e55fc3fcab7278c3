#!/usr/bin/env python3
"""Make the sample bag of the demo, test/data/street_sample, from COCO photos.

Users need not run this: the bag is in the repository. It is here so that anybody can see, check and
change how its frames came about. A slow pan or zoom over each photo gives 2048x1024 frames at 10 Hz,
the format of a CityScapes camera. Only val images with a licence that allows it (CC BY) are used;
the script refuses others, and writes ATTRIBUTION.md beside the bag.

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


def frames(shot: Shot, photo: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The shot's frames, (HEIGHT, WIDTH, 3) uint8 BGR, cut out of the photo with subpixel steps."""
    for step in np.linspace(0, 1, FRAMES):
        left, top, width = np.array(shot.first) * (1 - step) + np.array(shot.last) * step
        scale = WIDTH / width
        if left < 0 or top < 0 or left + width > photo.shape[1] or top + HEIGHT / scale > photo.shape[0]:
            raise SystemExit(f"{shot}: the window leaves the photo of {photo.shape[1]}x{photo.shape[0]}")
        shift = (scale - 1) / 2  # keeps pixel centres in place
        matrix = np.array([[scale, 0, shift - left * scale], [0, scale, shift - top * scale]])
        yield cv2.warpAffine(
            photo, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )


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
this. The frames, and pictures drawn over them, are offered under the licence of their photo, not
under the licence of this repository's code.
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
    (options.out / "ATTRIBUTION.md").write_text(text, encoding="utf-8")
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {count} frames, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
