"""Sums of tokens and money."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.outcomes import RunRef, RunResult
from dify_batch.usage import Total, Use, amount, exact, exact_prices, parse_price, price_text


@pytest.mark.parametrize(
    ("value", "price"),
    [
        ("0.0001275", Decimal("0.0001275")),
        ("1E-7", Decimal("1E-7")),
        (" 2.5 ", Decimal("2.5")),
        (0.1, Decimal("0.1")),
        (0, Decimal(0)),
        (None, None),
        (True, None),
        ("", None),
        ("free", None),
        ("NaN", None),
        ("Infinity", None),
        ("-1", None),
        ([1], None),
    ],
)
def test_prices_as_a_server_writes_them(value: object, price: Decimal | None) -> None:
    assert parse_price(value) == price


@pytest.mark.parametrize(
    ("record", "use"),
    [
        ({}, Use()),
        ({"total_tokens": 7, "total_price": "0.5", "currency": "USD"}, Use(7, Decimal("0.5"), "USD")),
        ({"total_tokens": None, "total_price": None, "currency": None}, Use()),
        ({"total_tokens": "7", "total_price": "dear", "currency": ""}, Use()),
        ({"total_tokens": -1, "currency": 3}, Use()),
    ],
)
def test_the_use_in_a_record(record: dict[str, object], use: Use) -> None:
    assert Use.of(record) == use


def test_a_run_without_tokens_cost_nothing_and_one_with_tokens_may_have() -> None:
    assert Use(tokens=0).prices == {}
    assert Use(tokens=5).prices is None
    assert Use().prices is None
    assert Use(tokens=5, price=Decimal(1)).prices == {"": Decimal(1)}


def test_a_run_that_cost_in_several_currencies() -> None:
    run = RunResult(RunRef("r"), "succeeded", {}, total_tokens=5, prices={"EUR": "0.5", "USD": "1", "X": "?"})
    use = Use.of_run(run)
    assert use.prices == {"EUR": Decimal("0.5"), "USD": Decimal(1)}
    assert use.record() == {"total_tokens": 5, "total_price": None, "currency": None,
                            "prices": {"EUR": "0.5", "USD": "1"}}  # fmt: skip
    assert Use.of(use.record()) == use
    total = Total()
    total.add(use)
    total.add(Use(5, Decimal(2), "USD"))
    assert (total.prices_told, total.prices["USD"], total.most_price["USD"]) == (2, Decimal(3), Decimal(2))


def test_sums_keep_currencies_apart_and_do_not_drift() -> None:
    total = Total()
    for _ in range(10):
        total.add(Use(10, Decimal("0.1"), "USD"))
    total.add(Use(30, Decimal("0.2"), "EUR"))
    total.add(Use(5))
    assert (total.runs, total.tokens, total.most_tokens, total.tokens_told) == (12, 135, 30, 12)
    assert total.prices == {"USD": Decimal("1.0"), "EUR": Decimal("0.2")}
    assert total.most_price == {"USD": Decimal("0.1"), "EUR": Decimal("0.2")}
    assert total.prices_told == 11
    assert exact_prices(total.prices) == {"EUR": "0.2", "USD": "1"}
    assert price_text(total.prices) == "0.20 EUR + 1.00 USD"


uses = st.builds(Use, st.none() | st.integers(0, 9), st.none() | st.decimals(0, 9, places=2), st.sampled_from("AB"))


@given(st.lists(uses, max_size=6), st.lists(uses, max_size=6))
def test_two_sums_are_joined_as_if_they_had_been_one(first: list[Use], second: list[Use]) -> None:
    whole, joined, other = Total(), Total(), Total()
    for use in (*first, *second):
        whole.add(use)
    for use in first:
        joined.add(use)
    for use in second:
        other.add(use)
    joined.join(other)
    assert joined == whole


def test_the_estimate_goes_by_the_mean_of_what_was_told() -> None:
    assert Total().for_rows(10) == (None, None)
    total = Total()
    for tokens, price in ((10, "0.1"), (20, "0.3")):
        total.add(Use(tokens, Decimal(price), "USD"))
    total.add(Use())
    assert total.for_rows(10) == (150, {"USD": Decimal("2.0")})


@pytest.mark.parametrize(
    ("value", "text"),
    [("0", "0.00"), ("1234.5", "1,234.50"), ("12.3456", "12.35"), ("0.0001275", "0.0001275"), ("0.1", "0.10"),
     ("0.99999", "1.00"), ("0.000012345678", "0.00001235")],
)  # fmt: skip
def test_amounts_for_people(value: str, text: str) -> None:
    assert amount(Decimal(value)) == text


@pytest.mark.parametrize(("value", "text"), [("1E-7", "0.0000001"), ("1.500", "1.5"), ("100", "100"), ("0E-3", "0")])
def test_amounts_for_machines(value: str, text: str) -> None:
    assert exact(Decimal(value)) == text
