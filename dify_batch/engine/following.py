"""Stays with known runs: by their events while somebody waits for them, by their detail in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from dify_batch.dify.answers import Detail
from dify_batch.dify.sameness import same_inputs
from dify_batch.engine.facts import Gone, Seen
from dify_batch.engine.health import Health
from dify_batch.engine.work import Work
from dify_batch.outcomes import Failed, Outcome, Paused, Running, RunRef, Succeeded, Unreachable
from dify_batch.seams import Clock
from dify_batch.strictjson import json_object

# The snapshot of a paused run comes within a second [18e]; of a run made in blocking mode none comes [24o].
_FORM_WITHIN = 5.0
# How long one attachment to a run's events lasts before run detail is asked again. Events that were lost with Redis
# do not come again [26i], and the endpoint pings for ever.
_ATTACH = 30.0
# Polling of run detail backs off between these, seconds.
_POLL_FIRST, _POLL_LAST = 0.5, 15.0


class Client(Protocol):
    """What is used of the client."""

    @property
    def clock_offset(self) -> float: ...

    async def run_detail(self, ref: RunRef, *, user: str | None = None) -> Detail: ...
    async def follow(self, ref: RunRef, *, user: str, timeout: float) -> Outcome: ...


class Following:
    """Args:
    settle: --settle, seconds: right after its start a run may not be in the database yet.
    stuck_after: seconds after which a run that says running is given up.
    leaving: whether nothing is waited for any more. `pause`: sleeps, or less if the batch leaves.
    judged: holds an outcome against --expect.
    """

    def __init__(
        self,
        client: Client,
        health: Health,
        clock: Clock,
        *,
        gate: asyncio.Semaphore,
        settle: float,
        stuck_after: Callable[[], float],
        leaving: Callable[[], bool],
        pause: Callable[[float], Awaitable[None]],
        judged: Callable[[Outcome], Outcome] = lambda outcome: outcome,
    ) -> None:
        self._client = client
        self._health = health
        self._clock = clock
        self._gate = gate
        self.looking: int = 0
        """Details that are asked for."""
        self._settle = settle
        self._stuck_after = stuck_after
        self._leaving = leaving
        self._pause = pause
        self._judged = judged

    async def follow(self, work: Work, *, until: float, dead: Callable[[], bool]) -> Seen | Gone:
        """Stays with a known run until it ends, or is stuck, or is probably `dead`, or `until` (monotonic). Its detail
        decides; events only hasten it."""
        assert work.ref is not None
        pause = _POLL_FIRST
        failed_at: float | None = None
        while True:
            fact = await self.look(work)
            if isinstance(fact, Gone) and not self._young(work):
                return fact
            outcome = fact.outcome if isinstance(fact, Seen) else None
            if isinstance(fact, Seen) and (fact.stuck or not isinstance(outcome, Running | Unreachable)):
                return fact
            if isinstance(fact, Seen) and isinstance(outcome, Running) and dead():
                return fact
            left = until - self._clock.monotonic()
            if left <= 0 or self._leaving() or work.row.given_up:
                return Seen(outcome or Running(work.ref, "unknown to the server so far"), overdue=True)
            if isinstance(outcome, Unreachable):
                # The detail of one run may fail for ever; the others need not wait for it again and again.
                if failed_at is None or self._health.away_since(failed_at):
                    self._health.outage.begin(outcome.message)
                failed_at = self._clock.monotonic()
                await self._pause(min(pause, left))
            elif outcome is not None and work.mode == "streaming" and work.user:
                began = self._clock.monotonic()
                seen = await self._client.follow(work.ref, user=work.user, timeout=min(_ATTACH, left))
                if isinstance(seen, Succeeded | Paused) or (isinstance(seen, Failed) and seen.confirmed):
                    return Seen(self._judged(seen))
                if self._clock.monotonic() - began < pause:
                    await self._pause(min(pause, left))  # cut at once: no tight loop
            else:
                await self._pause(min(pause, left))
            pause = min(pause * 2, _POLL_LAST)

    async def look(self, work: Work) -> Seen | Gone:
        """One look at run detail: Running if it still runs, Unreachable if nothing was learnt."""
        assert work.ref is not None
        self.looking += 1
        try:
            async with self._gate:
                detail = await self._client.run_detail(work.ref, user=work.user or None)
        finally:
            self.looking -= 1
        outcome = detail.outcome
        # A row that has gone from the table, or has changed there since: the result is the answer to what was sent.
        changed = work.row.before and not same_inputs(work.values, detail.inputs)
        if (work.inputs is None or changed) and work.sent_inputs is None and detail.inputs is not None:
            work.sent_inputs = _as_sent(work.id, detail.inputs)
        if outcome is None:
            return Gone(work.ref)
        if isinstance(outcome, Paused) and not outcome.forms and work.user:
            # Run detail does not have the form; the events do [18e].
            seen = await self._client.follow(work.ref, user=work.user, timeout=_FORM_WITHIN)
            if not isinstance(seen, Running | Unreachable):
                outcome = seen
        goes_on = isinstance(outcome, Running | Unreachable)
        return Seen(self._judged(outcome), stuck=goes_on and self._age(work, detail.created_at) >= self._stuck_after())

    def _age(self, work: Work, created_at: float | None) -> float:
        """Seconds since the run began: by the server's own times, which no jump of our clock changes, else by ours."""
        here = self._clock.monotonic() - work.known_at
        if created_at is None:
            return here
        return max(here, self._clock.wall() + self._client.clock_offset - created_at)

    def _young(self, work: Work) -> bool:
        return self._clock.monotonic() - work.known_at < self._settle


def _as_sent(row_id: str, inputs: str) -> Mapping[str, Any] | None:
    """What was sent, as run detail tells it, which has null for what was left out. Dify's own inputs are no one's."""
    told = json_object(inputs.encode("utf-8", "surrogatepass"))
    if told is None:
        return None
    return {"id": row_id} | {
        name: value for name, value in told.items() if value is not None and not name.startswith("sys.")
    }
