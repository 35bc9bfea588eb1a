"""Which row may begin under --max-tokens and --max-cost."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.engine.budget import Budget, Verdict
from dify_batch.usage import Use

BEGIN, WAIT, REACHED = Verdict.BEGIN, Verdict.WAIT, Verdict.REACHED


def tokens(*numbers: int | None) -> list[Use]:
    return [Use(number) for number in numbers]


def usd(*prices: str | None) -> list[Use]:
    return [Use(9, Decimal(price) if price is not None else None, "USD") for price in prices]


@pytest.mark.parametrize(
    ("max_tokens", "max_cost", "uses", "in_flight", "verdict"),
    [
        # no budget
        (None, None, tokens(10**9), 4000, BEGIN),
        # nothing known yet: one at a time
        (100, None, [], 0, BEGIN),
        (100, None, [], 1, WAIT),
        (None, "1", [], 0, BEGIN),
        (None, "1", [], 1, WAIT),
        # the most of a single run is reserved for each in flight and the new one
        (100, None, tokens(10), 0, BEGIN),
        (100, None, tokens(10), 8, BEGIN),
        (100, None, tokens(10), 9, WAIT),
        (100, None, tokens(10, 30), 0, BEGIN),
        (100, None, tokens(10, 30), 1, BEGIN),
        (100, None, tokens(10, 30), 2, WAIT),
        (100, None, tokens(60, 10), 0, REACHED),
        (100, None, tokens(60, 10), 3, WAIT),
        # exactly the budget is within it
        (100, None, tokens(50), 0, BEGIN),
        (101, None, tokens(51), 0, REACHED),
        # more than the budget in the first run already
        (100, None, tokens(500), 0, REACHED),
        # runs that use nothing
        (100, None, tokens(0, 0), 4000, BEGIN),
        # a run of which nothing was told counts as the most
        (100, None, tokens(None), 0, BEGIN),
        (100, None, tokens(None), 1, WAIT),
        (100, None, tokens(30, None), 0, BEGIN),
        (100, None, tokens(30, None), 1, WAIT),
        (100, None, tokens(30, None, None), 0, REACHED),
        # money
        (None, "1", usd("0.1"), 8, BEGIN),
        (None, "1", usd("0.1"), 9, WAIT),
        (None, "0.3", usd("0.1", "0.1"), 0, BEGIN),
        (None, "0.3", usd("0.1", "0.1", "0.1"), 0, REACHED),
        (None, "1", usd("0.4", None), 0, REACHED),
        # each currency by itself
        (None, "1", [*usd("0.9"), Use(9, Decimal("0.1"), "EUR")], 0, REACHED),
        (None, "2", [*usd("0.9"), Use(9, Decimal("0.9"), "EUR")], 0, BEGIN),
        # a run without tokens cost nothing, told or not
        (None, "1", tokens(0), 4000, BEGIN),
        # prices that nobody tells: one at a time, then the end
        (None, "1", usd(None), 0, BEGIN),
        (None, "1", usd(None), 1, WAIT),
        (None, "1", usd(None, None, None), 0, REACHED),
        # the stricter of two
        (100, "100", usd("0.1"), 9, BEGIN),
        (100, "100", usd("0.1"), 10, WAIT),
        (10**6, "1", usd("0.1"), 9, WAIT),
    ],
)  # fmt: skip
def test_decisions(
    max_tokens: int | None, max_cost: str | None, uses: list[Use], in_flight: int, verdict: Verdict
) -> None:
    budget = Budget(max_tokens, Decimal(max_cost) if max_cost is not None else None)
    for use in uses:
        budget.told(use)
    assert budget.decide(in_flight) is verdict


@given(
    budget=st.integers(1, 500),
    uses=st.lists(st.integers(0, 60), max_size=80),
    places=st.integers(1, 12),
    order=st.randoms(use_true_random=False),
)
def test_only_runs_that_use_more_than_any_before_pass_the_budget(
    budget: int, uses: list[int], places: int, order: Random
) -> None:
    """By as much as they use more, each; and a batch in which all use the same never passes it but by its first run."""
    held = Budget(max_tokens=budget)
    waiting, most, surplus = list(uses), 0, 0
    flying: list[tuple[int, int]] = []
    while True:
        if waiting and len(flying) < places and held.decide(len(flying)) is BEGIN:
            flying.append((waiting.pop(), most))
        elif flying:
            used, reserved = flying.pop(order.randrange(len(flying)))
            held.told(Use(used))
            most = max(most, used)
            surplus += max(0, used - reserved)
        else:
            break
    assert held.used.tokens <= budget + surplus
    assert not waiting or held.decide(0) is REACHED


def test_the_error_says_what_was_used_what_is_left_and_the_estimate() -> None:
    budget = Budget(1000, Decimal("0.5"))
    for use in usd("0.2", "0.2"):
        budget.told(use)
    error = budget.error(10)
    assert (error.code, error.exit_status) == ("budget_reached", 75)
    assert error.message == (
        "one more row could pass --max-tokens 1000 or --max-cost 0.5: 18 tokens, 0.40 USD used so far; "
        "10 rows are left and would use about 90 tokens, about 2.00 USD"
    )
    assert error.details == {"rows_left": 10}


def test_the_error_where_no_price_is_told_names_the_other_budget() -> None:
    budget = Budget(max_cost=Decimal(1))
    for use in usd(None, None, None):
        budget.told(use)
    error = budget.error(1)
    assert error.message == "--max-cost cannot be kept: the server told no price for 3 runs"
    assert error.hint is not None
    assert "--max-tokens" in error.hint
