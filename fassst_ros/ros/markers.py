"""Mask outlines as RViz markers, on a plane before the camera."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from fassst_ros.card import ModelCard
from fassst_ros.types import Instances, RoiMask

#: Markers of a camera that fell silent vanish after so many seconds.
LIFETIME = Duration(sec=1)


def camera_info_topic(image_topic: str) -> str:
    """The sibling topic on which drivers publish the CameraInfo of an image topic (as image_transport)."""
    base = image_topic.removesuffix("/compressed")
    return base.rpartition("/")[0] + "/camera_info"


def markers(
    instances: Instances, header: Header, card: ModelCard, info: CameraInfo, distance: float
) -> MarkerArray:
    """Outline and name of each instance at z = `distance` [m] in the camera's optical frame.

    Pixels become rays by the rectified pinhole model of `info` (fx, fy, cx, cy of its matrix P, or of
    K if P is empty), scaled to the size of the image. Replaces all markers of the message before.
    """
    rays = _Rays(info, instances.size, distance)
    colors = {
        c.id: ColorRGBA(r=c.color[0] / 255, g=c.color[1] / 255, b=c.color[2] / 255, a=1.0)
        for c in card.classes
    }
    names = {c.id: c.name for c in card.classes}
    message = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    for number, (mask, box, score, class_id) in enumerate(
        zip(
            instances.masks,
            instances.boxes.tolist(),
            instances.scores.tolist(),
            instances.class_ids.tolist(),
            strict=True,
        ),
        start=1,
    ):
        outline = Marker(header=header, ns="outline", id=number, type=Marker.LINE_LIST, lifetime=LIFETIME)
        outline.scale.x = 0.004 * distance
        outline.color = colors[class_id]
        outline.points = rays.points(_segments(mask))
        text = Marker(header=header, ns="name", id=number, type=Marker.TEXT_VIEW_FACING, lifetime=LIFETIME)
        text.text = f"{names[class_id]} {score:.2f}"
        text.scale.z = 0.03 * distance
        text.color = colors[class_id]
        text.pose.position = rays.points(np.array([[(box[0] + box[2]) / 2, box[1]]]))[0]
        message.markers += [outline, text]
    return message


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


def _segments(mask: RoiMask) -> NDArray[np.float64]:
    """(2n, 2): ends of the line segments around the mask and its holes, x, y in source pixels."""
    bits = np.ascontiguousarray(mask.bits).view(np.uint8)
    contours, _ = cv2.findContours(bits, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = []
    for contour in contours:
        corners = contour[:, 0, :] + np.array([mask.x + 0.5, mask.y + 0.5])
        parts.append(np.stack([corners, np.roll(corners, -1, axis=0)], axis=1).reshape(-1, 2))
    return np.concatenate(parts) if parts else np.zeros((0, 2))
