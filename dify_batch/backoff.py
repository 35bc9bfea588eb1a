"""How long to wait before the n-th repetition: exponential, with full jitter.

One object serves both ways of repeating: tenacity's loops take it as their `wait`, and the course of a row, which is no
loop, asks it for seconds. It is drawn evenly from 0 to min(maximum, initial * 2 ** (n - 1)), so that rows which failed
together do not come back together. A Retry-After of the server replaces it, up to the maximum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
        return self.seconds(retry_state.attempt_number)
