"""`fassst predict` with a real graph: pictures, results, and every kind of bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from tiny_model import make_tiny_model

from fassst_ros.cli import main
from fassst_ros.images import decode_image, is_cut_off, read_image
from fassst_ros.sources import find_sources
from fassst_ros.types import InputError

BOXES = np.float32([[8, 6, 40, 30], [30, 20, 60, 46]])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return make_tiny_model(folder, BOXES, np.int32([1, 0]), np.float32([1.0, 0.6]))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two red images, with numbers for names, one in a sub-folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    write_red(folder / "000000000139.jpg", (96, 128))
    write_red(folder / "more" / "285.png", (48, 64))
    return folder


def write_red(path: Path, size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    image[..., 2] = 255
    assert cv2.imwrite(str(path), image)


def predict(model: Path, out: Path, *arguments: Any) -> int:
    options = ["--model", model, "--runtime", "onnxruntime", "--out", out]
    return main(["predict", *map(str, arguments), *map(str, options)])


def results(path: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def test_folder_gives_pictures_and_coco_results(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(model, out, photos) == 0
    first = cv2.imread(str(out / "000000000139.jpg"))
    assert first.shape == (96, 128, 3)
    assert np.ptp(first[..., 2]) > 50  # no longer plain red
    assert (out / "more" / "285.jpg").is_file()
    found = results(out / "predictions.json")
    assert [r["image_id"] for r in found] == [139, 139, 285, 285]
    assert [r["category_id"] for r in found] == [3, 1, 3, 1]
    assert found[0]["bbox"] == [16, 12, 64, 48]
    assert found[0]["score"] == pytest.approx(1.0, abs=0.01)
    assert found[0]["file_name"] == str(photos / "000000000139.jpg")
    mask = coco_mask.decode(found[2]["segmentation"])
    assert mask.shape == (48, 64)
    expected = np.zeros((48, 64), bool)  # the box grown by a tenth: x 4.8..43.2, y 3.6..32.4
    expected[4:32, 5:43] = True
    np.testing.assert_array_equal(mask.astype(bool), expected)


def test_running_ids_where_names_are_no_numbers(model: Path, photos: Path, tmp_path: Path) -> None:
    write_red(photos / "street.jpg", (30, 40))
    assert predict(model, tmp_path / "out", photos, "--score-threshold", 0.9, "--no-pictures") == 0
    found = results(tmp_path / "out" / "predictions.json")
    assert [(r["image_id"], Path(r["file_name"]).name) for r in found] == [
        (1, "000000000139.jpg"),
        (2, "285.png"),
        (3, "street.jpg"),
    ]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_own_results_file_limit_and_classes(model: Path, photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "r.json"
    arguments = (photos, "--json", target, "--limit", 1, "--classes", "person")
    assert predict(model, tmp_path / "out", *arguments) == 0
    assert [(r["image_id"], r["category_id"]) for r in results(target)] == [(139, 1)]
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_broken_files_are_named_and_passed_over(
    model: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("no image", encoding="utf-8")
    whole = (photos / "000000000139.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    assert predict(model, tmp_path / "out", photos, tmp_path / "absent.jpg") == 1
    told = capfd.readouterr().err
    for problem in ("empty.jpg is empty", "text.png is not an image", "cut.jpg is cut off"):
        assert problem in told
    assert "absent.jpg: No such file or directory" in told
    assert "2 frames, 4 instances" in told
    assert "4 failed" in told
    assert len(results(tmp_path / "out" / "predictions.json")) == 4


def test_without_a_frame_earlier_results_stay(
    model: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken.jpg"
    broken.write_text("no image", encoding="utf-8")
    assert predict(model, out, photos, "--no-pictures") == 0
    assert predict(model, out, broken, "--no-pictures") == 1
    assert len(results(out / "predictions.json")) == 4
    assert f"0 frames, 0 instances, segmented in 0.0 ms a frame; 1 failed; {out}" in capfd.readouterr().err
    assert predict(model, tmp_path / "new", broken) == 1
    assert "predictions.json was not written" in capfd.readouterr().err
    assert not (tmp_path / "new" / "predictions.json").exists()


def test_nothing_to_do_is_an_error(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("nothing", encoding="utf-8")
    assert predict(model, tmp_path / "out", empty) == 1
    assert "no image or video in this folder" in capfd.readouterr().err


def test_unwritable_output_is_told_before_work(
    model: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    for out in (blocked, blocked / "below", Path("/proc/none")):
        assert predict(model, out, photos) == 1
        assert "cannot write to" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--model", "nothing_like_this"), "no shipped model is named 'nothing_like_this'"),
        (("--classes", "dog"), "does not know 'dog'"),
        (("--limit", "-1"), "--limit is -1"),
        (("--runtime", "abacus"), "runtime = 'abacus'"),
        (("--track", "--track-new-threshold", "-0.5"), "track_new_threshold = -0.5"),
    ],
)
def test_wrong_options(
    model: Path,
    photos: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, str],
    problem: str,
) -> None:
    base = ["predict", str(photos), "--out", str(tmp_path / "out"), "--model", str(model)]
    assert main([*base, *arguments]) == 1
    assert problem in capfd.readouterr().err


def make_video(path: Path, frames: int, size: tuple[int, int] = (64, 48)) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, size)
    assert writer.isOpened()
    for _ in range(frames):
        image = np.zeros((size[1], size[0], 3), np.uint8)
        image[..., 2] = 255
        writer.write(image)
    writer.release()


def test_video_in_video_out(model: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "drive.mp4", 10)
    assert predict(model, tmp_path / "out", tmp_path / "drive.mp4") == 0
    video = cv2.VideoCapture(str(tmp_path / "out" / "drive.webm"))
    count, rate = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
    good, first = video.read()
    video.release()
    assert (good, int(count), round(rate)) == (True, 10, 12)
    assert first.shape == (48, 64, 3)
    found = results(tmp_path / "out" / "predictions.json")
    assert sorted({(r["image_id"], r["frame"]) for r in found}) == [(i + 1, i) for i in range(10)]


def test_tracks_in_a_video(model: Path, photos: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "drive.mp4", 5)
    assert predict(model, tmp_path / "out", tmp_path / "drive.mp4", photos, "--track") == 0
    found = results(tmp_path / "out" / "predictions.json")
    tracks = {r["category_id"]: set() for r in found}
    for result in found:
        if "frame" in result:
            tracks[result["category_id"]].add(result["track_id"])
        else:
            assert "track_id" not in result  # a photo has no time
    assert sorted(map(sorted, tracks.values())) == [[1], [2]]
    assert predict(model, tmp_path / "other", tmp_path / "drive.mp4") == 0
    assert all("track_id" not in r for r in results(tmp_path / "other" / "predictions.json"))


def test_damaged_video_and_absent_camera(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 2000)
    assert predict(model, tmp_path / "out", tmp_path / "broken.mp4", tmp_path / "gone.mp4", "97") == 1
    told = capfd.readouterr().err
    assert "broken.mp4: OpenCV cannot open it as a video" in told
    assert "gone.mp4: there is no such file" in told
    assert "camera 97: OpenCV cannot open it as a camera" in told


def test_ctrl_c_keeps_what_was_done(model: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "drive.mp4", 400)
    out = tmp_path / "out"
    options = ["--model", model, "--runtime", "onnxruntime", "--out", out]
    videos = [tmp_path / "drive.mp4"] * 20
    command = [sys.executable, "-m", "fassst_ros.cli", "predict", *videos, *options]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (out / "drive.webm").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "interrupted" in told
    assert "Traceback" not in told
    assert 0 < len(results(out / "predictions.json")) < 20 * 400 * 2


def test_sources_are_never_overwritten(model: Path, photos: Path) -> None:
    before = (photos / "000000000139.jpg").read_bytes()
    assert predict(model, photos, photos) == 0
    assert (photos / "000000000139.jpg").read_bytes() == before
    assert (photos / "000000000139_2.jpg").is_file()


def test_targets_differ_and_earlier_pictures_are_no_sources(photos: Path) -> None:
    out = photos / "out"
    (out / "deep").mkdir(parents=True)
    write_red(out / "deep" / "old.jpg", (8, 8))
    write_red(photos / "285.png", (8, 8))
    write_red(photos / "285.jpg", (8, 8))
    sources = find_sources([str(photos), str(photos / "more" / "285.png")], out)
    assert [Path(s.path).name for s in sources] == [
        "000000000139.jpg",
        "285.jpg",
        "285.png",
        "285.png",
        "285.png",
    ]
    assert len({s.target for s in sources}) == 5


def test_cut_off_files_are_told_from_whole_ones(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for suffix in (".jpg", ".png"):
        data = cv2.imencode(suffix, image)[1].tobytes()
        assert not is_cut_off(data)
        assert not is_cut_off(data + b"trailing bytes of a camera app" * 50)
        for keep in (0.99, 0.5, 0.1):
            with pytest.raises(InputError, match="x is cut off"):
                decode_image(data[: int(len(data) * keep)], "x")
    preview = cv2.imencode(".jpg", image[:8, :8])[1].tobytes()
    whole = cv2.imencode(".jpg", image)[1].tobytes()
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview  # as an EXIF preview
    framed = whole[:2] + segment + whole[2:]
    assert not is_cut_off(framed)
    assert is_cut_off(framed[: len(framed) // 2])


def test_grey_and_16_bit_images_become_bgr(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((5, 6), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((5, 6, 3), 0x4D12, np.uint16))
    for name in ("grey.png", "deep.png"):
        frame = read_image(tmp_path / name)
        assert frame.color == "bgr"
        np.testing.assert_array_equal(frame.image, np.full((5, 6, 3), 77, np.uint8))
