from __future__ import annotations

import numpy as np
import pytest

from fassst_ros.evaluation.latency import percentiles


def test_percentiles_are_measured_samples() -> None:
    samples = list(np.random.default_rng(0).permutation(np.arange(1, 101)).astype(float))
    assert percentiles(samples) == {"p50": 50.0, "p99": 99.0}
    assert percentiles([3.0, 1.0, 2.0], (0, 50, 99, 100)) == {"p0": 1.0, "p50": 2.0, "p99": 3.0, "p100": 3.0}
    assert percentiles([5.0], (99.9,)) == {"p99.9": 5.0}


def test_nothing_measured_is_none() -> None:
    assert percentiles([]) == {"p50": None, "p99": None}


@pytest.mark.parametrize(("samples", "points"), [([1.0, float("nan")], (50,)), ([1.0], (101,))])
def test_wrong_numbers_are_refused(samples: list[float], points: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"finite|range"):
        percentiles(samples, points)
