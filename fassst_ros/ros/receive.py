"""Receiver: brings a segmentation node to active, then records its InstanceArrays in a bag.

    python -m fassst_ros.ros.receive --node /segment --bag results --activate

Prints one JSON object a line: the states on the way to active, each message (stamp, time of arrival,
number of instances), and the node's diagnostics. SIGINT or SIGTERM ends it; the bag is then complete
and is read with `ros2 bag`, rosbags or fassst_ros/decode.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from fassst_ros.bag import raw_stamp
from fassst_ros.msg import InstanceArray
from fassst_ros.replay.results import ResultBag
from fassst_ros.ros.listen import statuses
from fassst_ros.ros.process import process, spin_until
from fassst_ros.types import FassstError, InputError


def emit(event: str, **values: Any) -> None:
    """One JSON line on standard output."""
    print(json.dumps({"event": event, **values}), flush=True)


def tell_state(state: str) -> None:
    """The step on the way to active, as an event."""
    emit("state", state=state)


#: State of a lifecycle node -> what brings it to active.
WAY = {
    State.PRIMARY_STATE_UNCONFIGURED: (
        ("configure", Transition.TRANSITION_CONFIGURE),
        ("activate", Transition.TRANSITION_ACTIVATE),
    ),
    State.PRIMARY_STATE_INACTIVE: (("activate", Transition.TRANSITION_ACTIVATE),),
    State.PRIMARY_STATE_ACTIVE: (),
}


def activate(node: Node, target: str, timeout: float, tell: Callable[[str], object] = tell_state) -> None:
    """Configure and activate the lifecycle node `target`, as far as it is not; tell: called with each step.

    Raises InputError if the node refuses or is not there.
    """
    state = call(node, GetState, f"{target}/get_state", GetState.Request(), timeout).current_state
    if state.id not in WAY:
        raise InputError(f"{target} is {state.label}; expected unconfigured, inactive or active")
    for name, transition in WAY[state.id]:
        tell(name)
        request = ChangeState.Request(transition=Transition(id=transition))
        if not call(node, ChangeState, f"{target}/change_state", request, timeout).success:
            raise InputError(f"{target}: {name} failed; the node's log says why")
    tell("active")


def call(node: Node, kind: Any, name: str, request: Any, timeout: float) -> Any:
    """The response of a service. Raises InputError if it is not there, or takes longer than `timeout` [s]."""
    client: Any = node.create_client(kind, name)
    try:
        if not spin_until(node, client.service_is_ready, timeout):
            raise InputError(f"no service {name} after {timeout:g} s. Did the process of the node start?")
        future = client.call_async(request)
        if not spin_until(node, future.done, timeout):
            raise InputError(f"no answer of {name} within {timeout:g} s. Is the node still loading a model?")
        return future.result()
    finally:
        node.destroy_client(client)


class Recorder:
    """Writes each InstanceArray into the bag as it came, and says so on standard output."""

    def __init__(self, node: Node, topic: str, target: str, path: Path) -> None:
        self._topic, self._target = topic, target
        self._bag = ResultBag(path, [topic])
        profile = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
        node.create_subscription(InstanceArray, topic, self._on_instances, profile, raw=True)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_instances(self, raw: bytes) -> None:
        received = time.time_ns()
        message = deserialize_message(raw, InstanceArray)
        self._bag.write_raw(self._topic, received, raw)
        count = len(message.instances)
        emit("instances", stamp=raw_stamp(raw), received=received, count=count, model=message.model)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for part, text, values in statuses(message, self._target):
            emit("diagnostics", part=part, message=text, values=values)

    def close(self) -> None:
        """Finish the bag."""
        self._bag.close()


def run(options: argparse.Namespace) -> int:
    """Receive until SIGINT or SIGTERM, which count as success. Raises FassstError."""
    with process("receive") as node:
        topic = options.topic or f"{options.node}/instances"
        recorder = Recorder(node, topic, options.node, options.bag)
        try:
            if options.activate:
                activate(node, options.node, options.timeout)
            if not spin_until(node, lambda: node.count_publishers(topic) > 0, options.timeout):
                raise InputError(f"nobody publishes {topic} after {options.timeout:g} s. Is the node active?")
            emit("ready", topic=topic)
            spin_until(node, lambda: False, math.inf)
        except KeyboardInterrupt:
            pass
        finally:
            recorder.close()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="receive", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--node", required=True, help="full name of the segmentation node")
    parser.add_argument("--topic", default="", help="InstanceArray topic (NODE/instances)")
    parser.add_argument("--bag", type=Path, required=True, help="folder of the bag to write; must not exist")
    parser.add_argument("--activate", action="store_true", help="configure and activate the node first")
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="for each step, in seconds (%(default)s)"
    )
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(options)
    except FassstError as err:
        print(f"receive: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
