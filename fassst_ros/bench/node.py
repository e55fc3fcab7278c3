"""The node suite: the real node as a process, cameras and the listener of its results as others.

Imports no ROS itself; fassst_ros/ros/bench_client.py and bench_cameras.py are the other processes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fassst_ros.bench.node_parts import LENGTHS, Bench
from fassst_ros.bench.node_session import Setup
from fassst_ros.bench.report import Suite
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.types import ConfigError, FassstError, RuntimeUnavailable, UInt8Array

#: Part -> what it measures.
PARTS = {
    "stages": "the stages of a frame, in every encoding",
    "rates": "latency at 10, 20 and 30 Hz and the highest rate of one camera, bgr8 and JPEG",
    "instances": "0, 10, 30 and 49 instances in a frame",
    "transports": "settings of Fast DDS",
    "cameras": "1, 2, 4 and 8 cameras",
}
#: Time of a pass: with 4 s all parts take less than four minutes.
SECONDS = 4.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the node suite."""
    told = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
    parser.add_argument(
        "--node-parts",
        type=_parts,
        default=tuple(PARTS),
        metavar="PART,PART",
        help=f"parts of the node suite (all). {told}",
    )
    parser.add_argument(
        "--node-seconds",
        type=float,
        default=SECONDS,
        metavar="S",
        help="time of one pass of the node suite (%(default)s)",
    )


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [name for name in names if name not in PARTS]
    if wrong or not names:
        raise argparse.ArgumentTypeError(f"{text!r}; expected some of {','.join(PARTS)}")
    return names


def node_suite(
    model: Path,
    options: RuntimeOptions,
    chosen: SegmentOptions,
    image: UInt8Array,
    note: Callable[[str], None],
    say: Callable[[str], None] = lambda _: None,
    parts: Sequence[str] = tuple(PARTS),
    seconds: float = SECONDS,
) -> Suite:
    """The parts of the suite; note: is told what could not be measured. say: is told what happens.

    Raises RuntimeUnavailable where ROS 2 or our messages are missing, ConfigError for a wrong time, and
    FassstError if no part could be measured.
    """
    if find_spec("rclpy") is None or find_spec("fassst_ros.msg") is None:
        raise RuntimeUnavailable(
            "it needs ROS 2 and the built messages. Source your workspace, or use `make setup` and .venv"
        )
    if not 0.1 <= seconds <= 600:
        raise ConfigError(f"--node-seconds is {seconds:g}; expected 0.1 to 600")

    def tell(text: str) -> None:
        say(f"node: {text}")

    start, found, problems = time.monotonic(), [], []
    with tempfile.TemporaryDirectory(prefix="fassst_bench_") as name:
        folder = Path(name)
        np.save(folder / "image.npy", image)
        setup = Setup(model, options, chosen, folder / "image.npy", seconds, tell)
        with Bench(setup, folder) as bench:
            for part in (name for name in PARTS if name in parts):
                tell(f"{part}: {PARTS[part]}")
                try:
                    found.append(bench.run(part))
                except FassstError as err:
                    problems.append(f"{part}: {err}")
    if not found:
        raise FassstError("\n".join(problems))
    for problem in problems:
        note(f"node, {problem}")
    if bench.disturbed:
        note(f"node: other programs used the machine during {bench.disturbed} passes; see what stderr said")
    tell(f"took {time.monotonic() - start:.0f} s")
    height, width = image.shape[:2]
    return Suite(
        f"The real node, end to end: {width}x{height} frames over DDS, separate processes",
        tuple(table for part in found for table in part.tables),
        tuple(plot for part in found for plot in part.plots),
        tuple(row for part in found for row in part.summary),
        (
            "Milliseconds. Latency is from the stamp, set right before the camera process publishes, to the "
            "arrival of the InstanceArray in a third process. A rate is sustained if less than 5 % of the "
            f"frames stay without a result (ros2_benchmark). Passes take {seconds:g} s, those that search or "
            f"compare {LENGTHS['search'] * seconds:g} s.",
        ),
    )
