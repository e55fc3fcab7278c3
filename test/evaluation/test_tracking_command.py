"""`fassst eval-tracks` as its user runs it, on a model that finds the same car in every image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from constant_model import write_constant_model

from fassst_ros.cli import main
from fassst_ros.evaluation.ground_truth import GroundTruth
from fassst_ros.evaluation.tracking_videos import VideoTruth, read_videos
from fassst_ros.types import InputError, Instances, RoiMask

HEIGHT, WIDTH = 96, 128
FOUND = (32, 12, 96, 84)  # by the model
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]


def car(image: int, track: int | None, box: tuple[int, ...] = FOUND, **more: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    made = {
        "image_id": image, "category_id": 3, "iscrowd": 0, "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0), "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]], **more,
    }  # fmt: skip
    return made if track is None else {**made, "track_id": track}


def content_of(tracks: list[int | None], videos: int = 1) -> dict[str, Any]:
    """Videos of frames at 10 Hz in which the car has these ids."""
    images, annotations = [], []
    for video in range(1, videos + 1):
        for index, track in enumerate(tracks):
            number = len(images) + 1
            images.append(
                {
                    "id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH,
                    "video_id": video, "frame_index": index,
                }
            )  # fmt: skip
            annotations.append({"id": number, **car(number, track)})
    names = [{"id": v, "name": f"video {v}", "fps": 10} for v in range(1, videos + 1)]
    return {"videos": names, "images": images, "annotations": annotations, "categories": CATEGORIES}


def write(folder: Path, content: dict[str, Any]) -> None:
    for image in content["images"]:
        cv2.imwrite(str(folder / image["file_name"]), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    (folder / "truth.json").write_text(json.dumps(content), encoding="utf-8")


def evaluate(folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    model, out = write_constant_model(folder), folder / "result.json"
    arguments = [str(model), "--annotations", str(folder / "truth.json"), "--images", str(folder)]
    status = main(["eval-tracks", *arguments, "--runtime", "onnxruntime", "--json", str(out), *more])
    return status, json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}


def test_perfect_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, content_of([7] * 6, videos=2))
    status, result = evaluate(tmp_path)
    assert status == 0
    found = result["results"]["as set"]
    assert (found["all"]["mota"], found["all"]["idf1"], found["all"]["assa"]) == (1, 1, found["all"]["deta"])
    assert found["per_class"]["car"] == found["all"]
    assert found["per_class"]["person"] is None
    assert (result["videos"], result["frames"]) == (2, 12)
    assert result["options"]["track"] is True
    assert found["track_ms"]["p50"] > 0
    assert "HOTA" in capsys.readouterr().out


def test_ids_that_change_in_truth_only(tmp_path: Path) -> None:
    """The tracker sees one car where there are two, one after the other."""
    write(tmp_path, content_of([1, 1, 1, 2, 2, 2]))
    _, result = evaluate(tmp_path)
    found = result["results"]["as set"]["all"]
    assert found["idf1"] == pytest.approx(0.5)
    assert found["mota"] == 1, "each object has one track"
    assert found["switches"] == 0


def test_variants_and_options(tmp_path: Path) -> None:
    write(tmp_path, content_of([1] * 4))
    _, result = evaluate(tmp_path, "--variants", "--track-buffer", "0.5")
    names = list(result["results"])
    assert names[0] == "as set"
    assert "plain box IoU" in names
    assert "without motion" in names
    assert result["options"]["track_buffer"] == 0.5
    assert all(r["all"]["idf1"] == 1 for r in result["results"].values())


def test_a_slower_camera(tmp_path: Path) -> None:
    write(tmp_path, content_of([1] * 7))
    _, result = evaluate(tmp_path, "--every", "3")
    assert result["frames"] == 3
    # At 3.3 Hz, a buffer of 0.2 s forgets the car from frame to frame.
    _, result = evaluate(tmp_path, "--every", "3", "--track-buffer", "0.2")
    assert result["results"]["as set"]["all"]["switches"] == 2


def test_a_broken_frame_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, content_of([1] * 4))
    (tmp_path / "3.png").write_bytes(b"no picture")
    status, result = evaluate(tmp_path)
    assert status == 1
    assert list(result["failed"]) == ["3.png"]
    assert result["results"]["as set"]["all"]["objects"] == 3


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda c: c["images"][1].pop("frame_index"),
            "image '2.png' has no video_id or no whole frame_index",
        ),
        (lambda c: c.pop("videos"), "nobody tells when it was taken"),
        (lambda c: c["images"][1].update(video_id=[1]), "image '2.png' has no video_id"),
        (lambda c: c.update(videos=None), "nobody tells when it was taken"),
        (lambda c: c["videos"][0].update(id=[1]), "nobody tells when it was taken"),
        (lambda c: c["annotations"][2].pop("track_id"), "image '3.png' has track_id None"),
        (lambda c: c["annotations"][2].update(track_id=[1]), "image '3.png' has track_id [1]"),
        (lambda c: c["images"][1].update(frame_index=0), "expected each frame_index once"),
        (lambda c: c["images"][1].update(stamp=0.0), "video 1: the stamps of its images do not rise"),
        (lambda c: c["images"][1].update(stamp="noon"), "nobody tells when it was taken"),
    ],
)
def test_annotations_that_are_no_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Any], object], words: str
) -> None:
    content = content_of([1] * 3)
    spoil(content)
    write(tmp_path, content)
    status, result = evaluate(tmp_path)
    assert status == 1
    assert words in capsys.readouterr().err
    assert result == {}


@pytest.mark.parametrize(
    ("more", "words"),
    [(("--every", "0"), "--every is 0"), (("--track-high-threshold", "-0.5"), "track_high_threshold = -0.5")],
)
def test_wrong_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    write(tmp_path, content_of([1] * 2))
    assert evaluate(tmp_path, *more)[0] == 1
    assert words in capsys.readouterr().err


def tracked(*boxes: tuple[int, ...], ids: list[int], classes: list[int]) -> Instances:
    n = len(boxes)
    return Instances(
        np.array(boxes, np.float32),
        np.full(n, 0.9, np.float32),
        np.array(classes, np.int32),
        tuple(RoiMask(x0, y0, np.ones((y1 - y0, x1 - x0), np.bool_)) for x0, y0, x1, y1 in boxes),
        (HEIGHT, WIDTH),
        np.array(ids, np.int64),
    )


def truth_of(*annotations: dict[str, Any]) -> VideoTruth:
    from constant_model import CLASSES

    content = content_of([1])
    content["annotations"] = [{"id": i, **a} for i, a in enumerate(annotations, 1)]
    return VideoTruth(GroundTruth.read(content, CLASSES), read_videos(content))


def test_what_is_compared() -> None:
    """Instances without a track are not, nor those on regions to ignore; classes never meet."""
    other, crowd = (100, 0, 120, 40), (0, 60, 30, 90)
    truth = truth_of(car(1, 5), car(1, 6, other), car(1, 8, crowd, iscrowd=1))
    found = truth.compare(
        1,
        0,
        tracked(FOUND, FOUND, other, (0, 60, 20, 80), other, ids=[3, 0, 4, 9, 2], classes=[3, 3, 1, 3, 3]),
    )
    assert found.match.tracks.tolist() == [3, 4, 2]
    assert found.match.objects.tolist() == [0, 1]
    np.testing.assert_allclose(found.match.overlap, [[1, 0, 0], [0, 0, 1]])
    cars = found.of(3)
    assert (cars.objects.tolist(), cars.tracks.tolist()) == ([0, 1], [3, 2])
    assert found.of(1).tracks.tolist() == [4]


def test_an_object_to_ignore_needs_no_id() -> None:
    truth_of(car(1, 5), car(1, None, iscrowd=1))
    with pytest.raises(InputError, match="track_id None; expected in each"):
        truth_of(car(1, None))
