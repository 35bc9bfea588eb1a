"""What the server's log tells of the queue: which runs that began before a moment still go on, and whether any run has
started or ended since. One look serves all rows that are looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from dify_batch.dify.answers import LogEntry, LogPage
from dify_batch.engine.absence import LOG_REACHES, REDELIVERED, SLACK
from dify_batch.seams import Clock

# A page has 100 runs, and a look reads at most so many pages: 3,000 runs of the time in question. A log that shows more
# proves nothing.
_MAX_PAGES = 30
# One look serves everybody for so long, seconds: while other rows are left to run nothing is decided by it anyway.
_FRESH, _FRESH_AT_LAST = 10.0, 1.0
# Statuses of runs that occupy nothing: they have ended, or wait for a person.
_AT_REST = frozenset({"succeeded", "failed", "stopped", "partial-succeeded", "paused"})


class Log(Protocol):
    """What is used of the client."""

    @property
    def clock_offset(self) -> float: ...

    async def logs(
        self,
        *,
        user: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        page: int = 1,
        limit: int = 100,
    ) -> LogPage: ...


@dataclass(frozen=True, slots=True)
class View:
    """One look, `at` then (monotonic). `until`: it is about runs begun before this (server's time).

    `unfinished`: how many of them go on; None: the log has too many to tell. `newest`: server's time of the newest
    start or end of a run that is not ours. `oldest`: of the oldest run that was seen. `died`: a run that began shortly
    before says running though it is dead or too old for it, so a worker has died.
    """

    at: float
    until: float
    unfinished: int | None
    newest: float
    oldest: float
    died: bool


class Backlog:
    """Args:
    ours: whether a run, by its id and user, is one of this output, of whose starts and ends the engine knows by itself.
    over: whether a run has ended whatever the log says, or was given up. `dead`: whether it is probably dead.
    stuck_after: seconds; a run that is older and says running counts as dead.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        *,
        ours: Callable[[LogEntry], bool],
        over: Callable[[str], bool],
        dead: Callable[[str], bool],
        stuck_after: Callable[[], float],
    ) -> None:
        self._log = log
        self._clock = clock
        self._ours = ours
        self._over = over
        self._dead = dead
        self._stuck_after = stuck_after
        self._view: View | None = None
        self._looking = asyncio.Lock()

    @property
    def server_now(self) -> float:
        """The server's time, seconds since 1970."""
        return self._clock.wall() + self._log.clock_offset

    async def view(self, until: float, *, last: bool) -> View:
        """A look that is fresh enough, about runs begun before `until` + SLACK (server's time) at least.

        Raises what `logs` raises.
        """
        async with self._looking:
            fresh = _FRESH_AT_LAST if last else _FRESH
            known = self._view
            if known is None or known.until < until or self._clock.monotonic() - known.at >= fresh:
                self._view = known = await self._look(until)
            return known

    async def _look(self, until: float) -> View:
        at, now, stuck_after = self._clock.monotonic(), self.server_now, self._stuck_after()
        too_old = now - stuck_after
        # Of a row that is older than what is redelivered it does not matter any more whether a worker died then.
        start = (until if now - until < REDELIVERED else now) - stuck_after
        newest, oldest = float("-inf"), now
        # The newest page first: what started lately. Then those that began before `until` and are not too old.
        for entry in (await self._log.logs()).entries:
            newest = max(newest, self._moment(entry))
            oldest = min(oldest, float(entry.created_at or now))
        if start >= until + SLACK:
            return View(at, until, 0, newest, oldest, died=False)
        unfinished, died = 0, False
        after, before = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(until + SLACK + 1, UTC)
        for page in range(1, _MAX_PAGES + 1):
            answer = await self._log.logs(after=after, before=before, page=page)
            for entry in answer.entries:
                newest = max(newest, self._moment(entry))
                oldest = min(oldest, float(entry.created_at or now))
                begun = entry.created_at if entry.created_at is not None else until
                at_rest = entry.status in _AT_REST or entry.finished_at is not None
                if at_rest or not start < begun <= until + SLACK or self._over(entry.run_id):
                    continue
                if begun <= too_old or self._dead(entry.run_id):
                    died = True
                else:
                    unfinished += 1
            if not answer.has_more:
                return View(at, until, unfinished, newest, oldest, died)
        return View(at, until, unfinished or None, newest, oldest, died)

    async def reaches(self, moment: float) -> bool:
        """Whether the log shows a run from before a moment (server's time)."""
        before = datetime.fromtimestamp(moment, UTC)
        return bool((await self._log.logs(before=before, limit=1)).entries)

    def _moment(self, entry: LogEntry) -> float:
        if self._ours(entry):
            return float("-inf")
        return float(max(entry.created_at or 0, entry.finished_at or 0))


def must_reach(age: float) -> bool:
    """Whether a row is so old that the log has to show that it reaches back."""
    return age > LOG_REACHES
