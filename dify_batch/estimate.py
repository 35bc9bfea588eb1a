"""What rows to come will take, told from rows that are through: a bootstrap. Pure.

The rows through are a sample of all. DRAWS times as many rows as it has are drawn from it, each time anew and with
replacement. Each draw has a mean; the sum over the rows to come is that mean for each of them, give or take what the
sum of so many rows varies by. Of all these sums the range leaves out the lowest and the highest twentieth. So it is
wide where the sample is small or its rows differ much, and says nothing of rows that are of another kind.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any

from dify_batch.seams import drawing
from dify_batch.text import count, duration
from dify_batch.usage import amount, exact

DRAWS = 500
MOST = 400
"""Rows of a sample that are used: more make the range no better than what is not known of the rows to come."""
_LEAST = 10
"""Fewer rows tell nothing of how much they differ."""
_WIDE = 0.5
"""A range that reaches further than this part of the estimate to either side means nothing."""
_SIX = Context(prec=6)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One row that is through: what all its runs used, and seconds in its place; None where nobody told."""

    tokens: int | None = None
    prices: Mapping[str, Decimal] | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """`likely`, and the bounds of nine in ten."""

    likely: float
    low: float
    high: float

    @property
    def wide(self) -> bool:
        return self.high - self.low > 2 * _WIDE * self.likely

    def scaled(self, by: float, least: float = 0.0) -> Range:
        return Range(*(max(value * by, least) for value in (self.likely, self.low, self.high)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What `rows` more would take, by `by` rows. `seconds`: None where it is not known how many go at a time.
    `vague`: the range is too wide to mean anything. `better`: rows of a sample that would do, 0 for none."""

    rows: int
    by: int
    tokens: Range | None = None
    price: Mapping[str, Range] = field(default_factory=dict)
    seconds: Range | None = None
    vague: bool = False
    better: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: money as exact text, as everywhere."""

        def money(value: float) -> str:
            return exact(_SIX.create_decimal_from_float(value))

        prices = {
            currency: {"likely": money(r.likely), "low": money(r.low), "high": money(r.high)}
            for currency, r in self.price.items()
        }
        return {
            "rows": self.rows,
            "by_rows": self.by,
            "tokens": _rounded(self.tokens, 0),
            "price": prices,
            "seconds": _rounded(self.seconds, 1),
            "vague": self.vague,
        }

    def text(self) -> str:
        """For people: what, with the range behind it."""
        parts = []
        if self.tokens is not None and self.tokens.likely:
            parts.append(_shown(self.tokens, lambda value: f"{round(value):,}", " tokens"))
        for currency, price in self.price.items():
            if price.likely:
                parts.append(_shown(price, lambda value: amount(Decimal(value)), f" {currency}".rstrip()))
        if self.seconds is not None:
            parts.append(_shown(self.seconds, _time, ""))
        if not parts:
            return ""
        line = f"{count(self.rows, 'row')} to come, by {count(self.by, 'row')}: {', '.join(parts)}"
        if self.vague:
            more = f"; run some more first, such as --sample {self.better}" if self.better else ""
            return f"{line}. The range is too wide to mean anything{more}"
        return line


def _time(seconds: float) -> str:
    """As `duration`, and minutes with a decimal: a range would else have but one value."""
    return f"{seconds / 60:.1f} min" if 59.5 <= seconds < 3570 else duration(seconds)


def _rounded(found: Range | None, digits: int) -> dict[str, float] | None:
    if found is None:
        return None
    return {name: round(getattr(found, name), digits or None) for name in ("likely", "low", "high")}


def _shown(found: Range, show: Any, unit: str) -> str:
    low, high = show(found.low), show(found.high)
    between = f" ({low} to {high})" if low != high else ""
    return f"about {show(found.likely)}{unit}{between}"


def estimate(
    sample: Sequence[Drawn], rows: int, *, places: int | None, rate: float | None = None, wait: float = 0.0
) -> Estimate | None:
    """What `rows` more would take; None where there is nothing to tell it from.

    Args:
        sample: rows that are through; MOST of them are used.
        places: how many go at a time. `rate`: starts a second at most; `wait`: seconds, as --wait.
    """
    if not sample or rows <= 0:
        return None
    if len(sample) > MOST:
        sample = drawing(MOST).sample(sample, MOST)  # the same tomorrow
    tokens = bootstrap([one.tokens for one in sample if one.tokens is not None], rows)
    names = sorted({name for one in sample for name in one.prices or {}})
    told = [one.prices for one in sample if one.prices is not None]
    price = {name: bootstrap([float(prices.get(name, 0)) for prices in told], rows) for name in names}
    seconds = bootstrap([one.seconds for one in sample if one.seconds is not None], rows)
    if seconds is not None and places:
        by_starts = rows * max(1 / rate if rate else 0.0, wait)
        alone = rows * wait if places == 1 else 0.0
        seconds = Range(*(value + alone * places for value in (seconds.likely, seconds.low, seconds.high)))
        seconds = seconds.scaled(1 / min(places, rows), by_starts)
    else:
        seconds = None
    known = [found for found in (tokens, *price.values(), seconds) if found is not None]
    vague = len(sample) < _LEAST or any(found.wide for found in known)
    return Estimate(
        rows,
        len(sample),
        tokens,
        {name: found for name, found in price.items() if found is not None},
        seconds,
        vague,
        _better(len(sample), rows, known) if vague else 0,
    )


def bootstrap(values: Sequence[float], rows: int) -> Range | None:
    """The sum of `rows` more values like these; None for none. The same each time."""
    if not values:
        return None
    chance = drawing(len(values))
    spread = statistics.pstdev(values) * math.sqrt(rows)
    number = len(values)
    sums = sorted(
        rows * statistics.fmean(chance.choices(values, k=number)) + spread * chance.gauss(0.0, 1.0)
        for _ in range(DRAWS)
    )
    at = DRAWS // 20
    likely = rows * statistics.fmean(values)
    return Range(likely, max(0.0, min(sums[at], likely)), max(sums[-1 - at], likely))


def _better(by: int, rows: int, known: Sequence[Range]) -> int:
    """So many rows would bring the widest range to half of what means anything: it narrows with their square root."""
    widest = max(((found.high - found.low) / (2 * found.likely) for found in known if found.likely), default=0.0)
    wanted = max(3 * _LEAST, math.ceil(by * (widest / (_WIDE / 2)) ** 2))
    return wanted if wanted < (by + rows) / 2 else 0
