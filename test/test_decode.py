"""Both decoders against messages of three writers: rosbags, rclpy, and the page of the bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fassst_ros.bag import typestore
from fassst_ros.decode import class_map, decode, decode_mask, instance_map
from fassst_ros.types import InputError, Instances, RoiMask

ROOT = Path(__file__).resolve().parents[1]
TYPE = "fassst_ros/msg/InstanceArray"


@pytest.fixture(scope="module")
def store() -> Any:
    return typestore()


def random_instances(seed: int, size: tuple[int, int] = (48, 80), count: int = 6) -> Instances:
    """Masks of any shape: noise, full, empty, one pixel, first pixel set; rectangles up to the edges."""
    rng = np.random.default_rng(seed)
    masks = []
    for k in range(count):
        h, w = (1, 1) if k == 0 else (int(rng.integers(1, size[0])), int(rng.integers(1, size[1])))
        y, x = int(rng.integers(0, size[0] - h + 1)), int(rng.integers(0, size[1] - w + 1))
        bits = rng.random((h, w)) < (1.0, 0.5, 0.0, 0.9, 0.05)[k % 5]
        masks.append(RoiMask(x, y, bits))
    boxes = np.array([(m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]) for m in masks], np.float32)
    return Instances(
        boxes=boxes - np.float32(0.125),
        scores=np.sort(rng.random(count).astype(np.float32))[::-1].copy(),
        class_ids=rng.integers(1, 9, count).astype(np.int32),
        masks=tuple(masks),
        size=size,
        track_ids=rng.integers(0, 9, count) + 1,
    )


def rosbags_message(store: Any, instances: Instances) -> Any:
    """The message of these instances, as rosbags holds it."""
    types = store.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](7, 8), "camera_front_optical")
    items = []
    for k, mask in enumerate(instances.masks):
        height, width = mask.bits.shape
        wire = types["fassst_ros/msg/Mask"](mask.x, mask.y, width, height, mask.run_lengths())
        track = 0 if instances.track_ids is None else int(instances.track_ids[k])
        box = map(float, instances.boxes[k])
        items.append(
            types["fassst_ros/msg/Instance"](
                k + 1, track, int(instances.class_ids[k]), "x" * k, float(instances.scores[k]), *box, wire
            )
        )
    return types[TYPE](header, *instances.size, "model 1", items)


def assert_same(decoded: Instances, expected: Instances) -> None:
    np.testing.assert_array_equal(decoded.boxes, expected.boxes)
    np.testing.assert_array_equal(decoded.scores, expected.scores)
    np.testing.assert_array_equal(decoded.class_ids, expected.class_ids)
    np.testing.assert_array_equal(decoded.to_dense(), expected.to_dense())
    assert decoded.size == expected.size
    if expected.track_ids is None:
        assert decoded.track_ids is None
    else:
        np.testing.assert_array_equal(decoded.track_ids, expected.track_ids)


# Python


@pytest.mark.parametrize("seed", range(5))
def test_python_decodes_what_was_encoded(store: Any, seed: int) -> None:
    expected = random_instances(seed)
    message = store.deserialize_cdr(store.serialize_cdr(rosbags_message(store, expected), TYPE), TYPE)
    assert_same(decode(message), expected)


def test_python_decodes_an_image_without_instances(store: Any) -> None:
    decoded = decode(rosbags_message(store, Instances.empty((4, 8))))
    assert_same(decoded, Instances.empty((4, 8)))


def test_the_better_score_wins_in_the_maps() -> None:
    masks = (RoiMask(1, 0, np.ones((2, 2), np.bool_)), RoiMask(0, 0, np.ones((2, 2), np.bool_)))
    boxes = np.array([(1, 0, 3, 2), (0, 0, 2, 2)], np.float32)
    both = Instances(boxes, np.array([0.9, 0.5], np.float32), np.array([3, 1], np.int32), masks, (2, 4))
    np.testing.assert_array_equal(instance_map(both), [[2, 1, 1, 0]] * 2)
    np.testing.assert_array_equal(class_map(both), [[1, 3, 3, 0]] * 2)
    assert (instance_map(both).dtype, class_map(both).dtype) == (np.uint16, np.uint8)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("id", 5, "id is 5; expected 1"),
        ("class_id", 0, "background"),
        ("class_id", 256, "expected 1 to 255"),
        ("score", float("nan"), "score is nan"),
        ("score", 1.5, "score is 1.5"),
        ("x_min", float("inf"), "box is"),
        ("y_max", -9.0, "box is"),
        ("mask.x", 79, "leaves the image 80x48"),
        ("mask.counts", np.array([3], np.uint32), "runs add up to 3"),
        ("mask.counts", np.array([2**32 - 1] * 3, np.uint32), "runs add up to"),
    ],
)
def test_python_refuses_a_damaged_instance(store: Any, field: str, value: Any, words: str) -> None:
    message = rosbags_message(store, random_instances(1, count=1))
    instance = message.instances[0]
    instance.mask.width, instance.mask.height = 2, 1
    instance.mask.counts = np.array([0, 2], np.uint32)
    instance.mask.x = 0
    decode(message)  # good until the field is broken
    owner, name = (instance.mask, field[5:]) if field.startswith("mask.") else (instance, field)
    setattr(owner, name, value)
    with pytest.raises(InputError, match=re.escape("instances[0]") + ".*" + re.escape(words)):
        decode(message)


@pytest.mark.parametrize("size", [(0, 8), (4, 65536)])
def test_python_refuses_an_image_size(store: Any, size: tuple[int, int]) -> None:
    message = rosbags_message(store, Instances.empty((4, 8)))
    message.height, message.width = size
    with pytest.raises(InputError, match="expected sides of 1 to 65535"):
        decode(message)


def test_a_mask_alone_decodes() -> None:
    wire = SimpleNamespace(x=2, y=1, width=3, height=2, counts=[1, 2, 1, 2])
    mask = decode_mask(wire, (4, 8))
    np.testing.assert_array_equal(mask.bits, [[False, True, True]] * 2)


# C++


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


# Messages as the node makes them


def node_bytes(instances: Instances) -> bytes:
    """The message that the node publishes, serialised by the middleware."""
    pytest.importorskip("rclpy", reason="no rclpy: messages encoded by the node are not tested")
    from builtin_interfaces.msg import Time
    from rclpy.serialization import serialize_message
    from std_msgs.msg import Header

    from fassst_ros.ros.messages import to_message

    header = Header(stamp=Time(sec=7, nanosec=8), frame_id="camera_front_optical")
    names = {number: f"class {number}" for number in range(1, 256)}
    return bytes(serialize_message(to_message(instances, header, "model 1", names)))


@pytest.mark.parametrize("seed", range(5))
def test_cpp_and_python_decode_what_the_node_encodes(
    store: Any, program: Path, tmp_path: Path, seed: int
) -> None:
    expected = random_instances(seed, count=1 + 3 * seed)
    raw = node_bytes(expected)
    assert_same(decode(store.deserialize_cdr(raw, TYPE)), expected)
    assert assert_cpp_agrees(program, raw, expected, tmp_path)["nanosec"] == 8


def test_python_decodes_a_message_of_rclpy() -> None:
    expected = random_instances(3)
    raw = node_bytes(expected)
    from fassst_ros.msg import InstanceArray
    from rclpy.serialization import deserialize_message

    assert_same(decode(deserialize_message(raw, InstanceArray)), expected)


def test_the_maps_are_those_of_the_node() -> None:
    pytest.importorskip("rclpy", reason="no rclpy: the node's maps are not compared")
    from std_msgs.msg import Header

    from fassst_ros.ros import messages

    expected = random_instances(4, count=20)
    ids = messages.instance_map(expected, Header())
    classes = messages.class_map(expected, Header())
    np.testing.assert_array_equal(
        np.frombuffer(ids.data, np.uint16).reshape(ids.height, ids.width), instance_map(expected)
    )
    np.testing.assert_array_equal(
        np.frombuffer(classes.data, np.uint8).reshape(classes.height, classes.width), class_map(expected)
    )


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


# The page


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
