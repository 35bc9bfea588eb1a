"""A watch over a stream: ends a timeout scope once nothing was heard for a while."""

from __future__ import annotations

import asyncio


class Silence:
    """Ends an asyncio.timeout scope after `limit` seconds without a call of `heard`.

    One timer for each `limit` seconds, not for each chunk of a stream: `heard` only takes the time. Not running until
    `start`; `expired` tells that this, and not the scope's own deadline, ended the scope.
    """

    __slots__ = ("_last", "_limit", "_loop", "_scope", "_timer", "expired")

    def __init__(self, scope: asyncio.Timeout, limit: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._scope = scope
        self._limit = limit
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.expired: bool = False

    def start(self) -> None:
        """Begins to watch; a second call does nothing."""
        if self._timer is None:
            self.heard()
            self._timer = self._loop.call_at(self._last + self._limit, self._check)

    def heard(self) -> None:
        """Something arrived just now."""
        self._last = self._loop.time()

    def stop(self) -> None:
        """Ends the watch. To be called in any case, or the timer holds the scope."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        if self._scope.expired():
            return  # the deadline was first, in the same turn of the loop
        due = self._last + self._limit
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._check)
        else:
            self.expired = True
            self._scope.reschedule(self._loop.time())
