"""A page in the browser: live overlays and numbers of a segmentation node, where rviz2 is not.

    ros2 run fassst_ros view_node                      # or: python -m fassst_ros.ros.view
    ros2 run fassst_ros view_node --node /front/segment_node --port 8091

It needs nothing but topics of the node, so it may run on another machine: /diagnostics, ~/label_info,
~/instances and ~/overlay/compressed, the last two only while a browser looks at their camera.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage

from fassst_ros.msg import InstanceArray, LabelInfo
from fassst_ros.ros import qos
from fassst_ros.ros.process import process, spin_until
from fassst_ros.ros.view_server import Board, PageServer, Pictures
from fassst_ros.types import ConfigError, FassstError

#: Time between two updates of the state, in seconds.
PERIOD = 0.25
_OVERLAY = "/overlay/compressed"
_STATES = ("unconfigured", "configuring", "inactive", "active", "finalized")


class CameraView:
    """What the page shows of one camera; subscribed only while a browser looks at it.

    prefix: of the camera's topics.
    """

    def __init__(self, node: Node, prefix: str) -> None:
        self._node, self._prefix, self.pictures = node, prefix, Pictures()
        self._subscriptions: list[Any] = []
        self._classes: Counter[str] = Counter()
        self._tracked = 0

    def update(self) -> None:
        """Subscribe or unsubscribe."""
        if self.pictures.watched and not self._subscriptions:
            self._subscriptions = [
                self._node.create_subscription(*what, qos.IMAGES)
                for what in (
                    (CompressedImage, self._prefix + _OVERLAY, self._on_overlay),
                    (InstanceArray, self._prefix + "/instances", self._on_instances),
                )
            ]
        elif not self.pictures.watched:
            self.close()

    def close(self) -> None:
        """Unsubscribe."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def _on_overlay(self, message: CompressedImage) -> None:
        self.pictures.put(bytes(message.data))

    def _on_instances(self, message: InstanceArray) -> None:
        self._classes = Counter(instance.class_name for instance in message.instances)
        self._tracked = sum(instance.track_id > 0 for instance in message.instances)

    def state(self, name: str, status: DiagnosticStatus | None) -> dict[str, Any]:
        """The camera's part of the JSON state."""
        values = {pair.key: pair.value for pair in status.values} if status else {}
        return {
            "name": name,
            "topic": values.get("topic", name),
            "level": _level(status),
            "message": status.message if status else "",
            "values": values,
            "instances": dict(self._classes),
            "tracked": self._tracked,
        }


class View:
    """Follows one segmentation node by its topics and keeps `board` up to date.

    target: full name of the node; "": the first one that is heard.
    Raises ConfigError if ROS allows no such name.
    """

    def __init__(self, node: Node, target: str, board: Board) -> None:
        self._node, self._board = node, board
        self._target = ""
        self._statuses: dict[str, DiagnosticStatus] = {}
        self._nodes: dict[str, float] = {}  # full name -> when it was heard
        self._gap = 1.0  # between the last two reports
        self._colors: dict[str, list[int]] = {}
        self._cameras: dict[str, CameraView] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        if target:
            try:
                self._follow("/" + target.strip("/"))
            except NameValidationException as err:
                raise ConfigError(
                    f"--node {target!r}: ROS allows no such name; expected the full name of a node, such as "
                    "/front/segment_node"
                ) from err

    def _follow(self, target: str) -> None:
        self._target = target
        self._node.create_subscription(LabelInfo, f"{target}/label_info", self._on_labels, qos.LATCHED)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now = time.monotonic()
        for status in message.status:
            name, _, part = status.name.partition(": ")
            if part == "node" and status.message.partition(":")[0] in _STATES:  # not of other packages
                name = f"/{name}"
                if not self._target:
                    self._follow(name)
                if name == self._target:
                    self._gap = now - self._nodes.get(name, now)
                    self._statuses = {s.name.partition(": ")[2]: s for s in message.status}
                self._nodes[name] = now

    def _on_labels(self, message: LabelInfo) -> None:
        self._colors = {c.name: [c.r, c.g, c.b] for c in message.classes}

    def update(self) -> None:
        """Look for cameras that came or went, and renew the state. Call it every PERIOD seconds."""
        found = self._find_cameras()
        for name in self._cameras.keys() - found.keys():
            self._cameras.pop(name).close()
        for name in found.keys() - self._cameras.keys():
            self._cameras[name] = CameraView(self._node, found[name])
        for camera in self._cameras.values():
            camera.update()
        self._board.pictures = {name: camera.pictures for name, camera in self._cameras.items()}
        self._board.state = json.dumps(self._state()).encode()

    def _find_cameras(self) -> dict[str, str]:
        """Name -> prefix of the topics, of the cameras that the node has now."""
        if not self._target:
            return {}
        found = {}
        for topic, _ in self._node.get_topic_names_and_types():
            if topic.startswith(f"{self._target}/") and topic.endswith(_OVERLAY):
                prefix = topic.removesuffix(_OVERLAY)
                if self._node.count_publishers(topic):  # else it is only our own subscription
                    found[prefix.removeprefix(self._target).lstrip("/")] = prefix
        return found

    def _state(self) -> dict[str, Any]:
        now = time.monotonic()
        silent = now - self._nodes.get(self._target, -math.inf)
        status = self._statuses.get("node")
        return {
            "node": self._target,
            "silent": silent > 3 * max(self._gap, 1.0),
            "level": _level(status),
            "message": status.message if status else "",
            "facts": {pair.key: pair.value for pair in status.values} if status else {},
            "others": sorted(n for n, t in self._nodes.items() if n != self._target and now - t < 10),
            "colors": self._colors,
            "cameras": [
                self._cameras[name].state(name, self._status(name)) for name in sorted(self._cameras)
            ],
        }

    def _status(self, name: str) -> DiagnosticStatus | None:
        """What the node reports of a camera; the only camera has no name, so its topic is reported."""
        cameras = {part: s for part, s in self._statuses.items() if part.startswith("camera ")}
        return cameras.get(f"camera {name}") if name else next(iter(cameras.values()), None)


def _level(status: DiagnosticStatus | None) -> int:
    """0 ok, 1 warning, 2 error."""
    return ord(status.level) if status else 0


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, which count as success. Raises ConfigError."""
    board = Board()
    server = PageServer(board, options.host, options.port)
    with process("view_node") as node:
        view = View(node, options.node, board)
        view.update()
        server.start()
        try:
            print(f"page: {server.url} of {options.node or 'the first node that is heard'}", flush=True)
            if not server.local:
                print("anyone who reaches this machine can see the cameras there", flush=True)
            while True:
                spin_until(node, lambda: False, PERIOD)
                view.update()
        except KeyboardInterrupt:
            return 0
        finally:
            server.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="view_node", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--node", default="", help="full name of the node (the first one that is heard)")
    parser.add_argument("--port", type=int, default=8090, help="TCP port, 0: a free one (%(default)s)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (%(default)s: this machine only). 0.0.0.0: every network; whoever reaches "
        "the port then sees the cameras: there is no password and no encryption",
    )
    given = remove_ros_args(sys.argv)[1:] if arguments is None else arguments
    try:
        return run(parser.parse_args(given))
    except FassstError as err:
        print(f"view_node: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
