"""The demo as `make run` starts it: real processes over DDS, on a shortened sample bag."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from child_processes import children
from tiny_model import make_tiny_model, tiny_card

from fassst_ros.bag import ImageBag, typestore
from fassst_ros.card import sha256
from fassst_ros.decode import decode

pytest.importorskip("rclpy", reason="no rclpy: the demo is not tested")

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "test/data/street_sample"
SHIPPED = ROOT / "models/fassst_768_street.onnx"
KIND = "sensor_msgs/msg/CompressedImage"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real graph that finds three rectangles in everything that is not black."""
    boxes = np.array([[4, 4, 30, 30], [20, 10, 60, 40], [40, 2, 50, 46]], np.float32)
    factors = np.array([0.95, 0.9, 0.8], np.float32)
    card = tiny_card(threshold=0.01)
    return make_tiny_model(tmp_path_factory.mktemp("model"), boxes, np.array([0, 1, 1]), factors, card=card)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fourth frame of the sample, 10 Hz, and one JPEG that is cut off."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    path, store = tmp_path_factory.mktemp("bag") / "short", typestore()
    with ImageBag(SAMPLE) as sample, Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection(sample.topic, KIND, typestore=store)
        for number, image in enumerate(i for i in sample if i.index % 4 == 0):
            if number == 2:
                image.message.data = image.message.data[:2000]
            writer.write(connection, 10**9 + number * 10**8, store.serialize_cdr(image.message, KIND))
    return path


def arguments(out: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts/demo.py"), "--out", str(out), *more]


def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The demo, to its end."""
    return subprocess.run(arguments(out, *more), capture_output=True, text=True, timeout=240, check=False)


def shared_memory(pid: int) -> set[Path]:
    """The segments of Fast DDS that a process uses."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {Path(name) for name in re.findall(r"/dev/shm/fastdds_[0-9a-f]{16}\b", maps)}


def check_summary(out: Path) -> dict[str, Any]:
    """summary.json, its sums checked against the results' bag."""
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    assert summary["frames_published"] == summary["frames_segmented"] + summary["frames_dropped"]
    assert summary["frames_segmented"] > 0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    counters = summary["node_counters"]
    assert counters["segmented"] == summary["frames_segmented"]
    assert (
        counters["received"]
        == counters["segmented"] + counters["dropped"] + counters["failed"] + counters["stale"]
    )
    return summary


def test_the_whole_way_of_a_frame(bag: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "overlay_999.jpg").touch()  # of an earlier run
    result = run(out, "--bag", str(bag), "--model", str(model), "--runtime", "onnxruntime", "--pictures", "3")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the JPEG is cut off" in result.stderr
    summary = check_summary(out)
    assert (summary["frames_published"], summary["frames_skipped"]) == (11, 1)
    assert summary["instances_total"] == 3 * summary["frames_segmented"]
    assert summary["instances_by_class"] == {
        "car": 2 * summary["frames_segmented"],
        "person": summary["frames_segmented"],
    }
    assert (summary["runtime"], summary["model"]) == ("onnxruntime", "tiny 1")
    assert (summary["input_size"], summary["image_size"]) == ([64, 48], [[2048, 1024]])

    pictures = sorted(out.glob("overlay_*.jpg"))
    assert 1 <= len(pictures) <= 3
    with ImageBag(bag) as images:
        sources = {f"overlay_{image.index:03d}.jpg": image for image in images}
    for picture in pictures:
        source = cv2.imdecode(sources[picture.name].message.data, cv2.IMREAD_COLOR)
        drawn = cv2.imread(str(picture))
        assert drawn.shape == source.shape
        changed = np.abs(drawn.astype(int) - source).max(axis=2) > 30
        assert changed[200:600, 200:800].mean() > 0.5  # inside the first rectangle
        assert changed[1010:, :100].mean() < 0.05  # outside all

    from rosbags.highlevel import AnyReader

    with AnyReader([out / "results"], default_typestore=typestore()) as reader:
        messages: list[Any] = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages()]
    assert len(messages) == summary["frames_segmented"]
    for message in messages:
        assert message.header.frame_id == "camera_front_optical"
        found = decode(message)
        np.testing.assert_allclose(
            found.boxes[0], np.array([4, 4, 30, 30]) * np.tile([32, 64 / 3], 2), atol=0.01
        )
    assert not children(out)


def test_the_shipped_model_finds_people_on_the_sample(tmp_path: Path) -> None:
    if not SHIPPED.is_file():
        pytest.skip(f"{SHIPPED} is not there: the demo with the shipped model is not tested")
    out = tmp_path / "out"
    result = run(out, "--rate", "0.5")  # slow enough for a busy machine to segment most frames
    assert result.returncode == 0, result.stdout + result.stderr
    summary = check_summary(out)
    assert summary["frames_published"] == 48
    assert summary["instances_by_class"].get("person", 0) > 0
    assert summary["input_size"] == [768, 768]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--bag", "/nowhere"), "bag /nowhere does not exist"),
        (("--model", "/nowhere.onnx"), "model file /nowhere.onnx does not exist"),
    ],
)
def test_wrong_paths_stop_before_anything_starts(
    bag: Path, model: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    result = run(tmp_path / "out", "--bag", str(bag), "--model", str(model), *options)
    assert result.returncode == 1
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_stops_before_anything_starts(bag: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(tmp_path / "file/out", "--bag", str(bag), "--model", str(model))
    assert result.returncode == 1
    assert "cannot write to" in result.stderr
    assert "Give another folder" in result.stderr
    assert "starting" not in result.stdout


def test_a_folder_of_somebody_else_is_left_alone(bag: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/thesis.txt").touch()
    result = run(tmp_path, "--bag", str(bag), "--model", str(model))
    assert result.returncode == 1
    assert "is no bag of an earlier run" in result.stderr
    assert (tmp_path / "results/thesis.txt").exists()


def test_a_node_that_cannot_be_configured(bag: Path, tmp_path: Path) -> None:
    model = tmp_path / "broken.onnx"
    model.write_bytes(b"no graph")
    card = dataclasses.replace(tiny_card(), files={model.name: sha256(model)})
    model.with_suffix(".json").write_text(card.to_json())
    result = run(tmp_path / "out", "--bag", str(bag), "--model", str(model), "--runtime", "onnxruntime")
    assert result.returncode == 1
    assert "the receive process ended with status 1" in result.stderr
    assert "configure failed" in result.stderr  # the node's log
    assert not children(tmp_path / "out")


def start_and_wait(
    out: Path, bag: Path, model: Path, condition: Callable[[str], bool], *more: str
) -> subprocess.Popen[str]:
    """Start the demo; returns once a line of its output fulfils `condition`."""
    options = ("--bag", str(bag), "--model", str(model), "--runtime", "onnxruntime", "--rate", "0.05", *more)
    demo = subprocess.Popen(
        arguments(out, *options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if condition(line):
            return demo
    pytest.fail(f"the demo ended by itself, status {demo.wait()}")


def playing(line: str) -> bool:
    """Whether results have come."""
    found = re.search(r"segmented (\d+)", line)
    return found is not None and int(found[1]) > 0


def test_the_page_shows_the_demo_while_it_plays(bag: Path, model: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    demo = start_and_wait(tmp_path / "out", bag, model, playing, "--view", str(port))
    url = f"http://127.0.0.1:{port}/picture?camera=&after=0"
    end = time.monotonic() + 60
    picture = b""
    while not picture and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=60) as answer:
            picture = answer.read()
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, rest
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape == (1024, 2048, 3)
    assert not children(tmp_path / "out")


def starting(line: str) -> bool:
    return line.startswith("loading")


@pytest.mark.parametrize("moment", [starting, playing])
def test_ctrl_c_ends_all_processes(
    bag: Path, model: Path, tmp_path: Path, moment: Callable[[str], bool]
) -> None:
    demo = start_and_wait(tmp_path / "out", bag, model, moment)
    running = children(tmp_path / "out")
    assert "node" in running
    segments = {segment for pid in running.values() for segment in shared_memory(pid)}
    assert segments
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, rest
    assert "all processes have ended" in rest
    assert "Traceback" not in rest
    assert not children(tmp_path / "out")
    assert not [segment for segment in segments if segment.exists()]


@pytest.mark.parametrize("name", ["node", "replay"])
def test_a_process_that_dies_ends_the_others(bag: Path, model: Path, tmp_path: Path, name: str) -> None:
    demo = start_and_wait(tmp_path / "out", bag, model, playing)
    os.kill(children(tmp_path / "out")[name], signal.SIGKILL)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1, rest
    assert f"the {name} process ended with status -9" in rest
    assert "activate done" in rest  # the end of the node's log
    assert not children(tmp_path / "out")


def test_no_process_outlives_a_killed_demo(bag: Path, model: Path, tmp_path: Path) -> None:
    demo = start_and_wait(tmp_path / "out", bag, model, playing)
    demo.kill()
    demo.communicate()
    end = time.monotonic() + 60
    while children(tmp_path / "out") and time.monotonic() < end:
        time.sleep(0.1)
    assert not children(tmp_path / "out")
