"""One batch under way: makes the parts of the engine, gives each what it uses, and drives them to the end.

A row passes through `pool.py` (which goes when), `attempt.py` (one POST), `course.py` (what follows) and `books.py`
(what it came to); `conductor.py` carries the steps between them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from dify_batch.backoff import Backoff
from dify_batch.dify.answers import LogEntry
from dify_batch.engine.attempt import Attempts
from dify_batch.engine.auto import START
from dify_batch.engine.backlog import Backlog
from dify_batch.engine.books import Books
from dify_batch.engine.budget import Budget, Verdict
from dify_batch.engine.canary import Canary
from dify_batch.engine.claims import Claims
from dify_batch.engine.conductor import Conductor, Parts
from dify_batch.engine.course import Rules
from dify_batch.engine.expecting import Expectation
from dify_batch.engine.facts import Answered
from dify_batch.engine.following import Following
from dify_batch.engine.health import Health
from dify_batch.engine.limit import Limit
from dify_batch.engine.lookups import Limits, Lookups
from dify_batch.engine.mode import Mode, Modes
from dify_batch.engine.options import Options
from dify_batch.engine.order import Order
from dify_batch.engine.outage import Outage
from dify_batch.engine.pace import Starts
from dify_batch.engine.permits import Permits
from dify_batch.engine.pool import Pool
from dify_batch.engine.row import Stage
from dify_batch.engine.slots import PREFIX, Slots
from dify_batch.engine.stopping import Stopping, error_of_outage
from dify_batch.engine.surface import Surface
from dify_batch.engine.work import Work
from dify_batch.ids import trace_id
from dify_batch.ledger.store import Ledger
from dify_batch.outcomes import Outcome, Running
from dify_batch.seams import Seams
from dify_batch.summary import Stats
from dify_batch.usage import Use

log: logging.Logger = logging.getLogger("dify_batch")

# Look-ups share the server's connection slots with runs (10 on a default Dify), so only a few at a time.
LOOKUPS_AT_ONCE = 4
# Whatever is looked up is looked up again soon: for so long, seconds, the runs leave room for it.
ROOM_FOR = 30.0
# `--stuck-after auto`: Dify stops a run after 20 minutes by itself (APP_MAX_EXECUTION_TIME, WORKFLOW_MAX_EXECUTION_TIME
# 1200 s), so one that says running after 25 has no worker any more; or a quarter more than the longest seen.
STUCK_AFTER, STUCK_FACTOR = 1500.0, 1.25


class Engine:
    """One batch under way. `run` returns when every row that it took is settled, or the batch had to stop."""

    conductor: Conductor
    stopping: Stopping

    def __init__(
        self,
        options: Options,
        client: Surface,
        ledger: Ledger,
        stats: Stats,
        seams: Seams,
        *,
        batch: str,
        limit: Limit,
        budget: Budget | None = None,
        expectation: Expectation | None = None,
        permits: Permits | None = None,
        new_limit: Callable[[int], Limit] | None = None,
        rows: Iterator[Work],
        recovered: list[Work],
        repeat: Callable[[frozenset[str], bool], Iterator[Work]],
        retry_pass: bool = False,
        copies: Mapping[str, Sequence[str]] | None = None,
        numbers: Mapping[str, int] | None = None,
    ) -> None:
        clock = seams.clock
        self._options = options
        self._budget = budget
        self._expectation = expectation
        judged = expectation.judged if expectation is not None else (lambda outcome: outcome)
        self._permits = permits
        # Only streams tell the price.
        in_money = budget is not None and budget.max_cost is not None
        self.modes: Modes = Modes(options.mode, stay="streaming" if in_money else None)
        self._new_limit = new_limit
        stats.mode_why = "" if options.mode != "auto" else self.modes.why
        self._stats = stats
        self._clock = clock
        self._room_until = float("-inf")
        backoff = Backoff(options.initial_retry_delay, options.max_retry_delay, seams.chance)
        outage = Outage(client.probe, backoff.seconds, options.max_outage, self._outage_too_long, clock, self._woken)
        self.health: Health = Health(outage, limit, clock, settle=options.settle, longest_pause=options.max_retry_delay)
        self.claims: Claims = Claims()
        gate = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        one_at_a_time = options.concurrency == 1
        wait = 0.0 if one_at_a_time else options.wait
        rules = Rules(options.policy, options.max_retries)
        conductor = self.conductor = Conductor(rules, backoff, clock, timeout=options.timeout)
        stopping = self.stopping = Stopping(client, clock, self, release=outage.close, look_with=options.look_with)
        self.books: Books = Books(
            ledger,
            stats,
            Order() if options.keep_order else None,
            stopped_by_user=lambda: stopping.stopped_runs,
            on_failure=self._failed,
            on_use=self._used,
            on_end=self._run_ended,
            remember=retry_pass,
            copies=copies,
            numbers=numbers,
            on_change=self.changed,
        )
        self._following = Following(
            client,
            self.health,
            clock,
            gate=gate,
            settle=options.settle,
            stuck_after=self._stuck_after,
            leaving=lambda: stopping.leaving,
            pause=stopping.pause,
            judged=judged,
        )
        backlog = Backlog(
            client, clock, ours=self._is_ours, over=self.claims.over, dead=self._is_dead, stuck_after=self._stuck_after
        )
        self._lookups = Lookups(
            client,
            backlog,
            self.health,
            self.claims,
            clock,
            Limits(options.timeout, options.settle, options.max_outage),
            gate=gate,
            last=lambda: self.pool.last,
            taking=lambda: stopping.taking,
            leaving=lambda: stopping.leaving,
            others=self.works,
            pause=stopping.sleep,
        )
        attempts = Attempts(
            client,
            ledger,
            Slots(batch, options.user),
            self.claims,
            self.health,
            # Rows are let into the pool by one schedule and onto the wire by another of the same pace, as the disk may
            # hold back the intents of several rows and then let them go together.
            Starts(clock, rate=options.rate, wait=wait),
            clock,
            mode=lambda: self.modes.current,
            timeout=options.timeout,
            tell=conductor.tell,
            may_send=conductor.may_send,
            in_flight=lambda: self.pool.in_flight,
            pause=stopping.sleep,
            trace=lambda row_id, attempt: trace_id(batch, row_id, attempt),
            permits=permits,
            posted=self._posted,
            ended=self._ended,
            judged=judged,
        )
        self.pool: Pool = Pool(
            rows,
            [],
            self.health,
            clock,
            stats,
            starts=Starts(clock, rate=options.rate, wait=wait),
            pause_after=options.wait if one_at_a_time else 0.0,
            auto=options.concurrency == "auto",
            bring_on=conductor.bring_on,
            may_send=conductor.may_send,
            taking=lambda: stopping.taking,
            leaving=lambda: stopping.leaving,
            sleep=stopping.sleep,
            budget=self._may_begin,
            begin=conductor.begin,
            drop=conductor.drop,
            **({} if permits is None else {"took": permits.took, "let_go": permits.let_go}),
            beside=lambda: (conductor.delayed, conductor.looking),
            held=lambda: self.books.held,
            read_all=self.books.read_all,
            fail=stopping.fail,
            crashed=conductor.crashed,
        )
        conductor.parts = Parts(
            attempts, self._following, self._lookups, self.pool, self.books, stopping, self.health, self.claims
        )
        self._recovered = recovered
        self._repeat = repeat
        self._canary = Canary(
            client.probe,
            clock,
            in_flight=lambda: self.pool.in_flight,
            wanted=self._wants_room,
            tell=self._looked,
        )

    # ---------------------------------------------------------------- the batch

    async def run(self) -> None:
        """Works until all is settled. Errors that stopped it are in `stopping.error`."""
        watching = asyncio.ensure_future(self.conductor.watch())
        singing = asyncio.ensure_future(self._canary.sing())
        try:
            for work in self._recovered:
                self.conductor.resume(work)
            self.books.copies.open()
            if self._permits is not None:
                self._permits.attach(self)
            await self._work()
            if self.stopping.taking and (orphans := frozenset(self.books.copies.orphans)):
                log.info("%d rows have to run by themselves, as the run that they share had other inputs", len(orphans))
                self.pool.more(self._repeat(orphans, False))
                await self._work()
            if self.stopping.taking and (failed := self.books.repeatable):
                log.info("%d rows that have failed go once more", len(failed))
                self.pool.more(self._repeat(failed, True))
                await self._work()
            self.books.close()
            self.conductor.leave_watched()
        finally:
            ending = [watching, singing, *self.pool.tasks, *self.conductor.beside]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            self.health.outage.close()
            if self._permits is not None:
                self._permits.detach()

    async def _work(self) -> None:
        """Until all rows are through, or the batch has stopped."""
        await self.pool.work()
        await self._end()
        await self.stopping.stopped()
        if not self.stopping.abandoned and self.conductor.watched:
            await self.conductor.look_at_watched()
            await self.pool.work()  # a watched run has failed, and the policy repeats it
            await self._end()

    async def _end(self) -> None:
        while self.pool.running or self.conductor.beside:
            await asyncio.wait([*self.pool.running, *self.conductor.beside], timeout=1.0)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return self.pool.done and not self.pool.running and not self.conductor.beside

    # ---------------------------------------------------------------- rows under way, for `stopping` and look-ups

    def works(self) -> Iterable[Work]:
        return [*self.pool.running.values(), *self.conductor.watched.values()]

    def cancel(self, *, unnamed_only: bool) -> None:
        for task, work in list(self.pool.running.items()):
            if work.ref is None or not unnamed_only:
                task.cancel()
        for task in list(self.conductor.beside):
            task.cancel()

    def let_go(self) -> None:
        for task, work in list(self.pool.running.items()):
            if work.ref is not None and work.row.stage is Stage.SENT:
                told = Answered(Running(work.ref, "its stream was closed"))
                task.add_done_callback(partial(self._let_go, work, told))
                task.cancel()

    def _let_go(self, work: Work, told: Answered, task: asyncio.Task[None]) -> None:
        """Its place is free: from here on its detail is asked."""
        if task.cancelled():
            self.conductor.tell(work, told)

    async def look_again(self, within: float) -> bool:
        if self.pool.running:
            await asyncio.wait(list(self.pool.running), timeout=within)
        elif self.conductor.watched:
            await asyncio.sleep(within)
        await self.conductor.look_at_watched()
        return bool(self.pool.running or self.conductor.watched)

    def changed(self) -> None:
        self.pool.wake()

    def _woken(self) -> None:
        self.pool.wake()

    # ---------------------------------------------------------------- what the parts ask

    def _ended(self, outcome: Outcome, mode: Mode, seconds: float) -> None:
        """An attempt has come to its end. A change of mode begins the search for the best concurrency anew: what the
        server bears is another number."""
        if self.modes.ended(outcome, mode, seconds):
            log.info("mode %s from now on: %s", self.modes.current, self.modes.why)
            self._stats.mode_why = self.modes.why
            if self._new_limit is not None:
                self.health.limit = self._new_limit(self.health.limit.current)
            self.pool.wake()

    def _wants_room(self) -> bool:
        """Whether it matters that the runs leave a connection of the server free: --concurrency auto goes by it, and
        what is looked up must not wait behind the batch's own runs."""
        now = self._clock.monotonic()
        if self.conductor.looking or self._following.looking:
            self._room_until = now + ROOM_FOR
        if self.health.outage.active:
            return False
        return now < self._room_until or (self._options.concurrency == "auto" and self.health.limit.current > START)

    def _looked(self, seconds: float, in_flight: int) -> None:
        self.health.limit.looked(seconds, in_flight)
        self.pool.wake()

    def _run_ended(self, outcome: Outcome) -> None:
        if self._expectation is not None and (error := self._expectation.told(outcome)) is not None:
            self.stopping.fail(error)

    def _posted(self, more: int) -> None:
        self._stats.posts += more

    # ---------------------------------------------------------------- what a coordinator's permits ask

    def taken_places(self) -> int:
        return self.pool.in_flight + self.pool.waiting

    def being_looked_up(self) -> int:
        return self.conductor.looking

    def has_rows(self) -> bool:
        return self.pool.sends

    def outage(self) -> str:
        outage = self.health.outage
        return outage.reason if outage.active and (outage.confirmed or outage.throttled) else ""

    def _failed(self) -> None:
        self.stopping.count_failure()
        if self._permits is not None:
            self._permits.failed()

    def _used(self, use: Use) -> None:
        if self._budget is not None:
            self._budget.told(use)
        if self._permits is not None:
            self._permits.told(use)

    def _may_begin(self) -> str | None:
        if self._permits is not None:
            return "begin" if self._permits.may_take() else "wait"
        if self._budget is None:
            return "begin"
        verdict = self._budget.decide(self.pool.in_flight + self.conductor.looking)
        self._stats.budget_waits = verdict is Verdict.WAIT
        if verdict is not Verdict.REACHED:
            return str(verdict.value)
        self.stopping.fail(self._budget.error(max(0, self._stats.to_run - self._stats.finished)))
        return None

    def _stuck_after(self) -> float:
        asked = self._options.stuck_after
        return max(STUCK_AFTER, STUCK_FACTOR * self.health.longest_run) if asked is None else asked

    def _is_ours(self, entry: LogEntry) -> bool:
        return (entry.user or "").startswith(PREFIX) or self.claims.known(entry.run_id)

    def _is_dead(self, run_id: str) -> bool:
        """Whether a run that the log shows as running is probably dead."""
        return any(work.row.dead and work.ref is not None and work.ref.run_id == run_id for work in self.works())

    def _outage_too_long(self) -> None:
        outage = self.health.outage
        most = self._options.max_outage
        self.stopping.fail(error_of_outage(outage.reason, most, alike=outage.alike, throttled=outage.throttled))
        self.stopping.leave()
