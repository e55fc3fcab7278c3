"""The live replay as `make replay` starts it: the real node, a player and a measuring process over DDS."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from child_processes import children
from tiny_model import make_tiny_model, tiny_card

from fassst_ros.bag import COMPRESSED, RAW, typestore
from fassst_ros.card import sha256
from fassst_ros.cli import main

pytest.importorskip("rclpy", reason="no rclpy: the live replay is not tested")

ROOT = Path(__file__).resolve().parents[1]
START, STEP = 5 * 10**9, 10**8  # stamps of the bag [ns]
COUNT, DAMAGED = 12, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds two cars and a person in everything that is not black."""
    boxes = np.array([[4, 4, 30, 30], [20, 10, 60, 40], [40, 2, 50, 46]], np.float32)
    factors = np.array([0.95, 0.9, 0.8], np.float32)
    card = tiny_card(threshold=0.01)
    return make_tiny_model(tmp_path_factory.mktemp("model"), boxes, np.array([0, 1, 1]), factors, card=card)


def make_bag(path: Path, *topics: str) -> Path:
    """A bag of small pictures, 10 Hz, one of them cut off."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = typestore()
    types = store.types
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, COMPRESSED, typestore=store)
            for number in range(COUNT):
                stamp = types["builtin_interfaces/msg/Time"](*divmod(START + number * STEP, 10**9))
                picture = np.full((96, 128, 3), 100 + number, np.uint8)
                data = cv2.imencode(".png", picture)[1].ravel()
                data = data[:60] if number == DAMAGED else data
                message = types[COMPRESSED](types["std_msgs/msg/Header"](stamp, "front"), "png", data)
                time = START + number * STEP + 10**6
                writer.write(connection, time, store.serialize_cdr(message, COMPRESSED))
    return path


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bag(tmp_path_factory.mktemp("bag") / "drive", "/front/compressed")


def arguments(bag: Path, model: Path, out: Path, *more: str) -> list[str]:
    params = model.with_suffix(".yaml")  # each pass waits for the node's next report
    params.write_text("/**: {ros__parameters: {diagnostics_period: 0.1, threads: 1}}")
    options = ("--model", str(model), "--runtime", "onnxruntime", "--params-file", str(params))
    options += ("--out", str(out), "--seconds", "0.5")
    return [sys.executable, str(ROOT / "scripts/replay.py"), str(bag), *options, *more]


def run(bag: Path, model: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The replay, to its end."""
    return subprocess.run(
        arguments(bag, model, out, *more), capture_output=True, text=True, timeout=240, check=False
    )


def read_results(out: Path) -> list[tuple[int, Any]]:
    """(time of recording, InstanceArray) of the bag of results."""
    from rosbags.highlevel import AnyReader

    with AnyReader([out / "results"], default_typestore=typestore()) as reader:
        return [(time, reader.deserialize(raw, c.msgtype)) for c, time, raw in reader.messages()]


def test_the_whole_replay(bag: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(bag, model, out, "--rates", "20", "--max-rate", "25")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "highest rate with less than 5 % missing frames" in result.stdout
    assert not children(out)

    for time, message in (results := read_results(out)):
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        number, rest = divmod(stamp - START, STEP)
        assert (rest, message.header.frame_id) == (0, "front")
        assert 0 <= number < COUNT
        assert number != DAMAGED
        assert time > stamp + 10**6  # recorded later than the image, on the same axis
        assert [item.class_name for item in message.instances] == ["person", "car", "car"]
    record = json.loads((out / "replay.json").read_text())
    assert len(record["frames"]) == COUNT
    segmented = [frame for frame in record["frames"] if frame["outcome"] == "segmented"]
    assert len(segmented) == len(results)
    assert [frame["index"] for frame in record["frames"] if frame["outcome"] == "failed"] == [DAMAGED]

    fixed, *others = record["rates"]
    assert (fixed["kind"], fixed["rate"], fixed["published"]) == ("fixed", 20.0, 25)
    assert {rate["kind"] for rate in others} <= {"search", "confirm"}
    if record["highest"]["rate"]:  # a busy machine may sustain none
        assert (others[-1]["kind"], others[-1]["rate"]) == ("confirm", record["highest"]["rate"])
    for rate in (fixed, *others):
        counters = rate["counters"]
        assert counters["received"] <= rate["published"]
        assert counters["segmented"] == rate["segmented"]
        assert {"transport", "infer", "total"} <= set(rate["stages_ms"])
    assert "tiny 1" in (out / "index.html").read_text()

    options = ("--model", str(model), "--runtime", "onnxruntime", "--threads", "1", "--no-video")
    main(["replay", str(bag), *options, "--out", str(tmp_path / "offline"), "--against", str(out)])
    against = json.loads((tmp_path / "offline/replay.json").read_text())["against"]
    assert against["instances"]["same"] == 3 * len(segmented)  # the node finds what the library finds
    assert sum(against["instances"].values()) == 3 * len(segmented)


def test_several_cameras_at_fixed_rates_only(bag: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--cameras", "2", "--no-recorded", "--no-search", "--rates", "20")
    result = run(bag, model, out, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    record = json.loads((out / "replay.json").read_text())
    assert record["frames"] == []
    (rate,) = record["rates"]
    assert (rate["cameras"], rate["published"]) == (2, 26)  # 25 frames at least, the same of each
    assert rate["segmented"] == rate["counters"]["segmented"]
    assert not (out / "results").exists()


@pytest.mark.parametrize(
    ("topics", "options", "words"),
    [
        ((), ("--bag-topic", ""), "does not exist"),
        (("/a", "/b"), (), "several image topics"),
        (("/a",), ("--bag-topic", "/other"), "holds no images on /other"),
        (("/a",), ("--model", "/nowhere.onnx"), "model file /nowhere.onnx does not exist"),
    ],
)
def test_what_cannot_be_replayed_stops_before_anything_starts(
    model: Path, tmp_path: Path, topics: tuple[str, ...], options: tuple[str, ...], words: str
) -> None:
    path = make_bag(tmp_path / "drive", *topics) if topics else tmp_path / "nowhere"
    result = run(path, model, tmp_path / "out", *options)
    assert result.returncode == 1
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_node_that_cannot_be_configured(bag: Path, tmp_path: Path) -> None:
    model = tmp_path / "broken.onnx"
    model.write_bytes(b"no graph")
    card = dataclasses.replace(tiny_card(), files={model.name: sha256(model)})
    model.with_suffix(".json").write_text(card.to_json())
    result = run(bag, model, tmp_path / "out")
    assert result.returncode == 1
    assert "configure failed" in result.stderr
    assert not children(tmp_path / "out")


def test_frames_that_the_node_cannot_decode(model: Path, tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = typestore()
    types = store.types
    with Writer(tmp_path / "drive", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/depth", RAW, typestore=store)
        for number in range(3):
            time = types["builtin_interfaces/msg/Time"](5, number * STEP)
            header = types["std_msgs/msg/Header"](time, "front")
            message = types[RAW](header, 2, 2, "32FC1", 0, 8, np.zeros(16, np.uint8))
            writer.write(connection, START + number * STEP, store.serialize_cdr(message, RAW))
    result = run(tmp_path / "drive", model, tmp_path / "out")
    assert result.returncode == 1
    assert "no frame was segmented: 3 were published, 0 are damaged" in result.stderr
    assert "32FC1" in result.stderr
    record = json.loads((tmp_path / "out/replay.json").read_text())
    assert [frame["outcome"] for frame in record["frames"]] == ["failed"] * 3
    assert not children(tmp_path / "out")


def start(out: Path, bag: Path, model: Path, until: str) -> subprocess.Popen[str]:
    """Start the replay; returns once a line of its output holds `until`."""
    replay = subprocess.Popen(
        arguments(bag, model, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert replay.stdout is not None
    for line in replay.stdout:
        if until in line:
            return replay
    pytest.fail(f"the replay ended by itself, status {replay.wait()}")


def test_ctrl_c_keeps_what_was_measured(bag: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    replay = start(out, bag, model, until="playing at 10 Hz")
    assert set(children(out)) == {"node", "live", "live_player"}
    replay.send_signal(signal.SIGINT)
    rest, _ = replay.communicate(timeout=60)
    assert replay.returncode == 130, rest
    assert "Traceback" not in rest
    assert f"report: {out}/index.html" in rest
    assert not children(out)
    record = json.loads((out / "replay.json").read_text())
    assert len(record["frames"]) == COUNT
    assert record["interrupted"]
    assert read_results(out)


@pytest.mark.parametrize("name", ["node", "live_player"])
def test_a_process_that_dies_ends_the_others(bag: Path, model: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    replay = start(out, bag, model, until="playing the bag")
    os.kill(children(out)[name], signal.SIGKILL)
    rest, _ = replay.communicate(timeout=60)
    assert replay.returncode == 1, rest
    assert "ended with status -9" in rest
    assert not children(out)
