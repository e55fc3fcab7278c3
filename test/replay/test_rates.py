"""The search for the highest rate, on nodes and players whose limits are known; nothing is timed here."""

from __future__ import annotations

import dataclasses

import pytest

from fassst_ros.replay.rates import (
    LEAST_FRAMES,
    MISSING,
    TOLERANCE,
    HighestRate,
    RateRecord,
    frames_of,
    highest_rate,
    rate_columns,
)


class Machine:
    """A node that segments up to `node` frames a second, and a player that publishes up to `player`."""

    def __init__(self, node: float, player: float = 1000.0, flaky: int = 0) -> None:
        self.node, self.player, self.flaky = node, player, flaky
        self.passes: list[RateRecord] = []

    def __call__(self, rate: float, kind: str, times: float) -> RateRecord:
        played = min(rate, self.player)
        capacity = self.node
        if kind == "confirm" and self.flaky:
            self.flaky -= 1
            capacity /= 3
        published = frames_of(rate, 5.0 * times)
        segmented = min(published, int(published * capacity / played))
        record = RateRecord(rate, kind, 1, played, 0.0, published, segmented)
        self.passes.append(record)
        return record


def fixed(machine: Machine, *rates: float) -> list[RateRecord]:
    return [machine(rate, "fixed", 1.0) for rate in rates]


@pytest.mark.parametrize("capacity", [1.5, 4.3, 14.2, 29.0, 75.0, 180.0])
def test_the_limit_of_the_node_is_found(capacity: float) -> None:
    machine = Machine(capacity)
    found = highest_rate(machine, fixed(machine, 10, 20, 30))
    assert found.limit == "node"
    assert found.rate is not None
    # Less than 5 % may be missing, so a rate slightly above the capacity counts as sustained.
    assert capacity / (1 + TOLERANCE) ** 2 <= found.rate <= capacity / 0.95 * 1.01
    assert machine.passes[-1].kind == "confirm"
    assert machine.passes[-1].rate == found.rate
    assert str(found) == f"{found.rate:g} Hz"


def test_known_rates_narrow_the_search() -> None:
    machine = Machine(14.0)
    known = fixed(machine, 10, 20, 30)
    highest_rate(machine, known)
    assert all(10 < record.rate < 20 for record in machine.passes[len(known) :])


def test_without_known_rates_it_is_found_too() -> None:
    found = highest_rate(Machine(40.0), [])
    assert found.rate == pytest.approx(40, rel=0.1)


def test_what_the_player_cannot_hold_is_not_the_limit_of_the_node() -> None:
    machine = Machine(node=500.0, player=50.0)
    found = highest_rate(machine, fixed(machine, 10, 20, 30))
    assert found.limit == "player"
    assert found.rate is not None
    assert found.rate <= 50 / 0.98
    assert str(found) == f"at least {found.rate:g} Hz (the player cannot publish faster)"
    too_fast = next(record for record in machine.passes if not record.held)
    assert too_fast.missing == 0
    assert not too_fast.sustained
    assert too_fast.verdict == "player: 50.0 Hz"


def test_the_end_of_the_range_is_said() -> None:
    machine = Machine(1000.0)
    found = highest_rate(machine, fixed(machine, 30), highest=100)
    assert (found.rate, found.limit) == (100, "search")
    assert str(found) == "at least 100 Hz (the highest rate that was tried)"


def test_a_rate_that_is_not_confirmed_is_lowered() -> None:
    calm, flaky = Machine(14.0), Machine(14.0, flaky=2)
    first = highest_rate(calm, fixed(calm, 10, 20))
    second = highest_rate(flaky, fixed(flaky, 10, 20))
    assert first.rate is not None
    assert second.rate == pytest.approx(first.rate / 1.1, abs=0.1)
    assert [record.kind for record in flaky.passes].count("confirm") == 3


def test_without_confirmation_there_is_no_rate() -> None:
    machine = Machine(14.0, flaky=100)
    found = highest_rate(machine, fixed(machine, 10, 20))
    assert found == HighestRate(None, "node")
    assert str(found) == "none was sustained"


def test_a_node_that_sustains_nothing() -> None:
    machine = Machine(0.5)
    found = highest_rate(machine, fixed(machine, 10))
    assert found == HighestRate(None, "node")
    assert min(record.rate for record in machine.passes) == 1.0


def test_five_percent_is_too_much() -> None:
    one_in_twenty = RateRecord(10, "fixed", 1, 10.0, 0.0, 100, 95)
    assert not one_in_twenty.sustained
    assert dataclasses.replace(one_in_twenty, segmented=96).sustained
    assert one_in_twenty.verdict == "too fast"
    assert not RateRecord(10, "fixed", 1, 0.0, 0.0, 0, 0).sustained


def test_a_pass_has_enough_frames_for_the_share() -> None:
    assert frames_of(1.0, 5.0) == LEAST_FRAMES
    assert frames_of(30.0, 5.0) == 150
    assert 1 / LEAST_FRAMES < MISSING


def test_columns() -> None:
    record = RateRecord(
        *(20.0, "fixed", 2, 19.96, 1.5, 200, 150, {"dropped": 49}),
        *({"p50": 31.25, "p90": None, "p99": 80.0}, {"infer": {"p50": 20.0, "p90": 21.0, "p99": 22.0}}),
    )
    columns = rate_columns(record)
    assert (columns["Hz"], columns["pass"]) == ("20", "fixed")
    assert (columns["frames"], columns["missing"]) == ("200", "25.0 %")
    assert (columns["p50"], columns["p90"], columns["p99"]) == ("31.2", "-", "80.0")
    assert columns["outcome"] == "too fast"
