"""Opening bags: which files belong to one, and what rosbags makes of them."""

from __future__ import annotations

import re
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fassst_ros.types import InputError

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys.store import Typestore

#: Files that a bag consists of.
_SUFFIXES = (".db3", ".mcap", ".bag")


class Unreadable(Exception):
    """A bag that rosbags cannot open; the text says why."""


def bag_files(path: Path) -> list[Path]:
    """What rosbags is to open: a folder with metadata.yaml, a file, or the files of a folder without it.

    Raises InputError if there is nothing of that kind.
    """
    if not path.exists():
        raise InputError(
            f"bag {path} does not exist. Give the folder that holds its metadata.yaml, or a file"
        )
    if path.is_file() or (path / "metadata.yaml").exists():
        return [path]
    files = storage_files(path)
    if not files:
        raise InputError(
            f"{path} is no readable ROS bag: the folder holds neither metadata.yaml nor a "
            f"{', '.join(_SUFFIXES)} file"
        )
    if len({f.suffix for f in files}) > 1:
        raise InputError(f"{path} holds bags of several kinds and no metadata.yaml. Give one file of them")
    return files


def storage_files(path: Path) -> list[Path]:
    """The files with messages, in the order of their numbers: bag_2.mcap before bag_10.mcap."""
    if path.is_file():
        return [path]

    def number(file: Path) -> list[int | str]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]

    return sorted((f for f in path.iterdir() if f.suffix in _SUFFIXES), key=number)


def open_reader(files: list[Path], typestore: Typestore) -> AnyReader:
    """An open reader; typestore: for bags without definitions. Raises Unreadable, with nothing left open."""
    from rosbags.highlevel import AnyReader

    try:
        reader = AnyReader(files, default_typestore=typestore)
        reader.open()
    except read_errors() as err:
        raise Unreadable(words(err)) from err
    return reader


def read_errors() -> tuple[type[Exception], ...]:
    """What rosbags lets through for files that are damaged."""
    import zlib

    from rosbags.highlevel import AnyReaderError
    from rosbags.rosbag1 import ReaderError as Reader1Error
    from rosbags.rosbag2 import ReaderError as Reader2Error

    errors: list[type[Exception]] = [AnyReaderError, Reader1Error, Reader2Error, sqlite3.Error, zlib.error]
    errors += [OSError, ValueError, KeyError, AssertionError, EOFError, IndexError]
    with suppress(ImportError):
        import apsw

        errors.append(apsw.Error)
    return tuple(errors)


def words(err: Exception) -> str:
    """What an error says."""
    return str(err) or type(err).__name__


def advice(path: Path) -> str:
    """What to do about a bag that cannot be opened."""
    if path.suffix == ".bag":
        return "Check it with `rosbag info`; `rosbag reindex` repairs one that was not closed"
    return "Check it with `ros2 bag info`; `ros2 bag reindex` repairs a missing metadata.yaml"
