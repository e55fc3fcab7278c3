"""Pictures inside of a page, so that it is one file (RFC 2397, data URLs)."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2

from fassst_ros.evaluation import markup


def source(data: bytes, kind: str) -> str:
    """The `src` of a picture; kind: jpeg or svg+xml."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def figure(svg: bytes, text: str) -> str:
    """A drawing as HTML; text: what it shows."""
    return markup.image(source(svg, "svg+xml"), text)


def first_picture(video: Path) -> str:
    """The first picture of a video as `src`, "" if there is none."""
    capture = cv2.VideoCapture(str(video))
    good, picture = capture.read()
    capture.release()
    if not good:
        return ""
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return source(data.tobytes(), "jpeg")
