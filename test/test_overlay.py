"""The drawn picture: which pixels change, in which colour, and that labels keep clear of each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tiny_model import CLASSES, tiny_card

from fassst_ros import overlay
from fassst_ros.overlay import captions, draw
from fassst_ros.types import InputError, Instances, RoiMask


def one(
    box: tuple[int, int, int, int], size: tuple[int, int] = (200, 300), class_id: int = 1, score: float = 0.87
) -> Instances:
    """One instance whose mask fills its box."""
    x0, y0, x1, y1 = box
    mask = RoiMask(x0, y0, np.ones((y1 - y0, x1 - x0), np.bool_))
    return Instances(np.float32([box]), np.float32([score]), np.int32([class_id]), (mask,), size)


def many(n: int, size: tuple[int, int]) -> Instances:
    """n instances at random places, some of them tiny."""
    rng = np.random.default_rng(n)
    parts = []
    for i in range(n):
        w, h = (int(v) for v in rng.integers(2, 60, 2))
        x, y = int(rng.integers(0, size[1] - w + 1)), int(rng.integers(0, size[0] - h + 1))
        parts.append(one((x, y, x + w, y + h), size, CLASSES[i % 2].id, 0.9 - i / 100))
    return Instances(
        np.concatenate([p.boxes for p in parts]),
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.class_ids for p in parts]),
        tuple(p.masks[0] for p in parts),
        size,
    )


def test_inside_is_tinted_in_the_class_colour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    drawn = draw(image, one((100, 80, 160, 140)), tiny_card(), alpha=0.45)
    inner = (slice(84, 136), slice(104, 156))
    expected = image[inner] * 0.55 + np.array(CLASSES[0].color) * 0.45
    assert np.abs(drawn[inner] - expected).max() <= 0.51


def test_nothing_is_drawn_far_from_the_object_and_the_input_stays() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    drawn = draw(image, one((100, 80, 160, 140)), tiny_card())
    changed = (drawn != image).any(axis=2)
    assert not changed[:60].any()
    assert not changed[145:].any()
    assert not changed[:, :95].any()
    assert (image == 90).all()
    assert draw(image, Instances.empty((200, 300)), tiny_card()).tobytes() == image.tobytes()


def test_bgr_is_rgb_with_swapped_channels() -> None:
    image = np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8)
    rgb = draw(image, many(12, (200, 300)), tiny_card(), "rgb")
    bgr = draw(np.ascontiguousarray(image[..., ::-1]), many(12, (200, 300)), tiny_card(), "bgr")
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])


def test_out_may_be_the_image_or_a_used_buffer() -> None:
    image = np.random.default_rng(2).integers(0, 256, (200, 300, 3), np.uint8)
    instances = many(5, (200, 300))
    expected = draw(image, instances, tiny_card())
    used = np.full_like(image, 3)
    assert draw(image, instances, tiny_card(), out=used) is used
    np.testing.assert_array_equal(used, expected)
    assert draw(image, instances, tiny_card(), out=image) is image
    np.testing.assert_array_equal(image, expected)


def test_tracks_have_colours_of_their_own() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    base = one((100, 80, 160, 140))
    colors = set()
    for track in range(1, 30):
        tracked = dataclasses.replace(base, track_ids=np.array([track]))
        colors.add(tuple(draw(image, tracked, tiny_card())[110, 130].tolist()))
    assert len(colors) == 29
    untracked = dataclasses.replace(base, track_ids=np.array([0]))
    np.testing.assert_array_equal(draw(image, untracked, tiny_card()), draw(image, base, tiny_card()))


def test_objects_at_the_edges_and_of_one_pixel() -> None:
    size = (40, 50)
    image = np.full((*size, 3), 128, np.uint8)
    for box in ((0, 0, 50, 40), (0, 0, 1, 1), (49, 39, 50, 40), (0, 39, 50, 40)):
        assert (draw(image, one(box, size), tiny_card()) != image).any()


def test_names_and_scores_are_written() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    assert captions(one((9, 9, 20, 20)), tiny_card()) == ["person 0.87"]
    tracked = dataclasses.replace(one((9, 9, 20, 20), class_id=3), track_ids=np.array([12]))
    assert captions(tracked, tiny_card()) == ["car #12 0.87"]
    for class_id in (1, 3):
        drawn = draw(image, one((100, 80, 160, 140), class_id=class_id), tiny_card())
        plate = drawn[60:79, 95:200]
        assert (plate == CLASSES[class_id // 2].color).all(axis=2).sum() > 100
        assert (plate.min(axis=2) > 180).sum() > 30  # white ink on it
    unknown = one((100, 80, 160, 140), class_id=77)
    assert captions(unknown, tiny_card()) == ["class 77 0.87"]
    assert captions(tracked, tiny_card(), scores=False) == ["car #12"]
    draw(image, unknown, tiny_card())


@pytest.mark.parametrize("scale", [0.5, 0.37, 0.1])
def test_a_smaller_picture_shows_the_same(scale: float) -> None:
    size = (200, 300)
    image = np.full((*size, 3), 90, np.uint8)
    drawn = draw(image, one((100, 80, 160, 140)), tiny_card(), scale=scale)
    assert drawn.shape == (round(200 * scale), round(300 * scale), 3)
    assert (image == 90).all()
    if scale > 0.3:  # else the label covers the object
        center = drawn[round(110 * scale), round(130 * scale)]
        np.testing.assert_allclose(center, 90 * 0.55 + np.array(CLASSES[0].color) * 0.45, atol=1)
    assert (drawn[-1] == 90).all()
    draw(image, many(30, size), tiny_card(), scale=scale)


def test_masks_shrink_to_the_pixels_under_their_centres() -> None:
    rng = np.random.default_rng(5)
    size = (41, 67)
    mask = RoiMask(13, 7, rng.random((20, 31)) > 0.5)
    given = Instances(np.zeros((1, 4), np.float32), np.float32([1]), np.int32([1]), (mask,), size)
    dense = given.to_dense()[0]
    for scale in (0.5, 0.3, 0.9):
        _, small = overlay._shrunk(np.zeros((*size, 3), np.uint8), given, scale)
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(small.size, size, strict=True)
        )
        np.testing.assert_array_equal(small.to_dense()[0], dense[np.ix_(rows, columns)])


def test_labels_stay_inside_and_apart_where_there_is_room() -> None:
    plates: list[overlay.Rectangle] = []
    size = (300, 400)
    for box in [
        (190, 150, 20, 20),
        (195, 152, 20, 20),
        (0, 0, 10, 10),
        (390, 290, 10, 10),
        (185, 149, 30, 9),
    ]:
        x, y = overlay._place(box, 60, 14, size, np.array(plates, np.int64).reshape(-1, 4))
        assert 0 <= x <= size[1] - 60
        assert 0 <= y <= size[0] - 14
        for px, py, pw, ph in plates:
            assert x >= px + pw or px >= x + 60 or y >= py + ph or py >= y + 14
        plates.append((x, y, 60, 14))


def test_image_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(100, 300, 3\).*\(200, 300, 3\)"):
        draw(np.zeros((100, 300, 3), np.uint8), one((9, 9, 20, 20)), tiny_card())
