"""Written videos: sizes, rates, real time for cameras, and what is said when they cannot be whole."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium import chromium

from fassst_ros import video
from fassst_ros.sources import CAMERA_RATE, WIDTH, PictureWriter, Source, VideoWriter, frames
from fassst_ros.types import ConfigError


@pytest.fixture(params=["av", "opencv"], autouse=True)
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test with each of both encoders."""
    if request.param == "av":
        pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    else:
        monkeypatch.setattr(video, "find_spec", lambda name: None)
    return str(request.param)


def picture(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def read(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    found = []
    while True:
        good, image = capture.read()
        if not good:
            capture.release()
            return found
        found.append(image)


def test_a_video_has_the_rate_and_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "below" / "drive.webm"
    writer = VideoWriter(path, 12.5)
    for number in range(10):
        writer.write(picture(20 * number))
    writer.close()
    writer.close()  # does no harm
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5, abs=0.05)
    capture.release()
    found = read(path)
    assert len(found) == writer.count == 10
    np.testing.assert_allclose([image.mean() for image in found], [20 * n for n in range(10)], atol=4)
    assert path.read_bytes()[:4] == b"\x1a\x45\xdf\xa3"  # EBML, the container of WebM
    assert b"webm" in path.read_bytes()[:64]
    assert b"V_VP8" in path.read_bytes()[:1000]


def test_nothing_is_said_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    writer = VideoWriter(tmp_path / "drive.webm", 10)
    writer.write(picture(9))
    writer.close()
    assert capfd.readouterr().err == ""


def test_wide_pictures_become_smaller(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "wide.webm", 10)
    for _ in range(3):
        writer.write(picture(100, 301, 2 * WIDTH))
    writer.close()
    assert {image.shape for image in read(writer.path)} == {(150, WIDTH, 3)}


def test_a_camera_plays_as_fast_as_it_was_recorded(tmp_path: Path) -> None:
    source = Source("camera", "0", tmp_path / "camera_0.webm")
    writer = PictureWriter(source)
    start = 1000.0
    for stamp in (0.0, 0.5, 0.501, 1.0):  # slower than the video's rate, and once faster
        writer.write(picture(round(200 * stamp)), start + stamp)
    writer.close()
    found = read(source.target)
    assert len(found) == round(CAMERA_RATE) + 1
    values = [found[round(t * CAMERA_RATE)].mean() for t in (0.0, 0.4, 0.5, 0.9, 1.0)]
    assert values == pytest.approx([0, 0, 100, 100, 200], abs=8)


def test_a_browser_plays_it(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "drive.webm", 10)
    for number in range(10):
        writer.write(picture(20 * number, 120, 160))
    writer.close()
    page = tmp_path / "page.html"
    page.write_text('<video src="drive.webm" muted autoplay></video>', encoding="utf-8")
    with chromium(tmp_path / "profile") as browser:
        browser.get(page.as_uri())
        end = time.monotonic() + 60
        player = browser.find_element("css selector", "video")
        while not player.get_property("ended") and not player.get_property("error"):
            assert time.monotonic() < end, "the video does not come to its end"
            time.sleep(0.05)
        assert player.get_property("error") is None
        assert (player.get_property("videoWidth"), player.get_property("videoHeight")) == (160, 120)


def test_times_of_a_video(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "drive.webm", 5)
    for number in range(4):
        writer.write(picture(50 * number))
    writer.close()
    stamps = [stamp for _, stamp in frames(Source("video", str(writer.path), tmp_path / "out.webm"))]
    assert stamps == pytest.approx([0.0, 0.2, 0.4, 0.6])


@contextmanager
def small_disk() -> Iterator[None]:
    """Files of this process cannot grow beyond 20 kB; pytest's own output, in a file, may be larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = VideoWriter(tmp_path / "drive.webm", 10)
    with small_disk():
        for _ in range(30):
            writer.write(rng.integers(0, 256, (240, 320, 3), np.uint8))
        with pytest.raises(ConfigError, match=r"drive\.webm is not whole: (File too large|not all 30)"):
            writer.close()


def test_no_right_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        VideoWriter(tmp_path / "file" / "drive.webm", 10).write(picture(1))
    (tmp_path / "folder.webm").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        VideoWriter(tmp_path / "folder.webm", 10).write(picture(1))
