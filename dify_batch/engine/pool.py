"""The pool of runs in flight: which row goes next, when, and in which place.

Rows come from three places, in this order of preference: rows whose turn has come again (`ready`), runs of earlier
invocations, new rows of the input. A row holds a place only while its run may be working; while it waits for its turn,
or for the server's log, others go.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dify_batch.engine.attempt import attempt
from dify_batch.engine.pace import Starts
from dify_batch.engine.work import Item
from dify_batch.errors import DifyBatchError
from dify_batch.outcomes import Outcome, Running

if TYPE_CHECKING:
    from dify_batch.engine.runner import Engine

log = logging.getLogger("dify_batch")

# With --concurrency auto, so many runs of earlier invocations are followed at once at least; half of the connections
# that a default Dify has.
_FOLLOWED_AT_LEAST = 5
# With --keep-order, so many results may wait for an earlier row before no new row is begun.
_HELD_MOST = 1000


class Pool:
    """Keeps as many runs in flight as the limit, --rate, --wait and the server's state allow.

    Args:
        rows: new rows; a DifyBatchError of it stops the batch.
        recovered: runs of earlier invocations, which go first.
    """

    def __init__(self, engine: Engine, rows: Iterator[Item], recovered: list[Item]) -> None:
        self._engine = engine
        settings = engine.settings
        one_at_a_time = settings.concurrency == 1
        self._starts = Starts(rate=settings.rate, wait=0.0 if one_at_a_time else settings.wait)
        # Rows are let into the pool by one schedule and onto the wire by another of the same pace, as the disk may hold
        # back the intents of several rows and then let them go together.
        self.gate = Starts(rate=settings.rate, wait=0.0 if one_at_a_time else settings.wait)
        self._pause_after = settings.wait if one_at_a_time else 0.0
        self._not_before = 0.0
        self._rows = rows
        self._rows_left = True
        self.ready: deque[Item] = deque(recovered)
        self.running: dict[asyncio.Task[None], Item] = {}
        self._turn: asyncio.Task[tuple[Item, bool]] | None = None
        self._wake = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return len(self.running)

    @property
    def idle(self) -> bool:
        """Whether it has nothing under way and nothing left to begin."""
        return not self._more() and not self.running and self._turn is None

    @property
    def tasks(self) -> list[asyncio.Task[None] | asyncio.Task[tuple[Item, bool]]]:
        return [*self.running, *([self._turn] if self._turn is not None else [])]

    def wake(self) -> None:
        """Something has changed that may let a row go."""
        self._wake.set()

    async def work(self) -> None:
        """Begins rows until all are settled or the batch gives up."""
        while not self._engine.giving_up:
            self._engine.stats.limit = self._engine.limit.current
            if self.in_flight < self._places() and self._begin_one():
                continue
            if self._engine.idle:
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
            self._engine.stats.state = ""
        else:
            taken = self._take()
            if taken is None:
                return False
            item, goes_first = taken, False
            if item.ref is None and self._engine.may_send(item) and (self._engine.outage.active or self._spaced):
                self._turn = asyncio.ensure_future(self._await_turn(item))
                self._turn.add_done_callback(lambda _: self.wake())
                return True
        if item.ref is None and not self._engine.may_send(item):
            if goes_first:
                self._engine.outage.not_gone()
            self._engine.books.dropped(item)
        else:
            self._begin(item, goes_first=goes_first)
        return True

    def _begin(self, item: Item, *, goes_first: bool) -> None:
        task = asyncio.ensure_future(self._work(item, goes_first))
        self.running[task] = item
        self._engine.stats.in_flight = self.in_flight
        task.add_done_callback(self._done)

    @property
    def _spaced(self) -> bool:
        return self._starts.spaced or self._pause_after > 0

    async def _await_turn(self, item: Item) -> tuple[Item, bool]:
        """Waits until the outage, --rate and --wait let a row be sent; true if it goes first."""
        goes_first = False
        if self._engine.outage.active:
            self._engine.stats.state = f"waiting for the server: {self._engine.outage.reason}"
            goes_first = await self._engine.outage.passed()
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
            and self._engine.settings.concurrency == "auto"
        ):
            return max(self._engine.limit.current, _FOLLOWED_AT_LEAST)
        return self._engine.limit.current

    def _done(self, task: asyncio.Task[None]) -> None:
        self.running.pop(task, None)
        self._engine.note_crash(task)
        self._engine.stats.in_flight = self.in_flight
        self._not_before = time.monotonic() + self._pause_after
        self._wake.set()

    async def _spacing(self) -> None:
        """Waits for the next start that --wait and --rate allow."""
        if self._starts.spaced:
            delay = self._starts.claim()
        else:
            delay = self._not_before - time.monotonic() if self._pause_after else 0.0
        if delay > 0:
            await self._engine.stopping.sleep(delay)

    def _more(self) -> bool:
        return bool(self.ready) or (self._rows_left and self._engine.stopping.taking)

    def _take(self) -> Item | None:
        """The next row for the pool; None if there is none now."""
        while True:
            if self.ready:
                return self.ready.popleft()
            if not self._rows_left or not self._engine.stopping.taking or self._crowded():
                return None
            try:
                item = next(self._rows, None)
            except DifyBatchError as error:
                self._engine.stopping.fail(error)
                item = None
            if item is None:
                self._rows_left = False
                self._engine.books.read_all()
                continue
            self._engine.books.begun(item)
            if item.asked_again and item.ref is None:
                self._engine.followup.look_up(item)
                continue
            if item.asked_again and item.ref is not None:
                self._engine.ledger.started(item.id, item.ref, found=True)
            return item

    def _crowded(self) -> bool:
        """Whether new rows have to wait: for runs that may or may not exist to be found, or for their turn to be
        written."""
        return len(self._engine.waiting) > 4 * self._engine.limit.current + 16 or self._engine.books.held > _HELD_MOST

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
                if self.in_flight < self._places():  # the limit has grown
                    self.wake()
        except DifyBatchError as error:
            self._engine.stopping.fail(error)

    async def _bring_on(self, item: Item, goes_first: bool) -> None:
        """One row in its place in the pool: an attempt, or following a run that is known."""
        outcome: Outcome | None
        if item.ref is None:
            outcome = await attempt(self._engine, item, goes_first=goes_first)
            if outcome is None:
                self._engine.books.dropped(item)
                return
        else:
            outcome = Running(item.ref, item.reason or "known from before")
        if isinstance(outcome, Running) or getattr(outcome, "confirmed", True) is False:
            outcome = await self._engine.stay(item, outcome)
        self._engine.followup.next(item, outcome)

    def _follower(self, item: Item) -> Item | None:
        """The new row that takes the place of `item` at once, where nothing has to be waited for or decided: most
        rows come this way, and each is spared a task and three turns of the event loop. None: `work` goes on."""
        if (
            not item.posted_at  # it did not wait for the server, so it has to let others go on
            or self._engine.giving_up
            or self.ready
            or self._turn is not None
            or self._spaced
            or self._engine.outage.active
            or self.in_flight > self._places()
        ):
            return None
        follower = self._take()
        if follower is not None and (follower.ref is not None or not self._engine.may_send(follower)):
            self.ready.appendleft(follower)
            return None
        return follower
