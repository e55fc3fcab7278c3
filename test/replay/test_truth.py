"""Ground truth of a bag: where it is found, which frame it belongs to, and what it gives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from replay_bags import HEIGHT, START, STEP, WIDTH, drive, write_bag
from rosbags.highlevel import AnyReader

from fassst_ros.cli import main
from fassst_ros.labels import CITYSCAPES
from fassst_ros.replay.record import ReplayRecord
from fassst_ros.replay.truth import parse_stamp

Replay = Callable[..., tuple[int, ReplayRecord]]
#: Where the tiny model finds its car and its person in frames of 128 x 96.
CAR, PERSON = [16.0, 12.0, 64.0, 48.0], [60.0, 40.0, 60.0, 52.0]


def annotation(image_id: int, category: int, box: list[float], number: int) -> dict[str, Any]:
    x, y, w, h = box
    return {
        "id": number, "image_id": image_id, "category_id": category, "bbox": box, "area": w * h,
        "iscrowd": 0, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }  # fmt: skip


def coco(stamps: list[Any], topics: list[str] | None = None) -> dict[str, Any]:
    """Car and person in each image, categories 7 and 9."""
    images, annotations = [], []
    for k, stamp in enumerate(stamps, 1):
        images.append({"id": k, "stamp": stamp, "height": HEIGHT, "width": WIDTH})
        if topics:
            images[-1]["topic"] = topics[k - 1]
        for category, box in ((7, CAR), (9, PERSON)):
            annotations.append(annotation(k, category, box, len(annotations) + 1))
    categories = [{"id": 7, "name": "car"}, {"id": 9, "name": "person"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_truth_beside_the_bag_of_some_frames(replay: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(5, reds=(255, 255, 255, 255, 0)))
    truth = coco([START + STEP, {"sec": START // 10**9, "nanosec": 3 * STEP}])
    write(bag / "ground_truth.json", truth)
    status, record = replay(bag, "--min-ap", "0.3")
    assert status == 0
    assert record.accuracy is not None
    assert record.accuracy["images"] == 2
    # The last frame, in which nothing is found, has no ground truth: it costs nothing.
    assert record.accuracy["at_threshold"]["recall"] == 1.0
    assert record.accuracy["mask"]["AP50"] == 1.0
    assert [frame.truth for frame in record.frames] == [False, True, False, True, False]
    assert [frame.quality is not None for frame in record.frames] == [False, True, False, True, False]
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "of 2 frames. The other 3 frames have none and are not in these numbers" in page
    assert "Worst frames" in page
    assert (tmp_path / "out/pictures/truth_01_truth.jpg").is_file()


def test_a_missed_object_costs(replay: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Red 100: the person, of score 0.24, is not shown, but counts for AP, which looks at all scores.
    bag = write_bag(tmp_path / "bag", drive(2, reds=(255, 100)))
    truth = coco([START, START + STEP])
    truth["annotations"].append(annotation(1, 9, [0, 70, 20, 20], 9))
    file = write(tmp_path / "mine.json", truth)
    status, record = replay(bag, "--ground-truth", file, "--min-ap", "0.99")
    assert status == 3
    assert "missed: mask AP is" in capsys.readouterr().err
    assert record.accuracy is not None
    assert record.accuracy["at_threshold"]["missed"]["person"]["missed"] == 2
    assert record.accuracy["mask"]["per_class"]["person"]["AP50"] == pytest.approx(2 / 3, abs=0.01)
    qualities = [frame.quality for frame in record.frames]
    assert all(quality is not None and 0.4 < quality < 0.9 for quality in qualities)


def test_truth_of_two_cameras(replay: Replay, tmp_path: Path) -> None:
    shots = drive(1, "/left/image") + drive(1, "/right/image", reds=(0,))
    bag = write_bag(tmp_path / "bag", shots, "mcap")
    write(
        tmp_path / "bag/bag.ground_truth.json", coco([START] * 2, ["/left/image", "/right/image/compressed"])
    )
    status, record = replay(bag / "bag.mcap")
    assert status == 0
    assert record.accuracy is not None
    assert [frame.quality and round(frame.quality) for frame in record.frames] == [1, 0.0]
    assert record.accuracy["at_threshold"]["recall"] == 0.5


def test_truth_from_a_topic_of_the_bag(replay: Replay, tmp_path: Path) -> None:
    shots = drive(3)
    replay(write_bag(tmp_path / "plain", shots), out="first")
    with AnyReader([tmp_path / "first/results"]) as reader:
        (connection,) = reader.connections
        found = [(time, reader.deserialize(raw, connection.msgtype)) for _, time, raw in reader.messages()]
    others = [("/hand/ground_truth", connection.msgtype, time, message) for time, message in found[:2]]
    bag = write_bag(tmp_path / "bag", shots, others=others)
    status, record = replay(bag)
    assert status == 0
    assert record.accuracy is not None
    assert (record.accuracy["source"], record.accuracy["images"]) == ("/hand/ground_truth", 2)
    assert record.accuracy["mask"]["AP"] == record.accuracy["box"]["AP"] == 1.0
    # What a node has published is no ground truth unless the user says so.
    others = [("/segment_node/instances", connection.msgtype, time, message) for time, message in found]
    bag = write_bag(tmp_path / "recorded", shots, others=others)
    assert replay(bag, out="second")[1].accuracy is None
    _, record = replay(bag, "--ground-truth", "/segment_node/instances", out="third")
    assert record.accuracy is not None
    assert record.accuracy["mask"]["AP"] == 1.0


def test_cityscapes_where_its_classes_are_annotated(replay: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(1))
    truth = coco([START])
    truth["categories"] += [
        {"id": 20 + c.id, "name": c.name} for c in CITYSCAPES if c.name not in ("car", "person")
    ]
    write(bag / "ground_truth.json", truth)
    _, record = replay(bag)
    assert record.accuracy is not None
    assert record.accuracy["cityscapes"]["per_class"]["car"]["AP50"] == 1.0
    assert 'id="cityscapes"' in (tmp_path / "out/index.html").read_text(encoding="utf-8")


def test_truth_without_a_frame_is_told(replay: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(2))
    write(bag / "ground_truth.json", coco([5, 6]))
    status, record = replay(bag, "--min-ap", "0.1")
    assert status == 3
    assert record.accuracy is None
    assert "no frame has ground truth: the stamps of" in record.notes[0]
    assert f"begin with 5, those of the bag with {START}" in record.notes[0]
    status, record = replay(bag, "--ground-truth", "none")
    assert (status, record.notes) == (0, [])
    write(bag / "ground_truth.json", coco([START, 6]))
    status, record = replay(bag)
    assert status == 0
    assert record.notes == ["1 of 2 annotated frames are not in the bag"]


def test_truth_of_another_size_is_told(replay: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(2))
    truth = coco([START, START + STEP])
    truth["images"][0]["height"] = 48
    truth["annotations"] = truth["annotations"][2:]
    write(bag / "ground_truth.json", truth)
    _, record = replay(bag)
    assert record.accuracy is not None
    assert record.accuracy["images"] == 1
    assert record.notes[0] == (
        "1 annotated frames are not compared: its ground truth is of 128x48 pixels, the frame is of 128x96"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stamp": 1700000000.1}, "stamp of image 1: 1700000000.1 is none; expected nanoseconds"),
        ({"stamp": "soon"}, "'soon' is none"),
        ({"stamp": START + STEP}, "images 1 and 2 have the same stamp"),
        ({"topic": "/other"}, "its images are of /other; the bag's are of /camera/image_raw"),
        ({"topic": 3}, "topic of image 1 is 3"),
        ({"height": "tall"}, "has no whole number as height"),
    ],
)
def test_truth_that_is_malformed(
    change: dict[str, Any],
    words: str,
    tmp_path: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag = write_bag(tmp_path / "bag", drive(1))
    truth = coco([START, START + STEP])
    truth["images"][0] |= change
    if change.get("topic") == "/other":
        truth["images"].pop()
    write(bag / "ground_truth.json", truth)
    arguments = ["replay", str(bag), "--model", str(model), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--runtime", "onnxruntime"]) == 1
    assert words in capsys.readouterr().err
    del truth["images"][0]["stamp"]
    write(bag / "ground_truth.json", truth)
    assert main([*arguments, "--runtime", "onnxruntime"]) == 1
    assert "image 1 has no stamp" in capsys.readouterr().err or "topic" in change
    assert not (tmp_path / "out").exists()


def test_without_a_library_for_ap(tmp_path: Path, model: Path) -> None:
    """As on a machine where neither faster-coco-eval nor pycocotools is installed."""
    bag = write_bag(tmp_path / "bag", drive(1))
    file = write(bag / "ground_truth.json", coco([START]))
    code = (
        "import sys; sys.modules |= dict.fromkeys(['faster_coco_eval', 'pycocotools'])\n"
        "from fassst_ros.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["replay", bag, "--model", model, "--runtime", "onnxruntime", "--no-video", "--out"]
    for more, status in (([], 0), (["--ground-truth", file], 1)):
        command = [sys.executable, "-c", code, *arguments, tmp_path / f"out{status}", *more]
        run = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60)
        assert run.returncode == status, run.stderr
        assert "accuracy needs faster-coco-eval" in run.stderr


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        (1_700_000_000_100_000_000, 1_700_000_000_100_000_000),
        ("1700000000.1", 1_700_000_000_100_000_000),
        ("1700000000.000000001", 1_700_000_000_000_000_001),
        ("1700000000", 1_700_000_000_000_000_000),
        ("1700000000100000000", 1_700_000_000_100_000_000),
        ({"sec": 12, "nanosec": 5}, 12_000_000_005),
        (0, 0),
    ],
)
def test_stamps(value: Any, nanoseconds: int) -> None:
    assert parse_stamp(value) == nanoseconds


@pytest.mark.parametrize("value", [True, None, 1.5, "1.0000000001", "-1", {"sec": 1}, [1, 2]])
def test_what_is_no_stamp(value: Any) -> None:
    with pytest.raises(ValueError, match="expected nanoseconds"):
        parse_stamp(value)
