"""What runs used: tokens, and money by currency. Pure; money is Decimal, since sums of floats drift.

Dify tells a price as text ("0.0001275") with a currency, and not for every run: run detail and blocking answers have
tokens only. Sums of several currencies stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from dify_batch.outcomes import RunResult
from dify_batch.text import duration

_ROUND = Context(prec=6)  # digits of an estimate

Prices = Mapping[str, Decimal]
"""Currency → amount. A price without a currency stands under ""."""


@dataclass(frozen=True, slots=True)
class Use:
    """What one run used; None where the server did not tell. `several`: where it cost in several currencies, the amount
    in each, and then no `price`."""

    tokens: int | None = None
    price: Decimal | None = None
    currency: str | None = None
    several: Prices | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Use:
        """The use in a result line or a journal record: its total_tokens, total_price and currency, or prices."""
        tokens, currency = record.get("total_tokens"), record.get("currency")
        return cls(
            tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0 else None,
            parse_price(record.get("total_price")),
            currency if isinstance(currency, str) and currency else None,
            _several(record.get("prices")),
        )

    @classmethod
    def of_run(cls, result: RunResult) -> Use:
        """The use of a run that ended."""
        return cls(result.total_tokens, parse_price(result.total_price), result.currency, _several(result.prices))

    def record(self) -> dict[str, Any]:
        """Its fields in a journal record; {} where nothing was told."""
        if self.tokens is None and self.price is None and self.several is None:
            return {}
        price = None if self.price is None else exact(self.price)
        record = {"total_tokens": self.tokens, "total_price": price, "currency": self.currency}
        return record | ({"prices": exact_prices(self.several)} if self.several is not None else {})

    @property
    def prices(self) -> Prices | None:
        """What it cost by currency, {} where no token was used; None where it may have cost something and nobody
        told."""
        if self.price is not None:
            return {self.currency or "": self.price}
        return {} if self.several is None and self.tokens == 0 else self.several


def _several(value: object) -> Prices | None:
    if not isinstance(value, Mapping):
        return None
    found = {str(currency): price for currency, text in value.items() if (price := parse_price(text)) is not None}
    return found or None


def parse_price(value: object) -> Decimal | None:
    """An amount as Dify writes it, text or number; None for what is no amount."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    try:
        price = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return price if price.is_finite() and price >= 0 else None


@dataclass(slots=True)
class Total:
    """The sum over runs. `runs`: how many there were. `most_tokens`, `most_price`: of a single one.

    `tokens_told`, `prices_told`: how many runs the sums are of; of the others the server told nothing.
    """

    runs: int = 0
    tokens: int = 0
    tokens_told: int = 0
    most_tokens: int = 0
    prices: dict[str, Decimal] = field(default_factory=dict)
    prices_told: int = 0
    most_price: dict[str, Decimal] = field(default_factory=dict)

    def add(self, use: Use) -> None:
        self.runs += 1
        if use.tokens is not None:
            self.tokens_told += 1
            self.tokens += use.tokens
            self.most_tokens = max(self.most_tokens, use.tokens)
        if (prices := use.prices) is not None:
            self.prices_told += 1
            for currency, price in prices.items():
                self.prices[currency] = self.prices.get(currency, Decimal(0)) + price
                self.most_price[currency] = max(self.most_price.get(currency, Decimal(0)), price)

    def join(self, other: Total) -> None:
        """Adds the runs of another sum."""
        self.runs += other.runs
        self.tokens += other.tokens
        self.tokens_told += other.tokens_told
        self.prices_told += other.prices_told
        self.most_tokens = max(self.most_tokens, other.most_tokens)
        for currency, price in other.prices.items():
            self.prices[currency] = self.prices.get(currency, Decimal(0)) + price
            most = other.most_price[currency]
            self.most_price[currency] = max(self.most_price.get(currency, Decimal(0)), most)

    def for_rows(self, rows: int) -> tuple[int | None, Prices | None]:
        """What `rows` more would use at the mean of those told; None for what nobody told."""
        tokens = round(self.tokens / self.tokens_told * rows) if self.tokens_told else None
        prices = None
        if self.prices_told:
            prices = {currency: _ROUND.plus(each / self.prices_told * rows) for currency, each in self.prices.items()}
        return tokens, prices


@dataclass(slots=True)
class Times:
    """How long runs worked, and waited before they started: sums in seconds over those that tell."""

    worked: float = 0.0
    worked_runs: int = 0
    waited: float = 0.0
    waited_runs: int = 0

    def add(self, worked: float | None, waited: float | None) -> None:
        if worked is not None:
            self.worked += worked
            self.worked_runs += 1
        if waited is not None:
            self.waited += waited
            self.waited_runs += 1

    def join(self, other: Times) -> None:
        """Adds the runs of another sum."""
        self.worked += other.worked
        self.worked_runs += other.worked_runs
        self.waited += other.waited
        self.waited_runs += other.waited_runs

    @property
    def mean_worked(self) -> float | None:
        return round(self.worked / self.worked_runs, 3) if self.worked_runs else None

    @property
    def mean_waited(self) -> float | None:
        return round(self.waited / self.waited_runs, 3) if self.waited_runs else None


def times_text(worked: float | None, waited: float | None) -> str:
    """The mean of each, in seconds, for people: "on average a run waited 0.4 s and worked 3.25 s"; "" for none."""
    parts = [f"waited {_seconds(waited)}"] if waited is not None else []
    parts += [f"worked {_seconds(worked)}"] if worked is not None else []
    return f"on average a run {' and '.join(parts)}" if parts else ""


def _seconds(value: float) -> str:
    return duration(value) if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".") + " s"


def amount(value: Decimal, digits: int = 4) -> str:
    """An amount for people: at least two decimals, and `digits` significant ones where it is below 1."""
    places = 2
    if 0 < value < 1:
        places = max(2, digits - 1 - value.adjusted())
    text = f"{value:,.{places}f}"
    head, _, tail = text.partition(".")
    tail = tail.rstrip("0")
    return f"{head}.{tail:0<2}"


def exact(value: Decimal) -> str:
    """An amount for machines: every digit, no exponent, no zeros at the end."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def exact_prices(prices: Prices) -> dict[str, str]:
    """JSON-ready: currency → exact amount."""
    return {currency: exact(price) for currency, price in sorted(prices.items())}


def price_text(prices: Prices) -> str:
    """ "0.0123 USD" or "0.12 EUR + 1.40 USD"; "" where there is none."""
    return " + ".join(f"{amount(price)} {currency}".rstrip() for currency, price in sorted(prices.items()))
