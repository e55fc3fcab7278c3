"""The C++ decoder against the Python one, on messages of rosbags, of rclpy, and of docs/messages.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instance_messages import TYPE, assert_same, node_bytes, random_instances, rosbags_message

from fassst_ros.bag import typestore
from fassst_ros.decode import class_map, decode, instance_map
from fassst_ros.types import Instances, RoiMask

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def store() -> Any:
    return typestore()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """test/cpp/decode_test.cpp, compiled with every warning an error."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++) on this machine: the C++ decoder is not tested")
    binary = tmp_path_factory.mktemp("cpp") / "decode_test"
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    source = ROOT / "test/cpp/decode_test.cpp"
    subprocess.run([compiler, *flags, f"-I{ROOT / 'include'}", str(source), "-o", str(binary)], check=True)
    return binary


def run(program: Path, raw: bytes, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "message.cdr").write_bytes(raw)
    command = [str(program), str(folder / "message.cdr"), str(folder / "dense")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def tight(mask: RoiMask) -> list[int] | None:
    """x, y, width, height of the set pixels in the image."""
    rows, columns = np.nonzero(mask.bits)
    if not len(rows):
        return None
    return [
        mask.x + int(columns.min()),
        mask.y + int(rows.min()),
        int(np.ptp(columns)) + 1,
        int(np.ptp(rows)) + 1,
    ]


def assert_cpp_agrees(program: Path, raw: bytes, expected: Instances, folder: Path) -> dict[str, Any]:
    """Compare everything that the C++ headers made of `raw`; returns the fields of the array."""
    result = run(program, raw, folder)
    assert result.returncode == 0, result.stderr
    array, *items = [json.loads(line) for line in result.stdout.splitlines()]
    assert (array["height"], array["width"]) == expected.size
    assert len(items) == len(expected)
    for k, (item, mask) in enumerate(zip(items, expected.masks, strict=True)):
        assert item["id"] == k + 1
        assert item["class_id"] == expected.class_ids[k]
        assert np.float32(item["score"]) == expected.scores[k]
        np.testing.assert_array_equal(np.array(item["box"], np.float32), expected.boxes[k])
        assert item["track_id"] == (0 if expected.track_ids is None else expected.track_ids[k])
        assert item["area"] == mask.area
        assert item["bounds"] == tight(mask)
        assert item["contains_agrees"]
    written = (folder / "dense").read_bytes()
    dense = expected.to_dense()
    np.testing.assert_array_equal(np.frombuffer(written, np.uint8, dense.size).reshape(dense.shape), dense)
    pixels = expected.size[0] * expected.size[1]
    ids = np.frombuffer(written, np.uint16, pixels, dense.size).reshape(expected.size)
    classes = np.frombuffer(written, np.uint8, offset=dense.size + 2 * pixels).reshape(expected.size)
    np.testing.assert_array_equal(ids, instance_map(expected))
    np.testing.assert_array_equal(classes, class_map(expected))
    return array


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("little", [True, False])
def test_cpp_agrees_with_python(store: Any, program: Path, tmp_path: Path, seed: int, little: bool) -> None:
    expected = random_instances(seed)
    raw = store.serialize_cdr(rosbags_message(store, expected), TYPE, little_endian=little)
    array = assert_cpp_agrees(program, bytes(raw), expected, tmp_path)
    assert (array["sec"], array["nanosec"]) == (7, 8)
    assert (array["frame_id"], array["model"]) == ("camera_front_optical", "model 1")


def test_cpp_refuses_every_cut_message(store: Any, program: Path, tmp_path: Path) -> None:
    raw = bytes(store.serialize_cdr(rosbags_message(store, random_instances(2, (6, 9), 2)), TYPE))
    for length in range(len(raw)):
        result = run(program, raw[:length], tmp_path)
        assert (result.returncode, "DecodeError" in result.stderr) == (3, True), length


@pytest.mark.parametrize(
    ("offset", "number", "words"),
    [
        (92, 3, "leaves the image 8x4"),  # mask.y
        (96, 0xFFFFFFFF, "leaves the image"),  # mask.width
        (108, 0xFFFFFFFF, "runs add up to"),  # a run
        (104, 0xFFFFFFFF, "longer than the message"),  # number of runs
        (44, 0x10000000, "longer than the message"),  # number of instances
        (28, 0xFFFFFFFF, "expected sides"),  # image width
        (48, 0, "instance id 0"),
        (56, 256, "class id 256"),
        (60, 3, "does not end with NUL"),  # class_name
        (0, 0x0700, "encapsulation"),
    ],
)
def test_cpp_refuses_a_damaged_message(
    program: Path, tmp_path: Path, offset: int, number: int, words: str
) -> None:
    raw = bytearray(example_bytes())
    raw[offset : offset + 4] = number.to_bytes(4, "little")
    result = run(program, bytes(raw), tmp_path)
    assert result.returncode == 3
    assert words in result.stderr


@pytest.mark.parametrize("seed", range(5))
def test_cpp_and_python_decode_what_the_node_encodes(
    store: Any, program: Path, tmp_path: Path, seed: int
) -> None:
    expected = random_instances(seed, count=1 + 3 * seed)
    raw = node_bytes(expected)
    assert_same(decode(store.deserialize_cdr(raw, TYPE)), expected)
    assert assert_cpp_agrees(program, raw, expected, tmp_path)["nanosec"] == 8


def test_the_header_takes_the_types_of_rosidl(tmp_path: Path) -> None:
    """As a planner's rclcpp node uses it, with the C++ messages of the colcon build."""
    compiler = shutil.which("g++") or shutil.which("c++")
    prefixes = {Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p}
    includes = [folder for prefix in prefixes for folder in (prefix / "include").glob("*") if folder.is_dir()]
    built = any((folder / "fassst_ros/msg/instance_array.hpp").is_file() for folder in includes)
    if compiler is None or not built:
        pytest.skip("no C++ compiler, or no C++ messages (colcon build) in AMENT_PREFIX_PATH")
    binary = tmp_path / "rosidl_test"
    flags = [f"-I{ROOT / 'include'}", *(f"-I{folder}" for folder in includes)]
    source = ROOT / "test/cpp/rosidl_test.cpp"
    subprocess.run([compiler, "-std=c++17", *flags, str(source), "-o", str(binary)], check=True)
    assert subprocess.run([binary], capture_output=True, text=True, check=True).stdout == "4 3 0 1\n"


def example_bytes() -> bytes:
    """The example of docs/messages.md."""
    page = (ROOT / "docs/messages.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ *(\d+)  ((?:[0-9a-f]{2} ){4}) \S", page, re.MULTILINE)
    assert [int(offset) for offset, _ in lines] == list(range(0, 124, 4))
    return b"".join(bytes.fromhex(data) for _, data in lines)


def example_instances() -> Instances:
    mask = RoiMask(2, 1, np.array([[False, True, True]] * 2))
    box = np.array([(2, 1, 5, 3)], np.float32)
    return Instances(box, np.array([0.75], np.float32), np.array([3], np.int32), (mask,), (4, 8))


def test_the_bytes_of_the_page(store: Any, program: Path, tmp_path: Path) -> None:
    raw = example_bytes()
    message = store.deserialize_cdr(raw, TYPE)
    assert_same(decode(message), example_instances())
    assert bytes(store.serialize_cdr(message, TYPE)) == raw
    assert message.instances[0].class_name == "car"
    assert_cpp_agrees(program, raw, example_instances(), tmp_path)
