"""The node as its own process: start, signals, exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node_bench import wait_until

SLOW = 180.0  # seconds that a process may take to start or end; Python's imports alone, on a busy machine


class Process:
    """`python -m fassst_ros.ros.node` whose log can be watched."""

    def __init__(self, folder: Path, *parameters: str) -> None:
        self.log = folder / "node.log"
        arguments = [item for p in parameters for item in ("-p", p)]
        with self.log.open("wb") as file:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "fassst_ros.ros.node", "--ros-args", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RCUTILS_LOGGING_BUFFERED_STREAM": "0"},
            )

    def says(self, words: str) -> Callable[[], bool]:
        return lambda: words in self.log.read_text()

    def end(self, timeout: float = SLOW) -> int:
        return self.child.wait(timeout)


@pytest.fixture
def start(tmp_path: Path, tiny_path: Path) -> object:
    processes: list[Process] = []

    def make(*parameters: str) -> Process:
        processes.append(Process(tmp_path, f"model:={tiny_path}", "runtime:=onnxruntime", *parameters))
        return processes[-1]

    yield make
    for process in processes:
        if process.child.poll() is None:
            process.child.kill()
            process.child.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("autostart", ["true", "false"])
def test_a_signal_ends_it_cleanly(start: Callable[..., Process], number: int, autostart: str) -> None:
    process = start(f"autostart:={autostart}")
    wait_until(process.says("activate done" if autostart == "true" else "unconfigured"), SLOW)
    process.child.send_signal(number)
    assert process.end() == 0
    log = process.log.read_text()
    assert "shutdown done: finalized" in log
    assert "Traceback" not in log
    assert "terminate called" not in log


def test_a_signal_during_the_start_is_not_lost(start: Callable[..., Process]) -> None:
    """At the node's first word, before its executor spins."""
    process = start("autostart:=true", "score_treshold:=0.5")
    wait_until(process.says("unknown parameter"), SLOW)
    process.child.send_signal(signal.SIGTERM)
    assert process.end() == 0
    assert "shutdown done: finalized" in process.log.read_text()


def test_a_signal_sent_twice_is_still_clean(start: Callable[..., Process]) -> None:
    """`ros2 run` in a terminal: the group and the launcher both send it."""
    process = start("autostart:=true")
    wait_until(process.says("activate done"), SLOW)
    process.child.send_signal(signal.SIGINT)
    process.child.send_signal(signal.SIGINT)
    assert process.end() == 0


def test_a_frozen_start_value_ends_it_with_a_reason(start: Callable[..., Process]) -> None:
    process = start("score_threshold:=7.0")
    assert process.end() == 2
    log = process.log.read_text()
    assert "score_threshold" in log
    assert "7.0" in log
    assert "Traceback" not in log


def test_a_model_that_is_not_there_leaves_the_process_alive(start: Callable[..., Process]) -> None:
    process = start("autostart:=true", "model:=/nowhere/model.onnx")
    wait_until(process.says("configure failed"), SLOW)
    time.sleep(0.5)
    assert process.child.poll() is None
    assert "/nowhere/model.onnx does not exist" in process.log.read_text()
    process.child.send_signal(signal.SIGINT)
    assert process.end() == 0


SWALLOWED = """
import os, signal
from fassst_ros.ros.process import process, spin_until

class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        str(self)  # here Python raises, and swallows, the KeyboardInterrupt

with process("late") as node:
    Late()
    print("goes on", flush=True)
    try:
        spin_until(node, lambda: False, 60)
    except KeyboardInterrupt:
        spin_until(node, lambda: False, 0.1)  # clearing up is not interrupted again
        print("ended", flush=True)
"""


def test_a_signal_inside_a_destructor_is_not_lost() -> None:
    child = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=SLOW)
    assert child.stdout.split("\n")[:2] == ["goes on", "ended"], child.stderr
