"""sensor_msgs/Image and CompressedImage -> Frame, and arrays -> sensor_msgs/Image.

The first part is fassst_ros/image_messages.py; cv_bridge, where it is installed, is asked for encodings
that are not in its table.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fassst_ros import image_messages
from fassst_ros.image_messages import ENCODINGS, compressed_to_frame, describe
from fassst_ros.types import Frame, InputError, UInt8Array

__all__ = ["ENCODINGS", "compressed_to_frame", "image_to_frame", "to_frame", "to_image", "to_jpeg"]


def image_to_frame(message: Image) -> Frame:
    """As in image_messages, but encodings that are unknown there are left to cv_bridge. Raises InputError."""
    return image_messages.image_to_frame(message) if message.encoding in ENCODINGS else _by_cv_bridge(message)


def _by_cv_bridge(message: Image) -> Frame:
    try:
        from cv_bridge import CvBridge
    except ImportError:
        raise InputError(
            f"{describe(message)}: encoding {message.encoding!r} is not supported; expected one of "
            f"{', '.join(ENCODINGS)}. Convert it in the driver or with image_proc, or install cv_bridge"
        ) from None
    try:
        image = CvBridge().imgmsg_to_cv2(message, desired_encoding="bgr8")
    except Exception as err:  # cv_bridge lets cv2.error, KeyError and its own errors through
        raise InputError(f"{describe(message)}: cv_bridge cannot convert it to bgr8: {err}") from err
    return Frame(np.ascontiguousarray(image), "bgr")


def to_frame(message: Image | CompressedImage) -> Frame:
    """The frame of either message. Raises InputError, see `image_to_frame`, `compressed_to_frame`."""
    convert: Callable[[Any], Frame] = (
        compressed_to_frame if isinstance(message, CompressedImage) else image_to_frame
    )
    return convert(message)


def to_image(pixels: NDArray[Any], encoding: str, header: Header) -> Image:
    """An image message of a (H, W) or (H, W, C) array whose rows are contiguous.

    header is taken over as it is, so that outputs carry stamp and frame_id of their source.
    """
    pixels = np.ascontiguousarray(pixels)
    message = Image(header=header, encoding=encoding, height=pixels.shape[0], width=pixels.shape[1])
    order = pixels.dtype.byteorder
    message.is_bigendian = int(order == ">" or (order == "=" and sys.byteorder == "big"))
    message.step = pixels.strides[0]
    # Assigning bytes or an ndarray makes rclpy check every element: 340 ms for 2 megapixels.
    data = array.array("B")
    data.frombytes(pixels.data.cast("B"))
    message.data = data
    return message


def to_jpeg(pixels: UInt8Array, color: str, quality: int, header: Header) -> CompressedImage:
    """A JPEG message of a (H, W, 3) uint8 array; color: its order, "rgb" or "bgr"; quality: 1..100."""
    bgr: Any = pixels if color == "bgr" else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    message = CompressedImage(header=header, format="bgr8; jpeg compressed bgr8")  # as image_transport
    data = array.array("B")
    data.frombytes(encoded.data.cast("B"))
    message.data = data
    return message
