"""The outage that all rows share: whoever meets a server that is away or refuses makes the whole batch wait as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from dify_batch.seams import Clock

log: logging.Logger = logging.getLogger("dify_batch")

# A server that is away, or refuses, tells the row that goes first within so many seconds, mostly.
_TELLS_WITHIN = 5.0


class Outage:
    """One outage for the whole batch.

    Whoever meets a server that is away calls `begin`. From then on `passed` makes everybody wait, and a harmless
    request (the probe) asks the server again and again.
    - It answers at once: it was that one request, not the server; all go on.
    - The probe failed at least once: the outage is `confirmed`; now one row goes first, and when the server has dealt
      with it (`answered`) all go on. If it fails, `begin` is called again.
    - Throttled, or runs that all fail alike: no probe can tell, so one row goes first after the wait.

    Args:
        probe: asks the server something harmless; gives None, or why it is still away.
        wait: seconds before the n-th probe.
        limit: seconds that an outage may last; then `on_limit()` is called, once.
        on_change: called when it has been confirmed, and when it is over, so that what is said stays true.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[str | None]],
        wait: Callable[[int], float],
        limit: float,
        on_limit: Callable[[], None],
        clock: Clock,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._probe = probe
        self._wait = wait
        self._limit = limit
        self._on_limit = on_limit
        self._turn = asyncio.Event()
        self._turn.set()
        self._first: bool = False
        self._task: asyncio.Task[None] | None = None
        self._began = 0.0
        self._ready_at = 0.0
        self._tries = 0
        self._pause = 0.0
        self.active: bool = False
        self.confirmed: bool = False
        self.throttled: bool = False
        self.alike: bool = False
        self.reason: str = ""
        self.confirmed_at: float = float("-inf")
        self.answers_since: float = float("-inf")
        """Monotonic time since when the server answers, as far as is known."""

    @property
    def away(self) -> bool:
        """Whether the server is away, or refuses. Not once a row may go first that it has not sent back for a while: it
        runs, or waits for a place, and so do the others."""
        if not self.active or not (self.confirmed or self.throttled):
            return False
        return self._task is not None or self._clock.monotonic() - self._ready_at < _TELLS_WITHIN

    async def passed(self) -> bool:
        """Waits until a request may be sent. True for a row that goes first: what it does is done within `first`."""
        while self.active:
            if self._first:
                self._first = False
                self._turn.clear()
                self._began += self._clock.monotonic() - self._ready_at  # waiting for a row to send is no outage
                return True
            await self._turn.wait()
        return False

    @contextmanager
    def first(self, goes_first: bool) -> Iterator[None]:
        """Around all that a row does that goes first (if it does). Whatever becomes of it, the others are not
        forgotten: if it told nothing of the server, by `answered` or `begin`, the next one may go."""
        try:
            yield
        finally:
            if goes_first and self.active and self._task is None and not self._first:
                self._let_one_go()

    def begin(self, reason: str, *, throttled: bool = False, alike: bool = False, pause: float = 0.0) -> None:
        """A request met a server that is away. `throttled`: no probe can tell when that is over; `alike`: it is rather
        that all runs fail with the same error. `pause`: seconds that the server asked for (Retry-After)."""
        now = self._clock.monotonic()
        self.reason, self.throttled, self.alike = reason, throttled, alike
        self._pause = max(self._pause, pause)
        if not self.active:
            self.active = True
            self.confirmed = False
            self._began = now
            self._tries = 0
            log.info(
                "a request failed (%s): no other is sent until the server has been asked for a sign of life", reason
            )
        elif self._task is None:
            self._confirm(reason)  # the row that went first failed as well
        if self._task is None:
            self._turn.clear()
            self._first = False
            self._task = asyncio.get_running_loop().create_task(self._ask())

    def answered(self, sent: float | None = None) -> None:
        """The server has dealt with a request, `sent` then (monotonic; None: a probe): the outage is over.

        A request from before the outage says nothing about it, and none cuts a pause short that the server asked for.
        """
        if self.active and (sent is None or sent >= self._began):
            seconds = self._clock.monotonic() - self._began
            log.log(
                logging.WARNING if self.confirmed else logging.DEBUG,
                "the server takes requests (after %.1f s)",
                seconds,
            )
            self.answers_since = self._clock.monotonic()
            self.close()

    def close(self) -> None:
        """Lets everybody through."""
        self.active = self._first = False
        self._pause = 0.0
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._turn.set()
        self._on_change()

    async def _ask(self) -> None:
        """Waits and probes until a row may go first, or all."""
        while True:
            self._tries += 1
            pause, self._pause = self._pause, 0.0
            # The first probe goes at once: most often one connection broke, and nobody should wait for that.
            wait = 0.0 if self._tries == 1 and not self.throttled else self._wait(self._tries)
            await self._sleep(max(wait, pause))
            if self.throttled:
                break
            failed = await self._probe()
            if failed is None:
                self.answers_since = self._clock.monotonic()
                if self._pause:
                    pause, self._pause = self._pause, 0.0
                    await self._sleep(pause)
                break
            self._confirm(failed)
        self._task = None
        if not self.confirmed and not self.throttled:
            self.answered()
            return
        self._let_one_go()

    def _confirm(self, reason: str) -> None:
        log.log(logging.DEBUG if self.confirmed else logging.WARNING, "the server is away: %s; all rows wait", reason)
        self.confirmed = True
        self.confirmed_at = self._clock.monotonic()
        self.reason = reason
        self._on_change()

    def _let_one_go(self) -> None:
        self._first = True
        self._ready_at = self._clock.monotonic()
        self._turn.set()
        asyncio.get_running_loop().call_later(_TELLS_WITHIN, self._on_change)

    async def _sleep(self, seconds: float) -> None:
        """Sleeps, but not past the limit of the outage."""
        left = self._began + self._limit - self._clock.monotonic()
        await asyncio.sleep(max(0.0, min(seconds, left)))
        if self._clock.monotonic() - self._began >= self._limit:
            self._on_limit()
            await asyncio.Event().wait()  # the batch ends; it cancels this
