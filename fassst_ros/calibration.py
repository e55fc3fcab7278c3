"""Images to calibrate an INT8 model on: folders, images, videos and bags, evenly spread over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fassst_ros.preprocess import input_buffer, prepare
from fassst_ros.sources import Source, find_sources, frames
from fassst_ros.types import Frame, InputError, UInt8Array

_BAGS = (".bag", ".mcap", ".db3")


@dataclass(frozen=True)
class _Series:
    """Frames in a row: how many there should be, and functions that make each of them."""

    count: int
    read: Callable[[], Iterator[Callable[[], Frame]]]


def calibration_images(names: Sequence[str], height: int, width: int, count: int) -> list[UInt8Array]:
    """At most `count` network inputs (1, height, width, 3) uint8 RGB, evenly spread over what is given.

    names: images, videos, folders of them, or bags, of which all image topics are read.
    Raises InputError for what cannot be read, and where there is no image at all.
    """
    series = [part for name in names for part in _series(name)]
    total = sum(part.count for part in series)
    wanted = set(np.linspace(0, max(0, total - 1), min(count, total)).round().astype(int).tolist())
    images, start = [], 0
    for part in series:
        places = {index - start for index in wanted if start <= index < start + part.count}
        start += part.count
        if not places:
            continue
        for index, make in enumerate(part.read()):
            if index in places:
                image = input_buffer(height, width)
                prepare(make(), height, width, image)
                images.append(image)
            if index >= max(places):
                break
    if not images:
        raise InputError(f"{', '.join(names)}: no image to calibrate on")
    return images


def _series(name: str) -> list[_Series]:
    path = Path(name)
    bags = path.suffix in _BAGS or (
        path.is_dir()
        and ((path / "metadata.yaml").is_file() or any(f.suffix in _BAGS for f in path.iterdir()))
    )
    if bags:
        return _bag_series(path)
    if name.isdecimal() and not path.exists():
        raise InputError(f"{name}: a camera cannot be calibrated on; record a bag or a video first")
    return [_source_series(source) for source in find_sources([name], Path("."))]


def _source_series(source: Source) -> _Series:
    count = 1
    if source.kind == "video":
        video = cv2.VideoCapture(source.path)
        count = max(1, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
        video.release()

    def read() -> Iterator[Callable[[], Frame]]:
        for frame, _ in frames(source):
            yield lambda frame=frame: frame  # type: ignore[misc]

    return _Series(count, read)


def _bag_series(path: Path) -> list[_Series]:
    from fassst_ros.bag import COMPRESSED, Bag, ImageBag, image_topics
    from fassst_ros.image_messages import compressed_to_frame, image_to_frame

    def series(topic: str, count: int, decode: Callable[[object], Frame]) -> _Series:
        def read() -> Iterator[Callable[[], Frame]]:
            with ImageBag(path, topic) as bag:
                for image in bag:
                    yield lambda image=image: decode(image.message)  # type: ignore[misc]

        return _Series(count, read)

    bag = Bag(path)
    try:
        topics = image_topics(bag)
    finally:
        bag.close()
    return [
        series(t.name, t.count, compressed_to_frame if t.msgtype == COMPRESSED else image_to_frame)
        for t in topics
    ]
