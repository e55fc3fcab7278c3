"""Listener of `fassst bench`: lets the cameras play, and measures when the node's results arrive here.

    python -m fassst_ros.ros.bench_client IMAGE.npy --logs DIR --group left right --group jpeg/compressed

The node must be /segment, with the topics of all groups as its image_topics. Commands are lines of JSON on
standard input, whose end also ends the process; each causes one event, a line of JSON on standard output:
{"play": 0, "encoding": "bgr8", "rate": 30, "kind": "fixed", "times": 1} lets all cameras of the first group
play and causes "pass", with the RateRecord and the times of every stage; {"set": {"score_threshold": 0.3}}
changes parameters of the node and causes "set". The first event is "ready", with what the node runs,
and the id of the cameras' process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter

from fassst_ros.processes import Family
from fassst_ros.ros.cameras import make_cameras
from fassst_ros.ros.live_passes import Passes
from fassst_ros.ros.live_player import emit
from fassst_ros.ros.process import process, spin_until
from fassst_ros.ros.receive import activate, call
from fassst_ros.types import ConfigError, FassstError, InputError

NODE = "/segment"
#: How long an active node may take to be heard, and to answer, in seconds.
CONNECTED = 30.0


class Client:
    """The passes of every group of cameras. groups: their topics."""

    def __init__(self, node: Node, family: Family, groups: Sequence[Sequence[str]], seconds: float) -> None:
        self._node, self._groups = node, groups
        self._player = family.children["player"].process.pid
        cameras = make_cameras([topic for group in groups for topic in group])
        prefixes = {camera.topic: f"{NODE}/{camera.name}".rstrip("/") for camera in cameras}
        self._passes = [
            Passes(node, NODE, [prefixes[topic] for topic in group], family, seconds) for group in groups
        ]

    def connect(self, timeout: float) -> None:
        """Bring the node to active and wait until it is heard; emits "ready". Raises InputError."""
        activate(self._node, NODE, timeout, lambda _: None)
        if not spin_until(self._node, lambda: all(p.connected() for p in self._passes), CONNECTED):
            raise InputError(f"the node's results and diagnostics are not heard after {CONNECTED:.0f} s")
        emit("ready", facts=self._passes[0].reports.facts, player=self._player)

    def play(self, group: int, encoding: str, rate: float, kind: str, times: float) -> None:
        """One pass at a fixed rate; emits "pass"."""
        passes = self._passes[group]
        record = passes.at_rate(rate, kind, times, topics=list(self._groups[group]), encoding=encoding)
        emit("pass", record=dataclasses.asdict(record), stages=passes.stages())

    def set(self, parameters: Mapping[str, Any]) -> None:
        """Change parameters of the node; emits "set". Raises ConfigError if the node refuses."""
        request = SetParameters.Request()
        request.parameters = [
            Parameter(name, value=value).to_parameter_msg() for name, value in parameters.items()
        ]
        answer = call(self._node, SetParameters, f"{NODE}/set_parameters", request, CONNECTED)
        refused = [result.reason for result in answer.results if not result.successful]
        if refused:
            raise ConfigError("; ".join(refused))
        emit("set")


def serve(options: argparse.Namespace) -> None:
    """Do what standard input says until it ends. Raises FassstError for what cannot be measured."""
    with Family(dict(os.environ), options.logs, server="player") as family:
        topics = [item for group in options.group for topic in group for item in ("--topic", topic)]
        family.start("player", "fassst_ros.ros.bench_cameras", str(options.image), *topics)
        with process("bench_client") as node:
            client = Client(node, family, options.group, options.seconds)
            client.connect(options.timeout)
            for line in sys.stdin:
                command = json.loads(line)
                if "set" in command:
                    client.set(command["set"])
                else:
                    client.play(command.pop("play"), **command)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bench_client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path, help="(H, W, 3) uint8 BGR, as numpy saves it")
    parser.add_argument("--logs", type=Path, required=True, help="folder of the cameras' log")
    parser.add_argument("--group", nargs="+", action="append", required=True, help="topics that play at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="time of a pass (%(default)s)")
    parser.add_argument("--timeout", type=float, default=300.0, help="for loading the model [s] (300)")
    options = parser.parse_args(arguments)
    try:
        serve(options)
        return 0
    except FassstError as err:
        print(f"bench_client: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
