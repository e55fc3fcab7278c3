"""The processes that a script under test has started."""

from __future__ import annotations

from pathlib import Path


def children(out: Path) -> dict[str, int]:
    """Module -> pid of those of a run into `out` that are alive, told by their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_text().split("\0")
        except OSError:  # ended meanwhile
            continue
        if f"ROS_LOG_DIR={out}/logs/ros".encode() in environment and "-m" in command:
            found[command[command.index("-m") + 1].rsplit(".", 1)[1]] = int(folder.name)
    return found
