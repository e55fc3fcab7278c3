"""A small ROS process: one node, and an end that SIGINT and SIGTERM bring about alike."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions


@contextmanager
def process(name: str) -> Iterator[Node]:
    """The node `name` for the time of a with block; SIGINT and SIGTERM raise KeyboardInterrupt in it.

    rclpy's own handlers are left out: they shut the context down under a publisher that still sends.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(name)
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        rclpy.shutdown()
