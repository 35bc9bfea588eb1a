"""Look-ups: asks the server's log what became of a POST whose run nobody has named.

A run found there is the row's if it can be nobody else's. None found means nothing until `absence.py` has its proof.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from dify_batch.dify.answers import Detail, LogEntry
from dify_batch.dify.sameness import contradicts, same_inputs
from dify_batch.engine.absence import SLACK, Evidence, lacking, least_age
from dify_batch.engine.backlog import Backlog, Log, must_reach
from dify_batch.engine.claims import Claims
from dify_batch.engine.facts import Absent, Started, Unavailable, Unproven
from dify_batch.engine.health import Health
from dify_batch.engine.row import Ask
from dify_batch.engine.work import Work
from dify_batch.errors import AppError, AuthError, ConnectionFailed, RateLimited, ServerError
from dify_batch.outcomes import RunRef, Unreachable
from dify_batch.seams import Clock

log: logging.Logger = logging.getLogger("dify_batch")

# First look soon: a run is in the log 0.06 s after its start [14c]; then ever more rarely.
_FIRST_LOOK, _LOOK_FACTOR, _LAST_LOOK = 0.3, 2.0, 10.0
# When nothing else is left to run, somebody waits for it.
_LOOK_AT_LAST = 1.0
# Clocks of the two machines may differ by a second after correction, and log times are whole seconds.
_CLOCK_SLACK = 5.0
# A page has 100 runs; with a `user` shared by all rows so many pages are read: what is sent in a minute at the most.
_MAX_PAGES = 100
# With a user of the row's own the first page has its run; more are read only where a server ignores the filter.
_MAX_PAGES_OWN = 10
# Run details asked for in one look, and remembered over all; beyond, whose run is whose is not to be told.
_MAX_DETAILS, _DETAILS_KEPT = 500, 5_000
# A request that its client has left stands in the listen queue of a server that is up no longer than this, seconds: a
# server that takes none for an hour has been started anew.
_LISTEN_QUEUE = 3600.0
# What the last look of a row may take beyond the settle time, seconds.
_MARGIN = 10.0


class Client(Log, Protocol):
    """What is used of the client."""

    async def run_detail(self, ref: RunRef, *, user: str | None = None) -> Detail: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. `patience`: how long a row is looked up once nothing else is left to run; `settle`: --settle;
    `max_outage`: how long the log may stay away."""

    patience: float
    settle: float
    max_outage: float


@dataclass(slots=True)
class _Look:
    """What one row's look-up has seen so far."""

    lost_at: float  # monotonic
    together: set[str]
    both_since: float | None = None
    missing: str = ""


class Lookups:
    """All look-ups of one invocation.

    Args:
        gate: bounds look-ups and details at one time: they share the server's connection slots with runs.
        last: whether nothing else of this invocation is left to run.
        taking: whether rows are still sent; if not, one look must do. `leaving`: nothing is waited for.
        others: rows in flight, of which one may own a run with the same inputs.
        pause: sleeps, or less if something has changed.
    """

    def __init__(
        self,
        client: Client,
        backlog: Backlog,
        health: Health,
        claims: Claims,
        clock: Clock,
        limits: Limits,
        *,
        gate: asyncio.Semaphore,
        last: Callable[[], bool],
        taking: Callable[[], bool],
        leaving: Callable[[], bool],
        others: Callable[[], Iterable[Work]],
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._client = client
        self._backlog = backlog
        self._health = health
        self._claims = claims
        self._clock = clock
        self._limits = limits
        self._gate = gate
        self._last = last
        self._taking = taking
        self._leaving = leaving
        self._others = others
        self._pause = pause
        self._began = clock.monotonic()
        self._began_wall = clock.wall()
        self._lost: dict[str, Work] = {}
        self._inputs: dict[str, str | None] = {}
        self.missing: str = ""
        """What the newest look lacked for a proof, for whoever watches."""

    def __len__(self) -> int:
        return len(self._lost)

    async def look_up(self, work: Work, reason: str) -> Started | Absent | Unproven | Unavailable | None:
        """What became of a lost POST; None if the batch ends before that is known (the intent stays open)."""
        self._lost[work.id] = work
        try:
            return await self._until_known(work, reason)
        finally:
            del self._lost[work.id]

    async def _until_known(self, work: Work, reason: str) -> Started | Absent | Unproven | Unavailable | None:
        clock, limits = self._clock, self._limits
        seen = _Look(clock.monotonic(), self._health.lost_together)
        pause, failing_since, last_since = _FIRST_LOOK, None, None
        while not self._leaving():
            last = self._last()
            if last and last_since is None:
                last_since = clock.monotonic()
            try:
                async with self._gate:
                    verdict = await self._look(work, reason, seen, last=last)
                failing_since = None
                if verdict is not None:
                    return verdict
            except (AuthError, AppError) as error:
                closed = "the server's log is closed to this key: " if "http_status" in error.details else ""
                return Unavailable(f"{reason}; {closed}{error.message}")
            except (ConnectionFailed, ServerError, RateLimited) as error:
                self._health.outage.begin(error.message)
                seen.both_since, seen.missing = None, f"the server's log does not answer: {error.message}"
                failing_since = failing_since if failing_since is not None else clock.monotonic()
                if clock.monotonic() - failing_since > limits.max_outage:
                    return Unavailable(f"{reason}; {seen.missing}")
            self.missing = seen.missing
            if not self._taking():
                return None  # the next invocation looks
            if work.row.ask is Ask.ANYWAY or self._out_of_patience(work, last_since):
                return Unproven(f"{reason}; it may still wait in the server's queue: {seen.missing}")
            await self._pause(min(pause, _LOOK_AT_LAST) if last else pause)
            pause = min(pause * _LOOK_FACTOR, _LAST_LOOK)
        return None

    def _out_of_patience(self, work: Work, last_since: float | None) -> bool:
        if last_since is None:
            return False
        waited = self._clock.monotonic() - last_since
        settle = self._health.settle_time
        left = max(0.0, least_age(self._limits.settle) - self._age(work))
        return left <= 0 and waited > max(self._limits.patience, settle + _MARGIN)

    # ---------------------------------------------------------------- one look

    async def _look(self, work: Work, reason: str, seen: _Look, *, last: bool) -> Started | Absent | Unavailable | None:
        """One look; None if nothing is certain yet. The evidence is gathered first, so that the look by the row's
        user, which comes after it, is the last one."""
        settle = self._health.settle_time
        evidence = await self._evidence(work, last=last)
        if evidence.unfinished == 0 and evidence.alive:
            seen.both_since = seen.both_since if seen.both_since is not None else evidence.now
        else:
            seen.both_since = None
        missing = lacking(evidence, seen.both_since, settle=settle, age=least_age(self._limits.settle))
        seen.missing = missing or ""
        own = not work.shared
        if not own and self._clock.monotonic() - seen.lost_at < settle:
            return None  # a row in flight may still claim its run
        entries, whole = await self._entries(work, own=own)
        free = [entry for entry in entries if self._is_free(entry, work)]
        if len(free) > _MAX_DETAILS:
            return Unavailable(f"{reason}; user {work.user} has too many runs in the server's log")
        matches, unclear = [], 0
        told = await asyncio.gather(*(self._inputs_of(entry) for entry in free))
        for entry, inputs in zip(free, told, strict=True):
            # Under a user of its own only its own run can be; and what an earlier invocation sent may not be what the
            # table says today.
            own_run = own and (work.row.before or not contradicts(work.values, inputs))
            if own_run or same_inputs(work.values, inputs):
                matches.append(entry)
            elif not contradicts(work.values, inputs):
                unclear += 1
        matches = [entry for entry in matches if self._is_free(entry, work)]
        if matches and not own and self._has_twin(work):
            return None  # a row in flight could own it; its answer will tell
        if len(matches) == 1 and self._claims.claim(matches[0].run_id, work.id):
            return self._found(work, matches[0])
        if matches:
            return Unavailable(
                f"{reason}; the server's log shows {len(matches)} runs of user {work.user} with these inputs"
            )
        if missing is not None:
            return None
        if not whole:
            return Unavailable(f"{reason}; user {work.user} has too many runs in the server's log")
        if unclear:
            return Unavailable(f"{reason}; {unclear} runs of user {work.user} may be the row's or not")
        if own and free:
            return Unavailable(
                f"{reason}; the server's log shows run {free[0].run_id} of user {work.user}, with other inputs"
            )
        return Absent(reason, excused=self._health.excuses(seen.lost_at, seen.together))

    def _found(self, work: Work, entry: LogEntry) -> Started:
        begun = float(entry.created_at) if entry.created_at is not None else self._server_sent(work)
        self._health.found(begun - self._server_sent(work), work.mode)
        return Started(RunRef(entry.run_id), begun - self._client.clock_offset, found=True)

    async def _evidence(self, work: Work, *, last: bool) -> Evidence:
        sent, taken = self._server_sent(work), self._taken_by(work)
        until = max(self._taken_by(other) for other in self._lost.values())
        view = await self._backlog.view(until, last=last)
        since = work.lost_at or float("-inf")
        age = self._age(work)
        unfinished = view.unfinished
        if unfinished == 0:
            unfinished = sum(1 for other in self._others() if self._goes_on(other, taken))
        return Evidence(
            now=self._clock.monotonic(),
            age=age,
            unfinished=unfinished,
            alive=work.outlived or self._health.alive_since(since, work.mode) or view.newest > taken + 1,
            answering_since=self._health.outage.answers_since,
            reaching=not must_reach(age) or view.oldest < sent or await self._backlog.reaches(sent),
            last=last,
            # A blocking run is executed by the API itself, and nothing of it is reserved by a worker.
            died=work.mode == "streaming" and (view.died or self._health.worker_died_near(sent)),
        )

    def by_server(self, wall: float) -> float:
        """A moment of our clock by the server's."""
        return wall + self._client.clock_offset

    def _goes_on(self, other: Work, taken: float) -> bool:
        """Whether a run that this invocation knows began before the lost row's request, or with it, and goes on."""
        row = other.row
        return row.ref is not None and not row.dead and self.by_server(row.begun) <= taken + SLACK

    def _taken_by(self, work: Work) -> float:
        """The last moment, by the clock of the server's log, at which the server can have taken the request."""
        sent = self._server_sent(work)
        if work.posted_at:
            return sent + self._health.log_ahead + max(0.0, work.lost_at - work.posted_at)
        # Of an earlier invocation: it is not known when that one's connections went.
        return self._health.log_ahead + max(sent, min(sent + _LISTEN_QUEUE, self.by_server(self._began_wall)))

    def _server_sent(self, work: Work) -> float:
        """When it was sent, by the server's clock."""
        sent = work.row.sent
        assert sent is not None
        return sent.server if sent.server is not None else self.by_server(sent.wall)

    def _age(self, work: Work) -> float:
        if work.posted_at:
            return self._clock.monotonic() - work.posted_at
        # An earlier invocation's clock may have been wrong; what it sent is older than this invocation at least.
        return max(self._clock.monotonic() - self._began, self._backlog.server_now - self._server_sent(work))

    # ---------------------------------------------------------------- whose run is whose

    async def _entries(self, work: Work, *, own: bool) -> tuple[list[LogEntry], bool]:
        """The newest runs of the row's user, and whether they are all that can matter."""
        after = None
        if not own and work.row.sent is not None and work.row.sent.server is not None:
            after = datetime.fromtimestamp(max(0.0, work.row.sent.server - _CLOCK_SLACK), UTC)
        entries: list[LogEntry] = []
        for page in range(1, (_MAX_PAGES_OWN if own else _MAX_PAGES) + 1):
            answer = await self._client.logs(user=work.user, after=after, page=page)
            theirs = [entry for entry in answer.entries if entry.user in (None, work.user)]
            entries += theirs
            if not answer.has_more:
                return entries, True
            if own and theirs:
                # A user of its own sends one request after the other: the newest page has the lost one.
                return entries, True
        return entries, False

    def _is_free(self, entry: LogEntry, work: Work) -> bool:
        return entry.run_id not in work.known_runs and not self._claims.taken(entry.run_id, work.id)

    def _has_twin(self, work: Work) -> bool:
        """Whether a row with the same user and inputs is in flight whose run is not known yet."""
        return any(
            other is not work and other.ref is None and other.user == work.user and _alike(other, work)
            for other in self._others()
        )

    async def _inputs_of(self, entry: LogEntry) -> str | None:
        """The inputs of a run, as JSON text; they never change, so they are asked for once. Raises ConnectionFailed if
        nothing was learnt."""
        if entry.run_id in self._inputs:
            return self._inputs[entry.run_id]
        detail = await self._client.run_detail(RunRef(entry.run_id), user=entry.user)
        if isinstance(detail.outcome, Unreachable):
            raise ConnectionFailed(detail.outcome.message)
        if len(self._inputs) >= _DETAILS_KEPT:
            self._inputs.pop(next(iter(self._inputs)))
        self._inputs[entry.run_id] = detail.inputs
        return detail.inputs


def _alike(one: Work, other: Work) -> bool:
    """Whether two rows ask the same, but for their ids."""
    return {**one.values, "id": None} == {**other.values, "id": None}
