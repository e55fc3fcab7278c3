"""Laws fitted to times, and the words made of them."""

from __future__ import annotations

import pytest

from fassst_ros.bench.laws import fit_line


def test_points_on_a_line_give_the_line() -> None:
    pixels = [384.0**2, 512.0**2, 768.0**2, 1024.0**2]
    line = fit_line(pixels, [3 + 42e-6 * p for p in pixels])
    assert (line.constant, line.slope, line.worst) == pytest.approx((3, 42e-6, 0), abs=1e-9)
    assert line.words("input pixel") == "3 ms + 42 ns per input pixel (no point is further than 0 % from it)"


def test_small_times_count_as_much_as_large_ones() -> None:
    line = fit_line([1, 10, 100], [1.1, 10, 100])
    assert line.constant + line.slope == pytest.approx(1.09, abs=0.02)
    assert line.worst < 0.02


@pytest.mark.parametrize(("slope", "words"), [(0.25, "+ 0.25 ms"), (0.004, "+ 4 us"), (-0.5, "- 0.5 ms")])
def test_units_need_no_powers_of_ten(slope: float, words: str) -> None:
    line = fit_line([1, 2, 3], [10 + slope * n for n in (1, 2, 3)])
    assert line.words("slot").startswith(f"10 ms {words} per slot")


def test_two_points_are_no_law() -> None:
    with pytest.raises(ValueError, match="needs three"):
        fit_line([1, 2], [3, 4])
