"""What a script shows while it runs: a live view on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text


class View(Protocol):
    """Something to show."""

    def table(self) -> RenderableType:
        """For a terminal."""

    def line(self) -> str:
        """The same as one line, for logs."""


class Screen:
    """A live view on a terminal, and plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console()
        self._terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, refresh_per_second=4, transient=False)
        self._last, self._printed = "", 0.0

    def __enter__(self) -> Screen:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def progress(self, text: str) -> None:
        """What is being waited for."""
        if self._terminal:
            self._live.update(Text(f"{text} ..."))
        elif text != self._last:
            print(f"{text} ...", flush=True)
            self._last = text

    def show(self, view: View, final: bool = False) -> None:
        """The present state; plain lines come once a second."""
        if self._terminal:
            self._live.update(view.table(), refresh=final)
        elif final or time.monotonic() - self._printed > 1:
            print(view.line(), flush=True)
            self._printed = time.monotonic()
