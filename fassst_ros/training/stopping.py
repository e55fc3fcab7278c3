"""Ctrl-C and SIGTERM as a wish, which a run fulfils after the step in progress."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

from fassst_ros.types import FassstError

log = logging.getLogger(__name__)


class Stopped(FassstError):
    """A run ended by a signal after saving its state; the same command goes on. signal: its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class StopSignals:
    """Within the `with` block, `asked` is the number of the signal that came, 0 before.

    A second one acts at once, as ever. In a thread other than the main one nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.asked = number
        self._restore()
        name = signal.Signals(number).name
        log.warning("%s: stopping after this step, with a checkpoint; once more to stop at once", name)

    def _restore(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()

    def __exit__(self, *_: object) -> None:
        self._restore()
