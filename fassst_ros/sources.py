"""Where frames come from and where pictures go: image files, folders, videos and cameras."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from fassst_ros.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image
from fassst_ros.types import ConfigError, Frame, InputError, UInt8Array
from fassst_ros.video import Encoder, open_video

#: Frames a second of the video of a camera.
CAMERA_RATE = 30.0
#: Widest video that is written, in pixels: enough to see what was found, and encoded fast.
WIDTH = 1280


@dataclass(frozen=True)
class Source:
    """One image, video or camera. path: of the file, or the camera's index; target: its picture."""

    kind: str  # "image" | "video" | "camera"
    path: str
    target: Path


def find_sources(names: list[str], out: Path) -> list[Source]:
    """The sources that the arguments mean, each with a target of its own below `out`.

    Where `out` lies in a folder of pictures, it is left out: it holds those of an earlier run.
    No target is a source. Raises InputError for a folder without pictures.
    """
    found: list[tuple[str, Path, Path]] = []  # kind, path, name below out
    own = out.resolve()
    for name in names:
        path = Path(name)
        if path.is_dir():
            pictures = _pictures_in(path, own)
            if not pictures:
                raise InputError(f"{path}: no image or video in this folder or below it")
            found += [(_kind(p), p, p.relative_to(path)) for p in pictures]
        elif name.isdecimal() and not path.exists():
            found.append(("camera", path, Path(f"camera_{name}")))
        else:
            found.append((_kind(path), path, Path(path.name)))
    sources, taken = [], {p.resolve() for _, p, _ in found}
    for kind, path, below in found:
        suffix = ".jpg" if kind == "image" else ".webm"
        target = out / below.with_suffix(suffix)
        number = 2
        while target.resolve() in taken:  # also keeps the sources themselves from being overwritten
            target = out / below.with_name(f"{below.stem}_{number}{suffix}")
            number += 1
        taken.add(target.resolve())
        sources.append(Source(kind, str(path), target))
    return sources


def _pictures_in(folder: Path, out: Path) -> list[Path]:
    """Images and videos of a folder and its sub-folders, sorted; without those of a sub-folder `out`."""
    inner = out if folder.resolve() in out.parents else None
    return [
        p
        for p in sorted(folder.rglob("*"))
        if p.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES
        and p.is_file()
        and (inner is None or not p.resolve().is_relative_to(inner))
    ]


def _kind(path: Path) -> str:
    return "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image"


def image_ids(sources: list[Source]) -> list[int] | None:
    """Ids from the names, as in COCO (000000000139.jpg is 139), if all are numbers and differ."""
    stems = [Path(s.path).stem for s in sources]
    if not all(s.kind == "image" and stem.isdecimal() for s, stem in zip(sources, stems, strict=True)):
        return None
    ids = [int(stem) for stem in stems]
    return ids if len(set(ids)) == len(ids) else None


def frame_count(sources: list[Source], limit: int) -> int | None:
    """How many frames there will be, or None if nobody knows."""
    total = 0
    for source in sources:
        if source.kind == "camera":
            return limit or None
        total += 1
        if source.kind == "video":
            video = cv2.VideoCapture(source.path)
            total += max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)) - 1)
            video.release()
    return min(total, limit) if limit else total


def frames(source: Source) -> Iterator[tuple[Frame, float]]:
    """The frames of a source and their times in seconds: in the video, of a steady clock; 0 for an image.

    Raises InputError if it cannot be opened or ends before its first frame.
    """
    if source.kind == "image":
        yield read_image(Path(source.path)), 0.0
        return
    video: Any = cv2.VideoCapture(int(source.path) if source.kind == "camera" else source.path)
    try:
        what = f"camera {source.path}" if source.kind == "camera" else source.path
        if source.kind == "video" and not Path(source.path).exists():
            raise InputError(f"{what}: there is no such file")
        if not video.isOpened():
            raise InputError(f"{what}: OpenCV cannot open it as a {source.kind}")
        expected, rate, read = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), _rate(video), 0
        while True:
            good, image = video.read()
            if not good:
                break
            # Not the time in the file: OpenCV knows it for some formats only.
            yield Frame(image, "bgr"), time.monotonic() if source.kind == "camera" else read / rate
            read += 1
        # The count in a file's header is an estimate: half of it missing is damage.
        if read == 0 or (source.kind == "video" and read < expected // 2):
            raise InputError(
                f"{what}: ended after {read} of {max(expected, 0)} frames; the {source.kind} is damaged"
            )
    finally:
        video.release()


def _rate(video: Any) -> float:
    """Frames a second of an open video or camera; 30 where it does not know."""
    rate = float(video.get(cv2.CAP_PROP_FPS))
    return rate if 1 <= rate <= 240 else 30.0


class PictureWriter:
    """Writes the pictures of one source to its target: a JPEG for an image, else a video.

    A video has the rate of its source. That of a camera plays as fast as it was recorded, whatever time
    segmenting took.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._video: VideoWriter | None = None
        self._start = 0.0
        self._last: Any = None  # picture of a camera

    def write(self, picture: UInt8Array, stamp: float = 0.0) -> None:
        """Write one picture (H, W, 3), BGR; stamp: of its frame [s]. Raises ConfigError if it cannot."""
        target = self._source.target
        if self._source.kind == "image":
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
                target.write_bytes(data.tobytes())
            except OSError as err:
                raise ConfigError(f"cannot write {target}: {err.strerror or err}") from err
            return
        if self._video is None:
            self._video, self._start = VideoWriter(target, self._source_rate()), stamp
        if self._source.kind == "camera":
            place = round((stamp - self._start) * self._video.rate)
            while self._video.count < place:
                self._video.write(self._last)
            self._last = picture
            if self._video.count > place:
                return
        self._video.write(picture)

    def _source_rate(self) -> float:
        if self._source.kind == "camera":  # it is open already, and not all can be opened twice
            return CAMERA_RATE
        video = cv2.VideoCapture(self._source.path)
        rate = _rate(video)
        video.release()
        return rate

    def close(self) -> None:
        """Finish the video, if there is one. Raises ConfigError if it is not whole."""
        if self._video is not None:
            self._video.close()


class VideoWriter:
    """A video that browsers and players show (see video.py). The first picture says its size.

    path: should end in .webm. rate: frames a second. count: pictures written so far. Pictures wider than
    WIDTH are made smaller.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.count = path, rate, 0
        self._size = (0, 0)
        self._video: Encoder | None = None

    def write(self, picture: UInt8Array) -> None:
        """Write one picture (H, W, 3), BGR. Raises ConfigError if the file cannot be written."""
        if self._video is None:
            height, width = picture.shape[:2]
            scale = min(1.0, WIDTH / width)
            # The colours of a video are those of 2 x 2 pixels.
            self._size = max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)
            self._video = open_video(self.path, self._size, self.rate)
        fitting: Any = picture
        if (picture.shape[1], picture.shape[0]) != self._size:
            fitting = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        with self._told():
            self._video.write(fitting)
        self.count += 1

    def close(self) -> None:
        """Finish the file. Raises ConfigError if not all pictures are in it."""
        if self._video is None:
            return
        with self._told():
            video, self._video = self._video, None
            video.close()
        written: Any = cv2.VideoCapture(str(self.path))  # OpenCV reports no error of writing
        count = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if count < self.count - 1:  # it counts by the duration
            raise ConfigError(f"{self.path} is not whole: not all {self.count} pictures. Is the disk full?")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            self._video = None
            raise ConfigError(
                f"{self.path} is not whole: {err.strerror or err}, after {self.count} pictures"
            ) from err
