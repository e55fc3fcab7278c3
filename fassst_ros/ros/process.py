"""A small ROS process: one node, and an end that SIGINT and SIGTERM bring about alike."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions


@contextmanager
def process(name: str) -> Iterator[Node]:
    """The node `name` for the time of a with block; SIGINT and SIGTERM raise KeyboardInterrupt in it.

    rclpy's own handlers are left out: they shut the context down under a publisher that still sends.
    Python handles signals between its own instructions only: do not block in rclpy, use `spin_until`.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(name)
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        _asked.clear()
        rclpy.shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)


#: Signals that `spin_until` has not passed on: where one comes inside a destructor, as rclpy has them, Python
#: prints the KeyboardInterrupt and goes on.
_asked: list[int] = []


def _interrupt(number: int, frame: object) -> None:
    _asked.append(number)
    raise KeyboardInterrupt


def spin_until(node: Node, condition: Callable[[], bool], timeout: float) -> bool:
    """Run callbacks until `condition` holds or `timeout` seconds have passed; says whether it holds."""
    end = time.monotonic() + timeout
    try:
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            rclpy.spin_once(node, timeout_sec=min(left, 0.1))
            if _asked:
                raise KeyboardInterrupt
        return True
    except KeyboardInterrupt:
        _asked.clear()  # what is spun afterwards is the caller's clearing up
        raise
