"""How many runs may be in flight: a fixed number that yields to throttling.

`Limit` is what the engine asks; `auto.py` has the one that finds the number by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dify_batch.engine.room import LEAVES_ONE


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

    def looked(self, seconds: float, in_flight: int) -> None:
        """A question beside the runs was answered after so long, with so many in flight when it was asked."""


# So long, seconds, nobody waits for the answer to a small question unless all of the server's connections are taken.
_WAITED = 1.0
# Whatever is looked up is looked up again soon: so long, seconds, room is left for it.
_ROOM_FOR = 30.0
# Between two steps upwards at least so long, seconds: a server that is full costs one refusal a step.
_GROW_AFTER = 1.0


class FixedLimit:
    """`--concurrency N`: N, or less while the server throttles.

    Each refusal takes one away, so that after a burst of them as many are left as the server took. Once a second, and
    not before so many runs have ended as may be in flight, one comes back.

    A look-up that has to wait for its answer takes away what a Dify of default size does not leave free: runs that hold
    all of the server's connections hold back what is to be looked up, too.
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
        self._fall(min(self._current, in_flight) - 1)

    def _fall(self, target: int) -> None:
        self._current = max(1, min(self._current, target))
        self._changed, self._ended = self._clock(), 0

    def looked(self, seconds: float, in_flight: int) -> None:
        if seconds > _WAITED:
            self._fall(LEAVES_ONE if in_flight > LEAVES_ONE else in_flight - 1)
            self._changed += _ROOM_FOR
