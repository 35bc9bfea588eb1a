"""What the engine is told of the settings: the few values that it uses, its limit and its budget."""

from __future__ import annotations

from collections.abc import Callable

from dify_batch.batch.share import Share
from dify_batch.engine.auto import MOST, START, AutoLimit
from dify_batch.engine.budget import Budget
from dify_batch.engine.limit import FixedLimit, Limit
from dify_batch.engine.options import Options
from dify_batch.engine.room import LEAVES_ONE
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.spent import spent
from dify_batch.seams import Clock
from dify_batch.settings import Settings


def most_in_flight(share: Share) -> int:
    """How many runs may be wanted in flight."""
    if share.concurrency != "auto":
        return share.concurrency
    return MOST


def first_limit(share: Share, fits: int, clock: Clock, *, mode: str, before: tuple[int, str] | None) -> Limit:
    """The limit to begin with. `fits`: as many as this process has open files for. `mode`: --mode. `before`: where the
    search of the last invocation on this output stood, and in which mode."""
    if share.concurrency == "auto":
        start = START
        if before is not None:
            same = before[1] == ("streaming" if mode == "auto" else mode)  # what `auto` begins with
            start = before[0] if same else min(before[0], LEAVES_ONE)
        return AutoLimit(most=fits, start=start, clock=clock.monotonic)
    return FixedLimit(min(fits, share.concurrency), clock=clock.monotonic)


def later_limits(share: Share, fits: int, clock: Clock) -> Callable[[int], Limit] | None:
    """Makes the limit of a new search, from where the last one stood; None where none is searched for."""
    if share.concurrency != "auto":
        return None
    return lambda start: AutoLimit(most=fits, start=start, clock=clock.monotonic)


def budget_of(share: Share, paths: Paths) -> Budget | None:
    """The budget of the whole output, with what all its runs have used so far."""
    if share.max_tokens is None and share.max_cost is None:
        return None
    return Budget(share.max_tokens, share.max_cost, spent(paths))


def options_of(settings: Settings, share: Share) -> Options:
    """What the engine is told of the settings."""
    return Options(
        policy=settings.retry_policy,
        max_retries=settings.max_retries,
        initial_retry_delay=settings.initial_retry_delay,
        max_retry_delay=settings.max_retry_delay,
        concurrency=share.concurrency,
        rate=share.rate,
        wait=share.wait,
        mode=settings.mode,
        timeout=settings.timeout,
        settle=settings.settle,
        stuck_after=settings.stuck_after,
        max_outage=settings.max_outage,
        user=settings.user,
        keep_order=settings.keep_order,
        look_with=f"dify-batch status {settings.results}",
    )
