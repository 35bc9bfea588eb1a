"""The engine: what the parts of one batch under way share, and its course from the first row to the last look.

The rows go through `pool.py` (which goes when), `attempt.py` (one POST), `followup.py` (what comes after it).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from dify_batch.dify.client import DifyClient
from dify_batch.engine.books import Books
from dify_batch.engine.followup import FollowUp
from dify_batch.engine.limit import Limit
from dify_batch.engine.pace import Outage
from dify_batch.engine.policy import RetryPolicy
from dify_batch.engine.pool import Pool
from dify_batch.engine.recovery import Recovery
from dify_batch.engine.stopping import Stopping
from dify_batch.engine.work import Item, Slots
from dify_batch.errors import DifyBatchError, RateLimited, ServerError
from dify_batch.ledger.store import Ledger
from dify_batch.outcomes import Outcome, Running
from dify_batch.settings import Settings
from dify_batch.summary import Stats

log = logging.getLogger("dify_batch")

# Start delays older than so many starts say nothing of the queue of today.
_DELAYS_KEPT = 200
# The settle time is so many times the longest delay seen: a queue may well double while nobody looks.
_SETTLE_FACTOR = 3.0


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
        self.pool = Pool(self, rows, recovered)
        self.waiting: set[asyncio.Task[None]] = set()
        self.watched: dict[str, Item] = {}
        self._delays: deque[float] = deque(maxlen=_DELAYS_KEPT)
        self._over = asyncio.Event()
        self.newest_start = float("-inf")
        """When the newest POST was sent whose run has started: what was sent before it waits in no queue any more."""
        self.lost_together: set[str] = set()

    # ---------------------------------------------------------------- what the parts ask

    @property
    def giving_up(self) -> bool:
        """Nothing is waited for any more; what is open stays in the journal."""
        return self._over.is_set()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return self.pool.idle and not self.waiting

    def may_send(self, item: Item) -> bool:
        """Whether a row may still be sent to the server."""
        return self.stopping.taking and not self.giving_up and item.may_send

    def give_up(self) -> None:
        self._over.set()
        self.outage.close()
        self.pool.wake()

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
        self.limit.started(delay, self.pool.in_flight)

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
        under_way = [*self.pool.running.values(), *self.pool.ready, *self.watched.values()]
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
        self.note_crash(task)
        self.pool.wake()

    def note_crash(self, task: asyncio.Task[None]) -> None:
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

    # ---------------------------------------------------------------- the batch

    async def run(self) -> None:
        """Works until all is settled. Errors that stopped it are in `stopping.error`."""
        watching = asyncio.ensure_future(self.followup.watch())
        try:
            await self.pool.work()
            while self.pool.running or self.waiting:
                await asyncio.wait([*self.pool.running, *self.waiting])
            await self.stopping.stopped()
            await self._last_look()
        finally:
            ending = [watching, *self.pool.tasks, *self.waiting]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            self.outage.close()

    async def stay(self, item: Item, outcome: Outcome) -> Outcome:
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
        if self.pool.ready or self.waiting:  # a watched run failed and the policy repeats it
            await self.pool.work()
