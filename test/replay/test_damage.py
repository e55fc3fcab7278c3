"""Bags and frames that are damaged, and disks that fill up: what is good is kept, and the rest is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_bags import START, STEP, TOPIC, Shot, drive, jpeg, picture, write_bag, write_bag1
from rosbags.highlevel import AnyReader
from tiny_model import make_tiny_model, tiny_card

from fassst_ros.bag import Bag, typestore
from fassst_ros.cli import main
from fassst_ros.replay.record import ReplayRecord
from fassst_ros.replay.results import ResultReader

Replay = Callable[..., tuple[int, ReplayRecord]]


def noise(count: int) -> list[Shot]:
    """Images that are hard to compress, so that a bag has many pages and chunks."""
    rng = np.random.default_rng(0)
    shots = []
    for shot in drive(count):
        image = rng.integers(0, 256, (96, 128, 3), np.uint8)
        image[..., 0] = 255
        shots.append(Shot(TOPIC, shot.stamp, shot.received, image))
    return shots


@pytest.mark.parametrize("storage", ["sqlite3", "mcap", "mcap zstd"])
@pytest.mark.parametrize("share", [0.4, 0.8, 0.99])
def test_a_bag_that_was_cut_off(replay: Replay, tmp_path: Path, storage: str, share: float) -> None:
    kind = "mcap" if "mcap" in storage else "sqlite3"
    bag = write_bag(tmp_path / "bag", noise(80), kind, "storage" if "zstd" in storage else "")  # type: ignore[arg-type]
    file = next(f for f in bag.iterdir() if f.suffix != ".yaml")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    (bag / "metadata.yaml").unlink()  # a recorder that was killed has not written it
    status, record = replay(bag)
    assert status == 1
    assert "the bag is damaged" in record.notes[0]
    # Chunks of an mcap file hold 1 MiB, 27 images; pages of a database 4 KiB.
    lost = 2 if kind == "sqlite3" else 28
    assert 80 * share - lost <= len(record.frames) < 80
    assert [frame.index for frame in record.frames] == list(range(len(record.frames)))
    assert all(frame.classes == {"car": 1, "person": 1} for frame in record.frames)


def test_a_message_compressed_bag_that_was_cut_off(replay: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", noise(60), "mcap", "message")
    file = bag / "bag.mcap"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.8)])
    status, record = replay(bag)
    assert status == 1
    assert len(record.frames) >= 20


@pytest.mark.parametrize("name", ["drive.bag", "drive.mcap", "drive.db3", "drive.txt"])
def test_files_that_are_no_bags(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"", b"not a bag at all" * 100):
        (tmp_path / name).write_bytes(content)
        assert main(["replay", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
        assert "is no readable ROS bag" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_ros1_bag_that_was_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag1(tmp_path / "drive.bag", drive(3))
    bag.write_bytes(bag.read_bytes()[:-100])
    assert main(["replay", str(bag), "--out", str(tmp_path / "out")]) == 1
    assert "`rosbag reindex` repairs one that was not closed" in capsys.readouterr().err


def test_folders_that_are_no_bags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path)]) == 1
    assert "holds neither metadata.yaml nor a .db3, .mcap, .bag file" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_bag_without_images_names_what_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = typestore().types["std_msgs/msg/String"]("no image")
    bag = write_bag(tmp_path / "bag", [], others=[("/text", "std_msgs/msg/String", 1, text)])
    assert main(["replay", str(bag)]) == 1
    errors = capsys.readouterr().err
    assert "holds no sensor_msgs/msg/Image" in errors
    assert "it holds: /text (std_msgs/msg/String)" in errors


def test_an_unknown_encoding_names_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "bag", [Shot(TOPIC, START, START, picture(), "gray42")])
    assert main(["replay", str(bag)]) == 1
    assert "encoding 'gray42' is not supported; expected one of rgb8" in capsys.readouterr().err


def test_frames_that_cannot_be_read_cost_only_themselves(replay: Replay, tmp_path: Path) -> None:
    good = jpeg(picture())
    contents = [good, good[:-200], b"", np.zeros(50, np.uint8), good]
    shots = [
        Shot(TOPIC, START + k * STEP, START + k * STEP, np.frombuffer(bytes(data), np.uint8), "jpeg")
        for k, data in enumerate(contents)
    ]
    status, record = replay(write_bag(tmp_path / "bag", shots))
    assert status == 1
    assert [frame.outcome for frame in record.frames] == ["segmented", *["failed"] * 3, "segmented"]
    reasons = [frame.reason for frame in record.frames[1:4]]
    assert "cut off" in reasons[0]
    assert "no data" in reasons[1]
    assert "cannot decode" in reasons[2]
    assert [frame.stamp for frame in record.frames] == [shot.stamp for shot in shots]
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert 'id="failed"' in page
    with AnyReader([tmp_path / "out/results"]) as reader:
        assert reader.message_count == 2


def test_a_damaged_message_costs_only_itself(replay: Replay, tmp_path: Path) -> None:
    import sqlite3

    bag = write_bag(tmp_path / "bag", drive(3))
    with sqlite3.connect(bag / "bag.db3") as connection:
        connection.execute("UPDATE messages SET data = x'0001000001' WHERE id = 2")
    status, record = replay(bag)
    assert status == 1
    assert [frame.outcome for frame in record.frames] == ["segmented", "failed", "segmented"]
    assert "message 1 on /camera/image_raw is damaged" in record.frames[1].reason


def test_stamps_that_jump_back(replay: Replay, tmp_path: Path) -> None:
    """As of a bag that was recorded while another one was played in a loop."""
    times = [0, 1, 2, 0, 1, 2]
    shots = [Shot(TOPIC, START + stamp * STEP, START + k * STEP, picture()) for k, stamp in enumerate(times)]
    status, record = replay(write_bag(tmp_path / "bag", shots), "--track", video=True)
    assert status == 0
    assert record.notes[0] == f"{TOPIC}: stamps jump back 1 times; each time, tracks start anew"
    assert record.notes[1].startswith(f"{TOPIC}: 3 frames have the stamp of an earlier one")
    assert [frame.tracks for frame in record.frames] == [(1, 2)] * 3 + [(3, 4)] * 3


def test_frames_without_stamps(replay: Replay, tmp_path: Path) -> None:
    """Of drivers that leave the stamp at 0: each frame still has its own result."""
    shots = [Shot(TOPIC, 0, START + k * STEP, picture(red)) for k, red in enumerate((255, 100, 255))]
    status, record = replay(write_bag(tmp_path / "bag", shots))
    assert status == 0
    assert "2 frames have the stamp of an earlier one" in record.notes[0]
    with ResultReader(tmp_path / "out/results", {TOPIC: "/segment_node/instances"}) as results:
        found = [results.instances(TOPIC, 0, frame.received) for frame in record.frames]
        assert [len(one) for one in found if one is not None] == [2, 1, 2]
        last = results.instances(TOPIC, 0)
        assert last is not None
        assert len(last) == 2
        assert results.instances(TOPIC, 1) is None


def test_messages_out_of_order_are_replayed_as_they_were_received(replay: Replay, tmp_path: Path) -> None:
    order = [2, 0, 1]
    shots = [Shot(TOPIC, START + k * STEP, START + k * STEP, picture()) for k in order]
    for storage in ("sqlite3", "mcap"):
        status, record = replay(write_bag(tmp_path / storage, shots, storage))  # type: ignore[arg-type]
        assert status == 0
        assert [frame.received for frame in record.frames] == [START + k * STEP for k in range(3)]
        assert record.notes == []


#: Runs a command whose files may not grow beyond a limit, as on a disk that is full.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from fassst_ros.cli import main
sys.exit(main(sys.argv[2:]))
"""


def limited(limit: int, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(limit), "replay", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """The bag of results grows to its limit; what is in it stays readable, and the report is written."""
    (tmp_path / "model").mkdir()
    masks = np.indices((1, 32, 32)).sum(axis=0) % 2  # a checkerboard: many runs
    model = make_tiny_model(
        tmp_path / "model",
        np.float32([[0, 0, 64, 48]]),
        np.int32([0]),
        np.float32([1.0]),
        masks.astype(np.float32),
        tiny_card(slots=1, cells=32),
    )
    image = np.zeros((3000, 2000, 3), np.uint8)
    image[..., 0] = 255
    shots = [Shot(TOPIC, s.stamp, s.received, jpeg(image), "jpeg") for s in drive(60)]
    bag = write_bag(tmp_path / "bag", shots)
    out = tmp_path / "out"
    done = limited(9 << 20, bag, "--out", out, "--model", model, "--runtime", "onnxruntime", "--no-video")
    assert done.returncode == 1, done.stderr
    record = json.loads((out / "replay.json").read_text(encoding="utf-8"))
    frames = len(record["frames"])
    assert 10 < frames < 60
    assert f"ended early, after {frames} frames: cannot write to the bag" in done.stderr
    assert "Is the disk full?" in (out / "index.html").read_text(encoding="utf-8")
    assert "Traceback" not in done.stderr
    with Bag(out / "results") as results:
        kept = list(results.messages(list(results.topics)))
        assert frames - 10 <= len(kept) <= frames
        results.read(kept[-1])


def test_a_disk_that_is_full_at_the_start(model: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(1))
    done = limited(
        1 << 20, bag, "--out", tmp_path / "out", "--model", model, "--runtime", "onnxruntime", "--no-video"
    )
    assert done.returncode == 1
    assert "cannot write to" in done.stderr
    assert "Choose another folder with --out" in done.stderr
    assert not list((tmp_path / "out").glob(".*"))
