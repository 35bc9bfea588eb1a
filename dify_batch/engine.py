"""The engine: keeps the pool of runs full, and takes each row to its end.

Rows come from three places, in this order of preference: rows whose turn has come again (`ready`), runs of earlier
invocations, new rows of the input. A row holds a place in the pool only while its run may be working; while it waits
for its turn, or for the server's log, others go.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from dify_batch.attempt import attempt
from dify_batch.client import DifyClient
from dify_batch.conclude import Books
from dify_batch.errors import DifyBatchError, RateLimited, ServerError
from dify_batch.followup import FollowUp
from dify_batch.ledger import Ledger
from dify_batch.limit import Limit
from dify_batch.outcomes import Outcome, Running
from dify_batch.pace import Outage, Starts
from dify_batch.policy import RetryPolicy
from dify_batch.recovery import Recovery
from dify_batch.settings import Settings
from dify_batch.stopping import Stopping
from dify_batch.summary import Stats
from dify_batch.work import Item, Slots

log = logging.getLogger("dify_batch")

# Start delays older than so many starts say nothing of the queue of today.
_DELAYS_KEPT = 200
# The settle time is so many times the longest delay seen: a queue may well double while nobody looks.
_SETTLE_FACTOR = 3.0
# With --concurrency auto, so many runs of earlier invocations are followed at once at least; half of the connections
# that a default Dify has.
_FOLLOWED_AT_LEAST = 5
# With --keep-order, so many results may wait for an earlier row before no new row is begun.
_HELD_MOST = 1000


class Engine:
    """One batch under way. `run` returns when every row that it took is settled, or the batch had to stop."""

    def __init__(
        self,
        settings: Settings,
        client: DifyClient,
        ledger: Ledger,
        stats: Stats,
        *,
        batch: str,
        limit: Limit,
        rows: Iterator[Item],
        recovered: list[Item],
    ) -> None:
        self.settings = settings
        self.client = client
        self.ledger = ledger
        self.stats = stats
        self.limit = limit
        self.slots = Slots(batch, settings.user)
        self.policy = RetryPolicy(
            settings.retry_policy, settings.max_retries, settings.initial_retry_delay, settings.max_retry_delay
        )
        self.outage = Outage(client.probe, self.policy.wait, settings.max_outage, self._outage_too_long)
        self.recovery = Recovery(self)
        self.stopping = Stopping(self)
        self.books = Books(self)
        self.followup = FollowUp(self)
        one_at_a_time = settings.concurrency == 1
        self.starts = Starts(rate=settings.rate, wait=0.0 if one_at_a_time else settings.wait)
        # Rows are let into the pool by one schedule and onto the wire by another of the same pace, as the disk may hold
        # back the intents of several rows and then let them go together.
        self.gate = Starts(rate=settings.rate, wait=0.0 if one_at_a_time else settings.wait)
        self._pause_after = settings.wait if one_at_a_time else 0.0
        self._not_before = 0.0
        self._rows = rows
        self._rows_left = True
        self.ready: deque[Item] = deque(recovered)
        self.running: dict[asyncio.Task[None], Item] = {}
        self.waiting: set[asyncio.Task[None]] = set()
        self.watched: dict[str, Item] = {}
        self._turn: asyncio.Task[tuple[Item, bool]] | None = None
        self._wake = asyncio.Event()
        self._delays: deque[float] = deque(maxlen=_DELAYS_KEPT)
        self._over = asyncio.Event()
        self.newest_start = float("-inf")
        """When the newest POST was sent whose run has started: what was sent before it waits in no queue any more."""
        self.lost_together: set[str] = set()

    # ---------------------------------------------------------------- what the parts ask

    @property
    def in_flight(self) -> int:
        return len(self.running)

    @property
    def giving_up(self) -> bool:
        """Nothing is waited for any more; what is open stays in the journal."""
        return self._over.is_set()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self._more() and not self.running and not self.waiting and self._turn is None

    def give_up(self) -> None:
        self._over.set()
        self.outage.close()
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    async def sleep(self, seconds: float) -> None:
        """Sleeps, or less if the batch gives up."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass

    def saw_start(self, delay: float, sent: float) -> None:
        """A run, `sent` then (monotonic), started or was answered so long after its POST (seconds)."""
        self._delays.append(delay)
        self.newest_start = max(self.newest_start, sent)
        self.limit.started(delay, self.in_flight)

    def settle_time(self, item: Item) -> float:
        """Seconds after which a run that is not in the server's log counts as never started.

        The time that the row itself waited in vain is a start delay that was at least so long.
        """
        return max(self.settings.settle, _SETTLE_FACTOR * max(item.waited, max(self._delays, default=0.0)))

    def served(self, sent: float) -> None:
        """The server has dealt with a request that runs a workflow, `sent` then (monotonic)."""
        if self.lost_together:
            self.lost_together = set()
        self.outage.answered(sent)

    def expect_delays(self, delays: Iterable[float]) -> None:
        """Start delays that an earlier invocation saw: the queue of then may be the queue of now."""
        self._delays.extend(delays)

    def has_run(self, run_id: str) -> bool:
        """Whether a row under way is known to have this run."""
        under_way = [*self.running.values(), *self.ready, *self.watched.values()]
        return any(item.ref is not None and item.ref.run_id == run_id for item in under_way)

    def later(self, work: Callable[[], object], seconds: float) -> None:
        """Does something after a while, or as soon as no more rows are taken."""

        async def wait() -> None:
            await self.stopping.sleep(seconds)
            work()

        self.beside(wait())

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine for a row that holds no place in the pool."""
        task = asyncio.ensure_future(self._guarded(work))
        self.waiting.add(task)
        task.add_done_callback(self._not_waiting)

    def _not_waiting(self, task: asyncio.Task[None]) -> None:
        self.waiting.discard(task)
        self._note_crash(task)
        self.wake()

    def _note_crash(self, task: asyncio.Task[None]) -> None:
        """An exception that nobody foresaw ends the batch; what it leaves open stays in the journal."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("unexpected", exc_info=error)
            self.stopping.fail(
                DifyBatchError(
                    f"internal error: {type(error).__name__}: {error}",
                    hint="run it with -v --log-file batch.log and report what that says",
                )
            )

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except DifyBatchError as error:
            self.stopping.fail(error)

    def _outage_too_long(self, reason: str, throttled: bool) -> None:
        waited = f"{self.settings.max_outage:g} s"
        error: DifyBatchError
        if throttled:
            error = RateLimited(
                f"the server refused every run for {waited}: {reason}",
                hint="run the same command again later; --max-outage sets how long it waits",
            )
        else:
            error = ServerError(
                f"the server was away for {waited}: {reason}",
                code="network_connection",
                hint="run the same command again when the server is back; --max-outage sets how long it waits",
            )
        self.stopping.fail(error)
        self.give_up()

    # ---------------------------------------------------------------- the pool

    async def run(self) -> None:
        """Works until all is settled. Errors that stopped it are in `stopping.error`."""
        watching = asyncio.ensure_future(self.followup.watch())
        try:
            await self._dispatch()
            while self.running or self.waiting:
                await asyncio.wait([*self.running, *self.waiting])
            await self.stopping.stopped()
            await self._last_look()
        finally:
            ending = [watching, *self.running, *self.waiting, *([self._turn] if self._turn is not None else [])]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            self.outage.close()

    async def _dispatch(self) -> None:
        while not self.giving_up:
            if self.in_flight < self._places() and self._begin_one():
                continue
            if self.idle:
                return
            self._wake.clear()
            await self._wake.wait()

    def _begin_one(self) -> bool:
        """Puts one row into the pool; False if none can go now. A run that is known goes before rows that wait for
        their turn to be sent."""
        known = next((item for item in self.ready if item.ref is not None), None)
        if known is not None:
            self.ready.remove(known)
            self._begin(known, goes_first=False)
            return True
        if self._turn is not None:
            if not self._turn.done():
                return False
            item, goes_first = self._turn.result()
            self._turn = None
            self.stats.state = ""
        else:
            taken = self._take()
            if taken is None:
                return False
            item, goes_first = taken, False
            if item.ref is None and self.may_send(item) and (self.outage.active or self._spaced):
                self._turn = asyncio.ensure_future(self._await_turn(item))
                self._turn.add_done_callback(lambda _: self.wake())
                return True
        if item.ref is None and not self.may_send(item):
            if goes_first:
                self.outage.not_gone()
            self.books.dropped(item)
        else:
            self._begin(item, goes_first=goes_first)
        return True

    def _begin(self, item: Item, *, goes_first: bool) -> None:
        task = asyncio.ensure_future(self._work(item, goes_first))
        self.running[task] = item
        self.stats.in_flight, self.stats.limit = len(self.running), self.limit.current
        task.add_done_callback(self._done)

    @property
    def _spaced(self) -> bool:
        return self.starts.spaced or self._pause_after > 0

    async def _await_turn(self, item: Item) -> tuple[Item, bool]:
        """Waits until the outage, --rate and --wait let a row be sent; true if it goes first."""
        goes_first = False
        if self.outage.active:
            self.stats.state = f"waiting for the server: {self.outage.reason}"
            goes_first = await self.outage.passed()
        if self._spaced:
            await self._spacing()
        return item, goes_first

    def _places(self) -> int:
        """How many rows may be in the pool. Runs of before go on anyway, so an `auto` limit that begins at one does
        not keep them from being looked at."""
        if (
            self.ready
            and self.ready[0].from_before
            and self.ready[0].ref is not None
            and self.settings.concurrency == "auto"
        ):
            return max(self.limit.current, _FOLLOWED_AT_LEAST)
        return self.limit.current

    def _done(self, task: asyncio.Task[None]) -> None:
        self.running.pop(task, None)
        self._note_crash(task)
        self.stats.in_flight = len(self.running)
        self._not_before = time.monotonic() + self._pause_after
        self._wake.set()

    async def _spacing(self) -> None:
        """Waits for the next start that --wait and --rate allow."""
        if self.starts.spaced:
            delay = self.starts.claim()
        else:
            delay = self._not_before - time.monotonic() if self._pause_after else 0.0
        if delay > 0:
            await self.stopping.sleep(delay)

    def may_send(self, item: Item) -> bool:
        return self.stopping.taking and not self.giving_up and item.may_send

    def _more(self) -> bool:
        return bool(self.ready) or (self._rows_left and self.stopping.taking)

    def _take(self) -> Item | None:
        """The next row for the pool; None if there is none now."""
        while True:
            if self.ready:
                return self.ready.popleft()
            if not self._rows_left or not self.stopping.taking or self._crowded():
                return None
            try:
                item = next(self._rows, None)
            except DifyBatchError as error:
                self.stopping.fail(error)
                item = None
            if item is None:
                self._rows_left = False
                self.books.read_all()
                continue
            self.books.begun(item)
            if item.asked_again and item.ref is None:
                self.followup.look_up(item)
                continue
            if item.asked_again and item.ref is not None:
                self.ledger.started(item.id, item.ref, found=True)
            return item

    def _crowded(self) -> bool:
        """Whether new rows have to wait: for runs that may or may not exist to be found, or for their turn to be
        written."""
        return len(self.waiting) > 4 * self.limit.current + 16 or self.books.held > _HELD_MOST

    async def _work(self, item: Item, goes_first: bool) -> None:
        """A place in the pool: a row in it, and those that follow it there."""
        task = asyncio.current_task()
        assert task is not None
        try:
            while True:
                await self._bring_on(item, goes_first)
                follower = self._follower(item)
                if follower is None:
                    return
                item, goes_first = follower, False
                self.running[task] = item
        except DifyBatchError as error:
            self.stopping.fail(error)

    async def _bring_on(self, item: Item, goes_first: bool) -> None:
        """One row in its place in the pool: an attempt, or following a run that is known."""
        outcome: Outcome | None
        if item.ref is None:
            outcome = await attempt(self, item, goes_first=goes_first)
            if outcome is None:
                self.books.dropped(item)
                return
        else:
            outcome = Running(item.ref, item.reason or "known from before")
        if isinstance(outcome, Running) or getattr(outcome, "confirmed", True) is False:
            outcome = await self._stay(item, outcome)
        self.followup.next(item, outcome)

    def _follower(self, item: Item) -> Item | None:
        """The new row that takes the place of `item` at once, where nothing has to be waited for or decided: most
        rows come this way, and each is spared a task and three turns of the event loop. None: `_dispatch` goes on."""
        if (
            not item.posted_at  # it did not wait for the server, so it has to let others go on
            or self.giving_up
            or self.ready
            or self._turn is not None
            or self._spaced
            or self.outage.active
            or self.in_flight > self._places()
        ):
            return None
        follower = self._take()
        if follower is not None and (follower.ref is not None or not self.may_send(follower)):
            self.ready.appendleft(follower)
            return None
        return follower

    async def _stay(self, item: Item, outcome: Outcome) -> Outcome:
        """A run is known and its end is not: follow it until --timeout."""
        ref = item.ref
        assert ref is not None
        reason = outcome.reason if isinstance(outcome, Running) else "the answer says stopped"
        log.info("its run %s is followed: %s", ref.run_id, reason, extra={"row": item.id})
        if item.from_before:
            left = self.settings.timeout if self.stopping.taking else 0.0  # when stopping, one look is enough
        else:
            left = self.settings.timeout - (time.time() - item.sent_at)
        item.recovered = True
        return await self.recovery.follow(item, until=time.monotonic() + max(0.0, left))

    async def _last_look(self) -> None:
        """Before the end, each watched run is looked at once more."""
        if self.stopping.abandoned or not self.watched:
            return
        await self.followup.look_at_watched()
        if self.ready or self.waiting:  # a watched run failed and the policy repeats it
            await self._dispatch()
