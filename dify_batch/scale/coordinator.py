"""The coordinator: gives the parts of one batch out to workers, and holds what is the whole batch's.

A part is given to one worker at a time. When that has ended, of itself or by a kill -9, the part may be given out
again: the same command again is safe, and nothing smaller is ever repeated. A worker that is only silent has its part
still, and the lock of it; its permits run out by themselves, and after a minute it is ended.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque

from dify_batch.batch.frame import Frame
from dify_batch.engine.auto import MOST, AutoLimit
from dify_batch.engine.budget import Budget
from dify_batch.engine.limit import FixedLimit, Limit
from dify_batch.errors import BatchStopped, DifyBatchError
from dify_batch.scale.crew import Crew, Member
from dify_batch.scale.figures import Held, add_up
from dify_batch.scale.handing import handed
from dify_batch.scale.messages import Done, Figures, Log, Message, Part, Report, Stop
from dify_batch.scale.sharing import Sharing
from dify_batch.scale.survey import Survey
from dify_batch.scale.tasks import Task, tasks
from dify_batch.scale.whole import PartRun
from dify_batch.summary import Notice
from dify_batch.text import count

log: logging.Logger = logging.getLogger("dify_batch")

TICK = 0.25  # seconds between two looks at who is silent, and for a display that follows
SILENT = 60.0
"""Seconds after which a worker that says nothing is ended. Its permits have run out long before."""
LOCKED_AGAIN = 1.0  # seconds until a part is tried again whose files another process holds
DEATHS = 5  # of workers with one part, none of which has brought a row to its end

# These ends of a part are none of the batch: the other parts go on.
_GO_ON = frozenset({"rows_failed", "not_finished"})


class Coordinator:
    """`again`: the words of the command that was typed. `environment`: of the workers; the key is in it."""

    def __init__(self, frame: Frame, found: Survey, *, environment: dict[str, str]) -> None:
        self._frame = frame
        self._settings = settings = frame.settings
        self._stats = frame.stats
        self._seams = frame.seams
        self._found = found
        self._of = found.parts[0].shard.of
        self._parts = {part.shard.number: Held(PartRun(part)) for part in found.parts}
        self._queue: deque[Task] = deque(tasks(found, settings))
        self._wanted = min(settings.workers or 1, max(1, len(self._queue)))
        self._mode = ""
        self._failed_starts = 0
        clock = self._seams.clock
        budget = None
        if settings.max_tokens is not None or settings.max_cost is not None:
            budget = Budget(settings.max_tokens, settings.max_cost, found.used)
        self.sharing: Sharing = Sharing(
            self._limit(),
            clock,
            rate=settings.rate,
            wait=settings.wait,
            one_at_a_time=settings.concurrency == 1,
            budget=budget,
        )
        for part in found.parts:
            if part.executing:
                self.sharing.take(part.shard.number, part.executing)
        self._crew = Crew(
            environment,
            log.getEffectiveLevel(),
            self._seams,
            ready=self._ready,
            heard=self._heard,
            gone=self._gone,
            refused=self._refused,
        )
        self.error: DifyBatchError | None = None
        self._stopping = False
        self._over = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        self._starting: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- the whole

    @property
    def runs(self) -> list[PartRun]:
        return [part.run for part in self._parts.values()]

    @property
    def stopping(self) -> Coordinator:
        """What signals pull."""
        return self

    async def run(self) -> None:
        """Works until all parts have come to their end, or the batch had to stop. Then `error` says why."""
        if not self._queue:
            return
        await self._crew.open()
        ticking = asyncio.ensure_future(self._tick())
        timer = None
        if (most := self._settings.max_runtime) is not None:
            timer = asyncio.get_running_loop().call_later(most, self._too_long, most)
        try:
            for _ in range(self._wanted):
                await self._crew.start()
            over = asyncio.ensure_future(self._over.wait())
            await asyncio.wait([over, ticking], return_when=asyncio.FIRST_COMPLETED)
            if ticking.done():  # it goes on for ever but for an error
                over.cancel()
                ticking.result()
        finally:
            ticking.cancel()
            for handle in (timer, self._again):
                if handle is not None:
                    handle.cancel()
            self.sharing.open = False
            for starting in self._starting:
                starting.cancel()
            await asyncio.gather(*self._starting, return_exceptions=True)
            await self._crew.close()

    def _limit(self) -> Limit:
        concurrency, clock = self._settings.concurrency, self._seams.clock
        if concurrency == "auto":
            return AutoLimit(most=MOST, clock=clock.monotonic)
        return FixedLimit(concurrency, clock=clock.monotonic)

    def _refused(self, why: str) -> None:
        hint = "install one version of dify-batch; or run it with -v --log-file batch.log and report what that says"
        self.fail(DifyBatchError(why, hint=hint))

    def _too_long(self, limit: float) -> None:
        self.drain(
            DifyBatchError(
                f"--max-runtime of {limit:g} s is over",
                code="not_finished",
                hint="run the same command again: it goes on where it stopped",
            )
        )

    # ---------------------------------------------------------------- how it stops

    def fail(self, error: DifyBatchError) -> None:
        """An error ends the batch: no more rows; what runs is finished."""
        self.drain(error)

    def drain(self, error: DifyBatchError) -> None:
        """No more rows; what runs is finished."""
        if self.error is None:
            self.error = error
        self._tell_all("drain")

    def begin_stop(self) -> None:
        """What runs is stopped on the server."""
        self._tell_all("stop")

    def abandon(self) -> None:
        """Ends now, with what is journalled."""
        self._tell_all("abandon")

    def _tell_all(self, how: str) -> None:
        self._stopping = True
        self.sharing.open = False
        self._queue.clear()
        for member in list(self._crew.members.values()):
            member.send(Stop(how=how))
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        busy = any(member.part is not None for member in self._crew.members.values())
        locked = any(part.locked_since is not None for part in self._parts.values())
        if not self._queue and not busy and not (locked and not self._stopping):
            self._over.set()

    # ---------------------------------------------------------------- parts and workers

    def _ready(self, member: Member) -> None:
        self._failed_starts = 0
        self.sharing.joined(member.number)
        self._give(member)

    def _give(self, member: Member) -> None:
        """Gives a worker the next part, if there is one."""
        if member.part is not None or self._stopping or not self._queue:
            self._look_whether_over()
            return
        task = self._queue.popleft()
        member.part, member.figures = task.number, {}
        settings = self._settings
        concurrency = settings.concurrency
        log.debug("part %d of %d goes to worker %d", task.number, self._of, member.number)
        member.send(
            Part(
                part=task.number,
                of=self._of,
                settings=handed(settings),
                most=MOST if concurrency == "auto" else concurrency,
                again=tuple(settings.again()),
                limit=task.limit,
                checked=self._found.stamp,
                collect=task.collect,
                times=concurrency == "auto",
                use=self.sharing.budget is not None,
            )
        )

    def _heard(self, member: Member, message: Message) -> None:
        match message:
            case Report():
                self.sharing.told(member.number, message)
                self._stats.in_flight = self.sharing.busy
                self._count_failures()
                self._grant()
            case Figures(part=number, numbers=numbers):
                member.figures = self._parts[number].figures = numbers
                self._follow_mode()
            case Log(level=level, text=text, row=row):
                log.log(level, "%s", text, extra={"row": row} if row is not None else None)
            case Done():
                self._done(member, message)
            case _:
                log.debug("a %s is nothing for a coordinator", message.kind)

    def _done(self, member: Member, done: Done) -> None:
        part = self._parts[done.part]
        member.part = None
        self.sharing.free(done.part)
        error = None
        if done.error is not None:
            told = dict(done.error)
            error = DifyBatchError(told.pop("message"), hint=told.pop("hint", None), code=told.pop("code"), **told)
        if error is not None and error.code == "output_locked":
            self._locked(part, done.part, error)
        else:
            part.locked_since = None
            part.run.summary = done.summary
            for warning in done.summary["warnings"]:
                notice = Notice(warning["code"], warning["message"])
                if notice not in self._stats.notices:
                    self._stats.notices.append(notice)
            if error is not None and error.code not in _GO_ON and not self._stopping:
                self.fail(error)
        self._give(member)
        self._grant()

    def _locked(self, part: Held, number: int, error: DifyBatchError) -> None:
        """A worker of an earlier coordinator, which was killed, may still be finishing what runs."""
        now = self._seams.clock.monotonic()
        if part.locked_since is None:
            part.locked_since = now
            log.warning("%s; waiting for it", error.message)
        if now - part.locked_since > self._settings.timeout:
            part.locked_since = None
            self.fail(error)
            return
        asyncio.get_running_loop().call_later(LOCKED_AGAIN, self._try_again, number)

    def _try_again(self, number: int) -> None:
        if not self._stopping:
            self._queue.append(Task(number))
            self._wake_idle()

    def _wake_idle(self) -> None:
        for member in list(self._crew.members.values()):
            if member.wire is not None and member.part is None:
                self._give(member)

    def _gone(self, member: Member, status: int) -> None:
        """A worker's process has ended: it can send nothing any more, so its part may go to another at once."""
        number = member.part
        self.sharing.left(member.number, number)
        if number is None:
            if member.wire is None and not self._over.is_set() and not self._stopping:
                self._not_started(status)
            self._look_whether_over()
            return
        part = self._parts[number]
        part.cut_off(member.figures)
        member.part = None
        if self._stopping:
            self._look_whether_over()
            return
        how = f"killed by signal {-status}" if status < 0 else f"status {status}"
        log.warning("a worker has died (%s) with part %d of %d; another goes on with it", how, number, self._of)
        if part.deaths >= DEATHS:
            self.fail(
                BatchStopped(
                    f"{DEATHS} workers have died one after the other with part {number} of {self._of}, the last {how}",
                    hint="look at the memory of this machine; then run the same command again",
                )
            )
            return
        self._queue.appendleft(Task(number))
        self._start_another()
        self._wake_idle()

    def _not_started(self, status: int) -> None:
        self._failed_starts += 1
        if self._failed_starts < DEATHS:
            self._start_another()
            return
        self.fail(
            DifyBatchError(
                f"{DEATHS} workers have ended before they began, the last with status {status}",
                hint=f"does this start, and end with 1? {sys.executable} -m dify_batch.scale.worker",
                code="unknown",
            )
        )

    def _start_another(self) -> None:
        task = asyncio.ensure_future(self._crew.start())
        self._starting.add(task)
        task.add_done_callback(self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(DifyBatchError(f"no worker can be started: {error}", hint="run the same command again later"))

    # ---------------------------------------------------------------- permits

    def _grant(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        grants, again = self.sharing.due()
        for number, grant in grants.items():
            if (member := self._crew.members.get(number)) is not None:
                member.send(grant)
        if again is not None:
            self._again = asyncio.get_running_loop().call_later(again, self._grant)
        if self.sharing.reached and self.sharing.budget is not None and not self._stopping:
            left = max(0, self._stats.to_run - self._stats.finished)
            self.fail(self.sharing.budget.error(left))

    def _count_failures(self) -> None:
        most = self._settings.max_failures
        if most is None or self._stopping:
            return
        failed = self.sharing.failed
        if failed >= most.limit(self._found.to_run):
            have = count(failed, "row has", "rows have")
            self.fail(
                BatchStopped(
                    f"{have} failed, as many as --max-failures allows",
                    hint=f"look at the failures with: dify-batch status {self._settings.output}",
                )
            )

    def _follow_mode(self) -> None:
        """Once all workers have changed the mode, the search for the best concurrency begins anew."""
        modes = {member.figures.get("mode") for member in self._crew.members.values() if member.part is not None}
        if len(modes) != 1 or not (mode := modes.pop()):
            return
        if self._mode and mode != self._mode and self._settings.concurrency == "auto":
            limit = self.sharing.limit.current
            self.sharing.limit = AutoLimit(most=MOST, start=limit, clock=self._seams.clock.monotonic)
        self._mode = mode

    # ---------------------------------------------------------------- for whoever watches

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for number in self.sharing.silent(SILENT):
                if (member := self._crew.members.get(number)) is not None:
                    log.warning("worker %d has said nothing for %.0f s and is ended", number, SILENT)
                    self._crew.end(member)
            self._grant()
            self.show()

    def show(self) -> None:
        """Adds the figures of all parts up, into those of the batch."""
        add_up(self._stats, list(self._parts.values()), left_out=self._found.left_out)
        self._stats.limit = self.sharing.limit.current
        outage = self.sharing.outage
        self._stats.state = f"waiting for the server: {outage}" if outage else ""
