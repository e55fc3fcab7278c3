"""Whose turn it is. Nothing here depends on speed."""

from __future__ import annotations

import time

from fassst_ros.bench.measure import LEAST_ROUNDS, take_turns


def test_all_take_part_in_every_round_and_who_begins_changes() -> None:
    order: list[str] = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    assert take_turns(calls, 3, seconds=60, pause=0) == [3, 3, 3]
    assert "".join(order) == "abcbcacab"


def test_a_slow_one_sits_out_after_its_time() -> None:
    counted = {"slow": 0, "fast": 0}

    def slow() -> None:
        counted["slow"] += 1
        time.sleep(0.002)

    def fast() -> None:
        counted["fast"] += 1

    assert take_turns([slow, fast], 9, seconds=0.001, pause=0)[0] == LEAST_ROUNDS == counted["slow"]
    assert counted["fast"] == 9
