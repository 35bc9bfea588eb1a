"""The exact pauses, in a time of their own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from dify_batch.engine.pace import Starts
from tests.support.clock import TestClock as Clock


def starts_of(starts: Starts, clock: Clock, seconds: float, late: Callable[[], float]) -> list[float]:
    """The moments of all starts within some seconds, each timer a little late."""
    moments: list[float] = []
    end = clock.now + seconds
    while True:
        clock.now += max(0.0, starts.claim()) + late()
        if clock.now >= end:
            return moments
        moments.append(clock.now)


@pytest.mark.parametrize("rate", [0.5, 5, 100, 1000])
def test_the_rate_is_kept_within_one_percent_and_never_exceeded(rate: float) -> None:
    clock, rng = Clock(), random.Random(1)
    moments = starts_of(Starts(clock, rate=rate), clock, 60, lambda: rng.uniform(0, min(0.002, 0.5 / rate)))
    assert len(moments) == pytest.approx(60 * rate, rel=0.01, abs=1)
    for first, moment in enumerate(moments):
        in_one_second = sum(1 for later in moments[first : first + int(rate) + 30] if later < moment + 1)
        assert in_one_second <= rate * 1.01 + 1


def test_after_a_pause_there_is_no_burst() -> None:
    clock = Clock()
    starts = Starts(clock, rate=10)
    starts.claim()
    clock.now += 30
    waits = []
    for _ in range(5):
        waits.append(max(0.0, starts.claim()))
        clock.now += waits[-1]
    assert waits[0] == 0
    assert sum(waits) == pytest.approx(0.4, abs=0.02)


def test_wait_is_the_least_time_between_two_starts() -> None:
    clock, rng = Clock(), random.Random(2)
    moments = starts_of(Starts(clock, wait=0.5), clock, 60, lambda: rng.uniform(0, 0.002))
    assert min(later - earlier for earlier, later in itertools.pairwise(moments)) >= 0.5 - 0.002
    assert len(moments) == pytest.approx(120, rel=0.01, abs=1)


def test_without_rate_and_wait_nothing_is_spaced() -> None:
    assert not Starts(Clock()).spaced
    assert Starts(Clock()).claim() <= 0
