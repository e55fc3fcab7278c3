"""Video files for browsers and players: VP8 in WebM.

PyAV writes them where it is installed (extra `video`). OpenCV, which is always there, takes six times as
long for files three times as large, because its VP8 cannot be told how fast and how good.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import cv2

from fassst_ros.types import ConfigError, UInt8Array

#: Size of a video where there is much to see: bits for each pixel.
_BITS = 0.5


class Encoder(Protocol):
    """An open video file."""

    def write(self, picture: UInt8Array) -> None:
        """Add one picture (H, W, 3), BGR, of the size that the file was opened with. Raises OSError."""

    def close(self) -> None:
        """Finish the file. Raises OSError."""


def open_video(path: Path, size: tuple[int, int], rate: float) -> Encoder:
    """A new video; size: (width, height), both even. Raises ConfigError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("wb").close()
        return _AvEncoder(path, size, rate) if find_spec("av") else _OpenCvEncoder(path, size, rate)
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror or err}") from err


class _AvEncoder:
    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        import av

        self._container = av.open(str(path), "w", format="webm")
        options = {"deadline": "realtime", "cpu-used": "5", "crf": "20"}
        self._stream = self._container.add_stream("libvpx", Fraction(rate).limit_denominator(1001), options)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.bit_rate = round(_BITS * size[0] * size[1] * rate)

    def write(self, picture: UInt8Array) -> None:
        from av import VideoFrame

        self._container.mux(self._stream.encode(VideoFrame.from_ndarray(picture, format="bgr24")))

    def close(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class _OpenCvEncoder:
    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        with _without_stderr():  # OpenCV complains there of a codec tag, which WebM has not
            self._video: Any = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), rate, size)
        if not self._video.isOpened():
            raise ConfigError(f"cannot write {path}: this OpenCV has no VP8. pip install av")

    def write(self, picture: UInt8Array) -> None:
        self._video.write(picture)

    def close(self) -> None:
        self._video.release()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what libraries write to the process's standard error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
