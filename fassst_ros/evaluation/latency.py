"""Percentiles of measured times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentiles(samples: Sequence[float], points: Sequence[float] = (50, 99)) -> dict[str, float | None]:
    """Percentiles named p50, p99, ... in the unit of `samples`; None where nothing was measured.

    A percentile is a sample that occurred, never a mean of two: p99 of ten frames is the slowest.
    Raises ValueError for samples that are not finite or points outside 0..100.
    """
    values = np.asarray(samples, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("samples hold numbers that are not finite")
    if values.size == 0:
        return {f"p{point:g}": None for point in points}
    found = np.percentile(values, points, method="inverted_cdf")
    return {f"p{point:g}": float(value) for point, value in zip(points, found, strict=True)}
