"""replay.launch.py, run by the real `launch`; skipped where ROS 2's launch is not installed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_live_replay import COUNT, make_bag
from tiny_model import make_tiny_model, tiny_card

# `launch` alone would find the folder of that name in this checkout.
pytest.importorskip("launch_ros", reason="launch_ros comes with ROS 2 only, not from PyPI")
pytest.importorskip("ros2cli", reason="ros2cli comes with ROS 2 only, not from PyPI")

FILE = Path(__file__).resolve().parents[1] / "launch/replay.launch.py"
CODE = "import sys; from ros2cli.cli import main; sys.argv[0] = 'ros2'; sys.exit(main())"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box, card = np.array([[8, 8, 40, 40]], np.float32), tiny_card(slots=1)
    folder = tmp_path_factory.mktemp("model")
    return make_tiny_model(folder, box, np.array([0]), np.array([1.0], np.float32), card=card)


def launch(folder: Path, model: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the launch file; its report goes to folder/out."""
    command = [sys.executable, "-u", "-c", CODE, "launch", str(FILE), f"model:={model}", *arguments]
    environment = {**os.environ, "ROS_DOMAIN_ID": "99", "ROS_LOG_DIR": str(folder)}
    return subprocess.Popen(
        [*command, f"out:={folder / 'out'}", "seconds:=0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        start_new_session=True,
    )


def test_a_replay_ends_by_itself(model: Path, tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "drive", "/front/compressed")
    process = launch(tmp_path, model, f"bag:={bag}", "rates:=20")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "shutdown done: finalized" in output, output
    assert "process has died" not in output, output
    record = json.loads((tmp_path / "out/replay.json").read_text())
    assert len(record["frames"]) == COUNT
    assert record["rates"][0]["rate"] == 20.0
    assert (tmp_path / "out/index.html").is_file()


def test_ctrl_c_ends_it_and_keeps_what_was_measured(model: Path, tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "drive", "/front/compressed")
    process = launch(tmp_path, model, f"bag:={bag}")
    assert process.stdout is not None
    assert any("playing at 10 Hz" in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert "shutdown done: finalized" in output, output
    assert "Traceback" not in output, output
    record = json.loads((tmp_path / "out/replay.json").read_text())
    assert record["interrupted"]
    assert len(record["frames"]) == COUNT


def test_the_end_of_the_node_ends_it(model: Path, tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "drive", "/front/compressed")
    process = launch(tmp_path, model, f"bag:={bag}")
    assert process.stdout is not None
    started = next(line for line in process.stdout if "[segment_node-1]: process started" in line)
    assert any("playing the bag" in line for line in process.stdout)
    os.kill(int(re.findall(r"\d+", started)[-1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "segment_node-1 ended with status -9" in output, output


@pytest.mark.parametrize(
    ("topics", "arguments", "words"),
    [
        ((), (), "drive does not exist"),
        (("/a", "/b"), (), "several image topics"),
        (("/a",), ("topic:=/other",), "holds no images on /other"),
    ],
)
def test_what_cannot_be_replayed_is_said_before_anything_starts(
    model: Path, tmp_path: Path, topics: tuple[str, ...], arguments: tuple[str, ...], words: str
) -> None:
    bag = make_bag(tmp_path / "drive", *topics) if topics else tmp_path / "drive"
    process = launch(tmp_path, model, f"bag:={bag}", *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert words in output, output
    assert "process started" not in output, output
