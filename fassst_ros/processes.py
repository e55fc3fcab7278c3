"""Child processes of a demo or a replay: started together, watched, and ended together whatever happens."""

from __future__ import annotations

import contextlib
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
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from fassst_ros.types import FassstError

#: Free shared memory that the profile needs, in bytes: 64 MB for each of the three processes, and some.
SHARED_MEMORY = 256e6
#: How Fast DDS is told what carries the messages.
TRANSPORT = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
#: Settings of the user's that would let our processes talk to others, or not to each other.
FOREIGN = (
    *("ROS_DISCOVERY_SERVER", "ROS_STATIC_PEERS", "ROS_SUPER_CLIENT", "ROS_SECURITY_ENABLE"),
    *TRANSPORT,
)
#: How long a child may take to end by itself, in seconds, before it is killed.
PATIENCE = 30.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ProcessError(FassstError):
    """What the processes do together cannot go on; the text says why."""


class Child:
    """One process. What it prints as JSON goes to `events`, the rest to its log file.

    `tell` sends it a line of JSON on its standard input, which ends when this process ends.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: dict[str, str], log: Path, events: queue.Queue[Any]
    ) -> None:
        self.name, self.log = name, log
        self.file = log.open("wb")
        self.process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.file,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children in order
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

    def tell(self, **values: Any) -> None:
        """Send it one JSON object. A child that has ended gets nothing; `Family.check` says so."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(values) + "\n")
            self.process.stdin.flush()

    def drain(self) -> None:
        """Wait until everything that an ended process has printed is in `events`."""
        self._reader.join(5)
        self.file.close()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def tail(self, lines: int = 12) -> str:
        """The end of the log, for people."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(f"    {line}" for line in text) or "    (empty)"


def _die_with_parent() -> None:
    """In the child: end when the parent is killed and cannot end it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Family:
    """All children of this process. Leaving the with block ends those that still run.

    server: the child that the others need; it must not end by itself.
    """

    def __init__(self, env: dict[str, str], logs: Path, server: str = "node") -> None:
        self.env, self.logs, self.server = env, logs, server
        self.events: queue.Queue[Any] = queue.Queue()
        self.children: dict[str, Child] = {}

    def start(self, name: str, module: str, *arguments: str) -> Child:
        """Start `python -m module arguments`; its log is logs/name.log."""
        command = [sys.executable, "-u", "-m", module, *arguments]
        child = Child(name, command, self.env, self.logs / f"{name}.log", self.events)
        self.children[name] = child
        return child

    def next_event(self, timeout: float) -> tuple[str, dict[str, Any]] | None:
        """(child, event), or None after `timeout` seconds. Raises ProcessError if a child has failed."""
        self.check()
        try:
            event: tuple[str, dict[str, Any]] = self.events.get(timeout=timeout)
            return event
        except queue.Empty:
            return None

    def rest(self) -> Iterator[dict[str, Any]]:
        """Events that nobody has taken yet; of ended children these are all."""
        while not self.events.empty():
            yield self.events.get()[1]

    def check(self) -> None:
        """Raise ProcessError, with the end of the logs, if a child has failed or the server is gone."""
        for child in self.children.values():
            status = child.process.poll()
            if status is None or (status == 0 and child.name != self.server):
                continue
            text = f"the {child.name} process ended with status {status}. End of {child.log}:\n{child.tail()}"
            server = self.children.get(self.server)
            if server is not None and child is not server:
                text += f"\nEnd of {server.log}:\n{server.tail(6)}"
            raise ProcessError(text)

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
        # Ended by our SIGINT before Python could catch it: not of its own fault.
        crashed = [c for c in children if c.process.returncode < 0 and c.process.returncode != -signal.SIGINT]
        for child in crashed:
            print(f"the {child.name} process did not end by itself; see {child.log}", file=sys.stderr)

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def environment(profile: Path, logs: Path, domain: int) -> dict[str, str]:
    """The children's environment: own ROS domain, this machine only, Fast DDS set up for large images."""
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    env |= {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "ROS_LOG_DIR": str(logs / "ros"),
    }
    if os.environ.get("ROS_DISTRO") == "humble":  # knows no discovery range
        env["ROS_LOCALHOST_ONLY"] = "1"
    transport = large_images(profile)
    if "FASTDDS_BUILTIN_TRANSPORTS" in transport:
        print("little shared memory (/dev/shm): images go by TCP instead", flush=True)
    return env | transport


def large_images(profile: Path) -> dict[str, str]:
    """The variable that lets Fast DDS carry images of several megabytes; other middleware ignores it."""
    if free_shared_memory() < SHARED_MEMORY:  # as in a container: 64 MB by default
        return {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}
    # Never both: Fast DDS 3 reads both, and the second reading fails.
    before_kilted = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    return {TRANSPORT[0 if before_kilted else 1]: str(profile)}


def leave_at_signals() -> None:
    """Let SIGTERM and SIGHUP leave through every with block, as Ctrl-C does."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def prepare_folder(out: Path, leftovers: Sequence[str]) -> Path:
    """Make `out`, remove what an earlier run left there, and return its folder for logs.

    leftovers: patterns of files; the bag `results` goes too. Raises ProcessError if `results` is something
    else, or the folder cannot be written to.
    """
    logs, results = out / "logs", out / "results"
    if results.exists() and not any((results / f"results.{s}").is_file() for s in ("db3", "mcap")):
        raise ProcessError(f"{results} exists and is no bag of an earlier run. Give another folder")
    try:
        logs.mkdir(parents=True, exist_ok=True)
        for file in [file for pattern in leftovers for file in out.glob(pattern)]:
            file.unlink(missing_ok=True)
        if results.exists():
            shutil.rmtree(results)
        for folder in (out, logs):
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as err:
        raise ProcessError(f"cannot write to {out}: {err}. Give another folder") from err
    return logs


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
    raise ProcessError("every ROS_DOMAIN_ID from 1 to 101 is in use on this machine; give one with --domain")
