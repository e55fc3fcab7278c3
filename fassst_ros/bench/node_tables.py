"""What the passes of the node suite say: tables, plots, and the rows for those who read no further."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fassst_ros.bench.laws import fit_line
from fassst_ros.bench.node_session import Pass
from fassst_ros.bench.report import Cell, Plot, Table
from fassst_ros.evaluation.latency import percentiles
from fassst_ros.replay.rates import HighestRate, RateRecord

#: Encodings whose stages are told in full.
MAIN = ("bgr8", "jpeg")
#: What the node does to a frame after it was taken from the middleware, without the network.
OWN_WORK = ("decode", "resize", "postprocess", "fill", "publish")
#: Rate of the passes that compare [Hz]: few machines drop frames there.
CALM = 10.0
MEANINGS = {
    "transport": "stamp to callback",
    "wait": "callback to worker",
    "own work": " + ".join(OWN_WORK),
    "processing": "callback to published",
    "total": "stamp to published",
}
_LATENCY = ("missing %", "p50", "p90", "p99", "node CPU")
_CPU = "node CPU: time of all cores together that the node's process took for one result."

Passes = Sequence[RateRecord]


@dataclass(frozen=True, slots=True)
class Found:
    """What a part found; see Suite in fassst_ros/bench/report.py."""

    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    summary: tuple[tuple[str, str], ...] = ()


def stages(passes: Mapping[str, Pass]) -> Found:
    """passes: encoding -> pass at CALM Hz."""
    full = {encoding: with_own_work(passes[encoding].stages) for encoding in MAIN}
    columns = ("stage", *(f"{e} {p}" for e in MAIN for p in ("p50", "p90", "p99")), "what")
    rows = [
        (name, *(p for e in MAIN for p in _percentiles(full[e].get(name, ()))), MEANINGS.get(name, ""))
        for name in full[MAIN[0]]
    ]
    few = ("transport", "decode", "own work", "total")
    differing = [
        (encoding, *_medians(with_own_work(found.stages), few), found.record.cpu_ms)
        for encoding, found in passes.items()
    ]
    work = {e: _percentiles(full[e]["own work"]) for e in MAIN}
    said = [f"{e} {p50:.1f} ms (p99 {p99:.1f})" for e, (p50, _, p99) in work.items() if p50 and p99]
    return Found(
        (
            Table(f"Stages of a frame in the node, at {CALM:g} Hz", columns, tuple(rows)),
            Table(
                f"Encodings, p50 at {CALM:g} Hz", ("encoding", *few, "node CPU"), tuple(differing), (_CPU,)
            ),
        ),
        summary=(("the node's own work for a frame", ", ".join(said)),) if said else (),
    )


def rates(found: Mapping[str, tuple[HighestRate, Passes]]) -> Found:
    """found: encoding -> the highest rate, and all passes in the order of their rates."""
    rows, summary = [], []
    for encoding, (highest, records) in found.items():
        rows += [(encoding, r.rate, r.kind, *_latency(r), r.verdict) for r in records]
        summary.append((f"highest rate with < 5 % missing frames, {encoding}", str(highest)))
        told = [
            f"{r.latency_ms['p50']:.0f} ms p50, {r.latency_ms['p99']:.0f} ms p99 at {r.rate:g} Hz"
            for r in records
            if r.kind == "fixed" and r.sustained
        ]
        summary.append(
            (f"stamp to result in another process, {encoding}", "; ".join(told) or "not sustained")
        )
    columns = ("input", "Hz", "pass", *_LATENCY, "outcome")
    return Found((Table("One camera", columns, tuple(rows), (_CPU,)),), summary=tuple(summary))


def cameras(found: Mapping[int, tuple[HighestRate, Passes]], calm: Mapping[int, RateRecord]) -> Found:
    """found: cameras -> highest rate of each, and all passes. calm: passes whose rates have the same sum."""
    rows = [
        (
            r.cameras,
            r.rate,
            r.rate * r.cameras,
            r.results,
            *_latency(r),
            f"{min(r.by_camera)}, {max(r.by_camera)}",
        )
        for _, records in found.values()
        for r in records
    ]
    columns = ("cameras", "Hz each", "Hz in all", "results/s", *_LATENCY, "least, most results of one")
    highest = [(n, f"{h.rate * n:.3g}") for n, (h, _) in found.items() if h.rate is not None]
    said = ", ".join(f"{n}: {rate} Hz" for n, rate in highest)
    words = ("All cameras take their frames at the same moment. " + _CPU,)
    return Found(
        (Table("Several cameras, bgr8", columns, tuple(rows), words),),
        (cameras_plot(calm),),
        (("highest sum of rates with < 5 % missing frames, by cameras", said),) if said else (),
    )


def cameras_plot(passes: Mapping[int, RateRecord]) -> Plot:
    """Latency and CPU against cameras whose rates have the same sum; the law in words."""
    series: dict[str, list[tuple[float, float]]] = {
        f"latency {key}": [(float(n), v) for n, r in passes.items() if (v := r.latency_ms[key]) is not None]
        for key in ("p50", "p99")
    }
    cpu = [(float(n), r.cpu_ms) for n, r in passes.items() if r.cpu_ms is not None]
    series["node CPU for a result"] = cpu
    total = next((f"{r.rate * r.cameras:.3g} Hz" for r in passes.values()), "")
    words = []
    if total:
        words.append(
            f"Rates of all cameras together: {total}. They publish at the same moment and are segmented in "
            "turn, so that the last one waits for all others."
        )
    words += _law(series["latency p50"], "Latency p50", "camera")
    words += _law(cpu, "CPU for a result", "camera")
    return Plot("Latency and CPU against cameras", "cameras", "ms", series, tuple(words))


def instances(passes: Mapping[int, Pass], thresholds: Mapping[int, float]) -> Found:
    """passes, thresholds: instances in the frame -> pass at CALM Hz, score threshold."""
    parts = ("postprocess", "fill", "publish", "own work")
    medians = {n: _medians(with_own_work(found.stages), parts) for n, found in passes.items()}
    rows = []
    for n, found in passes.items():
        latency = found.record.latency_ms
        rows.append((n, thresholds[n], *medians[n], latency["p50"], latency["p99"], found.record.cpu_ms))
    columns = ("instances", "threshold", *parts, "p50", "p99", "node CPU")
    words = ("The score threshold sets how many instances there are; p50, p99: stamp to result. " + _CPU,)
    series = {
        part: [(float(n), value) for n, cells in medians.items() if (value := cells[index]) is not None]
        for index, part in enumerate(parts)
    }
    plot = Plot(
        *("Own work of the node against instances", "instances", "ms, p50", series),
        tuple(_law(series["own work"], "Own work", "instance")),
    )
    return Found((Table(f"Instances, bgr8, p50 at {CALM:g} Hz", columns, tuple(rows), words),), (plot,))


def transports(passes: Mapping[tuple[str, str], Pass]) -> Found:
    """passes: (transport, encoding) -> pass at CALM Hz."""
    rows = [
        (transport, encoding, *_medians(found.stages, ("transport",)), *_latency(found.record))
        for (transport, encoding), found in passes.items()
    ]
    columns = ("transport", "input", "stamp to node, p50", *_LATENCY)
    words = (
        "our profile: config/fastdds_large_images.xml, as our launch files set it; stock: Fast DDS as it "
        "comes; UDP only, LARGE_DATA: FASTDDS_BUILTIN_TRANSPORTS; as set here: what the environment of this "
        "command says. " + _CPU,
    )
    return Found((Table(f"What carries the frames, at {CALM:g} Hz", columns, tuple(rows), words),))


def with_own_work(times: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The stages, and "own work", which is their sum frame by frame."""
    parts = [times[name] for name in OWN_WORK if name in times]
    return {**times, "own work": [sum(frame) for frame in zip(*parts, strict=False)]}


def readable(rate: float) -> float:
    """A rate with three digits."""
    return float(f"{rate:.3g}")


def _percentiles(times: Iterable[float]) -> tuple[float | None, float | None, float | None]:
    found = percentiles(list(times), (50, 90, 99))
    return found["p50"], found["p90"], found["p99"]


def _medians(times: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[float | None]:
    return [_percentiles(times.get(name, ()))[0] for name in names]


def _latency(record: RateRecord) -> tuple[Cell, ...]:
    """The cells of _LATENCY."""
    latency = (record.latency_ms[key] for key in ("p50", "p90", "p99"))
    return (100 * record.missing, *latency, record.cpu_ms)


def _law(points: Sequence[tuple[float, float]], what: str, unit: str) -> list[str]:
    """The straight line through the points, as a sentence; none where there are too few."""
    if len(points) < 3:
        return []
    return [f"{what}: {fit_line(*zip(*points, strict=True)).words(unit)}."]
