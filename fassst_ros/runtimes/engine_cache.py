"""Built TensorRT engines on disk: found again only where they still fit, never half written."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fassst_ros.runtimes.base import Log


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine depends on. Input shapes are static and so part of the model's hash.

    tensorrt: package and version, "tensorrt 10.3.0". recipe: the revision of our own build settings.
    """

    model_sha256: str
    tensorrt: str
    gpu: str
    compute_capability: str
    precision: str
    recipe: int

    def digest(self) -> str:
        """16 hex digits that name the engine's files."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class EngineCache:
    """One engine of a cache folder: NAME-DIGEST.engine with NAME-DIGEST.json beside it.

    The JSON holds the key in words, and the engine's sha256: it tells damaged files from good ones.
    A folder that cannot be written is reported to `log`; then every start builds again.
    """

    def __init__(self, folder: Path, name: str, key: EngineKey, log: Log) -> None:
        self._folder = folder
        self._key = key
        self._log = log
        self.path = folder / f"{name}-{key.digest()}.engine"
        self._sidecar = self.path.with_suffix(".json")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Inside, no other process builds this engine. Freed by the system if the process dies."""
        path = self.path.with_suffix(".lock")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError as err:
            self._log(
                f"the engine cache {self._folder} cannot be written ({err}); the engine will be built at "
                "every start. Set cache_dir to a folder that can be written"
            )
            yield
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._log(f"another process is building {self.path.name}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def load(self) -> bytes | None:
        """The engine, or None if there is none or it is not what its sidecar says (which is logged)."""
        if not self.path.exists():
            return None
        try:
            engine = self.path.read_bytes()
            about = json.loads(self._sidecar.read_text(encoding="utf-8"))
            if about["key"] != asdict(self._key):
                raise ValueError("its sidecar tells of another engine")
            if about["sha256"] != hashlib.sha256(engine).hexdigest():
                raise ValueError("it is damaged or was not written to its end")
        except (OSError, ValueError, KeyError, TypeError) as err:
            self._log(f"the cached engine {self.path} is not used: {err or type(err).__name__}")
            return None
        return engine

    def store(self, engine: bytes, seconds: float) -> None:
        """Write engine and sidecar so that readers see all or nothing. A failure is logged only."""
        about = {
            "key": asdict(self._key),
            "sha256": hashlib.sha256(engine).hexdigest(),
            "bytes": len(engine),
            "build_seconds": round(seconds, 1),
        }
        try:
            write_atomically(self.path, engine)
            write_atomically(self._sidecar, (json.dumps(about, indent=2) + "\n").encode())
        except OSError as err:
            self._log(f"the engine cannot be stored in {self._folder} ({err}); the next start builds again")
        else:
            self._log(f"engine stored as {self.path}")

    def discard(self) -> None:
        """Delete an engine that did not load."""
        for path in (self.path, self._sidecar):
            try:
                path.unlink(missing_ok=True)
            except OSError as err:
                self._log(f"cannot delete {path}: {err}")


def cache_folder(cache_dir: str) -> Path:
    """The folder that `cache_dir` means; empty: fassst_ros in the user's cache folder."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "fassst_ros"


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a file beside `path`, then rename it. Raises OSError; leaves nothing half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
