"""What ROS, pip and make read: package.xml, CMakeLists.txt, parameters, executables, profile, set-up."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

import fassst_ros
from fassst_ros.config import RuntimeOptions, SegmentOptions, TrackOptions, from_mapping

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ET.parse(ROOT / "package.xml").getroot()
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
#: Used where installed; docs/dependencies.md says what changes without them.
OPTIONAL = {"cv_bridge", "vision_msgs"}


def overlay() -> Path:
    """The colcon installation of this package; skips where there is none."""
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if (Path(prefix) / "share/ament_index/resource_index/packages/fassst_ros").is_file():
            return Path(prefix)
    pytest.skip("fassst_ros is not built by colcon here: run `make setup`, or source a workspace")


def test_manifest() -> None:
    assert MANIFEST.get("format") == "3"
    assert MANIFEST.findtext("version") == fassst_ros.__version__
    assert MANIFEST.findtext("export/build_type") == "ament_cmake"  # ament_python cannot make messages
    assert MANIFEST.findtext("member_of_group") == "rosidl_interface_packages"
    licence = MANIFEST.find("license")
    assert licence is not None
    assert "Apache License" in (ROOT / licence.attrib["file"]).read_text(encoding="utf-8")


def test_manifest_lists_every_ros_package_that_is_imported() -> None:
    listed = {e.text for tag in ("depend", "exec_depend") for e in MANIFEST.findall(tag)}
    used = set()
    for path in [*(ROOT / "fassst_ros/ros").glob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                used.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                used.update(alias.name.split(".")[0] for alias in node.names)
    others = ("rclpy", "launch", "launch_ros", "ament_index_python")
    ours = {n for n in used if n.endswith(("_msgs", "_srvs", "_interfaces")) or n in others}
    assert "rclpy" in ours
    assert "launch_ros" in ours
    assert ours - listed == ours & OPTIONAL


def test_every_message_is_generated() -> None:
    files = {f"msg/{path.name}" for path in (ROOT / "msg").glob("*.msg")}
    assert files
    assert set(re.findall(r"msg/\w+\.msg", CMAKE)) == files


def test_installed_programs_are_executable() -> None:
    programs = re.search(r"install\(PROGRAMS ([^)]*) DESTINATION", CMAKE)
    assert programs is not None
    for name in programs[1].split():
        path = ROOT / name
        assert os.access(path, os.X_OK), f"{name} must have mode 755, or ros2 run does not find it"
        assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")


def test_overlay_holds_what_ros2_looks_for() -> None:
    prefix = overlay()
    for name in (
        "lib/fassst_ros/segment_node",
        "lib/fassst_ros/view_node",
        "share/fassst_ros/package.xml",
        "share/fassst_ros/launch/segment.launch.py",
        "share/fassst_ros/config/segment.yaml",
        "share/fassst_ros/config/fastdds_large_images.xml",
        "include/fassst_ros/fassst_ros/decode.hpp",
        "share/fassst_ros/cmake/fassst_rosConfig.cmake",
    ):
        assert (prefix / name).is_file(), f"{prefix / name} is missing"


def default_parameters() -> dict[str, Any]:
    pytest.importorskip("rclpy", reason="the parameters of the node need rclpy: run `make setup`")
    from fassst_ros.ros.params import NodeOptions

    groups = (NodeOptions, RuntimeOptions, SegmentOptions, TrackOptions)
    return {field.name: field.default for group in groups for field in dataclasses.fields(group)}


def test_parameter_file_lists_every_parameter_with_its_default() -> None:
    data = yaml.safe_load((ROOT / "config/segment.yaml").read_text(encoding="utf-8"))
    given = data["/**"]["ros__parameters"]
    expected = {
        name: (list(value) or [""]) if isinstance(value, tuple) else value
        for name, value in default_parameters().items()
    }
    assert given == expected
    assert {n: type(v) for n, v in given.items()} == {n: type(v) for n, v in expected.items()}


def test_parameter_file_is_valid() -> None:
    data = yaml.safe_load((ROOT / "config/segment.yaml").read_text(encoding="utf-8"))
    data = data["/**"]["ros__parameters"]
    for group in (RuntimeOptions, SegmentOptions, TrackOptions):
        names = {field.name for field in dataclasses.fields(group)}
        from_mapping(group, {n: v for n, v in data.items() if n in names}, "config/segment.yaml")


IMAGES = """
import sys, time, rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node(sys.argv[1])
qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
end = time.monotonic() + 120
if sys.argv[1] == "camera":
    publisher = node.create_publisher(Image, "large", qos)
    image = Image(height=1024, width=2048, encoding="rgb8", step=6144)
    image.data.frombytes(bytes(1024 * 6144))
    while time.monotonic() < end:
        publisher.publish(image)
        time.sleep(0.05)
else:
    got = []
    node.create_subscription(Image, "large", lambda m: got.append(len(m.data)), qos)
    while len(got) < 5 and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    print(len(got), set(got))
"""


def test_profile_lets_large_images_arrive() -> None:
    """With the stock settings of Fast DDS, best effort receives none of these frames."""
    pytest.importorskip("rclpy", reason="needs real DDS: run `make setup`")
    profile = str(ROOT / "config/fastdds_large_images.xml")
    environment = {**os.environ, "FASTDDS_DEFAULT_PROFILES_FILE": profile, "ROS_DOMAIN_ID": "101"}
    if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy"):
        environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = environment.pop("FASTDDS_DEFAULT_PROFILES_FILE")
    camera = subprocess.Popen([sys.executable, "-c", IMAGES, "camera"], env=environment)
    try:
        command = [sys.executable, "-c", IMAGES, "receiver"]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    finally:
        camera.kill()
        camera.wait()
    assert run.stdout.split(" ", 1)[0] == "5", run.stdout + run.stderr
    assert str({1024 * 6144}) in run.stdout


def test_wheel_holds_models_messages_and_package(tmp_path: Path) -> None:
    names = [p for p in (ROOT / "models").glob("*") if p.suffix in (".onnx", ".json")]
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fassst_ros", tmp_path / "fassst_ros", ignore=ignore)
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    (tmp_path / "models").mkdir()
    for path in names:
        (tmp_path / "models" / path.name).symlink_to(path)
    (tmp_path / "models" / "extra.onnx").write_bytes(b"model")
    (tmp_path / "models" / "notes.txt").write_bytes(b"not for the wheel")
    shutil.copytree(ROOT / "msg", tmp_path / "msg")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "out"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    built = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {"fassst_ros/__init__.py", "fassst_ros/ros/node.py", "fassst_ros/models/extra.onnx"} <= built
    assert {f"fassst_ros/models/{p.name}" for p in names} <= built
    # Without a checkout and without ROS, bags are read with these.
    code = "from fassst_ros.bag import message_definitions; print(*message_definitions())"
    env = {name: value for name, value in os.environ.items() if name != "AMENT_PREFIX_PATH"}
    env["PYTHONPATH"] = str(tmp_path / "out")
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path / "out", env=env, capture_output=True, text=True)
    assert run.stdout.split() == [f"fassst_ros/msg/{p.stem}" for p in sorted((ROOT / "msg").glob("*.msg"))]
    assert not [name for name in built if name.endswith(".txt") or not name.startswith("fassst_ros/")]


def check_tools(
    tmp_path: Path, *tools: str, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """scripts/check_tools on a machine that has only `tools`."""
    for tool in ("sh", "uname", *tools):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    command = [str(ROOT / "scripts/check_tools"), python]
    return subprocess.run(command, env={"PATH": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="`make setup` is for x86-64 Linux"
)
class TestCheckTools:
    def test_complete(self, tmp_path: Path) -> None:
        run = check_tools(tmp_path, "cmake", "g++")
        assert (run.returncode, run.stderr) == (0, "")

    def test_names_the_package_of_a_missing_tool(self, tmp_path: Path) -> None:
        run = check_tools(tmp_path, "cmake")
        assert run.returncode == 1
        assert "sudo apt install g++\n" in run.stderr

    def test_no_python(self, tmp_path: Path) -> None:
        run = check_tools(tmp_path, "cmake", "g++", python="python-that-is-not-there")
        assert run.returncode == 1
        assert "no python-that-is-not-there found" in run.stderr
        assert "make PYTHON=" in run.stderr

    def test_wrong_python(self, tmp_path: Path) -> None:
        old = tmp_path / "old-python"
        old.write_text("#!/bin/sh\necho 3.8\n", encoding="utf-8")
        old.chmod(0o755)
        run = check_tools(tmp_path, "cmake", "g++", python=str(old))
        assert run.returncode == 1
        assert "is Python 3.8; expected 3.10 to 3.13" in run.stderr


def test_make_help_lists_every_target() -> None:
    run = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"make (\w+)\t", run.stdout)) >= {"setup", "run", "test", "lint", "clean"}
