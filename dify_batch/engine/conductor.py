"""Carries out the course: tells each fact to `course.advance`, and does what its steps say.

It is the one place where a row's state is replaced. Rows in a place of the pool are brought on here (`bring_on`); what
needs no place (waits, look-ups, runs that are probably dead) goes on beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from dify_batch.backoff import Backoff
from dify_batch.engine.attempt import Attempts
from dify_batch.engine.books import Books
from dify_batch.engine.claims import Claims
from dify_batch.engine.course import Rules, advance
from dify_batch.engine.facts import Begun, Fact, Gone, NoMoreRows, ProbablyDead, Seen, Started
from dify_batch.engine.following import Following
from dify_batch.engine.health import Health, probably_dead
from dify_batch.engine.lookups import Lookups
from dify_batch.engine.pool import Pool
from dify_batch.engine.row import Impossible, Stage
from dify_batch.engine.steps import STUCK, Follow, GiveUp, Keep, Leave, LookUp, Send, StopBatch, Watch
from dify_batch.engine.stopping import Stopping, error_of_fatal
from dify_batch.engine.work import Work
from dify_batch.errors import DifyBatchError
from dify_batch.outcomes import Running, Unreachable
from dify_batch.seams import Clock

log: logging.Logger = logging.getLogger("dify_batch")

# A run that outlived --timeout, or is probably dead, is looked at between so often and so rarely, seconds.
_WATCH_FIRST, _WATCH_LAST = 5.0, 60.0


@dataclass(slots=True)
class Parts:
    """What the steps are carried out with."""

    attempts: Attempts
    following: Following
    lookups: Lookups
    pool: Pool
    books: Books
    stopping: Stopping
    health: Health
    claims: Claims


class Conductor:
    """`parts` is set once all of them are made. `timeout`: --timeout, seconds."""

    parts: Parts

    def __init__(self, rules: Rules, backoff: Backoff, clock: Clock, *, timeout: float) -> None:
        self._rules = rules
        self._backoff = backoff
        self._clock = clock
        self._timeout = timeout
        self.beside: set[asyncio.Task[None]] = set()
        self.watched: dict[str, Work] = {}
        self.delayed: int = 0
        """Rows that wait to be sent again."""
        self.looking: int = 0
        """Rows that are looked up."""

    # ---------------------------------------------------------------- facts and steps

    def tell(self, work: Work, fact: Fact) -> None:
        """Tells the course a fact of a row, the journal what it says of its run, and carries out the steps."""
        work.story.append(fact)
        was = work.row
        try:
            work.row, steps = advance(self._rules, was, fact)
        except Impossible as error:
            self.crashed(error, work)
            return
        books = self.parts.books
        books.record(work, fact)
        for step in steps:
            match step:
                case Send():
                    self._send(work, step)
                case Follow(reason=reason):
                    self._follow(work, reason, was.stage)
                case Watch():
                    if work.row.dead:
                        self.watched[work.id] = work
                        books.dead(len(self.watched))
                case LookUp(reason=reason):
                    log.info("the answer was lost (%s): looked up in the server's log", reason, extra={"row": work.id})
                    self._beside(self._look_up(work, reason), looks=True)
                case Keep():
                    books.kept(work, step)
                case GiveUp():
                    if step.code == STUCK:
                        self._worker_died(work, was.begun)
                    books.given_up(work, step)
                case StopBatch(fatal=fatal):
                    self.parts.stopping.fail(error_of_fatal(fatal))
                case Leave():
                    books.left(work)
        if work.row.stage is Stage.SETTLED and work.row.ref is not None:
            for name in work.row.ref.names:
                self.parts.claims.settled(name)

    def begin(self, work: Work) -> bool:
        """A new row is taken from the input; true if it wants a place in the pool now."""
        self.parts.books.begun(work)
        stage = work.row.stage
        if stage is Stage.NEW:
            return True
        self.tell(work, Begun())
        return False

    def resume(self, work: Work) -> None:
        """A row that an earlier invocation left open is taken up again."""
        self.parts.books.begun_before(work)
        work.known_at = self._clock.monotonic()
        self.tell(work, Begun())
        if work.row.dead:
            self.parts.books.goes_on(work, True)

    def drop(self, work: Work) -> None:
        """A row that waits to be sent is not sent any more."""
        self.tell(work, NoMoreRows())

    def may_send(self, work: Work) -> bool:
        return self.parts.stopping.taking and work.row.may_send

    # ---------------------------------------------------------------- sending and following

    def _send(self, work: Work, step: Send) -> None:
        if step.repetition == 0:
            self.parts.pool.send(work)
            return
        if not self.may_send(work):
            self.drop(work)
            return
        wait = self._backoff.seconds(step.repetition, step.retry_after)
        log.log(
            logging.WARNING if step.risky else logging.INFO if step.charged else logging.DEBUG,
            "sent again in %.1f s: %s%s",
            wait,
            step.reason,
            f" (retry {work.row.retries} of {self._rules.max_retries})" if step.charged else "",
            extra={"row": work.id},
        )
        self._beside(self._send_later(work, wait), delays=True)

    async def _send_later(self, work: Work, wait: float) -> None:
        await self.parts.stopping.sleep(wait)
        self.parts.pool.send(work)

    def _follow(self, work: Work, reason: str, was: Stage) -> None:
        if was is not Stage.KNOWN:
            log.info("its run %s is followed: %s", work.ref and work.ref.run_id, reason, extra={"row": work.id})
        if not self.parts.pool.holds(work):
            self.parts.pool.follow(work)

    async def bring_on(self, work: Work, goes_first: bool) -> None:
        """One row in its place in the pool, until its run has ended, or needs no place any more."""
        if work.row.stage in (Stage.NEW, Stage.WAITING):
            await self.parts.attempts.make(work, goes_first=goes_first)
        waited = 0
        while work.row.stage is Stage.KNOWN and not work.row.dead:
            if work.overdue:
                waited += 1
                await self._overdue(work, waited)
                continue
            fact = await self.parts.following.follow(work, until=self._until(work), dead=lambda: self._is_dead(work))
            self._heard(work, fact)
            if isinstance(fact, Seen) and fact.overdue and work.row.stage is Stage.KNOWN:
                self._goes_on(work)
        if work.overdue and not work.row.dead:
            work.overdue = False
            self.parts.books.goes_on(work, False)

    def _until(self, work: Work) -> float:
        if work.posted_at:
            return work.posted_at + self._timeout
        # Of an earlier invocation. When no more rows are taken, one look is enough.
        return self._clock.monotonic() + (self._timeout if self.parts.stopping.taking else 0.0)

    def _goes_on(self, work: Work) -> None:
        """It has outlived --timeout. It keeps its place, as it may be executing, but nobody waits for it at the end."""
        log.info("still running after --timeout; it is looked at again", extra={"row": work.id})
        work.overdue = True
        self.parts.books.goes_on(work, True)
        self.parts.pool.wake()

    async def _overdue(self, work: Work, times: int) -> None:
        stopping, pool = self.parts.stopping, self.parts.pool
        if not (pool.done or stopping.leaving):
            await self._watch_pause(min(_WATCH_FIRST * 2 ** (times - 1), _WATCH_LAST))
        last = pool.done or stopping.leaving
        if stopping.abandoned:
            self.tell(work, NoMoreRows(leaving=True))
            return
        self._heard(work, await self.parts.following.look(work))
        if last and work.row.stage is Stage.KNOWN:
            self.tell(work, NoMoreRows(leaving=True))

    async def _watch_pause(self, seconds: float) -> None:
        """Sleeps, or less if nothing else is left to do."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0 and not self.parts.pool.done:
            await self.parts.stopping.pause(min(left, 1.0))
            if self.parts.stopping.leaving:
                return

    def _heard(self, work: Work, fact: Seen | Gone) -> None:
        """What was seen of a known run, told to health and course."""
        if isinstance(fact, Seen):
            self.parts.health.ended(fact.outcome, work.mode)
            if isinstance(fact.outcome, Running) and self._is_dead(work):
                self._died(work)
                return
        self.tell(work, fact)

    def _is_dead(self, work: Work) -> bool:
        """Whether a run that says running is probably dead (design, section 9)."""
        if work.suspect_since is None:
            lost_by_api = work.mode == "blocking" and work.posted_at and self.parts.health.away_since(work.posted_at)
            if lost_by_api or self._fell_silent(work):
                work.suspect_since = self._clock.monotonic()
        since = work.suspect_since
        return probably_dead(None if since is None else self._clock.monotonic() - since, self.parts.health.longest_run)

    @staticmethod
    def _fell_silent(work: Work) -> bool:
        return any(isinstance(getattr(f, "outcome", None), Running) and f.outcome.silent for f in work.story)  # type: ignore[union-attr]

    def _died(self, work: Work) -> None:
        assert work.ref is not None
        log.warning(
            "run %s is probably dead: what executed it was away, and it has said running ever since; it leaves its "
            "place and is looked at now and then",
            work.ref.run_id,
            extra={"row": work.id},
        )
        if not work.overdue:
            self.parts.books.goes_on(work, True)
        self._worker_died(work, work.row.begun)
        self.tell(work, ProbablyDead())

    def _worker_died(self, work: Work, begun: float) -> None:
        """A blocking run is executed by the API: no worker died with it."""
        if work.mode == "streaming":
            self.parts.health.worker_died(self.parts.lookups.by_server(begun))

    # ---------------------------------------------------------------- beside the pool

    async def _look_up(self, work: Work, reason: str) -> None:
        fact = await self.parts.lookups.look_up(work, reason)
        if isinstance(fact, Started):
            assert fact.ref is not None
            log.info("found on the server: run %s", fact.ref.run_id, extra={"row": work.id})
            work.known_at = self._clock.monotonic()
        self.tell(work, NoMoreRows(leaving=True) if fact is None else fact)

    async def watch(self) -> None:
        """Looks at runs that are probably dead now and then, while the batch goes on."""
        pause = _WATCH_FIRST
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _WATCH_LAST) if self.watched else _WATCH_FIRST
            await self.look_at_watched()

    async def look_at_watched(self) -> None:
        """Looks at each once."""
        await asyncio.gather(*(self._look_at(work) for work in list(self.watched.values())))

    async def _look_at(self, work: Work) -> None:
        fact = await self.parts.following.look(work)
        over = isinstance(fact, Gone) or fact.stuck or not isinstance(fact.outcome, Running | Unreachable)
        if over and self.watched.pop(work.id, None) is not None:
            self.parts.books.dead(len(self.watched))
            self.parts.books.goes_on(work, False)
            if isinstance(fact, Seen):
                self.parts.health.ended(fact.outcome, work.mode)
            self.tell(work, fact)

    def leave_watched(self) -> None:
        """The batch ends: the runs that are probably dead stay as the journal has them."""
        for work in self.watched.values():
            self.parts.books.goes_on(work, False)
            self.tell(work, NoMoreRows(leaving=True))
        self.watched.clear()

    def _beside(self, work: Coroutine[Any, Any, None], *, delays: bool = False, looks: bool = False) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self.beside.add(task)
        self.delayed += delays
        self.looking += looks

        def done(task: asyncio.Task[None]) -> None:
            self.beside.discard(task)
            self.delayed -= delays
            self.looking -= looks
            if not task.cancelled() and (error := task.exception()) is not None:
                self.crashed(error, None)
            self.parts.pool.wake()

        task.add_done_callback(done)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except DifyBatchError as error:
            self.parts.stopping.fail(error)

    def crashed(self, error: BaseException, work: Work | None) -> None:
        """An exception that nobody foresaw ends the batch; what it leaves open stays in the journal."""
        log.debug("unexpected", exc_info=error)
        story = ""
        if work is not None:
            told = "; ".join(str(fact) for fact in work.story)
            story = f" (row {work.id}, at stage {work.row.stage.value}; its story: {told})"
        self.parts.stopping.fail(
            DifyBatchError(
                f"internal error: {type(error).__name__}: {error}{story}",
                hint="run it with -v --log-file batch.log and report what that says",
            )
        )
