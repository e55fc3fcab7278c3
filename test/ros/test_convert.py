"""Image messages -> Frame, against references that go pixel by pixel."""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fassst_ros import image_messages
from fassst_ros.ros.convert import ENCODINGS, compressed_to_frame, image_to_frame, to_frame, to_image
from fassst_ros.types import Frame, InputError

HEIGHT, WIDTH = 6, 8
RNG = np.random.default_rng(0)
SCENE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)  # RGB


def message(
    encoding: str, rows: list[bytes], padding: int = 0, big: bool = False, height: int = HEIGHT
) -> Image:
    """An image of `rows`, each followed by `padding` bytes of garbage."""
    data = b"".join(row + b"\xa5" * padding for row in rows)
    made = Image(height=height, width=WIDTH, encoding=encoding, step=len(rows[0]) + padding)
    made.is_bigendian = int(big)
    made.data = array.array("B", data)
    return made


def rgb(frame: Frame) -> np.ndarray:
    return frame.image if frame.color == "rgb" else frame.image[..., ::-1]


def pixel_bytes(encoding: str, pixel: np.ndarray, big: bool) -> bytes:
    """One pixel of an interleaved encoding, from the words of REP-118's encoding names."""
    r, g, b = (int(v) for v in pixel)
    grey = r
    values = {
        "rgb8": (r, g, b), "bgr8": (b, g, r), "8UC3": (b, g, r),
        "rgba8": (r, g, b, 77), "bgra8": (b, g, r, 77), "8UC4": (b, g, r, 77),
        "mono8": (grey,), "8UC1": (grey,), "mono16": (grey,), "rgb16": (r, g, b), "bgr16": (b, g, r),
    }[encoding]  # fmt: skip
    if not encoding.endswith("16"):
        return bytes(values)
    # The low byte differs from the high byte, so that a wrong byte order shows.
    return b"".join((v * 256 + (v ^ 0x5A)).to_bytes(2, "big" if big else "little") for v in values)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 13])
@pytest.mark.parametrize(
    "encoding",
    ["rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "8UC4", "mono8", "8UC1", "mono16", "rgb16", "bgr16"],
)
def test_interleaved(encoding: str, padding: int, big: bool) -> None:
    rows = [b"".join(pixel_bytes(encoding, p, big) for p in row) for row in SCENE]
    frame = image_to_frame(message(encoding, rows, padding, big))
    expected = np.repeat(SCENE[..., :1], 3, axis=2) if encoding[:4] in ("mono", "8UC1") else SCENE
    np.testing.assert_array_equal(rgb(frame), expected)


def yuv_to_rgb(y: int, u: int, v: int) -> list[float]:
    """BT.601 with video range, as cameras and OpenCV have it."""
    c = 1.164 * (y - 16)
    red, green, blue = c + 1.596 * (v - 128), c - 0.813 * (v - 128) - 0.391 * (u - 128), c + 2.018 * (u - 128)
    return [min(max(value, 0), 255) for value in (red, green, blue)]


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv422(encoding: str, padding: int) -> None:
    y = RNG.integers(16, 236, (HEIGHT, WIDTH))
    u, v = RNG.integers(90, 166, (2, HEIGHT, WIDTH // 2))
    rows = []
    for i in range(HEIGHT):
        row = []
        for j in range(0, WIDTH, 2):
            quad = [u[i, j // 2], y[i, j], v[i, j // 2], y[i, j + 1]]
            row += quad if encoding in ("yuv422", "uyvy") else [quad[1], quad[0], quad[3], quad[2]]
        rows.append(bytes(int(x) for x in row))
    expected = [
        [yuv_to_rgb(y[i, j], u[i, j // 2], v[i, j // 2]) for j in range(WIDTH)] for i in range(HEIGHT)
    ]
    np.testing.assert_allclose(rgb(image_to_frame(message(encoding, rows, padding))), expected, atol=2)


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_planar_yuv(encoding: str, padding: int) -> None:
    y = RNG.integers(16, 236, (HEIGHT, WIDTH))
    u, v = RNG.integers(90, 166, (2, HEIGHT // 2, WIDTH // 2))
    pair = (u, v) if encoding == "nv12" else (v, u)
    rows = [bytes(row.tolist()) for row in y]
    rows += [bytes(np.stack([pair[0][i], pair[1][i]], -1).ravel().tolist()) for i in range(HEIGHT // 2)]
    expected = [
        [yuv_to_rgb(y[i, j], u[i // 2, j // 2], v[i // 2, j // 2]) for j in range(WIDTH)]
        for i in range(HEIGHT)
    ]
    np.testing.assert_allclose(rgb(image_to_frame(message(encoding, rows, padding))), expected, atol=2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(pattern: str, big: bool, bits: int) -> None:
    """In areas of one colour, every demosaicing gives back that colour, and only with the right pattern."""
    colour = {"r": 200, "g": 120, "b": 40}
    rows = []
    for i in range(HEIGHT):
        letters = [pattern[2 * (i % 2) + j % 2] for j in range(WIDTH)]
        words = [colour[x] * (1 if bits == 8 else 256) for x in letters]
        rows.append(b"".join(w.to_bytes(bits // 8, "big" if big else "little") for w in words))
    frame = image_to_frame(message(f"bayer_{pattern}{bits}", rows, padding=3, big=big))
    inner = rgb(frame)[1:-1, 1:-1]
    np.testing.assert_array_equal(inner, np.broadcast_to([200, 120, 40], inner.shape))


def test_every_encoding_is_tested() -> None:
    tested = {"rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "8UC4", "mono8", "8UC1", "mono16", "rgb16", "bgr16"}
    tested |= {"yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"}
    tested |= {f"bayer_{p}{b}" for p in ("rggb", "bggr", "gbrg", "grbg") for b in (8, 16)}
    assert set(ENCODINGS) == tested


def test_a_colour_image_is_not_copied() -> None:
    made = message("bgr8", [bytes(row.ravel()) for row in SCENE], padding=7)
    frame = image_to_frame(made)
    made.data[0] = 123
    assert frame.image[0, 0, 0] == 123


def changed(**fields: Any) -> Image:
    made = message("rgb8", [bytes(row.ravel()) for row in SCENE])
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (changed(height=0), "without pixels"),
        (changed(width=0), "without pixels"),
        (changed(step=23), "expected at least 24"),
        (changed(step=0, width=2**32 - 1), "step is 0"),
        (changed(data=array.array("B", bytes(100))), "100 bytes of data; expected"),
        (changed(data=array.array("B")), "0 bytes of data"),
        (changed(height=2**32 - 1), "bytes of data; expected"),
        (changed(encoding="32FC1"), "'32FC1' is not supported; expected one of rgb8"),
        (changed(encoding=""), "'' is not supported"),
        (changed(encoding="yuv422", width=7), "even width"),
        (changed(encoding="nv12", height=5), "even width and height"),
    ],
)
def test_malformed(image: Image, words: str) -> None:
    with pytest.raises(InputError, match=words):
        image_to_frame(image)


def test_garbage_raises_input_errors_only() -> None:
    """Random fields of all kinds: an InputError or a frame of the announced size."""
    rng = np.random.default_rng(5)
    good = 0
    for _ in range(3000):
        height, width, step = (int(v) for v in rng.integers(0, 9, 3))
        encoding = str(rng.choice([*ENCODINGS, "nonsense"]))
        image = Image(height=height, width=width, encoding=encoding, step=step * int(rng.integers(1, 9)))
        image.data = array.array("B", rng.bytes(int(rng.integers(0, 400))))
        try:
            frame = image_to_frame(image)
        except InputError:
            continue
        good += 1
        assert frame.size == (height, width)
    assert good > 100


def photo() -> np.ndarray:
    """A smooth BGR picture that JPEG keeps well."""
    y, x = np.mgrid[0:96, 0:128]
    return np.stack([x, 2 * y, 255 - x], -1).astype(np.uint8)


def compressed(data: bytes, format: str = "jpeg") -> CompressedImage:
    return CompressedImage(format=format, data=array.array("B", data))


def encode(suffix: str, image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(suffix, image)[1])


def test_compressed_images() -> None:
    png = to_frame(compressed(encode(".png", photo()), "bgr8; png compressed bgr8"))
    np.testing.assert_array_equal(rgb(png), photo()[..., ::-1])
    jpeg = to_frame(compressed(encode(".jpg", photo()), "jpeg"))
    np.testing.assert_allclose(rgb(jpeg).astype(int), photo()[..., ::-1].astype(int), atol=12)
    grey = to_frame(compressed(encode(".png", photo()[..., 0]), "mono8; png compressed mono8"))
    np.testing.assert_array_equal(rgb(grey), np.repeat(photo()[..., :1], 3, 2))


@pytest.mark.parametrize(
    "options",
    [
        [],
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422],
        [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
    ],
)
@pytest.mark.parametrize("channels", [slice(None), 0], ids=["colour", "grey"])
@pytest.mark.parametrize("name", ["jpeg", "rgb8; jpeg compressed rgb8"])
@pytest.mark.parametrize("damage", [0, 9])
def test_jpeg_has_the_same_pixels_with_and_without_simplejpeg(
    options: list[int], channels: Any, name: str, damage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    data = bytearray(cv2.imencode(".jpg", photo()[..., channels], options)[1].tobytes())
    rng = np.random.default_rng(damage)
    for place in rng.integers(
        len(data) - 900, len(data) - 100, damage
    ):  # in the pixels: noise, as from a cable
        data[place] = rng.integers(256)
    frames = [compressed_to_frame(compressed(bytes(data), name))]
    monkeypatch.setattr(image_messages, "simplejpeg", None)
    frames.append(compressed_to_frame(compressed(bytes(data), name)))
    assert {frame.color for frame in frames} == {"rgb", "bgr"}
    np.testing.assert_array_equal(frames[0].image, frames[1].image[..., ::-1])


def test_progressive_jpeg() -> None:
    data = cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1]
    frame = compressed_to_frame(compressed(data.tobytes()))
    rgb = frame.image if frame.color == "rgb" else frame.image[..., ::-1]
    np.testing.assert_array_equal(rgb, cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def test_jpeg_that_asks_for_all_memory_is_refused() -> None:
    data = bytearray(encode(".jpg", photo()))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    with pytest.raises(InputError, match="cannot decode"):
        compressed_to_frame(compressed(bytes(data)))


def test_compressed_rgb_keeps_its_order() -> None:
    """image_transport hands rgb8 to an encoder that takes it for BGR, so the file holds RGB as BGR."""
    red_first = photo()
    frame = to_frame(compressed(encode(".png", red_first), "rgb8; png compressed rgb8"))
    np.testing.assert_array_equal(rgb(frame), red_first)


def test_exif_orientation_is_ignored() -> None:
    plain = encode(".jpg", photo())
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # turned by 90 degrees
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (128, 96, 3)
    assert compressed_to_frame(compressed(turned)).size == (96, 128)


def test_a_jpeg_may_be_padded() -> None:
    assert compressed_to_frame(compressed(encode(".jpg", photo()) + bytes(16))).size == (96, 128)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (compressed(b""), "no data"),
        (compressed(encode(".jpg", photo())[:-200]), "JPEG is cut off"),
        (compressed(encode(".jpg", photo())[:20]), "JPEG is cut off"),
        (compressed(encode(".png", photo())[:-100], "png"), "PNG is cut off"),
        (compressed(b"\xff\xd8" + bytes(300) + b"\xff\xd9"), "cannot decode"),
        (compressed(np.random.default_rng(2).bytes(5000)), "cannot decode"),
        (compressed(encode(".png", photo()), "16UC1; compressedDepth png"), "a depth image"),
    ],
)
def test_malformed_compressed(image: CompressedImage, words: str) -> None:
    with pytest.raises(InputError, match=words):
        compressed_to_frame(image)


@pytest.mark.parametrize(
    ("dtype", "encoding"), [(np.uint8, "mono8"), (np.dtype("<u2"), "mono16"), (np.dtype(">u2"), "mono16")]
)
def test_to_image_is_read_back(dtype: Any, encoding: str) -> None:
    values = RNG.integers(0, 250, (5, 7)).astype(dtype)
    header = Header(frame_id="lens")
    made = to_image(values.T, encoding, header)
    order = "big" if made.is_bigendian else "little"
    size = np.dtype(dtype).itemsize
    data = bytes(made.data)
    read = [[int.from_bytes(data[i * made.step + j * size : i * made.step + (j + 1) * size], order)
             for j in range(made.width)] for i in range(made.height)]  # fmt: skip
    np.testing.assert_array_equal(read, values.T)
    assert (made.header, made.encoding, made.step) == (header, encoding, 5 * size)
