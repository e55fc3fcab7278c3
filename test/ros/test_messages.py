"""Instances -> messages: decoded again, and maps compared with the masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from fassst_ros.card import ModelCard
from fassst_ros.decode import decode
from fassst_ros.overlay import track_color
from fassst_ros.ros import messages
from fassst_ros.ros.markers import TOLERANCE, camera_info_topic, markers, usable
from fassst_ros.types import Instances, RoiMask

HEADER = Header(frame_id="lens")


def some_instances(tracks: bool = False) -> Instances:
    rng = np.random.default_rng(3)
    n, (height, width) = 6, (40, 50)
    masks = []
    for _ in range(n):
        h, w = (int(v) for v in rng.integers(1, 20, 2))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        masks.append(RoiMask(x, y, rng.random((h, w)) < 0.6))
    return Instances(
        boxes=np.sort((rng.random((n, 2, 2), np.float32) * 40), axis=1).reshape(n, 4),
        scores=np.sort(rng.random(n, np.float32))[::-1].copy(),
        class_ids=rng.choice([1, 3], n).astype(np.int32),
        masks=tuple(masks),
        size=(height, width),
        track_ids=np.arange(10, 10 + n, dtype=np.int64) if tracks else None,
    )


@pytest.mark.parametrize("tracks", [False, True])
def test_instance_array_is_decoded_to_the_same(tracks: bool, tiny: object) -> None:
    given = some_instances(tracks)
    message = messages.to_message(given, HEADER, "tiny 1", {1: "person", 3: "car"})
    back = decode(message)
    np.testing.assert_array_equal(back.boxes, given.boxes)
    np.testing.assert_array_equal(back.scores, given.scores)
    np.testing.assert_array_equal(back.class_ids, given.class_ids)
    np.testing.assert_array_equal(back.to_dense(), given.to_dense())
    assert back.size == given.size
    assert (back.track_ids is not None) == tracks
    assert [i.id for i in message.instances] == [1, 2, 3, 4, 5, 6]
    assert {(i.class_id, i.class_name) for i in message.instances} == {(1, "person"), (3, "car")}
    assert (message.header, message.model) == (HEADER, "tiny 1")


def test_no_instance() -> None:
    message = messages.to_message(Instances.empty((3, 4)), HEADER, "m", {})
    assert (message.height, message.width, len(message.instances)) == (3, 4, 0)
    assert not any(messages.instance_map(Instances.empty((3, 4)), HEADER).data)


def test_maps_show_the_better_instance_of_an_overlap() -> None:
    given = some_instances()
    ids = np.frombuffer(messages.instance_map(given, HEADER).data, np.uint16).reshape(given.size)
    classes = np.frombuffer(messages.class_map(given, HEADER).data, np.uint8).reshape(given.size)
    dense = given.to_dense()
    for y in range(given.size[0]):
        for x in range(given.size[1]):
            covering = np.flatnonzero(dense[:, y, x])
            assert ids[y, x] == (covering[0] + 1 if covering.size else 0)
            assert classes[y, x] == (given.class_ids[covering[0]] if covering.size else 0)


def test_label_info(tiny: object) -> None:
    card: ModelCard = tiny.tiny_card()  # type: ignore[attr-defined]
    info = messages.label_info(card, 0.25, HEADER)
    assert info.score_threshold == 0.25
    assert [(c.class_id, c.name, c.r, c.g, c.b) for c in info.classes] == [
        (1, "person", 220, 20, 60),
        (3, "car", 0, 0, 142),
    ]


@pytest.mark.parametrize(
    ("image", "info"),
    [
        ("/image", "/camera_info"),
        ("/cam/image_raw", "/cam/camera_info"),
        ("/cam/image_raw/compressed", "/cam/camera_info"),
    ],
)
def test_camera_info_topic(image: str, info: str) -> None:
    assert camera_info_topic(image) == info


def pinhole(width: int, height: int, rectified: bool) -> CameraInfo:
    info = CameraInfo(width=width, height=height)
    fx, fy, cx, cy = 100.0, 90.0, width / 2 - 0.5, height / 2 - 0.5
    info.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    if rectified:
        info.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("rectified", [False, True])
def test_markers_lie_on_the_rays_of_their_pixels(rectified: bool, scale: int, tiny: object) -> None:
    """The image may be a copy of the calibrated one at 1/scale of its size."""
    bits = np.zeros((6, 5), np.bool_)
    bits[1:4, 2:5] = True
    given = Instances(
        np.float32([[10, 8, 20, 18]]), np.float32([0.5]), np.int32([3]), (RoiMask(10, 20, bits),), (40, 50)
    )
    info = pinhole(50 * scale, 40 * scale, rectified)
    card: ModelCard = tiny.tiny_card()  # type: ignore[attr-defined]
    clear, outline, text = markers(given, HEADER, card, info, distance=2.0).markers
    assert clear.action == Marker.DELETEALL
    assert {m.header.frame_id for m in (clear, outline, text)} == {"lens"}
    corners = set()
    for point in outline.points:
        assert point.z == 2.0
        u = point.x / point.z * 100 + info.k[2]  # projected back, centre of pixel 0 is 0
        v = point.y / point.z * 90 + info.k[5]
        corners.add((round(((u + 0.5) / scale - 0.5), 6), round(((v + 0.5) / scale - 0.5), 6)))
    assert corners == {(12, 21), (14, 21), (14, 23), (12, 23)}
    assert (outline.type, outline.points[0]) == (Marker.LINE_STRIP, outline.points[-1])
    assert text.text == "car 0.50"
    assert outline.color.b == pytest.approx(142 / 255)


def test_markers_of_pieces_holes_and_tracks(tiny: object) -> None:
    bits = np.zeros((20, 30), np.bool_)
    bits[2:18, 2:20] = True
    bits[8:12, 8:12] = False  # a hole
    bits[4:6, 25:28] = True  # another piece
    masks = (RoiMask(0, 0, bits), RoiMask(5, 5, bits), RoiMask(10, 10, bits))
    given = Instances(
        *(np.zeros((3, 4), np.float32), np.float32([0.9, 0.8, 0.7]), np.int32([3, 3, 1])),
        *(masks, (40, 50), np.array([7, 0, 12])),
    )
    card: ModelCard = tiny.tiny_card()  # type: ignore[attr-defined]
    _, *made = markers(given, HEADER, card, pinhole(50, 40, True), distance=2.0).markers
    ids = [(m.ns, m.id) for m in made]
    assert len(set(ids)) == len(ids)
    assert [i for ns, i in ids if ns == "outline"] == [7, -2, 12]
    assert [i for ns, i in ids if ns == "name"] == [7, -2, 12]
    assert [i for ns, i in ids if ns == "parts"] == [1, 2, 3, 4, 5, 6]
    assert all(len(m.points) == 5 and m.points[0] == m.points[-1] for m in made if m.ns == "outline")
    assert [m.text for m in made if m.ns == "name"] == ["car #7 0.90", "car 0.80", "person #12 0.70"]
    colors = {m.id: tuple(round(255 * c) for c in (m.color.r, m.color.g, m.color.b)) for m in made[:1]}
    assert colors == {7: track_color(7)}


def test_outlines_stay_within_their_tolerance(tiny: object) -> None:
    y, x = np.mgrid[:120, :160]
    bits = ((x - 80) / 70) ** 2 + ((y - 60) / 50) ** 2 < 1
    given = Instances(
        np.zeros((1, 4), np.float32), np.float32([0.9]), np.int32([3]), (RoiMask(0, 0, bits),), (120, 160)
    )
    info = pinhole(160, 120, True)
    card: ModelCard = tiny.tiny_card()  # type: ignore[attr-defined]
    outline = markers(given, HEADER, card, info, distance=1.0).markers[1]
    line = np.float32([(p.x * 100 + info.p[2], p.y * 90 + info.p[6]) for p in outline.points])
    (contour,), _ = cv2.findContours(bits.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    off = [abs(cv2.pointPolygonTest(line[:, None], (float(u), float(v)), True)) for u, v in contour[:, 0]]
    assert max(off) <= TOLERANCE + 1e-3
    assert len(line) < len(contour) / 4


def test_an_uncalibrated_camera_has_no_markers() -> None:
    assert not usable(CameraInfo(width=50, height=40))
    assert usable(pinhole(50, 40, rectified=False))
