"""How long to wait before the n-th repetition: exponential, with full jitter. And what tenacity's loops share.

One object serves both ways of repeating: tenacity's loops take it as their `wait`, and the course of a row, which is no
loop, asks it for seconds. They are drawn evenly from 0 to min(maximum, initial * 2 ** (n - 1)), so that rows which
failed together do not come back together. A Retry-After of the server replaces them, up to the maximum. The loops wait
by `pause`, in whose place a test can put another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tenacity import RetryCallState
from tenacity.wait import wait_base

from dify_batch.seams import Chance, RealChance

# 2.0 ** n overflows at 1024; any cap has long been reached here.
_LARGEST_EXPONENT = 64


@dataclass(frozen=True, slots=True)
class Backoff(wait_base):
    """`initial`, `maximum`: seconds. `initial` 0 means no wait at all, which tests use."""

    initial: float = 1.0
    maximum: float = 60.0
    chance: Chance = field(default_factory=RealChance)

    def seconds(self, repetition: int, retry_after: float | None = None) -> float:
        """Seconds before the n-th repetition (from 1)."""
        if retry_after is not None:
            return max(0.0, min(retry_after, self.maximum))
        ceiling = min(self.maximum, self.initial * 2.0 ** min(max(0, repetition - 1), _LARGEST_EXPONENT))
        return self.chance.uniform(0.0, ceiling)

    def __call__(self, retry_state: RetryCallState) -> float:
        return self.seconds(retry_state.attempt_number, asked(retry_state))


async def pause(seconds: float) -> None:
    """How every repetition waits that tenacity makes. To be used as `backoff.pause`, so that a test can replace it."""
    await asyncio.sleep(seconds)


def asked(state: RetryCallState) -> float | None:
    """Seconds that the server asked to wait (Retry-After), by the error that an attempt raised or the outcome that it
    gave."""
    if state.outcome is None:
        return None
    told: Any = state.outcome.exception() if state.outcome.failed else state.outcome.result()
    details = getattr(told, "details", None)
    found = details.get("retry_after") if isinstance(details, Mapping) else getattr(told, "retry_after", None)
    return float(found) if isinstance(found, (int, float)) else None


def last(state: RetryCallState) -> Any:
    """What the last attempt gave: for loops that end with that when their time is over."""
    return state.outcome.result() if state.outcome is not None else None
