"""Files in COCO's instance format: annotations, their masks, and the images they refer to.

Format: https://cocodataset.org/#format-data (polygons, compressed and uncompressed run lengths).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fassst_ros.types import Float32Array, InputError, RoiMask, UInt8Array

#: Polygons (k, 2) float32 x y in pixels, whose union is the object; or its pixels.
Shape = tuple[Float32Array, ...] | RoiMask


def read_coco(path: Path) -> dict[str, Any]:
    """The top level of a COCO annotation file. Raises InputError if it is not one."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(f"cannot read annotations {path}: {err}") from err
    for key in ("images", "annotations", "categories"):
        entries = raw.get(key) if isinstance(raw, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise InputError(
                f"{path}: no list of objects under {key!r}. Expected the COCO instance format with "
                "'images', 'annotations' and 'categories'"
            )
    return raw  # type: ignore[no-any-return]


def decode_rle(segmentation: Mapping[str, Any]) -> RoiMask:
    """The pixels of a COCO run-length mask, cut to their bounding rectangle.

    Raises InputError if the runs do not fill the image or no pixel is set.
    """
    try:
        height, width = (int(v) for v in segmentation["size"])
        counts = segmentation["counts"]
        runs = _decompress(counts) if isinstance(counts, (str, bytes)) else counts
        columns = RoiMask.from_run_lengths(0, 0, height, width, runs).bits
    except (KeyError, TypeError, ValueError, OverflowError) as err:
        raise InputError(f"run-length mask is malformed ({type(err).__name__}: {err})") from err
    x, y = np.flatnonzero(columns.any(1)), np.flatnonzero(columns.any(0))
    if x.size == 0:
        raise InputError("run-length mask is empty")
    bits = np.ascontiguousarray(columns[x[0] : x[-1] + 1, y[0] : y[-1] + 1].T)
    return RoiMask(int(x[0]), int(y[0]), bits)


def _decompress(text: str | bytes) -> list[int]:
    """Run lengths of COCO's string form: 5 bits a character, from the third run on differences."""
    counts: list[int] = []
    value = shift = 0
    for byte in text.encode("ascii") if isinstance(text, str) else text:
        chunk = byte - 48
        value |= (chunk & 31) << shift
        shift += 5
        if chunk & 32:
            continue
        if chunk & 16:
            value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts


def load_image(path: Path, size: tuple[int, int]) -> UInt8Array:
    """An RGB image (H, W, 3) as stored, whatever its EXIF orientation: annotations refer to that.

    Raises InputError if it cannot be decoded or is not of `size` (H, W).
    """
    problem = file_problem(path)
    if problem:
        raise InputError(f"image {path}: {problem}")
    data = np.fromfile(path, np.uint8)
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise InputError(f"image {path}: not decodable; expected a JPEG or PNG file")
    if bgr.shape[:2] != size:
        raise InputError(f"image {path} is {bgr.shape[:2]} (height, width); its annotations say {size}")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)  # type: ignore[return-value]


def file_problem(path: Path) -> str:
    """What is wrong with an image file as far as its ends tell, or ''.

    OpenCV decodes a truncated JPEG to a half grey picture without an error, hence the marker.
    """
    try:
        with path.open("rb") as file:
            head = file.read(3)
            length = file.seek(0, 2)
            file.seek(max(0, length - 4096))
            tail = file.read()
    except OSError as err:
        return f"cannot be read ({err.strerror})"
    if not head:
        return "is empty"
    if head == b"\xff\xd8\xff" and b"\xff\xd9" not in tail:
        return "is a truncated JPEG (no end marker)"
    if head == b"\x89PN" and b"IEND" not in tail:
        return "is a truncated PNG (no end chunk)"
    return ""


def parse_shape(segmentation: Any, size: tuple[int, int]) -> Shape:
    """Polygons or pixels of an annotation on an image of `size` (H, W). Raises InputError if it has none."""
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", [])) != list(size):
            raise InputError(f"mask of size {segmentation.get('size')!r} on an image of {list(size)}")
        return decode_rle(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        raise InputError("no segmentation")
    polygons = []
    for flat in segmentation:
        try:
            points = np.asarray(flat, np.float32)
        except (TypeError, ValueError) as err:
            raise InputError(f"polygon is malformed ({err})") from err
        if points.ndim != 1 or points.size % 2 or not np.isfinite(points).all():
            raise InputError("polygon is not a flat list of finite x, y pairs")
        if points.size >= 6:
            polygons.append(points.reshape(-1, 2))
    if not polygons:
        raise InputError("no polygon of 3 or more points")
    return tuple(polygons)
