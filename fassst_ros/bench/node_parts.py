"""The parts of the node suite: each starts the node as it needs it, and measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fassst_ros.bench import node_tables as tables
from fassst_ros.bench.mood import OTHERS
from fassst_ros.bench.node_session import OWN, PROFILE, TRANSPORTS, Pass, Session, Setup, own_transport
from fassst_ros.bench.node_tables import CALM, MAIN, Found
from fassst_ros.config import SegmentOptions
from fassst_ros.pipeline import Segmenter
from fassst_ros.replay.rates import HighestRate, RateRecord, highest_rate
from fassst_ros.types import FassstError, Frame

#: Encodings of which only is told what differs.
OTHER_ENCODINGS = ("rgb8", "mono8", "yuv422", "bayer_rggb8")
#: Rates at which the latency is measured, in Hz, by ros2_benchmark's protocol.
RATES = (10.0, 20.0, 30.0)
CAMERAS = (1, 2, 4, 8)
INSTANCES = (0, 10, 30, 49)
#: Sum of the rates of all cameras when their latency is measured, relative to the highest rate of one.
SHARE = 0.7
#: Transports that JPEGs are measured with, too: they are small, so that others make no difference to them.
BOTH = (PROFILE, "stock", OWN)
#: How close the search for several cameras comes to their highest rate.
TOLERANCE = 0.1
#: Length of a pass, relative to others: of the search, of one that confirms, of one that only compares.
LENGTHS = {"fixed": 1.0, "search": 0.6, "confirm": 0.6, "compare": 0.6}
#: How many passes may be repeated because other programs disturbed them.
REPEATS = 8


class Bench:
    """Runs the parts; leaving its with block ends the processes.

    folder: an empty one for files of the processes, removed by the caller. disturbed: passes during which
    other programs used the machine, after all.
    """

    def __init__(self, setup: Setup, folder: Path) -> None:
        self._setup, self._folder = setup, folder
        self._stack = ExitStack()
        self._open: tuple[object, Session] | None = None
        self._sessions, self._repeats, self.disturbed = 0, REPEATS, 0
        self._single: float | None = None  # highest rate of one bgr8 camera [Hz], once it was searched

    def run(self, part: str) -> Found:
        """One part: stages, rates, cameras, instances or transports. Raises FassstError."""
        parts: dict[str, Callable[[], Found]] = {
            "stages": self._stages,
            "rates": self._rates,
            "cameras": self._cameras,
            "instances": self._instances,
            "transports": self._transports,
        }
        try:
            return parts[part]()
        except FassstError:
            self._end()  # the next part starts anew
            raise

    def _end(self) -> None:
        self._open = None
        self._stack.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _session(self, groups: Sequence[Sequence[str]], transport: str = PROFILE) -> Session:
        """The processes for these cameras, warm; those of the part before are taken on if they fit."""
        if self._open is not None and self._open[0] == (groups, transport):
            return self._open[1]
        self._end()
        self._sessions += 1
        folder = self._folder / f"session_{self._sessions}"
        session = self._stack.enter_context(Session(self._setup, folder, groups, transport))
        self._open = (groups, transport), session
        session.warm_up()
        return session

    def _both(self, transport: str = PROFILE) -> Session:
        """One raw and one JPEG camera, in the order of MAIN; only one of them plays at a time."""
        return self._session([["camera"], ["jpeg/compressed"]], transport)

    def _play(
        self, session: Session, what: str, rate: float, kind: str = "fixed", times: float = 1.0, **how: Any
    ) -> Pass:
        """One pass; once more if other programs disturbed it. what: for the user."""
        play = partial(session.at_rate, rate, kind, times * LENGTHS[kind], **how)
        found = play()
        if found.others > OTHERS and self._repeats:
            self._repeats -= 1
            self._setup.say(f"again, because other programs used {100 * found.others:.0f} % of the cores")
            found = min(found, play(), key=lambda one: one.others)
        self.disturbed += found.others > OTHERS
        record = found.record
        p50 = record.latency_ms["p50"]
        latency = "nothing arrived" if p50 is None else f"p50 {p50:.1f} ms"
        self._setup.say(f"{what} at {rate:g} Hz: {100 * record.missing:.1f} % missing, {latency}")
        return found

    def _search(
        self, play: Callable[..., Pass], known: list[RateRecord], **how: Any
    ) -> tuple[HighestRate, list[RateRecord]]:
        """The highest rate, and all passes in the order of their rates. how: see `highest_rate`."""
        records = list(known)

        def measure(rate: float, kind: str, times: float) -> RateRecord:
            records.append(play(rate, kind, times).record)
            return records[-1]

        highest = highest_rate(measure, known, **how)
        return highest, sorted(records, key=lambda record: record.rate)

    def _stages(self) -> Found:
        passes: dict[str, Pass] = {}
        session = self._both()
        for encoding in (*MAIN, *OTHER_ENCODINGS):
            how: dict[str, Any] = {"group": int(encoding == "jpeg"), "encoding": encoding}
            session.warm_up(**how)
            kind = "fixed" if encoding in MAIN else "compare"
            passes[encoding] = self._play(session, encoding, CALM, kind, **how)
        return tables.stages(passes)

    def _rates(self) -> Found:
        found = {}
        session = self._both()
        for group, encoding in enumerate(MAIN):
            session.warm_up(group=group, encoding=encoding)
            play = partial(self._play, session, encoding, group=group, encoding=encoding)
            found[encoding] = self._search(play, [play(rate).record for rate in RATES])
        self._single = found[MAIN[0]][0].rate
        return tables.rates(found)

    def _cameras(self) -> Found:
        found: dict[int, tuple[HighestRate, list[RateRecord]]] = {}
        calm: dict[int, RateRecord] = {}
        for count in CAMERAS:
            session = self._session([[f"camera_{number}" for number in range(1, count + 1)]])
            play = partial(self._play, session, f"cameras: {count}, each")
            if self._single is None:  # the others are measured relative to one camera
                known = [play(RATES[1], "search").record]
                self._single = self._search(play, known, confirm=False)[0].rate or CALM
            calm[count] = play(tables.readable(self._single * SHARE / count)).record
            known = [calm[count]]
            if count == 1:
                found[1] = HighestRate(self._single, "node"), known
            else:
                found[count] = self._search(play, known, confirm=False, tolerance=TOLERANCE)
        return tables.cameras(found, calm)

    def _instances(self) -> Found:
        passes = {}
        thresholds = self._thresholds()
        session = self._both()
        for count, threshold in thresholds.items():
            session.set(score_threshold=threshold)
            passes[count] = self._play(session, f"{count} instances", CALM, "compare")
        session.set(score_threshold=float(self._setup.chosen.score_threshold))
        return tables.instances(passes, thresholds)

    def _thresholds(self) -> dict[int, float]:
        """Number of instances -> score threshold that leaves so many; fewer where the image has no more."""
        image = np.load(self._setup.image)
        options = SegmentOptions(score_threshold=0.0)
        runtime = dataclasses.replace(self._setup.options, model=str(self._setup.model))
        with Segmenter.open(runtime, options, lambda _: None) as segmenter:
            scores = sorted(segmenter.segment(Frame(image, "bgr")).instances.scores.tolist(), reverse=True)
        found = {0: 1.0}
        for count in INSTANCES[1:]:
            if kept := min(count, len(scores)):
                lower = scores[kept] if kept < len(scores) else 0.0
                found[kept] = (scores[kept - 1] + lower) / 2
        return found

    def _transports(self) -> Found:
        passes = {}
        for transport in (PROFILE, *TRANSPORTS, *([OWN] if own_transport() else [])):
            session = self._both(transport)
            for group, encoding in enumerate(MAIN if transport in BOTH else MAIN[:1]):
                how: dict[str, Any] = {"group": group, "encoding": encoding}
                session.warm_up(**how)
                found = self._play(session, f"{transport}, {encoding}", CALM, "compare", **how)
                passes[transport, encoding] = found
        return tables.transports(passes)
