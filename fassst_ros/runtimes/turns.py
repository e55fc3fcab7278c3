"""Who may use a runtime at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets `count` threads in at once, and at times one alone."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = threading.Semaphore(count)
        self._alone = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Inside, one of the turns is taken; waits for it."""
        with self._free:
            yield

    @contextmanager
    def all(self) -> Iterator[None]:
        """Inside, nobody else has a turn; waits until they are done."""
        with self._alone:  # two that wait for all would each keep what the other waits for
            for _ in range(self._count):
                self._free.acquire()
            try:
                yield
            finally:
                for _ in range(self._count):
                    self._free.release()
