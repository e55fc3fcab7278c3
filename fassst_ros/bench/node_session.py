"""One start of the real node, with cameras and a listener as other processes; its passes at fixed rates."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fassst_ros.bench.mood import machine_seconds
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.models import shared_folders
from fassst_ros.processes import TRANSPORT, Family, environment, free_domain
from fassst_ros.replay.rates import RateRecord
from fassst_ros.types import FassstError

#: How long loading the model may take, in seconds; an engine may have to be built.
PATIENCE = 300.0
#: Rate of the frames that warm up everything and do not count [Hz], of all cameras together; seconds of them.
WARM_UP = 20.0, 1.0
#: How our launch files start the node, and the user's own settings, if there are some.
PROFILE, OWN = "our profile", "as set here"
#: What else is compared: name -> environment.
TRANSPORTS: dict[str, dict[str, str]] = {
    "stock": {},
    "UDP only": {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"},
    "LARGE_DATA": {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"},
}
#: Settings of the user's that decide on the transport.
_OWN = (*TRANSPORT, "RMW_IMPLEMENTATION")


@dataclass(frozen=True, slots=True)
class Setup:
    """What all sessions of a run have in common.

    image: file of the frame that all cameras publish, as numpy saves it. seconds: of a pass. say: tells the
    user what happens.
    """

    model: Path
    options: RuntimeOptions
    chosen: SegmentOptions
    image: Path
    seconds: float
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass. stages: name -> milliseconds of each frame. others: share of all cores that others used."""

    record: RateRecord
    stages: dict[str, list[float]]
    others: float


class Session:
    """The processes, from entering to leaving the with block.

    folder: an empty one for logs. groups: topics of cameras that play together; those that end in
    /compressed are JPEG. Entering raises FassstError if the node does not come up.
    """

    def __init__(
        self, setup: Setup, folder: Path, groups: Sequence[Sequence[str]], transport: str = PROFILE
    ) -> None:
        self._setup, self._groups = setup, groups
        folder.mkdir(parents=True)
        self._parameters = folder / "node.yaml"
        self._parameters.write_text(yaml.safe_dump({"/**": {"ros__parameters": self._settings()}}), "utf-8")
        self._family = Family(_environment(folder, transport), folder)

    def __enter__(self) -> Session:
        folder, setup = self._parameters.parent, self._setup
        try:
            self._node = self._family.start(
                *("node", "fassst_ros.ros.node", "--ros-args", "-r", "__node:=segment"),
                *("--params-file", str(self._parameters)),
            )
            groups = [item for group in self._groups for item in ("--group", *group)]
            self._client = self._family.start(
                *("listener", "fassst_ros.ros.bench_client", str(setup.image), "--logs", str(folder)),
                *("--seconds", str(setup.seconds), "--timeout", str(PATIENCE), *groups),
            )
            ready = self._answer("ready")
            self.facts: dict[str, str] = ready["facts"]
            self._pids = (self._node.process.pid, self._client.process.pid, ready["player"], os.getpid())
        except BaseException:
            self._family.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._family.end()

    def at_rate(self, rate: float, kind: str = "fixed", times: float = 1.0, **how: Any) -> Pass:
        """One pass; rate [Hz] of each camera. how: group (0) and encoding (bgr8)."""
        group, encoding = how.get("group", 0), how.get("encoding", "bgr8")
        before, machine = [process_seconds(pid) for pid in self._pids], machine_seconds()
        self._client.tell(play=group, encoding=encoding, rate=rate, kind=kind, times=times)
        answer = self._answer("pass")
        after = machine_seconds()
        own = [process_seconds(pid) - old for pid, old in zip(self._pids, before, strict=True)]
        content = answer["record"]
        content["by_camera"] = tuple(content["by_camera"])
        content["cpu_ms"] = own[0] * 1e3 / content["segmented"] if content["segmented"] else None
        return Pass(RateRecord(**content), answer["stages"], _others(machine, after, sum(own)))

    def warm_up(self, **how: Any) -> None:
        """A few frames that do not count; how: as in `at_rate`."""
        rate, seconds = WARM_UP
        cameras = len(self._groups[how.get("group", 0)])
        self.at_rate(rate / cameras, "trial", seconds / self._setup.seconds, **how)

    def set(self, **parameters: Any) -> None:
        """Change parameters of the node. Raises FassstError if it refuses."""
        self._client.tell(set=parameters)
        self._answer("set")

    def _answer(self, event: str) -> dict[str, Any]:
        """The next event of the listener of this kind. Raises ProcessError if a process has failed."""
        while True:
            item = self._family.next_event(0.5)
            if item is not None and item[0] == "listener" and item[1]["event"] == event:
                return item[1]

    def _settings(self) -> dict[str, Any]:
        options = self._setup.options
        names = ("runtime", "precision", "threads", "device_id", "cache_dir")
        return {
            **{name: getattr(options, name) for name in names},
            "model": str(self._setup.model),
            "score_threshold": float(self._setup.chosen.score_threshold),
            "image_topics": [topic for group in self._groups for topic in group],
            "diagnostics_period": 0.5,  # the counters are awaited after each pass
        }


def process_seconds(pid: int) -> float:
    """Time of all cores together that the process has taken; 0 where Linux does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _others(
    before: tuple[float, float, float] | None, after: tuple[float, float, float] | None, own: float
) -> float:
    """Share of all cores that neither was idle nor used by us; 0 where it is unknown."""
    if before is None or after is None or after[0] <= before[0]:
        return 0.0
    return max(0.0, after[1] - before[1] - own) / (after[0] - before[0])


def _environment(folder: Path, transport: str) -> dict[str, str]:
    """An own ROS domain on this machine only, with the middleware set up as `transport` says."""
    profiles = [config / "fastdds_large_images.xml" for config in shared_folders("config")]
    profile = next((file for file in profiles if file.is_file()), None)
    if profile is None:
        raise FassstError("config/fastdds_large_images.xml is missing: install the package again")
    settings = environment(profile, folder, free_domain())
    if transport == PROFILE:
        return settings
    changed = own_transport() if transport == OWN else TRANSPORTS[transport]
    return {name: value for name, value in settings.items() if name not in TRANSPORT} | changed


def own_transport() -> dict[str, str]:
    """The user's settings of the middleware; empty if there are none."""
    return {name: value for name in _OWN if (value := os.environ.get(name))}
