"""The demo's child processes: started together, watched, and ended together whatever happens."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fassst_ros.types import FassstError

#: Free shared memory that the profile needs, in bytes: 64 MB for each of the three processes, and some.
SHARED_MEMORY = 256e6
#: Settings of the user's that would let the demo's processes talk to others, or not to each other.
FOREIGN = (
    *("ROS_DISCOVERY_SERVER", "ROS_STATIC_PEERS", "ROS_SUPER_CLIENT", "ROS_SECURITY_ENABLE"),
    *("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"),
)
#: How long a child may take to end by itself, in seconds, before it is killed.
PATIENCE = 30.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class DemoError(FassstError):
    """The demo cannot go on; the text says why."""


class Child:
    """One process. What it prints as JSON goes to `events`, the rest to its log file."""

    def __init__(
        self, name: str, command: Sequence[str], env: dict[str, str], log: Path, events: queue.Queue[Any]
    ) -> None:
        self.name, self.log = name, log
        self.file = log.open("wb")
        self.process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.file,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends its children in order
            preexec_fn=_die_with_parent,
        )
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    def _read(self, events: queue.Queue[Any]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                events.put((self.name, json.loads(line)))
            except ValueError:
                self.file.write(line.encode())
                self.file.flush()

    def drain(self) -> None:
        """Wait until everything that an ended process has printed is in `events`."""
        self._reader.join(5)
        self.file.close()

    def tail(self, lines: int = 12) -> str:
        """The end of the log, for people."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(f"    {line}" for line in text) or "    (empty)"


def _die_with_parent() -> None:
    """In the child: end when the demo is killed and cannot end it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Family:
    """All children of the demo. Leaving the with block ends those that still run."""

    def __init__(self, env: dict[str, str], logs: Path) -> None:
        self.env, self.logs = env, logs
        self.events: queue.Queue[Any] = queue.Queue()
        self.children: dict[str, Child] = {}

    def start(self, name: str, module: str, *arguments: str) -> Child:
        """Start `python -m module arguments`; its log is logs/name.log."""
        command = [sys.executable, "-u", "-m", module, *arguments]
        child = Child(name, command, self.env, self.logs / f"{name}.log", self.events)
        self.children[name] = child
        return child

    def next_event(self, timeout: float) -> tuple[str, dict[str, Any]] | None:
        """(child, event), or None after `timeout` seconds. Raises DemoError if a child has failed."""
        self.check()
        try:
            event: tuple[str, dict[str, Any]] = self.events.get(timeout=timeout)
            return event
        except queue.Empty:
            return None

    def check(self) -> None:
        """Raise DemoError, with the end of the logs, if a child has failed or the node is gone."""
        for child in self.children.values():
            status = child.process.poll()
            if status is None or (status == 0 and child.name != "node"):
                continue
            text = f"the {child.name} process ended with status {status}. End of {child.log}:\n{child.tail()}"
            node = self.children["node"]
            if child is not node:
                text += f"\nEnd of {node.log}:\n{node.tail(6)}"
            raise DemoError(text)

    def end(self, *names: str) -> None:
        """End these children (all by default): SIGINT, and what is left after PATIENCE is killed."""
        children = [self.children[name] for name in names or self.children]
        try:
            for child in children:
                if child.process.poll() is None:
                    child.process.send_signal(signal.SIGINT)
            end = time.monotonic() + PATIENCE
            for child in children:
                child.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            running = ", ".join(c.name for c in children if c.process.poll() is None)
            print(f"killing what did not end within {PATIENCE:.0f} s: {running}", file=sys.stderr)
        finally:  # also at a second Ctrl-C
            for child in children:
                if child.process.poll() is None:
                    child.process.kill()
                child.process.wait()
                child.drain()
        crashed = [c for c in children if c.process.returncode < 0]
        for child in crashed:
            print(f"the {child.name} process did not end by itself; see {child.log}", file=sys.stderr)

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def environment(profile: Path, logs: Path, domain: int) -> dict[str, str]:
    """The children's environment: own ROS domain, this machine only, Fast DDS set up for large images."""
    distro = os.environ.get("ROS_DISTRO", "")
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    env |= {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "ROS_LOG_DIR": str(logs / "ros"),
    }
    if distro == "humble":  # knows no discovery range
        env["ROS_LOCALHOST_ONLY"] = "1"
    if free_shared_memory() < SHARED_MEMORY:  # as in a container: 64 MB by default
        print("little shared memory (/dev/shm): images go by TCP instead", flush=True)
        env["FASTDDS_BUILTIN_TRANSPORTS"] = "LARGE_DATA"
    elif distro in ("humble", "iron", "jazzy"):
        env["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(profile)
    else:
        env["FASTDDS_DEFAULT_PROFILES_FILE"] = str(profile)
    return env


def free_shared_memory() -> float:
    """Free bytes in /dev/shm; 0 if there is none."""
    try:
        return float(shutil.disk_usage("/dev/shm").free)
    except OSError:
        return 0.0


def free_domain() -> int:
    """A ROS_DOMAIN_ID that nobody on this machine uses: the first port of its first process is free."""
    for domain in random.sample(range(1, 102), 101):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain + 10))  # DDSI-RTPS, port mapping
            except OSError:
                continue
            return domain
    raise DemoError("every ROS_DOMAIN_ID from 1 to 101 is in use on this machine; give one with --domain")
