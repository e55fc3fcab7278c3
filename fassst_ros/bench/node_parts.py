"""The parts of the node suite: each starts the node as it needs it, and returns tables and plots."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from fassst_ros.bench.node_session import TRANSPORTS, Pass, Session, Setup
from fassst_ros.bench.report import Cell, Plot, Table
from fassst_ros.config import SegmentOptions
from fassst_ros.evaluation.latency import percentiles
from fassst_ros.pipeline import Segmenter
from fassst_ros.replay.rates import RateRecord, highest_rate
from fassst_ros.types import Frame

#: Encodings whose stages are told in full, and the others, of which only what differs is told.
MAIN, OTHERS = ("bgr8", "jpeg"), ("rgb8", "mono8", "yuv422", "bayer_rggb8")
#: What the node does to a frame after it was taken from the middleware, without the network.
OWN_WORK = ("decode", "resize", "postprocess", "fill", "publish")
#: Rates at which the latency is measured, in Hz, by ros2_benchmark's protocol.
RATES = (10.0, 20.0, 30.0)
CAMERAS = (1, 2, 4, 8)
INSTANCES = (0, 10, 30, 49)
#: Rate of the passes that compare stages, instances and transports: nothing is dropped, whatever the machine.
CALM = 10.0
#: Length of a pass that searches the highest rate, relative to others; one that confirms takes twice that.
SEARCH = 0.6
#: Sum of the rates of all cameras, relative to the highest rate of one: once calm, and once too fast.
SHARES = (0.7, 1.25)
MEANINGS = {
    "transport": "stamp to callback",
    "wait": "callback to worker",
    "own work": " + ".join(OWN_WORK),
    "processing": "callback to published",
    "total": "stamp to published",
}
_LATENCY = ("missing %", "p50", "p90", "p99", "node CPU")


@dataclass(slots=True)
class Found:
    """What a part found; see Suite in fassst_ros/bench/report.py."""

    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    summary: list[tuple[str, str]] = field(default_factory=list)


class Bench:
    """Runs the parts. folder: an empty one for files of the processes, removed by the caller."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self._setup, self._folder = setup, folder
        self._sessions = 0
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
        return parts[part]()

    def _session(self, groups: Sequence[Sequence[str]], transport: str = "our profile") -> Session:
        self._sessions += 1
        folder = self._folder / f"session_{self._sessions}"
        return Session(self._setup, folder, groups, transport)

    def _say(self, found: RateRecord, what: str) -> None:
        p50 = found.latency_ms["p50"]
        latency = "nothing arrived" if p50 is None else f"p50 {p50:.1f} ms"
        self._setup.say(f"{what}, {found.rate:g} Hz: {100 * found.missing:.1f} % missing, {latency}")

    def _stages(self) -> Found:
        passes: dict[str, Pass] = {}
        with self._session([["camera"], ["jpeg/compressed"]]) as session:
            for encoding in (*MAIN, *OTHERS):
                group = int(encoding == "jpeg")
                session.warm_up(group=group, encoding=encoding)
                times = 1.0 if encoding in MAIN else 0.4
                passes[encoding] = session.at_rate(CALM, "fixed", times, group=group, encoding=encoding)
                self._say(passes[encoding].record, encoding)
        full = {encoding: with_own_work(passes[encoding].stages) for encoding in MAIN}
        rows = [
            (stage, *(p for e in MAIN for p in _percentiles(full[e].get(stage, ()))), MEANINGS.get(stage, ""))
            for stage in full[MAIN[0]]
        ]
        columns = ("stage", *(f"{e} {p}" for e in MAIN for p in ("p50", "p90", "p99")), "what")
        others = []
        for encoding, found in passes.items():
            stages = with_own_work(found.stages)
            p50 = [_percentiles(stages.get(s, ()))[0] for s in ("transport", "decode", "own work", "total")]
            others.append((encoding, *p50, found.record.cpu_ms))
        work = [_percentiles(full[e].get("own work", ())) for e in MAIN]
        said = ", ".join(
            f"{e} {p50:.1f} ms (p99 {p99:.1f})"
            for e, (p50, _, p99) in zip(MAIN, work, strict=True)
            if p50 is not None and p99 is not None
        )
        return Found(
            [
                Table(f"Stages of a frame in the node, at {CALM:g} Hz", columns, tuple(rows)),
                Table(
                    "What differs between encodings, p50",
                    ("encoding", "transport", "decode", "own work", "total", "node CPU"),
                    tuple(others),
                ),
            ],
            summary=[("the node's own work for a frame", said)] if said else [],
        )

    def _rates(self) -> Found:
        rows: list[tuple[Cell, ...]] = []
        summary = []
        with self._session([["camera"], ["jpeg/compressed"]]) as session:
            for group, encoding in enumerate(MAIN):
                session.warm_up(group=group, encoding=encoding)
                measure = partial(self._pass, session, group=group, encoding=encoding)
                known = [measure(rate, "fixed", 1.0) for rate in RATES]
                found = highest_rate(self._kept(measure, known), known)
                if encoding == MAIN[0]:
                    self._single = found.rate
                rows += [(encoding, *rate_row(record)) for record in sorted(known, key=lambda r: r.rate)]
                summary.append((f"highest rate with < 5 % missing, {encoding}", str(found)))
                summary += [(f"stamp to result, {encoding}", text) for text in _sustained(known)]
        words = "node CPU: milliseconds of all cores together for one result"
        table = Table("One camera", ("input", "Hz", "pass", *_LATENCY, "outcome"), tuple(rows), (words,))
        return Found([table], summary=summary)

    def _pass(
        self, session: Session, rate: float, kind: str, times: float, group: int = 0, encoding: str = "bgr8"
    ) -> RateRecord:
        shorter = 1.0 if kind == "fixed" else SEARCH
        found = session.at_rate(rate, kind, times * shorter, group=group, encoding=encoding).record
        self._say(found, f"{encoding}, cameras: {found.cameras}")
        return found

    @staticmethod
    def _kept(
        measure: Callable[[float, str, float], RateRecord], kept: list[RateRecord]
    ) -> Callable[[float, str, float], RateRecord]:
        """`measure`, whose records are kept, too."""

        def measured(rate: float, kind: str, times: float) -> RateRecord:
            kept.append(measure(rate, kind, times))
            return kept[-1]

        return measured

    def _cameras(self) -> Found:
        rows: list[tuple[Cell, ...]] = []
        calm: dict[int, RateRecord] = {}
        for count in CAMERAS:
            with self._session([[f"camera_{number}" for number in range(1, count + 1)]]) as session:
                session.warm_up()
                measure = partial(self._pass, session)
                if self._single is None:  # the others are measured relative to one camera
                    known = [measure(20.0, "search", 1.0)]
                    self._single = highest_rate(self._kept(measure, known), known, confirm=False).rate or CALM
                known = [measure(readable(self._single * share / count), "fixed", 1.0) for share in SHARES]
                calm[count] = known[0]
                if count > 1:
                    highest_rate(self._kept(measure, known), known, confirm=False)
                rows += [camera_row(record) for record in sorted(known, key=lambda r: r.rate)]
        table = Table(
            "Several cameras, bgr8",
            ("cameras", "Hz each", "Hz in all", "results/s", *_LATENCY, "least / most results of a camera"),
            tuple(rows),
        )
        return Found([table], [cameras_plot(calm)])

    def _instances(self) -> Found:
        thresholds, parts = self._thresholds(), ("postprocess", "fill", "publish", "own work")
        rows, points = [], []
        with self._session([["camera"]]) as session:
            session.warm_up()
            for count, threshold in thresholds.items():
                session.set(score_threshold=threshold)
                found = session.at_rate(CALM, "fixed", 0.6)
                self._say(found.record, f"{count} instances")
                stages = with_own_work(found.stages)
                p50 = [_percentiles(stages.get(s, ()))[0] for s in parts]
                latency = found.record.latency_ms
                rows.append((count, threshold, *p50, latency["p50"], latency["p99"], found.record.cpu_ms))
                if p50[-1] is not None:
                    points.append((float(count), p50[-1]))
        columns = ("instances", "threshold", *parts, "p50", "p99", "node CPU")
        words = ("the number is set by the score threshold; p50, p99: stamp to result",)
        table = Table(f"Instances in a frame, bgr8 at {CALM:g} Hz, p50", columns, tuple(rows), words)
        law = (linear_law(points, "own work", "instance"),) if len(points) > 1 else ()
        plot = Plot("Own work against instances", "instances", "ms, p50", {"own work": points}, law)
        return Found([table], [plot])

    def _thresholds(self) -> dict[int, float]:
        """Number of instances -> score threshold that leaves so many; fewer where the image has no more."""
        image = np.load(self._setup.image)
        options = SegmentOptions(score_threshold=0.0)
        with Segmenter.open(self._setup.options, options, lambda _: None) as segmenter:
            scores = sorted(segmenter.segment(Frame(image, "bgr")).instances.scores.tolist(), reverse=True)
        found = {0: 1.0}
        for count in INSTANCES[1:]:
            kept = min(count, len(scores))
            if kept:
                lower = scores[kept] if kept < len(scores) else 0.0
                found[kept] = (scores[kept - 1] + lower) / 2
        return found

    def _transports(self) -> Found:
        rows: list[tuple[Cell, ...]] = []
        for transport in TRANSPORTS:
            with self._session([["camera"], ["jpeg/compressed"]], transport) as session:
                for group, encoding in enumerate(MAIN):
                    session.warm_up(group=group, encoding=encoding)
                    found = session.at_rate(CALM, "fixed", 0.6, group=group, encoding=encoding)
                    self._say(found.record, f"{transport}, {encoding}")
                    stage = _percentiles(found.stages.get("transport", ()))[0]
                    rows.append((transport, encoding, stage, *latency_cells(found.record)))
        columns = ("transport", "input", "stamp to node, p50", *_LATENCY)
        return Found([Table(f"What carries the frames, at {CALM:g} Hz", columns, tuple(rows))])


def with_own_work(stages: dict[str, list[float]]) -> dict[str, list[float]]:
    """The stages, and "own work", which is their sum frame by frame."""
    parts = [stages[name] for name in OWN_WORK if name in stages]
    return {**stages, "own work": [sum(frame) for frame in zip(*parts, strict=False)]}


def _percentiles(times: Iterable[float]) -> tuple[float | None, float | None, float | None]:
    found = percentiles(list(times), (50, 90, 99))
    return found["p50"], found["p90"], found["p99"]


def readable(rate: float) -> float:
    """A rate with three digits."""
    return float(f"{rate:.3g}")


def latency_cells(record: RateRecord) -> tuple[Cell, ...]:
    """missing [%], p50, p90, p99, CPU [ms]."""
    latency = (record.latency_ms[key] for key in ("p50", "p90", "p99"))
    return (100 * record.missing, *latency, record.cpu_ms)


def rate_row(record: RateRecord) -> tuple[Cell, ...]:
    """A pass of one camera."""
    return (record.rate, record.kind, *latency_cells(record), record.verdict)


def camera_row(record: RateRecord) -> tuple[Cell, ...]:
    """A pass of several cameras."""
    total = record.rate * record.cameras
    spread = f"{min(record.by_camera)} / {max(record.by_camera)}"
    return (record.cameras, record.rate, total, record.results, *latency_cells(record), spread)


def _sustained(known: Sequence[RateRecord]) -> list[str]:
    return [
        f"{r.latency_ms['p50']:.0f} ms p50, {r.latency_ms['p99']:.0f} ms p99 at {r.rate:g} Hz"
        for r in known
        if r.kind == "fixed" and r.sustained
    ]


def cameras_plot(passes: dict[int, RateRecord]) -> Plot:
    """Latency and CPU against cameras whose rates have the same sum; the law in words."""
    series = {
        f"latency {key}": [(float(n), v) for n, r in passes.items() if (v := r.latency_ms[key]) is not None]
        for key in ("p50", "p99")
    }
    cpu = [(float(n), r.cpu_ms) for n, r in passes.items() if r.cpu_ms is not None]
    series["node CPU for a result"] = cpu
    words = []
    if len(series["latency p50"]) > 1:
        words.append(linear_law(series["latency p50"], "latency p50", "camera"))
    if cpu:
        low, high = (end(y for _, y in cpu) for end in (min, max))
        words.append(f"the CPU time for a result is between {low:.1f} and {high:.1f} ms")
    return Plot("Latency and CPU against cameras", "cameras", "ms", series, tuple(words))


def linear_law(points: Sequence[tuple[float, float]], what: str, unit: str) -> str:
    """The straight line through the points, as a sentence."""
    slope, start = statistics.linear_regression(*zip(*points, strict=True))
    return f"{what} is about {start:.2f} ms + {slope:.3f} ms for each {unit}"
