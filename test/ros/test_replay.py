"""The bag player as its own process, heard over DDS by a subscriber in the test."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from node_bench import Spinner, wait_until
from rclpy.context import Context
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from fassst_ros.bag import COMPRESSED, RAW, typestore
from fassst_ros.ros.receive import activate
from fassst_ros.ros.replay import main
from fassst_ros.types import InputError

START, STEP = 5 * 10**9, 50_000_000  # stamps of the bags [ns]
COUNT = 4


def picture(number: int) -> Any:
    """(24, 32, 3) uint8, different for each number."""
    return np.full((24, 32, 3), 40 * number, np.uint8) + np.arange(32, dtype=np.uint8)[None, :, None]


def messages(store: Any, kind: str) -> Iterator[Any]:
    """The messages of a test bag; raw images have padded rows."""
    types = store.types
    for number in range(COUNT):
        stamp = START + number * STEP
        time_type = types["builtin_interfaces/msg/Time"]
        header = types["std_msgs/msg/Header"](time_type(stamp // 10**9, stamp % 10**9), f"frame {number}")
        if kind == COMPRESSED:
            data = cv2.imencode(".png", picture(number))[1].ravel()
            yield types[kind](header, "png", data)
        else:
            data = np.pad(picture(number).reshape(24, 96), ((0, 0), (0, 4))).ravel()
            yield types[kind](header, 24, 32, "rgb8", 0, 100, data)


@pytest.fixture
def make_bag(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a bag of images; topics: name -> message type. damaged: frame to cut off."""

    def make(topics: dict[str, str] | None = None, damaged: int = -1) -> Path:
        store = typestore()
        path = tmp_path / "bag"
        with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
            for topic, kind in (topics or {"/image/compressed": COMPRESSED}).items():
                connection = writer.add_connection(topic, kind, typestore=store)
                for number, message in enumerate(messages(store, kind)):
                    if number == damaged:
                        message.data = message.data[:60]
                    writer.write(connection, START + number * STEP, store.serialize_cdr(message, kind))
        return path

    return make


class Listener:
    """Collects what comes on the topics of the bag player."""

    def __init__(self, context: Context, kind: type[Any]) -> None:
        self.node = rclpy.create_node("listener", context=context)
        self.images: list[Any] = []
        self.clocks: list[int] = []
        self.node.create_subscription(kind, "/camera/image_raw", self.images.append, 10)
        self.node.create_subscription(Clock, "/clock", self._on_clock, 100)
        self._spinner = Spinner(self.node, context)

    def _on_clock(self, message: Clock) -> None:
        self.clocks.append(message.clock.sec * 10**9 + message.clock.nanosec)

    def stamps(self) -> list[int]:
        return [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in self.images]

    def stop(self) -> None:
        self._spinner.stop()


@pytest.fixture
def listen(context: Context) -> Iterator[Callable[[type[Any]], Listener]]:
    made: list[Listener] = []

    def listen(kind: type[Any]) -> Listener:
        made.append(Listener(context, kind))
        return made[-1]

    yield listen
    for listener in made:
        listener.stop()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fassst_ros.ros.replay", *map(str, arguments)]


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240, check=False)


def test_jpegs_go_out_as_a_camera_would_send_them(
    make_bag: Callable[..., Path], listen: Callable[[type[Any]], Listener]
) -> None:
    listener = listen(Image)
    before = time.time_ns()
    result = replay(make_bag(), "--wait-subscribers", 1, "--events")
    assert result.returncode == 0, result.stderr
    wait_until(lambda: len(listener.images) == COUNT)
    stamps = listener.stamps()
    assert before < stamps[0] < stamps[-1] < time.time_ns()
    for number, message in enumerate(listener.images):
        assert (message.encoding, message.width, message.height, message.step) == ("bgr8", 32, 24, 96)
        assert message.header.frame_id == f"frame {number}"
        np.testing.assert_array_equal(np.array(message.data).reshape(24, 32, 3), picture(number))
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(e["event"], e["index"], e["stamp"]) for e in events] == [
        ("published", number, stamp) for number, stamp in enumerate(stamps)
    ]
    assert "published 4 frames on /camera/image_raw, skipped 0" in result.stderr


def test_recorded_bytes_stamps_and_clock(
    make_bag: Callable[..., Path], listen: Callable[[type[Any]], Listener]
) -> None:
    listener = listen(CompressedImage)
    bag = make_bag()
    options = (
        "--compressed",
        "--stamps",
        "bag",
        "--clock",
        "--loop",
        2,
        "--wait-subscribers",
        1,
        "--rate",
        0.25,
    )
    result = replay(bag, *options)
    assert result.returncode == 0, result.stderr
    wait_until(lambda: len(listener.images) == 2 * COUNT)
    assert listener.stamps() == [START + number * STEP for number in range(2 * COUNT)]  # goes on
    for number, message in enumerate(listener.images):
        assert bytes(message.data) == cv2.imencode(".png", picture(number % COUNT))[1].tobytes()
    wait_until(lambda: listener.clocks[-1:] == [START + (2 * COUNT - 1) * STEP])
    assert listener.clocks == sorted(listener.clocks)
    assert len(listener.clocks) > 2 * COUNT  # it also runs between frames


def test_raw_images_stay_as_they_are(
    make_bag: Callable[..., Path], listen: Callable[[type[Any]], Listener]
) -> None:
    listener = listen(Image)
    result = replay(make_bag({"/image": RAW}), "--wait-subscribers", 1, "--rate", 4)
    assert result.returncode == 0, result.stderr
    wait_until(lambda: len(listener.images) == COUNT)
    for number, message in enumerate(listener.images):
        assert (message.encoding, message.width, message.height, message.step) == ("rgb8", 32, 24, 100)
        rows = np.array(message.data).reshape(24, 100)
        np.testing.assert_array_equal(rows[:, :96].reshape(24, 32, 3), picture(number))


def test_rate_sets_the_pace(make_bag: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(make_bag()), "--rate", "0.25", "--events"]) == 0
    stamps = [json.loads(line)["stamp"] for line in capsys.readouterr().out.splitlines()]
    assert stamps[-1] - stamps[0] >= 0.95 * (COUNT - 1) * STEP / 0.25  # never early, late on a busy machine


def test_a_damaged_frame_is_skipped_and_named(
    make_bag: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(make_bag(damaged=2))]) == 0
    errors = capsys.readouterr().err
    assert "skipped 2: compressed image 'png' of 60 bytes: the PNG is cut off" in errors
    assert "published 3 frames on /camera/image_raw, skipped 1 damaged" in errors


@pytest.mark.parametrize(
    ("topics", "options", "words"),
    [
        (
            None,
            ("--wait-subscribers", "1", "--wait-timeout", "0.2", "--topic", "/deaf"),
            "0 of 1 subscribers on /deaf",
        ),
        (None, ("--bag-topic", "/other"), "holds no images on /other"),
        ({"/image": RAW}, ("--compressed",), "holds raw images; leave --compressed out"),
        ({"/a": RAW, "/b": COMPRESSED}, (), "several image topics, choose one with --bag-topic"),
    ],
)
def test_what_cannot_be_played(
    make_bag: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    topics: dict[str, str] | None,
    options: tuple[str, ...],
    words: str,
) -> None:
    assert main([str(make_bag(topics)), *options]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [("--rate", "0"), ("--rate", "nan"), ("--loop", "0"), ("--clock",), ("--wait-subscribers", "-1")],
)
def test_wrong_options(options: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bag", *options])
    assert ended.value.code == 2


def test_sigterm_ends_it(make_bag: Callable[..., Path]) -> None:
    slow = ("--rate", 0.001, "--events")
    player = subprocess.Popen(
        command(make_bag(), *slow), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert player.stdout is not None
    assert "published" in player.stdout.readline()
    player.send_signal(signal.SIGTERM)
    _, errors = player.communicate(timeout=60)
    assert player.returncode == 130
    assert "Traceback" not in errors


def test_the_receiver_says_that_there_is_no_node() -> None:
    rclpy.init()
    node = rclpy.create_node("alone")
    try:
        with pytest.raises(InputError, match=r"no service /nobody/get_state after 0.3 s"):
            activate(node, "/nobody", 0.3)
    finally:
        node.destroy_node()
        rclpy.shutdown()
