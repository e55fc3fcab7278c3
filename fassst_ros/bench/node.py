"""The node suite: starts the real node as a process, and a camera and listener as another one.

Imports no ROS itself; fassst_ros/ros/bench_client.py is the other process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import yaml

from fassst_ros.bench.measure import Timing, timing
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.models import shared_folders
from fassst_ros.processes import TRANSPORT, large_images
from fassst_ros.types import FassstError, RuntimeUnavailable, UInt8Array

#: Encodings that the camera process sends, one after the other.
ENCODINGS = ("bgr8", "rgb8", "mono8", "yuv422", "bayer_rggb8", "jpeg")
#: What the node does to a frame after it was taken from the middleware, without the network.
OWN_WORK = ("decode", "resize", "postprocess", "fill", "publish")
#: How long the client may take at most besides its frames, in seconds; an engine may have to be built.
PATIENCE = 300.0
_RATE = 8.0  # frames a second: below what any of our targets can do, so that nothing is dropped


def node_suite(
    model: Path,
    options: RuntimeOptions,
    chosen: SegmentOptions,
    image: UInt8Array,
    repeats: int,
    note: Callable[[str], None],
) -> list[Timing]:
    """All parts of a frame's way through the node, in every encoding.

    Raises RuntimeUnavailable where ROS 2 or our messages are missing, FassstError if a process fails.
    """
    if find_spec("rclpy") is None or find_spec("fassst_ros.msg") is None:
        raise RuntimeUnavailable(
            "it needs ROS 2 and the built messages. Source your workspace, or use `make setup` and .venv"
        )
    with tempfile.TemporaryDirectory(prefix="fassst_bench_") as name:
        folder = Path(name)
        parts = _measure(model, options, chosen, image, repeats, folder)
    timings = []
    for encoding, stages in parts.items():
        own = [sum(frame) for frame in zip(*(stages[stage] for stage in OWN_WORK), strict=False)]
        for stage, milliseconds in {**stages, "own work": own}.items():
            if milliseconds and (encoding == ENCODINGS[0] or stage in _DIFFERS):
                timings.append(timing(f"{encoding}: {stage}", milliseconds, _SAID.get(stage, "")))
        if len(stages["total"]) < repeats:
            note(f"node, {encoding}: {repeats - len(stages['total'])} of {repeats} frames were not segmented")
    return timings


# What an encoding changes; the other parts are the same for all and told for the first one only.
_DIFFERS = ("transport", "decode", "own work", "total")
_SAID = {
    "transport": "stamp to callback",
    "wait": "callback to worker",
    "own work": " + ".join(OWN_WORK),
    "processing": "callback to published",
    "total": "stamp to published",
}


def _measure(
    model: Path,
    options: RuntimeOptions,
    chosen: SegmentOptions,
    image: UInt8Array,
    repeats: int,
    folder: Path,
) -> dict[str, dict[str, list[float]]]:
    """encoding -> stage -> milliseconds of each frame."""
    namespace = f"/fassst_bench_{os.getpid()}"  # nobody else's topics
    np.save(folder / "image.npy", image)
    parameters = {
        **{
            name: getattr(options, name)
            for name in ("runtime", "precision", "threads", "device_id", "cache_dir")
        },
        "model": str(model),
        "score_threshold": float(chosen.score_threshold),
        "image_topics": ["camera", "jpeg/compressed"],
        "autostart": True,
    }
    (folder / "node.yaml").write_text(
        yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8"
    )
    node_command = ["-m", "fassst_ros.ros.node", "--ros-args", "-r", f"__ns:={namespace}"]
    node_command += ["-r", "__node:=segment", "--params-file", str(folder / "node.yaml")]
    client_command = [
        "-m",
        "fassst_ros.ros.bench_client",
        str(folder / "image.npy"),
        "--namespace",
        namespace,
    ]
    client_command += [
        "--frames",
        str(repeats),
        "--rate",
        str(_RATE),
        "--patience",
        str(PATIENCE),
        *ENCODINGS,
    ]
    environment = _environment(folder)
    with (folder / "node.log").open("wb") as log:
        node = subprocess.Popen([sys.executable, *node_command], env=environment, stdout=log, stderr=log)
        try:
            limit = PATIENCE + len(ENCODINGS) * (repeats / _RATE + 30)
            client = subprocess.run(
                [sys.executable, *client_command],
                env=environment,
                capture_output=True,
                text=True,
                timeout=limit,
            )
        except subprocess.TimeoutExpired as err:
            raise FassstError(f"the camera process did not end within {limit:.0f} s") from err
        finally:
            _end(node)
    if client.returncode:
        tail = (folder / "node.log").read_text(encoding="utf-8", errors="replace").strip()[-1500:]
        raise FassstError(f"{client.stderr.strip()[-1500:]}\nThe node said: {tail or 'nothing'}")
    parts: dict[str, dict[str, list[float]]] = json.loads(client.stdout.splitlines()[-1])
    return parts


def _environment(folder: Path) -> dict[str, str]:
    """This process's, on this machine only, with Fast DDS set up for large images as in our launch file."""
    environment = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOG_DIR": str(folder)}
    profiles = [config / "fastdds_large_images.xml" for config in shared_folders("config")]
    profile = next((file for file in profiles if file.is_file()), None)
    if profile is None or any(os.environ.get(name) for name in TRANSPORT):
        return environment
    return environment | large_images(profile)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGINT, and after ten seconds the end."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
