"""Engines on disk: found again, refused when damaged or of another machine, built by one process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fassst_ros.runtimes.engine_cache import EngineCache, EngineKey, cache_folder, write_atomically

KEY = EngineKey("ab" * 32, "tensorrt 10.3.0", "NVIDIA Orin", "8.7", "fp16", 1)
ENGINE = bytes(range(256)) * 40


class Lines(list):
    """Collects what is logged."""

    __call__ = list.append


@pytest.fixture
def log() -> Lines:
    return Lines()


def test_an_engine_is_found_again(tmp_path: Path, log: Lines) -> None:
    cache = EngineCache(tmp_path / "new" / "folder", "street", KEY, log)
    with cache.lock():
        assert cache.load() is None
        cache.store(ENGINE, 12.34)
    again = EngineCache(tmp_path / "new" / "folder", "street", KEY, log)
    with again.lock():
        assert again.load() == ENGINE
    about = json.loads(cache.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert about["key"]["gpu"] == "NVIDIA Orin"
    assert about["build_seconds"] == 12.3
    assert log == [f"engine stored as {cache.path}"]


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "cd" * 32},
        {"tensorrt": "tensorrt 10.16.0"},
        {"gpu": "NVIDIA H200"},
        {"compute_capability": "9.0"},
        {"precision": "f32"},
        {"recipe": 2},
    ],
)
def test_whatever_an_engine_depends_on_separates_engines(change: dict, tmp_path: Path, log: Lines) -> None:
    EngineCache(tmp_path, "street", KEY, log).store(ENGINE, 1)
    other = EngineCache(tmp_path, "street", dataclasses.replace(KEY, **change), log)
    assert other.load() is None


@pytest.mark.parametrize("damage", ["shorter", "changed", "no sidecar", "broken sidecar", "empty", "foreign"])
def test_a_damaged_engine_is_reported_and_not_used(damage: str, tmp_path: Path, log: Lines) -> None:
    cache = EngineCache(tmp_path, "street", KEY, log)
    cache.store(ENGINE, 1)
    sidecar = cache.path.with_suffix(".json")
    if damage == "shorter":
        cache.path.write_bytes(ENGINE[:-1])
    elif damage == "changed":
        cache.path.write_bytes(b"x" + ENGINE[1:])
    elif damage == "empty":
        cache.path.write_bytes(b"")
    elif damage == "no sidecar":
        sidecar.unlink()
    elif damage == "broken sidecar":
        sidecar.write_text('{"key":', encoding="utf-8")
    else:
        about = json.loads(sidecar.read_text(encoding="utf-8"))
        about["key"]["gpu"] = "another"
        sidecar.write_text(json.dumps(about), encoding="utf-8")
    assert cache.load() is None
    assert f"the cached engine {cache.path} is not used: " in log[-1]
    cache.store(ENGINE, 1)  # and it can be written anew
    assert cache.load() == ENGINE


def test_discard_removes_engine_and_sidecar(tmp_path: Path, log: Lines) -> None:
    cache = EngineCache(tmp_path, "street", KEY, log)
    cache.store(ENGINE, 1)
    cache.discard()
    cache.discard()
    assert list(tmp_path.iterdir()) == []
    assert cache.load() is None


def test_writing_replaces_whole_files_and_leaves_no_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", b"x")  # a folder cannot be replaced by a file
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, log: Lines) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    cache = EngineCache(tmp_path / "file", "street", KEY, log)
    with cache.lock():
        assert cache.load() is None
        cache.store(ENGINE, 1)
    assert "Set cache_dir to a folder that can be written" in log[0]
    assert "cannot be stored" in log[1]


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path\n"
        "from fassst_ros.runtimes.engine_cache import EngineCache, EngineKey\n"
        f"cache = EngineCache(Path({str(tmp_path)!r}), 'street', {KEY!r}, print)\n"
        "with cache.lock():\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
        f"    cache.store({ENGINE!r}, 1)\n"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    waiting = threading.Event()
    found: list[bytes | None] = []

    def log(line: str) -> None:
        if "another process is building" in line:
            waiting.set()

    def second() -> None:
        cache = EngineCache(tmp_path, "street", KEY, log)
        with cache.lock():
            found.append(cache.load())

    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        assert found == []
        process.stdin.close()  # the first goes on, stores its engine and ends
        thread.join(60)
    assert found == [ENGINE]


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("") == tmp_path / ".cache" / "fassst_ros"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("") == tmp_path / "xdg" / "fassst_ros"
    assert cache_folder("~/engines") == tmp_path / "engines"
