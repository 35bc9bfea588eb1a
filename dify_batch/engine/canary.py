"""The canary of `--concurrency auto`: a harmless question now and then, which tells whether the runs leave a connection
of the server free for anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dify_batch.seams import Clock

EVERY = 1.0
"""Seconds from one answer to the next question: one of these costs the server less than a run."""

# Whoever waits for so long, seconds, has been told enough, before the next runs take the places of those that end.
_PATIENCE = 1.5
# An error that came so late, seconds, had to wait as well (the probe gives up after 10 s); a quick one says nothing.
_LATE = 5.0


class Canary:
    """Args:
    ask: asks the server something harmless; gives None, or why there is no answer.
    in_flight: how many runs are. `wanted`: whether anybody wants to know just now.
    tell: told how long the answer took, seconds, and how many runs were in flight when it was asked.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[str | None]],
        clock: Clock,
        *,
        in_flight: Callable[[], int],
        wanted: Callable[[], bool],
        tell: Callable[[float, int], None],
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._in_flight = in_flight
        self._wanted = wanted
        self._tell = tell

    async def sing(self) -> None:
        """For ever; to be cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            if not self._wanted():
                continue
            asked, in_flight = self._clock.monotonic(), self._in_flight()
            answer = asyncio.ensure_future(self._ask())
            try:
                if not (await asyncio.wait({answer}, timeout=_PATIENCE))[0]:
                    self._tell(_PATIENCE, in_flight)
                failed = await answer is not None
            finally:
                answer.cancel()
            seconds = self._clock.monotonic() - asked
            if self._wanted() and (seconds >= _LATE or not failed):
                self._tell(seconds, in_flight)
