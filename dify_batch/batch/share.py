"""What one process may take of the figures that are those of the whole batch. Pure.

Without somebody who shares them out while it runs, each of N parts takes one Nth from the beginning. What a part that
is done, or slow, leaves of it nobody uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from dify_batch.batch.placed import Placed
from dify_batch.flagvalues import Failures
from dify_batch.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """As in the settings: times in seconds, `rate` in starts a second, None for no bound. `limit` may be 0."""

    concurrency: int | Literal["auto"]
    rate: float | None = None
    wait: float = 0.0
    max_tokens: int | None = None
    max_cost: Decimal | None = None
    max_failures: Failures | None = None
    limit: int | None = None


def share_of(settings: Settings, placed: Placed | None = None) -> Share:
    """All of it, or with --shard one part's share: the shares of all parts together are never more than the whole,
    but that each part may have one failed row, and use one token. Where a coordinator has placed it, nothing: that
    holds the figures."""
    if placed is not None:
        return Share(concurrency=placed.most, limit=placed.limit)
    whole = Share(
        concurrency=settings.concurrency,
        rate=settings.rate,
        wait=settings.wait,
        max_tokens=settings.max_tokens,
        max_cost=settings.max_cost,
        max_failures=settings.max_failures,
        limit=settings.limit,
    )
    shard = settings.shard
    if shard is None:
        return whole

    def part(number: int) -> int:
        """One part of a whole number: the first parts have one more."""
        return number // shard.of + (shard.number <= number % shard.of)

    failures = whole.max_failures
    if failures is not None and failures.count is not None:
        failures = Failures(count=max(1, part(failures.count)))
    return Share(
        concurrency="auto" if whole.concurrency == "auto" else part(whole.concurrency),
        rate=None if whole.rate is None else whole.rate / shard.of,
        wait=whole.wait * shard.of,
        max_tokens=None if whole.max_tokens is None else max(1, part(whole.max_tokens)),
        max_cost=None if whole.max_cost is None else whole.max_cost / shard.of,
        max_failures=failures,
        limit=None if whole.limit is None else part(whole.limit),
    )
