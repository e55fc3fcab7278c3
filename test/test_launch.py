"""The launch file, run by the real `launch`; skipped where ROS 2's launch is not installed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_model import make_tiny_model, tiny_card

# `launch` alone would find the folder of that name in this checkout.
pytest.importorskip("launch_ros", reason="launch_ros comes with ROS 2 only, not from PyPI")

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode, Node

FILE = Path(__file__).resolve().parents[1] / "launch/segment.launch.py"
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("segment_launch", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(description: LaunchDescription, **given: str) -> list[Any]:
    """The nodes that the launch file makes of its arguments."""
    context = LaunchContext()
    context.launch_configurations.update(given)
    entities = description.entities
    for entity in entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.execute(context)
    (function,) = (e for e in entities if isinstance(e, OpaqueFunction))
    made = function.execute(context)
    assert made is not None
    return list(made)


def test_arguments(launch_file: Any) -> None:
    names = [e.name for e in launch_file.generate_launch_description().get_launch_arguments()]
    assert names[:4] == ["namespace", "params_file", "model", "image"]
    assert names[4:8] == ["use_sim_time", "autostart", "log_level", "rviz"]
    assert names[8:] == ["frame", "view", "view_port", "view_host"]


def test_the_node_alone_by_default(launch_file: Any) -> None:
    (node,) = start(launch_file.generate_launch_description())
    assert isinstance(node, LifecycleNode)


def test_rviz_and_page(launch_file: Any) -> None:
    description = launch_file.generate_launch_description()
    given = {"rviz": "true", "view": "true", "namespace": "front", "view_port": "8099"}
    node, rviz, view = start(description, **given)
    assert isinstance(node, LifecycleNode)
    assert isinstance(rviz, Node)
    assert (rviz.node_package, view.node_package, view.node_executable) == (
        *("rviz2", "fassst_ros", "view_node"),
    )


@pytest.mark.parametrize(
    ("namespace", "image", "camera", "prefix"),
    [
        ("", "/camera/image_raw/compressed", "/camera/image_raw/compressed", "/segment_node"),
        ("/front/", "image", "/front/image", "/front/segment_node"),
    ],
)
def test_rviz_has_the_names_of_the_launch(
    launch_file: Any, namespace: str, image: str, camera: str, prefix: str
) -> None:
    path = Path(launch_file.rviz_config(namespace, image, "camera_optical"))
    manager = yaml.safe_load(path.read_text(encoding="utf-8"))["Visualization Manager"]
    path.unlink()
    topics = {display["Topic"]["Value"] for display in manager["Displays"]}
    assert topics == {camera, *(f"{prefix}/{name}" for name in ("overlay", "instance_map", "markers"))}
    assert manager["Global Options"]["Fixed Frame"] == "camera_optical"


@pytest.mark.parametrize(
    ("distribution", "variable"), [("humble", 0), ("iron", 0), ("jazzy", 0), ("kilted", 1), ("", 1)]
)
def test_profile_by_distribution(
    launch_file: Any, monkeypatch: pytest.MonkeyPatch, distribution: str, variable: int
) -> None:
    monkeypatch.setenv("ROS_DISTRO", distribution)
    environment = launch_file.dds_environment()
    assert list(environment) == [VARIABLES[variable]]
    assert Path(environment[VARIABLES[variable]]).is_file()


@pytest.mark.parametrize("variable", VARIABLES)
def test_profile_of_the_user_is_kept(
    launch_file: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "/home/user/profile.xml")
    assert launch_file.dds_environment() == {}


def run_launch(tmp_path: Path, *arguments: str, until: str) -> tuple[str, int]:
    """Run the launch file until it says `until`, then press Ctrl-C; its output and exit status."""
    code = "import sys; from ros2cli.cli import main; sys.argv[0] = 'ros2'; sys.exit(main())"
    command = [sys.executable, "-u", "-c", code, "launch", str(FILE), *arguments]
    environment = {**os.environ, "ROS_DOMAIN_ID": "101", "ROS_LOG_DIR": str(tmp_path)}
    log = tmp_path / "launch.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        end = time.monotonic() + 60
        while until not in log.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)  # launch passes it on to the node
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return log.read_text(), status


def test_ros2_launch_reaches_active_and_ends_cleanly(tmp_path: Path) -> None:
    pytest.importorskip("ros2cli", reason="ros2cli comes with ROS 2 only, not from PyPI")
    box = np.array([[8, 8, 40, 40]], np.float32)
    card = tiny_card(slots=1)
    model = make_tiny_model(tmp_path, box, np.array([0]), np.array([1.0], np.float32), card=card)
    output, status = run_launch(
        tmp_path,
        f"model:={model}",
        "namespace:=front",
        "image:=/camera/image_raw",
        until="activate done: active",
    )
    assert "[front.segment_node]: activate done: active" in output, output
    assert "shutdown done: finalized" in output, output
    assert "process has died" not in output, output
    assert status == 0, output


def test_without_autostart_the_node_waits(tmp_path: Path) -> None:
    pytest.importorskip("ros2cli", reason="ros2cli comes with ROS 2 only, not from PyPI")
    output, _ = run_launch(tmp_path, "autostart:=false", until="unconfigured. Next")
    assert "unconfigured. Next: `ros2 lifecycle set /segment_node configure`" in output, output
    assert "configure done" not in output, output
