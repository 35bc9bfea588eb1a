"""One attempt for one row: upload, intent, POST, and what is told of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from dify_batch.dify.fence import fenced
from dify_batch.engine.claims import Claims
from dify_batch.engine.facts import Answered, Fact, NotSent, Sent, Started, run_of
from dify_batch.engine.health import Health
from dify_batch.engine.mode import Mode
from dify_batch.engine.pace import Starts
from dify_batch.engine.permits import Permits
from dify_batch.engine.slots import Slot, Slots
from dify_batch.engine.surface import Surface
from dify_batch.engine.work import Work
from dify_batch.input.files import Inputs, find_local, with_uploads
from dify_batch.input.user import user_fault
from dify_batch.outcomes import Failed, Lost, Outcome, Rejected, RunRef, Succeeded, Throttled, Unreachable
from dify_batch.seams import Clock

log: logging.Logger = logging.getLogger("dify_batch")


class Journal(Protocol):
    """What is used of the ledger."""

    def next_attempt(self, row_id: str) -> int: ...
    async def sent(
        self, row_id: str, *, user: str, mode: str, server: float | None = None, trace: str = "", shared: bool = False
    ) -> int: ...


class Attempts:
    """Args:
    gate: spaces the requests on the wire, as the disk may hold back several intents and then let them go together.
    mode: says which response mode the next request takes. `timeout`: seconds for one run.
    tell: tells the course a fact of a row. `may_send`: whether a row may still be sent.
    in_flight: how many are. `pause`: sleeps, or less if no more rows are taken.
    ended: told each answer, its mode, and how long it took.
    trace: gives the X-Trace-Id of a row's attempt.
    judged: holds an outcome against --expect.
    permits: where a coordinator lets each row go; None without one.
    posted: called with 1 for each POST that goes, and -1 for one that turned out not to have left.
    """

    def __init__(
        self,
        client: Surface,
        journal: Journal,
        slots: Slots,
        claims: Claims,
        health: Health,
        gate: Starts,
        clock: Clock,
        *,
        mode: Callable[[], Mode],
        timeout: float,
        tell: Callable[[Work, Fact], None],
        may_send: Callable[[Work], bool],
        in_flight: Callable[[], int],
        pause: Callable[[float], Awaitable[None]],
        trace: Callable[[str, int], str],
        posted: Callable[[int], None],
        ended: Callable[[Outcome, Mode, float], None] = lambda *_: None,
        judged: Callable[[Outcome], Outcome] = lambda outcome: outcome,
        permits: Permits | None = None,
    ) -> None:
        self._client = client
        self._journal = journal
        self._slots = slots
        self._claims = claims
        self._health = health
        self._gate = gate
        self._clock = clock
        self._mode = mode
        self._timeout = timeout
        self._tell = tell
        self._may_send = may_send
        self._in_flight = in_flight
        self._pause = pause
        self._trace = trace
        self._permits = permits
        self._posted = posted
        self._ended = ended
        self._judged = judged

    async def make(self, work: Work, *, goes_first: bool) -> None:
        """Sends a row once and tells the course what came of it.

        Raises StorageError: the intent could not be written; nothing was sent.
        """
        assert work.inputs is not None
        slot = self._slots.take()
        lost = True
        try:
            with self._health.outage.first(goes_first):
                lost = await self._send(work, slot, self._slots.user(slot, work.cells), goes_first)
        finally:
            self._slots.give(slot, lost=lost)

    async def _send(self, work: Work, slot: Slot, user: str, goes_first: bool) -> bool:
        """Whether the slot's user may have a run that no row claims."""
        inputs, clock = work.inputs, self._clock
        assert inputs is not None
        mode = self._mode()
        if refused := user_fault(user):
            self._refuse(work, user, mode, Rejected("invalid_user", refused))
            return False
        if inputs.has_local:
            uploaded = await self._upload(inputs, user)
            if not isinstance(uploaded, Inputs):
                now = clock.monotonic()
                self._health.note(
                    uploaded, row_id=work.id, seconds=0.0, sent=now, in_flight=self._in_flight(), first=goes_first
                )
                self._refuse(work, user, mode, uploaded)
                return False
            inputs = work.uploaded = uploaded
        server = clock.wall() + self._client.clock_offset if self._client.server_time_known else None
        trace = self._trace(work.id, self._journal.next_attempt(work.id))
        shared = self._slots.shared
        await self._journal.sent(work.id, user=user, mode=mode, server=server, trace=trace, shared=shared)
        work.intent = True
        delay = self._gate.claim() if self._gate.spaced else 0.0
        if delay > 0:
            await self._pause(delay)
        holds: Callable[[], bool] | None = None
        if self._permits is not None:
            holds = await self._permits.use(work, lambda: self._may_send(work), self._pause)
        if (delay > 0 and not self._may_send(work)) or (self._permits is not None and holds is None):
            self._tell(work, NotSent("the batch stopped before it was sent"))
            return False
        self._tell(work, Sent(user, mode, clock.wall(), server))
        log.debug("sent as %s", user, extra={"row": work.id})
        self._posted(1)
        work.posted_at = began = clock.monotonic()
        work.suspect_since, work.overdue, work.sent_inputs = None, False, None  # all of them the last POST's
        work.shared = shared
        started = False

        def on_started(ref: RunRef) -> None:
            nonlocal started
            if not self._claims.claim_all(ref.names, work.id):
                raise Foreign(ref)
            started = True
            work.known_at = clock.monotonic()
            slot.runs.extend(ref.names)
            self._tell(work, Started(ref, clock.wall(), delay=work.known_at - began))
            self._health.started(work.known_at - began, mode, self._in_flight(), began)

        with fenced(holds or always) as fence:
            try:
                outcome = await self._client.run(
                    inputs.values,
                    user=user,
                    mode=mode,
                    files=inputs.files,
                    timeout=self._timeout,
                    on_started=on_started,
                    trace_id=trace,
                )
            except Foreign as error:
                outcome = error.outcome
        if fence.stopped and isinstance(outcome, Unreachable):  # the server has no part in it
            self._posted(-1)
            self._tell(work, Answered(outcome))
            return False
        outcome = self._judged(outcome)
        seconds = clock.monotonic() - began
        ref = run_of(outcome)
        # What a blocking answer took beyond the run itself, it waited for a connection slot.
        waited = None
        if isinstance(outcome, Succeeded | Failed) and (run_for := outcome.result.elapsed_time) is not None:
            waited = max(0.0, seconds - run_for)
        if ref is not None and not started:
            if self._claims.claim_all(ref.names, work.id):
                work.known_at = clock.monotonic()
                slot.runs.extend(ref.names)
                # Before the next intent of this slot: its user must not lead to a run that no row seems to have.
                self._tell(work, Started(ref, clock.wall(), delay=waited))
            else:
                outcome = Foreign(ref).outcome
        if isinstance(outcome, Succeeded | Failed) and (ended := outcome.result.finished_at) is not None:
            self._health.told_time(ended - clock.wall() - self._client.clock_offset)
        if not started and waited is not None:
            self._health.started(waited, mode, self._in_flight(), began)
        if isinstance(outcome, Unreachable):
            self._posted(-1)
        self._health.ended(outcome, mode)
        self._ended(outcome, mode, seconds)
        self._health.note(
            outcome, row_id=work.id, seconds=seconds, sent=began, in_flight=self._in_flight(), first=goes_first
        )
        if isinstance(outcome, Lost):
            work.known_runs = frozenset(slot.runs)
            work.lost_at = clock.monotonic()
        # Whoever goes first finds out whether an outage is over: what it meets is the outage's.
        self._tell(work, Answered(outcome, excused=goes_first and isinstance(outcome, Unreachable)))
        return isinstance(outcome, Lost) or _left_behind(outcome)

    def _refuse(self, work: Work, user: str, mode: Mode, outcome: Outcome) -> None:
        """Something before the POST decides: no intent was written, none is needed."""
        work.intent = False
        self._tell(work, Sent(user, mode, self._clock.wall()))
        self._tell(work, Answered(outcome))

    async def _upload(self, inputs: Inputs, user: str) -> Inputs | Outcome:
        """Uploads a row's local files with the run's own user. Harmless, so it may be done again at will; but only a
        server that was not reached leaves the row's retries alone."""
        ids = {}
        for file in find_local(inputs.values, inputs.files):
            sent = await self._client.send_file(str(file.path), user=user, mime=file.mime_type)
            if not isinstance(sent, str):
                return sent
            ids[file] = sent
        return with_uploads(inputs, ids)


def _left_behind(outcome: Outcome) -> bool:
    """Whether something without a name may stand on the server under the request's user: a later look-up must not take
    it for another row's run."""
    if isinstance(outcome, Rejected | Throttled):
        return outcome.left
    return isinstance(outcome, Succeeded | Failed) and not outcome.result.ref.run_id


def always() -> bool:
    """A request without a permit goes whenever its connection is there."""
    return True


class Foreign(Exception):
    """An answer named a run that another row has: it is not this row's answer, and what became of its POST is open."""

    def __init__(self, ref: RunRef) -> None:
        super().__init__(ref.run_id)
        self.outcome: Lost = Lost(f"the answer named run {ref.run_id}, which is another row's", server_error=False)
