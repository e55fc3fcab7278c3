"""How cost grows, as a straight line fitted to measured times, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Factor from milliseconds -> unit, for words that need no powers of ten.
_UNITS = ((1.0, "ms"), (1e3, "us"), (1e6, "ns"))


@dataclass(frozen=True, slots=True)
class Line:
    """y = constant + slope * x, in milliseconds; worst: largest deviation of a point relative to the line."""

    constant: float
    slope: float
    worst: float

    def words(self, what: str) -> str:
        """As a sentence: "3.1 ms + 42 ns per input pixel (no point is further than 4 % from it)"."""
        factor, unit = next(((f, u) for f, u in _UNITS if abs(self.slope) * f >= 0.1), _UNITS[-1])
        slope = f"{'-' if self.slope < 0 else '+'} {abs(self.slope) * factor:.3g} {unit} per {what}"
        return f"{self.constant:.3g} ms {slope} (no point is further than {100 * self.worst:.0f} % from it)"


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Least squares of the relative deviations: a point of 1 ms counts as much as one of 100 ms.

    ys: above 0. Raises ValueError for less than three points: two are always on a line.
    """
    if len(xs) < 3:
        raise ValueError(f"{len(xs)} points; a law needs three")
    x, y = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    equations = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    constant, slope = np.linalg.lstsq(equations, np.ones_like(y), rcond=None)[0].tolist()
    return Line(constant, slope, float(np.abs((constant + slope * x) / y - 1).max()))
