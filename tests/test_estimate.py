"""What rows to come will take: how often the range holds the truth, and when it says that it means nothing."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.estimate import MOST, Drawn, bootstrap, estimate


def rows(values: list[float]) -> list[Drawn]:
    return [Drawn(round(value), {"USD": Decimal(str(value)) / 1000}, value) for value in values]


def test_nine_of_ten_ranges_hold_the_truth() -> None:
    chance = random.Random(4711)
    population = [chance.lognormvariate(5, 0.6) for _ in range(3030)]
    held = 0
    for seed in range(200):
        order = random.Random(seed).sample(population, len(population))
        found = bootstrap(order[:30], 3000)
        assert found is not None
        held += found.low <= sum(order[30:]) <= found.high
    assert 165 <= held <= 195, held


def test_a_pilot_tells_tokens_money_and_time() -> None:
    chance = random.Random(1)
    found = estimate(rows([chance.uniform(50, 150) for _ in range(30)]), 3000, places=10)
    assert found is not None
    assert found.tokens is not None
    assert found.seconds is not None
    assert found.tokens.low < 300_000 < found.tokens.high
    assert found.seconds.likely == pytest.approx(found.tokens.likely / 10, rel=0.01)
    assert found.price["USD"].likely == pytest.approx(found.tokens.likely / 1000, rel=0.01)
    assert not found.vague
    text = found.text()
    assert text.startswith("3,000 rows to come, by 30 rows: about ")
    assert " USD (" in text
    assert " tokens (" in text
    assert "too wide" not in text
    told = found.as_dict()
    assert told["tokens"]["low"] < told["tokens"]["likely"] < told["tokens"]["high"]
    assert Decimal(told["price"]["USD"]["low"]) < Decimal(told["price"]["USD"]["high"])


def test_a_range_that_means_nothing_is_called_so() -> None:
    wild = estimate(rows([1.0] * 28 + [500.0, 900.0]), 3000, places=5)
    assert wild is not None
    assert wild.vague
    assert "too wide to mean anything; run some more first, such as --sample " in wild.text()
    few = estimate(rows([100.0, 101.0, 99.0]), 3000, places=5)
    assert few is not None
    assert few.vague
    assert "--sample 30" in few.text()
    last = estimate(rows([1.0, 90.0]), 3, places=5)
    assert last is not None
    assert last.text().endswith("too wide to mean anything")  # no pilot would be smaller than the rest


def test_what_nobody_told_is_not_estimated() -> None:
    assert estimate([], 10, places=5) is None
    assert estimate(rows([1.0]), 0, places=5) is None
    nothing = estimate([Drawn()] * 20, 100, places=5)
    assert nothing is not None
    assert (nothing.tokens, nothing.seconds, nothing.text()) == (None, None, "")
    free = estimate([Drawn(0, {}, 2.0)] * 20, 100, places=5)
    assert free is not None
    assert free.text() == "100 rows to come, by 20 rows: about 40 s"
    assert estimate([Drawn(1, {}, 2.0)] * 20, 100, places=None).seconds is None  # type: ignore[union-attr]


def test_times_of_minutes_have_a_decimal() -> None:
    found = estimate([Drawn(None, None, value) for value in (1.0, 1.2) * 10], 1000, places=5)
    assert found is not None
    assert found.text().startswith("1,000 rows to come, by 20 rows: about 3.7 min (3.")
    long = estimate([Drawn(None, None, 60.0)] * 20, 1000, places=5)
    assert long is not None
    assert long.text().endswith(": about 3 h 20 min")


def test_rate_and_wait_bound_the_time() -> None:
    quick = rows([0.1] * 30)
    by_rate = estimate(quick, 1000, places=10, rate=2.0)
    by_wait = estimate(quick, 1000, places=1, wait=3.0)
    assert by_rate is not None
    assert by_rate.seconds is not None
    assert by_rate.seconds.low == by_rate.seconds.likely == 500
    assert by_wait is not None
    assert by_wait.seconds is not None
    assert by_wait.seconds.likely == pytest.approx(3100)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.integers(1, 10**6))
def test_the_range_holds_the_estimate_and_is_the_same_each_time(values: list[float], number: int) -> None:
    found = bootstrap(values, number)
    assert found is not None
    assert 0 <= found.low <= found.likely <= found.high
    assert bootstrap(values, number) == found


def test_a_large_output_costs_no_more_than_a_pilot() -> None:
    found = estimate(rows([5.0] * (MOST * 5)), 100, places=1)
    assert found is not None
    assert found.by == MOST
