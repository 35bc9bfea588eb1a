"""What the server's log tells of the queue: which runs that began before a moment still go on, and whether any run has
started or ended since. One look serves all rows that are looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, get_args

from dify_batch.dify.answers import Ended, LogEntry, LogPage
from dify_batch.engine.absence import LOG_REACHES, REDELIVERED, SLACK
from dify_batch.seams import Clock

# Requests of one look. Of a log that is longer than a page its totals tell in which stretch of time runs still go on;
# that one is halved, so that some 40 requests find a run among any number. A log that takes more proves nothing.
_MAX_REQUESTS = 200
# Seconds: a stretch so short is read page by page. The log's times are whole seconds.
_SHORT = 2.0
# One look serves everybody for so long, seconds: while other rows are left to run nothing is decided by it anyway.
_FRESH, _FRESH_AT_LAST = 10.0, 1.0
_ENDS: tuple[Ended, ...] = get_args(Ended)
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
        status: Ended | None = None,
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
            newest = max(newest, self._newest(entry))
            oldest = min(oldest, float(entry.created_at or now))
        if start >= until + SLACK:
            return View(at, until, 0, newest, oldest, died=False)
        open_ones = await self._open(start, until + SLACK + 1)
        if open_ones is None:
            return View(at, until, None, newest, oldest, died=False)
        unfinished, died = 0, False
        for entry in open_ones:
            begun = entry.created_at if entry.created_at is not None else until
            if not start < begun <= until + SLACK or self._over(entry.run_id):
                continue
            if begun <= too_old or self._dead(entry.run_id):
                died = True
            else:
                unfinished += 1
        return View(at, until, unfinished, newest, oldest, died)

    async def _open(self, start: float, end: float) -> list[LogEntry] | None:
        """The runs begun between two moments (server's time) that have not said that they ended; None: too many to
        tell."""
        first = await self._log.logs(after=_moment(start), before=_moment(end))
        found = {entry.run_id: entry for entry in first.entries}
        asked = 1
        # Stretches of time, and how many runs of each go on at most (None: not known).
        stretches: list[tuple[float, float, int | None]] = []
        if first.has_more:
            stretches = [(start, end, None if first.total is None else await self._left(start, end))]
        while stretches:
            low, high, left = stretches.pop()
            if left == 0:
                continue
            middle = float(int((low + high) / 2))
            lower = None
            if left is not None and high - low > _SHORT:
                lower = await self._left(low, middle)
                asked += 1 + len(_ENDS)
            if left is not None and lower is not None:
                stretches += [(low, middle, lower), (middle, high, max(0, left - lower))]
                continue
            number, more = 1, True
            while more:
                if asked >= _MAX_REQUESTS:
                    return None
                page = await self._log.logs(after=_moment(low), before=_moment(high), page=number)
                asked += 1
                found |= {entry.run_id: entry for entry in page.entries}
                number, more = number + 1, page.has_more
        return [entry for entry in found.values() if entry.status not in _AT_REST and entry.finished_at is None]

    async def _left(self, low: float, high: float) -> int | None:
        """How many runs begun between two moments have not ended, at most, by the log's totals: those that have ended
        are asked for first, so that one that ends meanwhile counts as going on. None: the totals are not to be had, or
        the filter is not heeded."""
        after, before, ended = _moment(low), _moment(high), 0
        for status in _ENDS:
            total = (await self._log.logs(after=after, before=before, limit=1, status=status)).total
            if total is None:
                return None
            ended += total
        whole = (await self._log.logs(after=after, before=before, limit=1)).total
        return None if whole is None or ended > whole else whole - ended

    async def reaches(self, moment: float) -> bool:
        """Whether the log shows a run from before a moment (server's time)."""
        before = _moment(moment)
        return bool((await self._log.logs(before=before, limit=1)).entries)

    def _newest(self, entry: LogEntry) -> float:
        if self._ours(entry):
            return float("-inf")
        return float(max(entry.created_at or 0, entry.finished_at or 0))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def must_reach(age: float) -> bool:
    """Whether a row is so old that the log has to show that it reaches back."""
    return age > LOG_REACHES
