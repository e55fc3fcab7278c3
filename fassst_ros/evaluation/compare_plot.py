"""The plot of `fassst compare`: accuracy against latency, and which models nobody beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fassst_ros.bench.report import Plot

Point = tuple[float, float]


def front_plot(report: Mapping[str, Any]) -> Plot:
    """Mask AP [%] over the time of the network [ms, p50], one dot a model of the report, and their front."""
    points: dict[str, Point] = {}
    for number, row in enumerate(report["models"], 1):
        if row["mask"]["AP"] is not None:
            name = f"{row['name']}, {row['runtime']}"
            name = f"{name} ({number})" if name in points else name
            points[name] = (row["network_ms"]["p50"], 100 * row["mask"]["AP"])
    best = front(list(points.values()))
    series: dict[str, Sequence[Point]] = {name: [point] for name, point in points.items()}
    if len(best) > 1:
        series["no other is faster and better"] = best
    title = f"Mask AP on {report['data']} against latency"
    return Plot(title, "network [ms, p50]", "mask AP [%]", series, from_zero=False)


def front(points: Sequence[Point]) -> list[Point]:
    """The points (time, accuracy) of which none is beaten in both, fastest first (the Pareto front)."""
    best: list[Point] = []
    for time, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((time, accuracy))
    return best
