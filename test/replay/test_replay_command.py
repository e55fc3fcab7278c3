"""`fassst replay` with real bags and a real graph: what it writes, and which bags it reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from replay_bags import HEIGHT, START, STEP, TOPIC, WIDTH, Shot, drive, jpeg, picture, write_bag, write_bag1
from rosbags.highlevel import AnyReader

from fassst_ros.decode import decode
from fassst_ros.replay.record import ReplayRecord

Replay = Callable[..., tuple[int, ReplayRecord]]


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_what_a_run_writes(replay: Replay, tmp_path: Path, storage: str) -> None:
    bag = write_bag(tmp_path / "bag", drive(5, reds=(255, 255, 100, 0, 255)))
    status, record = replay(bag, "--storage", storage, "--json", tmp_path / "copy.json", video=True)
    out = tmp_path / "out"
    assert status == 0
    # 255: both instances (scores 1 and 0.6); 100: one of score 0.39; 0: none.
    expected = [{"car": 1, "person": 1}] * 2 + [{"car": 1}, {}, {"car": 1, "person": 1}]
    assert [frame.classes for frame in record.frames] == expected
    assert [frame.stamp for frame in record.frames] == [START + k * STEP for k in range(5)]
    assert [frame.index for frame in record.frames] == list(range(5))
    assert all(set(f.stages) == {"decode", "resize", "infer", "postprocess"} for f in record.frames)
    assert all(f.latency_ms == pytest.approx(sum(f.stages.values())) for f in record.frames)
    copy = json.loads((tmp_path / "copy.json").read_text(encoding="utf-8"))
    assert copy["summary"]["instances"] == {"car": 4, "person": 3}
    assert (tmp_path / copy["results"]).samefile(out / "results")
    # Read with the definitions in the bag alone, as by any reader.
    with AnyReader([out / "results"]) as reader:
        (connection,) = reader.connections
        assert (connection.topic, connection.msgtype) == (
            "/segment_node/instances",
            "fassst_ros/msg/InstanceArray",
        )
        found = [(time, reader.deserialize(raw, connection.msgtype)) for _, time, raw in reader.messages()]
    assert [time for time, _ in found] == [frame.received for frame in record.frames]
    for (_, message), frame in zip(found, record.frames, strict=True):
        stamp = message.header.stamp
        assert (stamp.sec * 10**9 + stamp.nanosec, message.header.frame_id) == (frame.stamp, "optical")
        assert (message.height, message.width, message.model) == (HEIGHT, WIDTH, "tiny 1")
        assert len(decode(message)) == sum(frame.classes.values())
    assert found[0][1].instances[0].class_name == "car"
    np.testing.assert_allclose(decode(found[0][1]).boxes[0], [16, 12, 80, 60], atol=0.01)
    video = cv2.VideoCapture(str(out / "video.webm"))
    good, image = video.read()
    video.release()
    assert good
    assert image.shape == (HEIGHT, WIDTH, 3)
    page = (out / "index.html").read_text(encoding="utf-8")
    for part in ('src="video.webm"', 'id="latency"', 'id="drops"', 'id="instances"', "Slowest frames"):
        assert part in page
    assert not list(out.glob(".*")), "the reserved room is given back"


def test_the_type_hash_is_that_of_the_built_messages(replay: Replay, tmp_path: Path) -> None:
    """Other programs compare it: `ros2 bag play` refuses a bag whose hash differs."""
    from fassst_ros.bag import typestore

    replay(write_bag(tmp_path / "bag", drive(1)))
    with AnyReader([tmp_path / "out/results"]) as reader:
        (connection,) = reader.connections
        assert connection.digest == typestore().hash_rihs01("fassst_ros/msg/InstanceArray")
    root = Path(__file__).resolve().parents[2] / "install/fassst_ros/share/fassst_ros/msg/InstanceArray.json"
    if not root.is_file():
        pytest.skip("the messages are not built: their hash is not compared")
    hashes = json.loads(root.read_text(encoding="utf-8"))["type_hashes"]
    built = next(h["hash_string"] for h in hashes if h["type_name"] == "fassst_ros/msg/InstanceArray")
    assert connection.digest == built


@pytest.mark.parametrize(
    "kind", ["sqlite3", "mcap", "file", "message", "storage", "db3", "mcap file", "ros1", "no metadata"]
)
def test_every_kind_of_bag(replay: Replay, tmp_path: Path, kind: str) -> None:
    shots = drive(3)
    shots[1] = Shot(TOPIC, shots[1].stamp, shots[1].received, picture(100)[..., ::-1], "bgr8")
    path = tmp_path / "bag"
    if kind == "ros1":
        bag = write_bag1(tmp_path / "drive.bag", shots)
    elif kind in ("file", "message", "storage"):
        bag = write_bag(path, shots, "mcap" if kind == "storage" else "sqlite3", kind)  # type: ignore[arg-type]
    else:
        bag = write_bag(path, shots, "mcap" if "mcap" in kind else "sqlite3")
    if kind == "db3":
        bag = path / "bag.db3"
    elif kind == "mcap file":
        bag = path / "bag.mcap"
    elif kind == "no metadata":
        (path / "metadata.yaml").unlink()
    status, record = replay(bag)
    assert status == 0
    assert [len(frame.classes or {}) for frame in record.frames] == [2, 1, 2]
    assert [frame.stamp for frame in record.frames] == [shot.stamp for shot in shots]


def test_parts_of_a_bag_in_the_order_of_their_numbers(replay: Replay, tmp_path: Path) -> None:
    """As a recorder splits a long drive; one that was killed leaves no metadata.yaml."""
    shots = drive(4)
    folder = tmp_path / "drive"
    folder.mkdir()
    for number, part in ((2, shots[:2]), (10, shots[2:])):
        made = write_bag(tmp_path / f"part_{number}", part, "mcap")
        (made / f"part_{number}.mcap").rename(folder / f"drive_{number}.mcap")
    status, record = replay(folder)
    assert status == 0
    assert [frame.stamp for frame in record.frames] == [shot.stamp for shot in shots]
    # The last part was cut off: what is in the others is not lost.
    last = folder / "drive_10.mcap"
    last.write_bytes(last.read_bytes()[:60])
    status, record = replay(folder, out="cut")
    assert status == 1
    assert [frame.stamp for frame in record.frames] == [shot.stamp for shot in shots[:2]]


def test_several_cameras_in_the_order_of_the_recording(replay: Replay, tmp_path: Path) -> None:
    left, right = drive(3, "/left/image"), drive(3, "/right/image", offset=STEP // 2)
    encoded = Shot("/rear/image/compressed", START + 1, START + 9, jpeg(picture()), "jpeg")
    bag = write_bag(tmp_path / "bag", [*left, *right, encoded])
    status, record = replay(bag, "--track", video=True)
    assert status == 0
    assert [f.topic for f in record.frames[:3]] == ["/rear/image/compressed", "/left/image", "/right/image"]
    times = [frame.received for frame in record.frames]
    assert times == sorted(times)
    assert [c.results for c in record.cameras] == [
        f"/segment_node/{name}/instances" for name in ("left/image", "right/image", "rear/image")
    ]
    assert [c.video for c in record.cameras] == ["video_1.webm", "video_2.webm", "video_3.webm"]
    assert all((tmp_path / "out" / c.video).is_file() for c in record.cameras)
    # Each camera has its own tracker: two ids in each, the same ones from frame to frame.
    assert {frame.tracks for frame in record.frames} == {(1, 2)}
    with AnyReader([tmp_path / "out/results"]) as reader:
        assert {c.topic: c.msgcount for c in reader.connections} == {
            c.results: c.messages for c in record.cameras
        }
    status, record = replay(bag, "--topic", "/right/image", out="one")
    assert {frame.topic for frame in record.frames} == {"/right/image"}
    assert record.cameras[0].results == "/segment_node/instances"


def test_topics_that_cannot_be_segmented_are_left_out_and_told(replay: Replay, tmp_path: Path) -> None:
    depth = np.zeros((HEIGHT, WIDTH), np.uint16)
    shots = [
        *drive(2),
        Shot(f"{TOPIC}/compressed", START, START, jpeg(picture()), "jpeg"),
        Shot("/depth/image", START, START, depth, "16UC1"),
        Shot("/depth/compressedDepth", START, START, [1, 2, 3], "compressedDepth"),
    ]
    bag = write_bag(tmp_path / "bag", shots)
    status, record = replay(bag)
    assert status == 0
    assert {frame.topic for frame in record.frames} == {TOPIC}
    (note,) = record.notes
    assert f"{TOPIC}/compressed: the same images are there uncompressed" in note
    assert "/depth/image: encoding '16UC1' is not supported" in note
    assert "/depth/compressedDepth: a depth image" in note
    status, record = replay(bag, "--topic", "/depth/image", out="depth")
    assert status == 1
    assert record.frames[0].outcome == "failed"
    assert "16UC1" in record.frames[0].reason


def test_a_rate_is_simulated(replay: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(4))
    _, record = replay(bag, "--rate", "1000")
    assert record.rate == "at 1000 Hz"
    assert "coming at 1000 Hz" in (tmp_path / "out/index.html").read_text(encoding="utf-8")
    for frame in record.frames:  # which are dropped depends on the machine
        assert (frame.latency_ms is None) == (frame.outcome == "dropped")
        assert frame.classes == {"car": 1, "person": 1}
    _, record = replay(bag, "--rate", "recorded", out="recorded")
    assert (record.rate, record.count("dropped")) == ("as recorded", 0)


def test_limits_for_ci(replay: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "bag", drive(2))
    assert replay(bag, "--max-p99", "60000")[0] == 0
    assert replay(bag, "--max-p99", "0.0001", out="slow")[0] == 3
    assert "missed: p99 of the latency is" in capsys.readouterr().err
    assert main_status(bag, tmp_path / "none", "--min-ap", "0.2") == 1
    assert "--min-ap needs ground truth" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def main_status(bag: Path, out: Path, *arguments: str) -> int:
    from fassst_ros.cli import main

    return main(["replay", str(bag), "--out", str(out), *arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit", "-1"), "--limit is -1"),
        (("--min-ap", "25"), "expected 0 to 1"),
        (("--max-p99", "0"), "expected milliseconds above 0"),
        (("--rate", "fast"), "--rate is 'fast'; expected 'recorded' or a rate"),
        (("--rate", "nan"), "--rate is 'nan'"),
        (("--json", "/nowhere/x.json"), "--json /nowhere/x.json cannot be written"),
        (("--topic", "/other"), f"holds no images on /other; it holds: {TOPIC}"),
        (("--against", "none"), "Expected the folder of an earlier replay"),
        (("--ground-truth", "none.json"), "cannot read annotations none.json"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag", drive(1))
    assert main_status(bag, tmp_path / "out", *arguments) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_left_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag", drive(1))
    (tmp_path / "out/results").mkdir(parents=True)
    (tmp_path / "out/results/thesis.txt").write_text("mine")
    assert main_status(bag, tmp_path / "out", "--model", str(model)) == 1
    assert "is no bag of an earlier run. Give another folder" in capsys.readouterr().err
    assert (tmp_path / "out/results/thesis.txt").read_text() == "mine"


def test_a_second_run_replaces_the_first(replay: Replay, tmp_path: Path) -> None:
    replay(write_bag(tmp_path / "bag", drive(4)))
    _, record = replay(write_bag(tmp_path / "other", drive(2)))
    assert len(record.frames) == 2
    with AnyReader([tmp_path / "out/results"]) as reader:
        assert reader.message_count == 2


def test_ctrl_c_keeps_what_was_done(model: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(3000))
    out = tmp_path / "out"
    command: list[Any] = [sys.executable, "-m", "fassst_ros", "replay", bag, "--out", out, "--model", model]
    process = subprocess.Popen(
        [*map(str, command), "--runtime", "onnxruntime", "--no-video"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    database = out / "results/results.db3"
    end = time.monotonic() + 60
    while not (database.is_file() and database.stat().st_size > 40_000) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    record = json.loads((out / "replay.json").read_text(encoding="utf-8"))
    assert record["interrupted"]
    assert 0 < len(record["frames"]) < 3000
    assert "ended by Ctrl-C after" in errors
    with AnyReader([out / "results"]) as reader:
        assert reader.message_count == len(record["frames"])
    assert "ended by Ctrl-C" in (out / "index.html").read_text(encoding="utf-8")
