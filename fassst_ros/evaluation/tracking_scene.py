"""A scene made of photos in which every object's identity, place and visible pixels are known.

A photo of a street is the background; its own objects stand still in it. Objects cut out of other photos move
over it, each as high as one must look that stands where it stands. What is nearer hides what is
farther. A camera pans, zooms and shakes, so objects also enter and leave by its motion alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fassst_ros.coco_format import Shape
from fassst_ros.training.cut_outs import STANCE, blend, coverage
from fassst_ros.training.placement import Placement
from fassst_ros.types import Float32Array, RoiMask, UInt8Array

#: Below this share of its pixels, or so many of them, nobody is expected to see an object.
SEEN, SEEN_PIXELS = 0.1, 64


@dataclass(frozen=True, slots=True)
class CutOut:
    """An object in a photo: image (H, W, 3) uint8 RGB, shape and box xyxy in it, name of its class."""

    image: UInt8Array
    shape: Shape
    box: Float32Array
    name: str

    @property
    def height(self) -> float:
        """In pixels of the photo."""
        return float(self.box[3] - self.box[1])


@dataclass(frozen=True, slots=True)
class Still:
    """An object of the background, which stays where it is."""

    cut_out: CutOut

    def place(self, seconds: float) -> Placement:
        """Where its photo goes in the background, unclipped."""
        return Placement((1.0, 1.0), (0.0, 0.0), (0, 0, 0, 0))

    def foot(self, seconds: float) -> float:
        """The row on which it stands; nearer objects stand lower."""
        return float(self.cut_out.box[3])


@dataclass(frozen=True, slots=True)
class Walker:
    """An object that moves along the street.

    height [px], x [px] of its centre, both at `middle` [s]; speed: own heights a second to the right; growth:
    1/s, of the logarithm of its height, as of one that comes nearer; horizon: row; mirrored: left for right.
    """

    cut_out: CutOut
    height: float
    x: float
    middle: float
    speed: float
    growth: float
    horizon: float
    mirrored: bool

    def place(self, seconds: float) -> Placement:
        """Where its photo goes in the background, unclipped."""
        height = self._height(seconds)
        scale = height / self.cut_out.height
        along = -scale if self.mirrored else scale
        x0, _, x1, y1 = (float(v) for v in self.cut_out.box)
        x = self.x + self.speed * self.height * (seconds - self.middle)
        offset = (x - along * (x0 + x1) / 2, self.foot(seconds) - scale * y1)
        return Placement((along, scale), offset, (0, 0, 0, 0))

    def foot(self, seconds: float) -> float:
        """The row on which it stands; nearer objects stand lower."""
        return self.horizon + STANCE * self._height(seconds)

    def _height(self, seconds: float) -> float:
        return float(self.height * np.exp(self.growth * (seconds - self.middle)))


@dataclass(frozen=True, slots=True)
class Camera:
    """What of the background is seen: a window of the same shape, `zoom` times smaller.

    zoom: at the start, and its growth [1/s]. period [s] and phase [rad] of the pan from side to side.
    shake: (frames, 2) pixels of the background.
    """

    size: tuple[int, int]
    zoom: float
    growth: float
    period: float
    phase: float
    shake: NDArray[np.float64]

    def place(self, frame: int, seconds: float) -> Placement:
        """Where the background goes in the picture; the window never leaves it."""
        height, width = self.size
        zoom = max(1.0, self.zoom * float(np.exp(self.growth * seconds)))
        room = np.array([width, height]) * (1 - 1 / zoom) / 2
        swing = np.array([np.sin(2 * np.pi * seconds / self.period + self.phase), 0.0])
        shift = np.clip(room * swing + self.shake[frame], -room, room)
        offset = -zoom * (room + shift)
        return Placement((zoom, zoom), (float(offset[0]), float(offset[1])), (0, 0, width, height))


@dataclass(frozen=True, slots=True)
class Visible:
    """An object in a frame: index in the scene, visible pixels, and whether one is expected to see it."""

    index: int
    mask: RoiMask
    clear: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """background: (H, W, 3) uint8. Actors keep their index, which is their identity."""

    background: UInt8Array
    camera: Camera
    actors: tuple[Still | Walker, ...]

    def draw(self, frame: int, seconds: float) -> tuple[UInt8Array, list[Visible]]:
        """The picture (H, W, 3) at a time, and all objects of which a pixel is visible in it."""
        height, width = self.background.shape[:2]
        view = self.camera.place(frame, seconds)
        picture = np.asarray(cv2.warpAffine(self.background, view.matrix((0, 0)), (width, height)), np.uint8)
        front = np.full((height, width), -1, np.int32)
        areas = np.zeros(len(self.actors))
        order = sorted(range(len(self.actors)), key=lambda i: self.actors[i].foot(seconds))
        for i in order:
            cut_out, place = self.actors[i].cut_out, _through(view, self.actors[i].place(seconds))
            box = place.clip(place.boxes(cut_out.box[None]))[0]
            if (box[2:] - box[:2]).min() < 1:
                continue
            covered = coverage(cut_out.shape, place, box, (height, width))
            blend(picture, cut_out.image, place, box, covered)
            front[covered > 127] = i
            areas[i] = np.count_nonzero(covered > 127)
        return picture, _visible(front, areas)


def _through(view: Placement, place: Placement) -> Placement:
    """A place in the background as a place in the picture."""
    zoom, (x, y) = view.scale[0], view.offset
    scale = (zoom * place.scale[0], zoom * place.scale[1])
    return Placement(scale, (zoom * place.offset[0] + x, zoom * place.offset[1] + y), view.tile)


def _visible(front: NDArray[np.int32], areas: NDArray[np.float64]) -> list[Visible]:
    """From the nearest actor at each pixel, and how many pixels each would have alone."""
    found = []
    for i in np.unique(front[front >= 0]).tolist():
        bits = front == i
        x, y, w, h = cv2.boundingRect(bits.view(np.uint8))
        mask = RoiMask(x, y, bits[y : y + h, x : x + w].copy())
        found.append(Visible(i, mask, mask.area >= max(SEEN_PIXELS, SEEN * areas[i])))
    return found
