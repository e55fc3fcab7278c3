"""Image files -> Frame. OpenCV only; says plainly what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fassst_ros.types import Frame, InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jp2")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")


def read_image(path: Path) -> Frame:
    """The image of a file, upright as its EXIF orientation says; 16-bit and grey become 8-bit BGR.

    Raises InputError if the file is missing, unreadable, no image, or cut off.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror or err}") from err
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Frame:
    """The image in the bytes of a file; `name` tells it in errors. Raises InputError."""
    if not data:
        raise InputError(f"{name} is empty; expected an image")
    if is_cut_off(data):  # OpenCV would paint the missing part grey and report success
        raise InputError(f"{name} is cut off: its end mark is missing. Copy or record it again")
    try:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as err:
        raise InputError(f"{name}: OpenCV cannot decode it: {err}") from err
    if image is None:
        raise InputError(f"{name} is not an image that OpenCV reads ({len(data)} bytes)")
    return Frame(image, "bgr")


def is_cut_off(data: bytes) -> bool:
    """True for a JPEG or PNG whose end mark is missing; bytes after the mark do no harm."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if not data.startswith(b"\xff\xd8"):
        return False
    at = 2  # walk over the segments to the scan: an EXIF preview before it has end marks of its own
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # fill byte
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) < 0
