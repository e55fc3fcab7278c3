"""The page of a replay: one HTML file that holds its figures and pictures; videos lie beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fassst_ros.evaluation import markup
from fassst_ros.evaluation.report import accuracy_parts, error_parts, percent
from fassst_ros.replay import figures, inline
from fassst_ros.replay.drops import RATES, simulate
from fassst_ros.replay.rates import rate_columns
from fassst_ros.replay.record import OUTCOMES, FrameRecord, ReplayRecord, Worst
from fassst_ros.types import ConfigError

#: Name of the page in the folder of a run.
PAGE = "index.html"
#: Failed frames that are listed one by one.
_LISTED = 20
_PERCENTILES = ("p50", "p90", "p99")


def check_figures() -> None:
    """Raise ConfigError, before the long run, if the page's figures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as err:
        raise ConfigError("the report needs matplotlib: pip install 'fassst_ros[replay]'") from err


def write_report(record: ReplayRecord, folder: Path) -> Path:
    """Write the page of a run into its folder, where its pictures and videos lie; returns the page.

    A picture that is missing is left out. Raises ConfigError if the page cannot be written.
    """
    check_figures()
    parts = [markup.heading(1, record.title), _tiles(record)]
    parts += [markup.warning(note) for note in record.notes]
    parts += [markup.facts(record.facts.items())]
    parts += _videos(record, folder)
    parts += _accuracy(record)
    parts += _comparison(record)
    parts += _latency(record)
    parts += _rates(record)
    parts += _drops(record)
    parts += _instances(record)
    parts += _tracks(record)
    parts += _failures(record)
    for worst in record.worst:
        parts += _worst(worst, folder)
    page = folder / PAGE
    part = page.with_name(PAGE + ".part")
    try:
        part.write_text(markup.page(record.title, parts), encoding="utf-8")
        part.replace(page)
    except OSError as err:
        part.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {page}: {err.strerror or err}") from err
    return page


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _tiles(record: ReplayRecord) -> str:
    latency, total = record.latency(), len(record.frames)
    cells = [(str(record.count("segmented")), f"of {total} frames segmented")]
    for outcome, where in (("dropped", f" {record.rate}" if record.rate else ""), ("failed", "")):
        count = sum(f.outcome == outcome for f in record.frames)
        if count or where:
            cells.append((f"{100 * count / max(total, 1):.1f} %", f"{outcome}{where}"))
    cells += [(f"{_ms(latency[p])} ms", f"latency, {p}") for p in ("p50", "p99")]
    if record.accuracy is not None:
        cells += [(f"{percent(record.accuracy[kind]['AP'])} %", f"{kind} AP") for kind in ("mask", "box")]
    known = [sum(f.classes.values()) for f in record.frames if f.classes is not None]
    if known:
        cells.append((f"{np.mean(known):.1f}", "instances a frame"))
    if record.highest is not None:
        rate = "none" if record.highest.rate is None else f"{record.highest.rate:g} Hz"
        cells.append((rate, "highest rate with less than 5 % missing"))
    return markup.tiles(cells)


def _videos(record: ReplayRecord, folder: Path) -> list[str]:
    parts = []
    for camera in record.cameras:
        if camera.video:
            first = inline.first_picture(folder / camera.video)
            parts += [markup.heading(3, camera.topic), markup.video(camera.video, first)]
    if not parts:
        return []
    note = "Video files lie beside this page; pass them on together."
    return [markup.heading(2, "What was found"), *parts, markup.paragraph(note)]


def _accuracy(record: ReplayRecord) -> list[str]:
    accuracy = record.accuracy
    if accuracy is None:
        return []
    annotated = sum(f.truth for f in record.frames)
    parts = accuracy_parts(accuracy)
    note = f"Ground truth: {accuracy['source']}, of {annotated} frames."
    if rest := len(record.frames) - annotated:
        lost = ", or no result," if record.kind == "live" else ""
        note += f" The other {rest} frames have none{lost} and are not in these numbers."
    parts.insert(1, markup.paragraph(note))
    if any(f.quality is not None for f in record.frames):
        parts.append(markup.heading(3, "Over time"))
        parts.append(inline.figure(figures.quality(record.frames), "curve: image PQ of each annotated frame"))
        parts.append(
            markup.paragraph(
                "Image PQ: the sum of the mask IoUs of found objects / (found + half of the false alarms + "
                "half of the missed), at the score threshold and IoU 0.5, all classes together."
            )
        )
    return parts + error_parts(accuracy["at_threshold"])


def _latency(record: ReplayRecord) -> list[str]:
    if not any(f.stages or f.latency_ms is not None for f in record.frames):
        return []
    rows = [("latency", record.latency()), *record.stages().items()]
    cells = [(name, *(_ms(times[p]) for p in _PERCENTILES)) for name, times in rows]
    if record.kind == "live":
        meaning = "Latency: from publishing the frame to the arrival of its result in another process."
    elif record.rate:
        meaning = f"Latency: from the arrival of a frame, coming {record.rate}, to its result: simulated."
    else:
        meaning = "Latency: the sum of the stages. Every frame was waited for."
    if record.kind == "offline":
        meaning += " Not in it: transport and publishing, which only a node has; drawing and writing files."
    return [
        markup.heading(2, "Latency"),
        markup.table(("ms a frame", *_PERCENTILES), cells, "latency"),
        inline.figure(figures.latency(record.frames), "areas: time of each stage; line: latency; over time"),
        markup.paragraph(meaning),
    ]


def _rates(record: ReplayRecord) -> list[str]:
    if not record.rates:
        return []
    rows = [rate_columns(passed) for passed in record.rates]
    parts = [
        markup.heading(2, "Fixed rates"),
        markup.table(list(rows[0]), [list(row.values()) for row in rows], "rates"),
        inline.figure(figures.rates(record.rates), "marks: latency and missing frames over the rate"),
        markup.paragraph(
            "The protocol of ros2_benchmark: frames from memory are published at a rate; missing are those "
            "without a result, in milliseconds the latency of the others. search: passes of the search for "
            "the highest rate; confirm: passes of twice the time at what it found."
        ),
    ]
    if record.highest is not None:
        parts.append(markup.paragraph(f"Highest rate with less than 5 % missing frames: {record.highest}."))
    return parts


def _drops(record: ReplayRecord) -> list[str]:
    """Offline only: a live run has measured it."""
    timed = [f for f in record.frames if f.stages and f.outcome != "failed"]
    if record.kind != "offline" or len(timed) < 2:
        return []
    rows, shares = [], {}
    for name, rate in [("as recorded", None), *((f"{r:g} Hz", r) for r in RATES)]:
        fates = simulate(timed, rate)
        share = sum(fate.dropped for fate in fates) / len(fates)
        if rate is not None:
            shares[rate] = share
        waits = np.array([fate.latency_ms for fate in fates if fate.latency_ms is not None])
        p50, p99 = np.percentile(waits, (50, 99), method="inverted_cdf")
        rows.append((name, f"{100 * share:.1f} %", _ms(float(p50)), _ms(float(p99))))
    several = " of each camera" if len(record.cameras) > 1 else ""
    return [
        markup.heading(2, "Frames dropped at a rate"),
        markup.table((f"rate{several}", "dropped", "latency p50 [ms]", "p99 [ms]"), rows, "drops"),
        inline.figure(figures.drop_curve(shares), "bars: share of dropped frames at each rate"),
        markup.paragraph(
            "Simulated with the measured times, as the node works: the newest frame waits, an older one that "
            "still waits is dropped."
        ),
    ]


def _instances(record: ReplayRecord) -> list[str]:
    known = [f for f in record.frames if f.classes is not None]
    if not known:
        return []
    rows = []
    for name, total in record.instances().items():
        counts = [(f.classes or {}).get(name, 0) for f in known]
        rows.append(
            (name, str(total), f"{total / len(known):.2f}", str(max(counts)), str(sum(c > 0 for c in counts)))
        )
    header = ("class", "instances", "a frame", "at most", "in frames")
    parts = [markup.heading(2, "Instances"), markup.table(header, rows, "instances")]
    grey = {row[0]: (107, 114, 128) for row in rows}
    colors = {**record.colors, **{name: grey[name] for name in grey if name not in record.colors}}
    return [
        *parts,
        inline.figure(figures.instances(record.frames, colors), "curves: instances of each class"),
    ]


def _tracks(record: ReplayRecord) -> list[str]:
    cameras = {topic: f for topic, f in figures.by_camera(record.frames).items() if any(x.tracks for x in f)}
    if not cameras:
        return []
    rows = [(topic, *_track_numbers(frames)) for topic, frames in cameras.items()]
    header = ("camera", "ids", "seen for, median [s]", "seen once", "at a time, at most")
    return [
        markup.heading(2, "Tracks"),
        markup.table(header, rows, "tracks"),
        inline.figure(figures.tracks(record.frames), "a line a track: from first to last sight"),
    ]


def _track_numbers(frames: Sequence[FrameRecord]) -> tuple[str, ...]:
    seen: dict[int, list[int]] = {}
    for frame in frames:
        for track in frame.tracks:
            seen.setdefault(track, []).append(frame.received)
    spans = [(times[-1] - times[0]) / 1e9 for times in seen.values()]
    once = sum(len(times) == 1 for times in seen.values())
    most = max(len(frame.tracks) for frame in frames)
    return str(len(seen)), f"{np.median(spans):.2f}", str(once), str(most)


def _failures(record: ReplayRecord) -> list[str]:
    failed = [f for f in record.frames if f.outcome == "failed"]
    if not failed:
        return []
    rows = [(f.topic, str(f.index), f.reason) for f in failed[:_LISTED]]
    parts = [markup.heading(2, "Failed frames"), markup.table(("topic", "frame", "why"), rows, "failed")]
    if len(failed) > _LISTED:
        parts.append(markup.paragraph(f"and {len(failed) - _LISTED} more, see replay.json"))
    return parts


def _comparison(record: ReplayRecord) -> list[str]:
    """With another run: see fassst_ros/replay/against.py for the content."""
    found = record.against
    if found is None:
        return []
    numbers: Mapping[str, Mapping[str, int]] = found["per_class"]
    kinds = list(found["instances"])
    rows = [("all", *(str(found["instances"][kind]) for kind in kinds))]
    rows += [(name, *(str(counts[kind]) for kind in kinds)) for name, counts in numbers.items()]
    deltas = [_delta_row(name, *pair) for name, pair in found["numbers"].items()]
    return [
        markup.heading(2, "Compared with another run"),
        markup.paragraph(
            f"With {found['other']}: {found['frames']} frames are in both, of which "
            f"{found['frames_changed']} differ; {found['only_here']} are only in this run, "
            f"{found['only_there']} only in the other."
        ),
        markup.table(("instances", *kinds), rows, "against"),
        markup.bullets(f"{kind}: {meaning}" for kind, meaning in found["meanings"].items()),
        markup.table(("", "other", "this", "difference"), deltas, "deltas"),
    ]


def _delta_row(name: str, other: float | None, this: float | None) -> tuple[str, str, str, str]:
    difference = None if other is None or this is None else this - other
    return name, _ms(other), _ms(this), "-" if difference is None else f"{difference:+.1f}"


def _worst(worst: Worst, folder: Path) -> list[str]:
    parts: list[str] = [markup.heading(2, worst.title), markup.paragraph(worst.note)]
    for row in worst.rows:
        pictures: list[tuple[str, str]] = []
        for picture in row.pictures:
            file = folder / picture.file
            if file.is_file():
                pictures.append((inline.source(file.read_bytes(), "jpeg"), picture.caption))
        if pictures:
            parts += [markup.heading(3, row.title), markup.pair(*pictures), markup.bullets(row.notes)]
    return parts


def summary_lines(record: ReplayRecord) -> list[str]:
    """The outcome for a terminal, one line a fact."""
    latency = record.latency()
    counts = ", ".join(f"{record.count(outcome)} {outcome}" for outcome in OUTCOMES)
    lines = [f"{len(record.frames)} frames: {counts}{f' ({record.rate})' if record.rate else ''}"]
    if failed := next((frame for frame in record.frames if frame.outcome == "failed"), None):
        lines.append(f"first failed: {failed.topic}, image {failed.index}: {failed.reason}")
    if latency["p50"] is not None:
        lines.append("latency: " + ", ".join(f"{_ms(latency[p])} ms ({p})" for p in _PERCENTILES))
    lines.append(f"instances: {', '.join(f'{n} {name}' for name, n in record.instances().items()) or 'none'}")
    if record.accuracy is not None:
        numbers = ", ".join(f"{kind} AP {percent(record.accuracy[kind]['AP'])} %" for kind in ("mask", "box"))
        lines.append(f"accuracy on {record.accuracy['images']} annotated frames: {numbers}")
    if record.against is not None:
        changes = ", ".join(f"{n} {kind}" for kind, n in record.against["instances"].items())
        lines.append(f"against {record.against['other']}: {changes}")
    return lines
