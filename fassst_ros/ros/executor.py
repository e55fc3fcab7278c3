"""Spinning that survives a failing callback, and signals that reach a sleeping executor."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.utilities import try_shutdown


def spin_until_signal(node: Node, end: Callable[[], None], signals: Signals) -> None:
    """Run `node` until one of `signals`, then `end` in the same thread; leaves rclpy shut down."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended = threading.Event()

    def finish() -> None:
        end()
        ended.set()

    def react(name: str) -> None:
        node.get_logger().info(f"{name}: shutting down")
        executor.create_task(finish)

    signals.tell(react)
    try:
        while rclpy.ok() and not ended.is_set():
            spin_once(executor, node)
    except ExternalShutdownException:
        end()
    finally:
        executor.shutdown()
        node.destroy_node()
        try_shutdown()
        # Python's end restores the default handlers: a repeated signal would then kill the process.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def spin_once(executor: SingleThreadedExecutor, node: Node, timeout: float | None = None) -> bool:
    """Run what is ready, or wait for it up to `timeout` seconds. False if a callback failed.

    rclpy lets the error of a callback end the executor, and so the process. A parameter request with a
    type that does not exist is enough for it, so errors are logged here instead.
    """
    try:
        executor.spin_once(timeout_sec=timeout)
    except ExternalShutdownException:
        raise
    except Exception:
        node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}", throttle_duration_sec=1.0)
        return False
    return True


class Signals:
    """Catches SIGINT and SIGTERM from its making on, also before somebody reacts to them.

    Python runs signal handlers in the main thread only, which sleeps in the executor; its wake-up
    descriptor tells another thread.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._sender.fileno())

    def tell(self, react: Callable[[str], object]) -> None:
        """Call `react` in a thread at the first signal; a later one ends the process at once."""
        # Given away at its call: what this thread still held at the end of the process would not be
        # freed, and Fast DDS would leave 64 MB of shared memory behind.
        pending = [react]

        def wait() -> None:
            pending.pop()(signal.Signals(self._receiver.recv(1)[0]).name)
            asked = time.monotonic()
            while time.monotonic() - asked < 1.0:  # some launchers repeat what the terminal sent
                self._receiver.recv(1)
            os._exit(1)  # asked again: a model that loads for minutes must not keep the process

        threading.Thread(target=wait, name="signals", daemon=True).start()
