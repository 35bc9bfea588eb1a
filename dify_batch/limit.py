"""How many runs may be in flight: a fixed number that yields to throttling.

`Limit` is what the engine asks; `auto.py` has the one that finds the number by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Limit(Protocol):
    """Told what happens, says how many runs may be in flight now. All times in seconds."""

    @property
    def current(self) -> int: ...

    def started(self, delay: float, in_flight: int) -> None:
        """A run has started, `delay` after its POST (streaming); or a blocking answer waited so long in a queue."""

    def finished(self, seconds: float, in_flight: int) -> None:
        """The server has dealt with an attempt, which took so long in all."""

    def throttled(self, in_flight: int) -> None:
        """The server refused a run as one too many."""


# A burst of refusals is one event: all runs that were in flight when the first came back saw the same full server.
_ONE_EVENT = 1.0
# After a refusal the limit grows by one a step, not sooner than this: a server's load does not change by the second,
# and each refusal costs it a request.
_GROW_AFTER = 5.0


class FixedLimit:
    """`--concurrency N`: N, or less while the server throttles; back to N one by one."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._current = most
        self._clock = clock
        self._changed = float("-inf")

    @property
    def current(self) -> int:
        return self._current

    def started(self, delay: float, in_flight: int) -> None:
        """Says nothing to a fixed limit."""

    def finished(self, seconds: float, in_flight: int) -> None:
        if self._current < self._most and in_flight >= self._current:
            now = self._clock()
            if now - self._changed >= _GROW_AFTER:
                self._current += 1
                self._changed = now

    def throttled(self, in_flight: int) -> None:
        now = self._clock()
        if now - self._changed >= _ONE_EVENT:
            # Half, as TCP does: from any limit to any capacity in a few steps.
            self._current = max(1, min(self._current, in_flight) // 2)
            self._changed = now
