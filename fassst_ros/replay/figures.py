"""The figures of the replay report as SVG, drawn by matplotlib (imported by evaluation/curves.py)."""

from __future__ import annotations

import io
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.evaluation.curves import BLUE, GREY, ORANGE, save
from fassst_ros.replay.rates import MISSING, RateRecord
from fassst_ros.replay.record import FrameRecord, stage_times

#: Points of a line at most; longer runs are averaged, or the largest of the neighbours is taken.
_POINTS = 400
_WIDTH = 9.6  # inches
_STAGES = ("#94a3b8", "#60a5fa", "#1f5fa8", "#34d399", "#fbbf24", "#f472b6", "#a78bfa", "#f87171", "#22d3ee")
RED = "#c62828"


def _svg(height: float, draw: Callable[[Any], None]) -> bytes:
    file = io.BytesIO()
    save(file, (_WIDTH, height), draw)
    return file.getvalue()


def by_camera(frames: Sequence[FrameRecord]) -> dict[str, list[FrameRecord]]:
    """Topic -> its frames."""
    cameras: dict[str, list[FrameRecord]] = defaultdict(list)
    for frame in frames:
        cameras[frame.topic].append(frame)
    return dict(cameras)


def seconds(frames: Sequence[FrameRecord], first: int) -> NDArray[np.float64]:
    """Times of the recording, from `first` [ns] on."""
    return np.array([(f.received - first) / 1e9 for f in frames], np.float64)


def _thin(values: NDArray[np.float64], reduce: Any = np.nanmean) -> NDArray[np.float64]:
    """(n,) or (k, n) values in at most _POINTS groups of neighbours, each reduced to one."""
    n = values.shape[-1]
    if n <= _POINTS:
        return values
    edges = np.linspace(0, n, _POINTS + 1).astype(int)
    groups = [reduce(values[..., a:b], axis=-1) for a, b in itertools.pairwise(edges)]
    return np.stack(groups, axis=-1)


def _panels(frames: Sequence[FrameRecord], draw: Callable[[Any, list[FrameRecord], int], None]) -> bytes:
    """One panel a camera below each other, all over the same time."""
    cameras = by_camera(frames)
    first = min((f.received for f in frames), default=0)

    def figure(canvas: Any) -> None:
        panels = canvas.subplots(len(cameras), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (topic, own) in zip(panels, cameras.items(), strict=True):
            draw(axes, own, first)
            axes.set_xmargin(0.01)
            if len(cameras) > 1:
                axes.set_title(topic, fontsize=9, loc="left")
        panels[-1].set_xlabel("time of the recording [s]")
        handles: dict[str, Any] = {}
        for axes in panels:
            found, names = axes.get_legend_handles_labels()
            handles |= dict(zip(names, found, strict=True))
        canvas.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=8)

    return _svg(0.5 + 2.6 * len(cameras), figure)


def latency(frames: Sequence[FrameRecord]) -> bytes:
    """Stages on top of each other over time, the latency as a line, dropped and failed frames as marks."""
    names = list(stage_times(frames))
    colors = dict(zip(names, _STAGES * 2, strict=False))

    def draw(axes: Any, own: list[FrameRecord], first: int) -> None:
        timed = [f for f in own if f.stages]
        if timed:
            times = _thin(seconds(timed, first))
            rows = _thin(np.array([[f.stages.get(name, 0.0) for f in timed] for name in names]))
            axes.stackplot(
                times, rows, labels=names, colors=[colors[n] for n in names], linewidth=0, alpha=0.85
            )
        done = [f for f in own if f.latency_ms is not None]
        if done:
            values = np.array([f.latency_ms for f in done], np.float64)
            label = "latency" if len(done) <= _POINTS else "latency (largest of neighbours)"
            axes.plot(
                _thin(seconds(done, first)), _thin(values, np.nanmax), color="#111827", lw=0.9, label=label
            )
        for outcome, color in (("dropped", ORANGE), ("failed", RED)):
            lost = [f for f in own if f.outcome == outcome]
            if lost:
                axes.plot(
                    seconds(lost, first), np.zeros(len(lost)), "|", color=color, ms=9, mew=1.2,
                    label=outcome, clip_on=False, zorder=5,
                )  # fmt: skip
        axes.set_ylabel("ms")
        axes.set_ylim(bottom=0)

    return _panels(frames, draw)


def instances(frames: Sequence[FrameRecord], colors: Mapping[str, tuple[int, int, int]]) -> bytes:
    """Instances of each class over time, those that occur."""
    present = [name for name in colors if any((f.classes or {}).get(name) for f in frames)]

    def draw(axes: Any, own: list[FrameRecord], first: int) -> None:
        known = [f for f in own if f.classes is not None]
        if known:
            times = _thin(seconds(known, first))
            for name in present:
                counts = np.array([(f.classes or {}).get(name, 0) for f in known], np.float64)
                color = tuple(c / 255 for c in colors[name])
                axes.step(times, _thin(counts), where="post", color=color, lw=1.3, label=name)
        axes.set_ylabel("instances")
        axes.set_ylim(bottom=0)
        axes.yaxis.get_major_locator().set_params(integer=True)

    return _panels(frames, draw)


def quality(frames: Sequence[FrameRecord]) -> bytes:
    """Agreement of each annotated frame with its ground truth over time."""

    def draw(axes: Any, own: list[FrameRecord], first: int) -> None:
        known = [f for f in own if f.quality is not None]
        values = np.array([f.quality for f in known], np.float64)
        axes.plot(seconds(known, first), values, "o-", color=BLUE, ms=3, lw=0.8, label="image PQ")
        axes.set(ylim=(0, 1.02), ylabel="image PQ")

    return _panels([f for f in frames if f.quality is not None], draw)


def tracks(frames: Sequence[FrameRecord]) -> bytes:
    """Each track as a line where it is seen; pale where it is missing for a while."""

    def draw(axes: Any, own: list[FrameRecord], first: int) -> None:
        times = seconds(own, first)
        rows: dict[int, list[float]] = defaultdict(list)
        for frame, time in zip(own, times, strict=True):
            for track in frame.tracks:
                rows[track].append(float(time))
        gap = 1.5 * float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        for place, seen in enumerate(rows.values()):
            axes.plot([seen[0], seen[-1]], [place, place], color="#bfdbfe", lw=1.2)
            starts, ends = _spells(np.array(seen), gap)
            axes.hlines([place] * len(starts), starts, ends, color=BLUE, lw=1.6, capstyle="round")
        axes.set(ylabel="tracks, by first sight", ylim=(max(len(rows), 1), -1))

    return _panels(frames, draw)


def _spells(times: NDArray[np.float64], gap: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and last time of each stretch without a gap."""
    cuts = np.flatnonzero(np.diff(times) > gap) + 1
    edges = np.concatenate(([0], cuts, [len(times)]))
    return times[edges[:-1]], times[edges[1:] - 1]


def drop_curve(table: Mapping[float, float]) -> bytes:
    """Share of dropped frames (0..1) over the rate [Hz] of each camera."""

    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        names = [f"{rate:g} Hz" for rate in table]
        bars = axes.bar(names, [100 * share for share in table.values()], 0.55, color=BLUE)
        axes.bar_label(bars, [f"{100 * share:.0f} %" for share in table.values()], padding=2, fontsize=8)
        axes.set(ylim=(0, 108), ylabel="dropped [%]")

    return _svg(2.4, draw)


def rates(records: Sequence[RateRecord]) -> bytes:
    """Live passes: latency and missing frames over the rate. A rate may have been played several times."""
    markers = {"fixed": "o", "search": "x", "confirm": "s"}

    def draw(canvas: Any) -> None:
        times, missing = canvas.subplots(1, 2)
        for record in records:
            marker = markers[record.kind]
            for key, color in (("p50", BLUE), ("p90", GREY), ("p99", ORANGE)):
                if (value := record.latency_ms.get(key)) is not None:
                    times.plot(record.rate, value, marker, color=color, ms=4.5)
            missing.plot(record.rate, 100 * record.missing, marker, color=RED, ms=4.5)
        for key, color in (("p50", BLUE), ("p90", GREY), ("p99", ORANGE)):
            times.plot([], [], "o", color=color, ms=4.5, label=key)
        for kind, marker in markers.items():
            if any(record.kind == kind for record in records):
                missing.plot([], [], marker, color=RED, ms=4.5, label=kind)
        times.set(xlabel="rate [Hz]", ylabel="latency [ms]", ylim=(0, None))
        missing.axhline(100 * MISSING, color=GREY, ls="--", lw=0.8)
        missing.set(xlabel="rate [Hz]", ylabel="frames without a result [%]", ylim=(-1, None))
        for axes in (times, missing):
            axes.legend(frameon=False, fontsize=8)

    return _svg(2.8, draw)
