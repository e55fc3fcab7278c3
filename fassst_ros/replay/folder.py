"""The folder of a run: made, cleared of an earlier run, and with room kept for the report."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from fassst_ros.replay.pictures import FOLDER
from fassst_ros.replay.record import FILE_NAME
from fassst_ros.replay.report import PAGE
from fassst_ros.types import ConfigError

#: The bag of results in the folder.
RESULTS = "results"
#: Bytes kept free for report and record, should the disk fill up.
_RESERVE = 8 << 20


class RunFolder:
    """Folder of one run. Raises ConfigError if it cannot be used; nothing of others is deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reserve = path / ".reserve"
        bag = self.bag
        if bag.exists() and not any((bag / f"{RESULTS}.{suffix}").is_file() for suffix in ("db3", "mcap")):
            raise ConfigError(f"{bag} exists and is no bag of an earlier run. Give another folder with --out")
        try:
            (path / FOLDER).mkdir(parents=True, exist_ok=True)
            for pattern in (FILE_NAME, PAGE, f"{FOLDER}/*.jpg", "video*.webm"):
                for file in path.glob(pattern):
                    file.unlink()
            if bag.exists():
                shutil.rmtree(bag)
            self._reserve.write_bytes(bytes(_RESERVE))
        except OSError as err:
            self.release()
            raise ConfigError(
                f"cannot write to {path}: {err.strerror or err}. Choose another folder with --out"
            ) from err

    @property
    def bag(self) -> Path:
        """Folder of the results."""
        return self.path / RESULTS

    def video(self, place: int, count: int) -> Path:
        """The video of a camera: the only one, or number `place` of `count`, from 0."""
        return self.path / ("video.webm" if count == 1 else f"video_{place + 1}.webm")

    def release(self) -> None:
        """Give the reserved room free, for what comes last."""
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)
