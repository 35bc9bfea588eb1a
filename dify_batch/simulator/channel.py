"""Between a run and those who listen: events, and the queue from one to the other."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple


class Event(NamedTuple):
    """One event of a stream, as sent."""

    name: str
    data: bytes


PING = Event("ping", b"event: ping\n\n")


class Channel:
    """The queue between a run and one open stream. Used in the server's event loop only."""

    __slots__ = ("_closed", "_items", "_waiter")

    def __init__(self) -> None:
        self._items: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, event: Event) -> None:
        """Adds an event; never blocks."""
        if not self._closed:
            self._items.append(event)
            self.wake()

    def close(self) -> None:
        """Nobody takes from it any more."""
        self._closed = True
        self._items.clear()

    def wake(self) -> None:
        """Ends a `take` that waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self, timeout: float) -> list[Event]:
        """All events there are, in order; waits up to `timeout` seconds for one, and gives none then."""
        if not self._items:
            await self._wait(timeout)
        events = list(self._items)
        self._items.clear()
        return events

    async def _wait(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(timeout, lambda: None if waiter.done() else waiter.set_result(None))
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
