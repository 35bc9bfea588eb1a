"""How many runs may be in flight: a fixed number that yields to throttling.

`Limit` is what the engine asks; `auto.py` has the one that finds the number by itself.
"""

from __future__ import annotations

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


# Between two steps upwards at least so long, seconds: a server that is full costs one refusal a step.
_GROW_AFTER = 1.0


class FixedLimit:
    """`--concurrency N`: N, or less while the server throttles.

    Each refusal takes one away, so that after a burst of them as many are left as the server took. Once a second, and
    not before so many runs have ended as may be in flight, one comes back.
    """

    def __init__(self, most: int, *, clock: Callable[[], float]) -> None:
        self._most = most
        self._current = most
        self._clock = clock
        self._changed = float("-inf")
        self._ended = 0

    @property
    def current(self) -> int:
        return self._current

    def started(self, delay: float, in_flight: int) -> None:
        """Says nothing to a fixed limit."""

    def finished(self, seconds: float, in_flight: int) -> None:
        if self._current >= self._most:
            return
        self._ended += 1
        now = self._clock()
        if self._ended >= self._current and now - self._changed >= _GROW_AFTER:
            self._current += 1
            self._changed, self._ended = now, 0

    def throttled(self, in_flight: int) -> None:
        self._current = max(1, min(self._current, in_flight) - 1)
        self._changed, self._ended = self._clock(), 0
