"""Mask outlines as RViz markers, on a plane before the camera."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from fassst_ros.card import ModelCard
from fassst_ros.overlay import captions, instance_colors
from fassst_ros.types import Instances, RoiMask

#: Markers of a camera that fell silent vanish after so many seconds.
LIFETIME = Duration(sec=1)
#: How far a drawn outline may be from that of the mask, in source pixels.
TOLERANCE = 0.7


def camera_info_topic(image_topic: str) -> str:
    """The sibling topic on which drivers publish the CameraInfo of an image topic (as image_transport)."""
    base = image_topic.removesuffix("/compressed")
    return base.rpartition("/")[0] + "/camera_info"


def markers(
    instances: Instances, header: Header, card: ModelCard, info: CameraInfo, distance: float
) -> MarkerArray:
    """Outline and name of each instance at z = `distance` [m] in the camera's optical frame.

    Namespaces: "outline" is the longest outline of an instance, as a closed line strip, "parts" its
    other pieces and holes, "name" its class, track and score. The id of an instance in "outline" and
    "name" is its track id; without a track its number, negative where others have tracks. Colours are
    those of the overlay.
    Pixels become rays by the rectified pinhole model of `info` (fx, fy, cx, cy of its matrix P, or of
    K if P is empty), scaled to the size of the image. Replaces all markers of the message before.
    """
    rays = _Rays(info, instances.size, distance)
    message = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    parts = 0

    def marker(ns: str, number: int, kind: int, rgb: tuple[int, int, int]) -> Marker:
        made = Marker(header=header, ns=ns, id=number, type=kind, lifetime=LIFETIME)
        made.color.r, made.color.g, made.color.b = (value / 255 for value in rgb)
        made.color.a = 1.0
        message.markers.append(made)
        return made

    for number, mask, box, rgb, caption in zip(
        _ids(instances),
        instances.masks,
        instances.boxes.tolist(),
        instance_colors(instances, card),
        captions(instances, card),
        strict=True,
    ):
        for place, line in enumerate(_lines(mask)):
            parts += place > 0
            key = ("parts", parts) if place else ("outline", number)
            strip = marker(*key, Marker.LINE_STRIP, rgb)
            strip.scale.x = 0.004 * distance
            strip.points = rays.points(line)
        text = marker("name", number, Marker.TEXT_VIEW_FACING, rgb)
        text.text = caption
        text.scale.z = 0.03 * distance
        text.pose.position = rays.points(np.array([[(box[0] + box[2]) / 2, box[1]]]))[0]
    return message


def _ids(instances: Instances) -> list[int]:
    """Marker ids: unique in the message, and the same over time for an object that is tracked."""
    numbers = range(1, len(instances) + 1)
    if instances.track_ids is None:
        return list(numbers)
    return [track or -number for track, number in zip(instances.track_ids.tolist(), numbers, strict=True)]


class _Rays:
    """Source pixels -> points on the plane z = distance of the optical frame (x right, y down)."""

    def __init__(self, info: CameraInfo, size: tuple[int, int], distance: float) -> None:
        matrix = info.p if info.p[0] else info.k
        columns = 4 if info.p[0] else 3
        fx, cx, fy, cy = matrix[0], matrix[2], matrix[columns + 1], matrix[columns + 2]
        # The image may be a smaller copy of what was calibrated.
        scale = np.array([info.width / size[1], info.height / size[0]]) if info.width and info.height else 1.0
        self._center = np.array([cx, cy])
        self._factor = distance / np.array([fx, fy])
        self._scale = scale
        self._distance = float(distance)

    def points(self, pixels: NDArray[Any]) -> list[Point]:
        """(n, 2) x, y in pixels, edges not centres, as Points [m]."""
        # The centre of pixel 0 is 0 in a camera matrix and 0.5 for edges.
        xy = (pixels * self._scale - 0.5 - self._center) * self._factor
        return [Point(x=x, y=y, z=self._distance) for x, y in xy.tolist()]


def usable(info: CameraInfo) -> bool:
    """Whether the camera is calibrated: the focal lengths of an uncalibrated one are 0."""
    return bool((info.p[0] and info.p[5]) or (info.k[0] and info.k[4]))


def _lines(mask: RoiMask) -> list[NDArray[np.float64]]:
    """Closed lines (n, 2) around the pieces and holes of a mask, the longest first; source pixels.

    No point of the mask's outline is farther than TOLERANCE from its line.
    """
    bits = np.ascontiguousarray(mask.bits).view(np.uint8)
    contours, _ = cv2.findContours(bits, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    lines = []
    for contour in sorted(contours, key=lambda c: cv2.arcLength(c, True), reverse=True):
        corners = cv2.approxPolyDP(contour, TOLERANCE, True)[:, 0, :]
        # findContours walks from pixel centre to pixel centre.
        closed: Any = np.concatenate([corners, corners[:1]])
        lines.append(closed + np.array([mask.x + 0.5, mask.y + 0.5]))
    return lines
