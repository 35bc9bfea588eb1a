"""Asks the server what became of a row: lost requests are looked up in its log, known runs are followed to their end.

A run that waits in Dify's queue is in no log and can start later [26a2, 26a5], so "not in the log" counts only after
the settle time, counted from the loss or from the moment the server answers again, whichever is later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from dify_batch.dify.protocol import contradicts, same_inputs
from dify_batch.engine.work import Item, Slots
from dify_batch.errors import AppError, AuthError, ConnectionFailed, RateLimited, ServerError
from dify_batch.outcomes import Failed, Outcome, Paused, Running, RunRef, Succeeded, Unreachable

if TYPE_CHECKING:
    from dify_batch.dify.client import LogEntry
    from dify_batch.engine.runner import Engine

log = logging.getLogger("dify_batch")

# Look-ups share the server's connection slots with runs (10 on a default Dify), so only a few at a time.
LOOKUPS_AT_ONCE = 4
# First look soon: a run is in the log 0.06 s after its start [14c]; then ever more rarely.
_FIRST_LOOK, _LOOK_FACTOR, _LAST_LOOK = 0.3, 2.0, 10.0
# The snapshot of a paused run comes within a second [18e]; of a run made in blocking mode none comes [24o].
_FORM_WITHIN = 5.0
# How long one attachment to a run's events lasts before run detail is asked again. Events that were lost with Redis
# do not come again [26i], and the endpoint pings for ever.
_ATTACH = 30.0
# Polling of run detail backs off between these, seconds.
_POLL_FIRST, _POLL_LAST = 0.5, 15.0
# Clocks of the two machines may differ by a second after correction, and log times are whole seconds.
_CLOCK_SLACK = 5.0
# A page has 100 runs; with a `user` shared by all rows so many pages are read: what is sent in a minute at the most.
_MAX_PAGES = 100
# Runs of shared users that are remembered as taken: many more than those that the pages above can show.
_CLAIMS_KEPT = 50_000
# The shortest time between two looks, seconds.
_SOON = 0.05


@dataclass(frozen=True, slots=True)
class Found:
    ref: RunRef


@dataclass(frozen=True, slots=True)
class Absent:
    """The server's log does not show it, after the settle time."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The log cannot be had, or does not tell."""

    reason: str


Verdict: TypeAlias = Found | Absent | Unavailable


class Recovery:
    """Look-ups and following, for one batch."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._gate = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._claims: deque[str] = deque()
        self._claimed: set[str] = set()

    # ---------------------------------------------------------------- lost requests

    def claim(self, run_id: str) -> None:
        """A run that a row has, so that no other row takes it. Needed where rows share a user."""
        if len(self._claims) == _CLAIMS_KEPT:
            self._claimed.discard(self._claims.popleft())
        self._claims.append(run_id)
        self._claimed.add(run_id)

    async def look_up(self, item: Item) -> Verdict | None:
        """What became of a lost request; None if the batch ends before that is known (the intent stays open)."""
        engine = self._engine
        pause = _FIRST_LOOK
        failing_since: float | None = None
        while not engine.giving_up:
            settled = time.monotonic() >= self._settled_at(item)
            try:
                async with self._gate:
                    verdict = await self._look(item, settled=settled)
                failing_since = None
            except (AuthError, AppError) as error:
                return Unavailable(f"{item.reason}; the server's log is closed to this key: {error.message}")
            except (ConnectionFailed, ServerError, RateLimited) as error:
                engine.outage.begin(error.message)
                failing_since = failing_since or time.monotonic()
                if not engine.stopping.taking:
                    return None  # the next invocation looks
                if time.monotonic() - failing_since > engine.settings.max_outage:
                    return Unavailable(f"{item.reason}; the server's log does not answer: {error.message}")
                verdict = None
                await engine.sleep(pause)
            if verdict is not None:
                return verdict
            until = self._settled_at(item) - time.monotonic()
            await engine.sleep(min(pause, max(until, _SOON)))
            pause = min(pause * _LOOK_FACTOR, _LAST_LOOK)
        return None

    def _settled_at(self, item: Item) -> float:
        """Monotonic time from which "not in the log" counts."""
        engine = self._engine
        return max(item.lost_at, engine.outage.answers_since) + engine.settle_time(item)

    async def _look(self, item: Item, *, settled: bool) -> Verdict | None:
        """One look; None if nothing is certain yet. What counts as absent does so only when `settled`.

        With a user of the row's own, the one run that no row has is the lost one. With a shared user the inputs
        decide, and not before the settle time is over: until then a row in flight may still claim its run.
        """
        own = Slots.is_own(item.user)
        if not own and not settled:
            return None
        entries, whole = await self._entries(item, pages=1 if own else _MAX_PAGES)
        free = [entry for entry in entries if self._is_free(entry, item)]
        matches, unclear = [], 0
        for entry in free:
            inputs = await self._inputs(entry)
            if same_inputs(item.values, inputs) or (own and not contradicts(item.values, inputs)):
                matches.append(entry)
            elif not contradicts(item.values, inputs):
                unclear += 1
        matches = [entry for entry in matches if self._is_free(entry, item)]
        if matches and not own and self._has_twin(item):
            return None  # a row in flight could own it; its answer will tell
        if len(matches) == 1:
            self.claim(matches[0].run_id)
            return Found(RunRef(matches[0].run_id))
        if matches:
            return Unavailable(
                f"{item.reason}; the server's log shows {len(matches)} runs of user {item.user} with these inputs"
            )
        if not settled:
            return None
        if not whole:
            return Unavailable(f"{item.reason}; user {item.user} has too many runs in the server's log")
        if unclear:
            return Unavailable(f"{item.reason}; {unclear} runs of user {item.user} may be the row's or not")
        if own and free:
            return Unavailable(
                f"{item.reason}; the server's log shows run {free[0].run_id} of user {item.user}, with other inputs"
            )
        return Absent()

    def _has_twin(self, item: Item) -> bool:
        """Whether a row with the same user and inputs is in flight whose run is not known yet."""
        return any(
            other is not item and other.ref is None and other.user == item.user and _alike(other, item)
            for other in self._engine.pool.running.values()
        )

    async def _entries(self, item: Item, *, pages: int) -> tuple[list[LogEntry], bool]:
        """The newest runs of the item's user, and whether they are all that can matter."""
        client = self._engine.client
        own = Slots.is_own(item.user)
        after = None
        if not own and item.sent_at:
            after = datetime.fromtimestamp(item.sent_at + client.clock_offset - _CLOCK_SLACK, UTC)
        entries: list[LogEntry] = []
        for page in range(1, pages + 1):
            answer = await client.logs(user=item.user, after=after, page=page)
            entries += answer.entries
            if not answer.has_more:
                return entries, True
        return entries, own  # a user of its own sends one request after the other: the newest page has the lost one

    def _is_free(self, entry: LogEntry, item: Item) -> bool:
        return (
            entry.run_id not in self._claimed
            and entry.run_id not in item.known_runs
            and not self._engine.has_run(entry.run_id)
        )

    async def _inputs(self, entry: LogEntry) -> str | None:
        """The inputs of a run, as JSON text. Raises ConnectionFailed if nothing was learnt."""
        detail = await self._engine.client.run_detail(RunRef(entry.run_id))
        if isinstance(detail.outcome, Unreachable):
            raise ConnectionFailed(detail.outcome.message)
        return detail.inputs

    # ---------------------------------------------------------------- known runs

    async def follow(self, item: Item, *, until: float) -> Outcome:
        """Stays with a known run until it ends, or `until` (monotonic). Its detail decides; events only hasten it.

        Gives Succeeded, Failed (final), Paused, Fatal, or Running if the time is up; Running with the reason
        "unknown to the server" where run detail answers 404.
        """
        engine = self._engine
        assert item.ref is not None
        pause = _POLL_FIRST
        while True:
            outcome = await self.detail(item)
            if not isinstance(outcome, Running | Unreachable):
                return outcome
            left = until - time.monotonic()
            # Right after its start a run may not be in the database yet.
            young = time.time() - item.started_at < engine.settings.settle
            if left <= 0 or engine.giving_up or (not_found(outcome) and not young):
                return outcome if isinstance(outcome, Running) else Running(item.ref, outcome.message)
            if isinstance(outcome, Unreachable):
                engine.outage.begin(outcome.message)
                await engine.sleep(min(pause, left))
            elif not_found(outcome):
                await engine.sleep(min(pause, left))
            elif item.mode == "streaming" and item.user:
                began = time.monotonic()
                seen = await engine.client.follow(item.ref, user=item.user, timeout=min(_ATTACH, left))
                if isinstance(seen, Succeeded | Paused) or (isinstance(seen, Failed) and seen.confirmed):
                    return seen
                if time.monotonic() - began < pause:
                    await engine.sleep(min(pause, left))  # cut at once: no tight loop
            else:
                await engine.sleep(min(pause, left))
            pause = min(pause * 2, _POLL_LAST)

    async def detail(self, item: Item) -> Outcome:
        """One look at run detail. Running if it still runs, Unreachable if nothing was learnt."""
        assert item.ref is not None
        async with self._gate:
            detail = await self._engine.client.run_detail(item.ref)
        if detail.outcome is None:
            return _not_found(item.ref)
        item.seen_running = isinstance(detail.outcome, Running)
        if isinstance(detail.outcome, Paused) and not detail.outcome.forms and item.user:
            # Run detail does not have the form; the events do [18e].
            seen = await self._engine.client.follow(item.ref, user=item.user, timeout=_FORM_WITHIN)
            if not isinstance(seen, Running | Unreachable):
                return seen
        return detail.outcome


def _alike(one: Item, other: Item) -> bool:
    """Whether two rows ask the same, but for their ids."""
    return {**one.values, "id": None} == {**other.values, "id": None}


def _not_found(ref: RunRef) -> Running:
    return Running(ref, "the run is unknown to the server")


def not_found(outcome: Outcome) -> bool:
    return isinstance(outcome, Running) and outcome == _not_found(outcome.ref)


__all__ = ["Absent", "Found", "Recovery", "Unavailable", "Verdict", "not_found"]
