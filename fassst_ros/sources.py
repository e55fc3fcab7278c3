"""Where frames come from and where pictures go: image files, folders, videos and cameras."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from fassst_ros.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image
from fassst_ros.types import ConfigError, Frame, InputError, UInt8Array


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
        suffix = ".jpg" if kind == "image" else ".mp4"
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


def frames(source: Source) -> Iterator[Frame]:
    """The frames of a source. Raises InputError if it cannot be opened or ends before its first frame."""
    if source.kind == "image":
        yield read_image(Path(source.path))
        return
    video: Any = cv2.VideoCapture(int(source.path) if source.kind == "camera" else source.path)
    try:
        what = f"camera {source.path}" if source.kind == "camera" else source.path
        if not video.isOpened():
            raise InputError(f"{what}: OpenCV cannot open it as a {source.kind}")
        expected, read = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while True:
            good, image = video.read()
            if not good:
                break
            read += 1
            yield Frame(image, "bgr")
        # The count in a file's header is an estimate: half of it missing is damage.
        if read == 0 or (source.kind == "video" and read < expected // 2):
            raise InputError(
                f"{what}: ended after {read} of {max(expected, 0)} frames; the {source.kind} is damaged"
            )
    finally:
        video.release()


def _rate(source: Source) -> float:
    """Frames a second of the video to write; those of the source where it knows them."""
    if source.kind != "video":
        return 30.0
    video = cv2.VideoCapture(source.path)
    rate = float(video.get(cv2.CAP_PROP_FPS))
    video.release()
    return rate if 1 <= rate <= 240 else 30.0


class PictureWriter:
    """Writes the pictures of one source to its target: a JPEG for an image, else an MP4."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._video: Any = None

    def write(self, picture: UInt8Array) -> None:
        """Write one picture (H, W, 3), BGR. Raises ConfigError if the target cannot be written."""
        target = self._source.target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if self._source.kind == "image":
                _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
                target.write_bytes(data.tobytes())
                return
        except OSError as err:
            raise ConfigError(f"cannot write {target}: {err.strerror or err}") from err
        if self._video is None:
            size = picture.shape[1], picture.shape[0]
            rate = _rate(self._source)
            self._video = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
            if not self._video.isOpened():
                raise ConfigError(
                    f"cannot write {target}: OpenCV has no MP4 encoder here, or no right to write"
                )
        self._video.write(picture)

    def close(self) -> None:
        """Finish the video, if there is one."""
        if self._video is not None:
            self._video.release()
