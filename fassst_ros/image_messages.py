"""Image messages -> Frame, without ROS: any object with the fields of sensor_msgs will do.

Works on messages of rclpy and of rosbags alike, so what is replayed is decoded as in the node. Raw
colour images become a view on the message: no copy, whatever the row step is. The rest is one
OpenCV call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from fassst_ros.types import Frame, InputError, UInt8Array

try:
    import simplejpeg  # twice as fast: the libjpeg-turbo in OpenCV's wheels is built without SIMD
except (ImportError, ValueError):  # ValueError: built for another numpy
    simplejpeg = None  # type: ignore[assignment,unused-ignore]

#: OpenCV refuses larger images too.
_MOST_PIXELS = 1 << 30
Color = Literal["rgb", "bgr"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the pixels of one sensor_msgs encoding lie in memory and become three 8-bit channels.

    channels, depth: per pixel, and bytes of each. code: the OpenCV conversion (None: the pixels are
    colour already). paired: pixels share their colour in pairs along a row. planar: half as many
    further rows below the image hold the colour of 2 x 2 pixels.
    """

    channels: int
    color: Color
    code: int | None = None
    depth: int = 1
    paired: bool = False
    planar: bool = False


def _encodings() -> dict[str, Encoding]:
    table = {
        "rgb8": Encoding(3, "rgb"),
        "bgr8": Encoding(3, "bgr"),
        "8UC3": Encoding(3, "bgr"),  # OpenCV's own order, as cv_bridge takes it
        "rgba8": Encoding(4, "rgb", cv2.COLOR_RGBA2RGB),
        "bgra8": Encoding(4, "bgr", cv2.COLOR_BGRA2BGR),
        "8UC4": Encoding(4, "bgr", cv2.COLOR_BGRA2BGR),
        "mono8": Encoding(1, "rgb", cv2.COLOR_GRAY2RGB),
        "8UC1": Encoding(1, "rgb", cv2.COLOR_GRAY2RGB),
        "mono16": Encoding(1, "rgb", cv2.COLOR_GRAY2RGB, depth=2),
        "rgb16": Encoding(3, "rgb", depth=2),
        "bgr16": Encoding(3, "bgr", depth=2),
        "yuv422": Encoding(2, "rgb", cv2.COLOR_YUV2RGB_UYVY, paired=True),
        "uyvy": Encoding(2, "rgb", cv2.COLOR_YUV2RGB_UYVY, paired=True),
        "yuv422_yuy2": Encoding(2, "rgb", cv2.COLOR_YUV2RGB_YUY2, paired=True),
        "yuyv": Encoding(2, "rgb", cv2.COLOR_YUV2RGB_YUY2, paired=True),
        "nv12": Encoding(1, "rgb", cv2.COLOR_YUV2RGB_NV12, paired=True, planar=True),
        "nv21": Encoding(1, "rgb", cv2.COLOR_YUV2RGB_NV21, paired=True, planar=True),
    }
    # ROS names a mosaic by its first two rows, OpenCV by the pixels (1, 1) and (1, 2).
    for pattern, opencv in (("rggb", "BG"), ("bggr", "RG"), ("gbrg", "GR"), ("grbg", "GB")):
        code = getattr(cv2, f"COLOR_Bayer{opencv}2RGB")
        table[f"bayer_{pattern}8"] = Encoding(1, "rgb", code)
        table[f"bayer_{pattern}16"] = Encoding(1, "rgb", code, depth=2)
    return table


ENCODINGS = _encodings()


def image_to_frame(message: Any) -> Frame:
    """The frame of a raw image message; it may share the message's memory.

    16-bit pixels keep their upper byte. Raises InputError for an unknown encoding, sizes of zero,
    a row step shorter than a row, or data shorter than height * step.
    """
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise InputError(
            f"{describe(message)}: encoding {message.encoding!r} is not supported; expected one of "
            f"{', '.join(ENCODINGS)}. Convert it in the driver or with image_proc"
        )
    pixels = _pixels(message, encoding)
    if encoding.code is None:
        return Frame(pixels, encoding.color)
    try:
        converted: Any = cv2.cvtColor(pixels, encoding.code)
    except cv2.error as err:
        raise InputError(f"{describe(message)}: OpenCV cannot convert it: {err}") from err
    return Frame(converted, encoding.color)


def _pixels(message: Any, encoding: Encoding) -> UInt8Array:
    """(rows, width) or (rows, width, channels) uint8 of the message's data, row padding left out."""
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise InputError(f"{describe(message)}: an image without pixels; expected 1 x 1 or more")
    if (encoding.paired and width % 2) or (encoding.planar and height % 2):
        sides = "width and height" if encoding.planar else "width"
        raise InputError(f"{describe(message)}: this encoding needs an even {sides}")
    row = width * encoding.channels * encoding.depth
    if step < row:
        raise InputError(
            f"{describe(message)}: step is {step} bytes; expected at least {row}, a row of this encoding. "
            "The driver fills `step` or `encoding` wrongly"
        )
    rows = height + height // 2 if encoding.planar else height
    size = len(message.data)
    if size < rows * step:
        raise InputError(
            f"{describe(message)}: {size} bytes of data; expected {rows} rows * step {step} = "
            f"{rows * step}. The message was cut off, or its size fields are wrong"
        )
    shape = (rows, width) if encoding.channels == 1 else (rows, width, encoding.channels)
    strides = (step, encoding.channels * encoding.depth, encoding.depth)[: len(shape)]
    upper = 1 if encoding.depth == 2 and not message.is_bigendian else 0
    pixels = np.ndarray(shape, np.uint8, message.data, upper, strides)
    return pixels if encoding.depth == 1 else np.ascontiguousarray(pixels)


def describe(message: Any) -> str:
    """Size and encoding of a raw image message, for errors."""
    return f"image {message.width}x{message.height} {message.encoding!r}"


def compressed_to_frame(message: Any) -> Frame:
    """The frame of a JPEG, PNG or other still image that OpenCV reads.

    The pixels stay as the camera delivered them: an EXIF orientation is ignored, because camera
    calibration knows nothing of it. Raises InputError for data that is empty, cut off or no image.
    """
    what = f"compressed image {message.format!r} of {len(message.data)} bytes"
    if "compressedDepth" in message.format:
        raise InputError(f"{what}: a depth image; subscribe to the colour image's compressed topic")
    data = np.frombuffer(message.data, np.uint8)
    if data.size == 0:
        raise InputError(f"{what}: no data; expected a JPEG or PNG file")
    # OpenCV fills the missing part of a truncated JPEG with grey and reports success.
    head, tail = data[:8].tobytes(), data[-64:].tobytes()
    for name, start, end in (("JPEG", b"\xff\xd8", b"\xff\xd9"), ("PNG", b"\x89PNG", b"IEND")):
        if head.startswith(start) and end not in tail:
            raise InputError(f"{what}: the {name} is cut off, its end mark is missing. Check the transport")
    # image_transport encodes images of "compressed rgb8" without swapping their channels.
    swapped = "compressed rgb" in message.format
    if head.startswith(b"\xff\xd8") and (rgb := _fast_jpeg(data)) is not None:
        return Frame(rgb, "bgr" if swapped else "rgb")
    try:
        image: Any = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as err:
        raise InputError(f"{what}: OpenCV cannot decode it: {err}") from err
    if image is None:
        raise InputError(f"{what}: OpenCV cannot decode it; expected a JPEG or PNG file")
    return Frame(image, "rgb" if swapped else "bgr")


def _fast_jpeg(data: UInt8Array) -> UInt8Array | None:
    """(H, W, 3) RGB, the same pixels as OpenCV's; None where simplejpeg is missing or leaves it to OpenCV."""
    if simplejpeg is None:
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        if height * width > _MOST_PIXELS:
            return None
        pixels: UInt8Array = simplejpeg.decode_jpeg(data, "RGB", strict=False)
    except Exception:  # CMYK, 12 bits, broken (ValueError, KeyError): OpenCV reads it, or says what is wrong
        return None
    return pixels
