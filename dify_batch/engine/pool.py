"""The pool of runs in flight: which row goes next, when, and in which place.

Rows come from three places, in this order of preference: runs that are known and want to be followed, rows whose turn
has come again, new rows of the input. A row holds a place while its run may be working, also past --timeout: so
`--concurrency` bounds what may be executing. While it waits for its turn, or for the server's log, others go.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from dify_batch.engine.health import Health
from dify_batch.engine.pace import Starts
from dify_batch.engine.work import Work
from dify_batch.errors import DifyBatchError
from dify_batch.seams import Clock
from dify_batch.summary import Stats
from dify_batch.text import one_line

log: logging.Logger = logging.getLogger("dify_batch")

# With --concurrency auto, so many runs of earlier invocations are followed at once at least; half of the connections
# that a default Dify has.
_FOLLOWED_AT_LEAST = 5
# With --keep-order, so many results may wait for an earlier row before no new row is begun.
_HELD_MOST = 1000
# So many rows may wait for the server's log before no new row is begun: what they hold is in memory.
_LOST_MOST = 1000


class Pool:
    """Keeps as many runs in flight as the limit, --rate, --wait and the server's state allow.

    Args:
        rows: new rows; a DifyBatchError of it stops the batch.
        known: runs of earlier invocations, which go first.
        starts: spaces the rows; `pause_after`: with one at a time, seconds from the end of one to the next.
        bring_on: brings one row on in its place: an attempt, following.
        may_send, taking, leaving: whether a row may still be sent, rows are taken, nothing is waited for.
        budget: whether one more row may be sent: "begin", "wait" for the end of a run, or None: it has been reached,
            and the batch stops.
        begin: a new row is taken from the input; false if it needs no place now. `drop`: a row is not sent any more.
        took: a row that is to be sent was taken; `let_go`: it is out of its place, or was put back.
        beside: how many rows wait for their turn, and how many for the server's log.
        held: results that wait for an earlier row. `read_all`: told when the input is at its end.
        fail: told the error that ends the batch.
    """

    def __init__(
        self,
        rows: Iterator[Work],
        known: list[Work],
        health: Health,
        clock: Clock,
        stats: Stats,
        *,
        starts: Starts,
        pause_after: float,
        auto: bool,
        bring_on: Callable[[Work, bool], Awaitable[None]],
        may_send: Callable[[Work], bool],
        taking: Callable[[], bool],
        leaving: Callable[[], bool],
        sleep: Callable[[float], Awaitable[None]],
        budget: Callable[[], str | None],
        begin: Callable[[Work], bool],
        drop: Callable[[Work], None],
        beside: Callable[[], tuple[int, int]],
        held: Callable[[], int],
        read_all: Callable[[], None],
        fail: Callable[[DifyBatchError], None],
        crashed: Callable[[BaseException, Work | None], None],
        took: Callable[[Work], None] = lambda _: None,
        let_go: Callable[[Work], None] = lambda _: None,
    ) -> None:
        self._rows = rows
        self._health = health
        self._clock = clock
        self._stats = stats
        self._starts = starts
        self._pause_after = pause_after
        self._auto = auto
        self._bring_on = bring_on
        self._may_send = may_send
        self._taking = taking
        self._leaving = leaving
        self._sleep = sleep
        self._budget = budget
        self._begin_new = begin
        self._drop = drop
        self._took = took
        self._let_go = let_go
        self._beside = beside
        self._held = held
        self._read_all = read_all
        self._fail = fail
        self._crashed = crashed
        self._not_before = 0.0
        self._rows_left = True
        self._known = deque(known)
        self._ready: deque[Work] = deque()
        self.running: dict[asyncio.Task[None], Work] = {}
        self._turn: asyncio.Task[tuple[Work, bool]] | None = None
        self._wake = asyncio.Event()
        self._last = False

    # ---------------------------------------------------------------- what others ask and tell

    @property
    def in_flight(self) -> int:
        return len(self.running)

    @property
    def tasks(self) -> list[asyncio.Task[None] | asyncio.Task[tuple[Work, bool]]]:
        return [*self.running, *([self._turn] if self._turn is not None else [])]

    @property
    def waiting(self) -> int:
        """Rows (one at most) that wait in front of a place until they may be sent."""
        return int(self._turn is not None)

    @property
    def sends(self) -> bool:
        """Whether there are rows that would be sent, were they let."""
        return (
            self._taking() and self._turn is None and (bool(self._ready) or (self._rows_left and not self._crowded()))
        )

    def holds(self, work: Work) -> bool:
        """Whether a row has a place."""
        return any(one is work for one in self.running.values())

    def follow(self, work: Work) -> None:
        """A row's run is known, and wants to be followed."""
        self._known.append(work)
        self.wake()

    def send(self, work: Work) -> None:
        """A row's turn has come again."""
        self._ready.append(work)
        self.wake()

    def wake(self) -> None:
        """Something has changed that may let a row go, or the batch end."""
        self._wake.set()

    @property
    def last(self) -> bool:
        """Whether nothing is left to run but what is looked up, or was: rows that were lost go at the end."""
        if not self._last:
            delayed, lost = self._beside()
            nothing_new = not self._more() or lost >= _LOST_MOST
            self._last = nothing_new and not self._busy and not delayed
        return self._last

    @property
    def done(self) -> bool:
        """Whether nothing is left but runs that have outlived --timeout."""
        return not self._more() and not self._busy and not any(self._beside())

    @property
    def _busy(self) -> bool:
        return self._turn is not None or any(not work.overdue for work in self.running.values())

    def more(self, rows: Iterator[Work]) -> None:
        """Further rows, once those before are through."""
        self._rows, self._rows_left, self._last = rows, True, False

    # ---------------------------------------------------------------- the loop

    async def work(self) -> None:
        """Begins rows until all are settled, or only overdue runs are left, or the batch leaves."""
        while not self._leaving():
            self._wake.clear()  # first, as what follows may itself make a row go
            self._say()
            if self.in_flight < self._places() and self._begin_one():
                continue
            if self.done:
                return
            await self._wake.wait()

    def _say(self) -> None:
        """What the batch waits for, for whoever watches."""
        stats, outage = self._stats, self._health.outage
        stats.limit = self._health.limit.current
        _, lost = self._beside()
        stats.looking = lost
        if outage.away:
            stats.state = f"waiting for the server: {one_line(outage.reason)}"
        elif lost and not self._busy:
            stats.state = f"looking up {lost} {'row' if lost == 1 else 'rows'} whose answer was lost"
        elif outage.active and (outage.confirmed or outage.throttled):
            stats.state = "the server answers again: the others go once it has dealt with one row"
        else:
            stats.state = ""

    def _begin_one(self) -> bool:
        """Puts one row into the pool; False if none can go now. A run that is known goes before rows that wait for
        their turn to be sent."""
        if self._known:
            self._begin(self._known.popleft(), goes_first=False)
            return True
        if self._turn is not None:
            if not self._turn.done():
                return False
            work, goes_first = self._turn.result()
            self._turn = None
        else:
            taken = self._take()
            if taken is None:
                return False
            work, goes_first = taken, False
            if self._may_send(work) and (self._health.outage.active or self._spaced):
                self._turn = asyncio.ensure_future(self._await_turn(work))
                self._turn.add_done_callback(lambda _: self.wake())
                return True
        if self._may_send(work):
            self._begin(work, goes_first=goes_first)
        else:
            self._let_go(work)
            with self._health.outage.first(goes_first):
                self._drop(work)
        return True

    def _begin(self, work: Work, *, goes_first: bool) -> None:
        task = asyncio.ensure_future(self._in_place(work, goes_first))
        self.running[task] = work
        self._stats.in_flight = self.in_flight
        task.add_done_callback(self._done)

    @property
    def _spaced(self) -> bool:
        return self._starts.spaced or self._pause_after > 0

    async def _await_turn(self, work: Work) -> tuple[Work, bool]:
        """Waits until the outage, --rate and --wait let a row be sent; true if it goes first."""
        goes_first = await self._health.outage.passed() if self._health.outage.active else False
        if self._spaced:
            if self._starts.spaced:
                delay = self._starts.claim()
            else:
                delay = self._not_before - self._clock.monotonic() if self._pause_after else 0.0
            if delay > 0:
                await self._sleep(delay)
        return work, goes_first

    def _places(self) -> int:
        """How many rows may be in the pool. Runs of before go on anyway, so an `auto` limit that begins at one does
        not keep them from being looked at."""
        current = self._health.limit.current
        return max(current, _FOLLOWED_AT_LEAST) if self._auto and self._known else current

    def _done(self, task: asyncio.Task[None]) -> None:
        work = self.running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crashed(error, work)
        self._stats.in_flight = self.in_flight
        self._not_before = self._clock.monotonic() + self._pause_after
        self._wake.set()

    def _more(self) -> bool:
        return bool(self._known or self._ready) or (self._rows_left and self._taking())

    def _take(self) -> Work | None:
        """The next row for the pool; None if there is none now."""
        while True:
            if (self._ready or self._rows_left) and self._taking() and self._budget() != "begin":
                return None
            if self._ready:
                work = self._ready.popleft()
                self._took(work)
                return work
            if not self._rows_left or not self._taking() or self._crowded():
                return None
            try:
                new = next(self._rows, None)
            except DifyBatchError as error:
                self._fail(error)
                new = None
            if new is None:
                self._rows_left = False
                self._read_all()
                continue
            if self._begin_new(new):
                self._took(new)
                return new
            if self._known:  # a run that was given up before is looked at once more
                return None

    def _crowded(self) -> bool:
        """Whether new rows have to wait: for the turn of others, for the server's log, or for their place in the
        results."""
        delayed, lost = self._beside()
        return delayed > 4 * self._health.limit.current + 16 or lost >= _LOST_MOST or self._held() > _HELD_MOST

    # ---------------------------------------------------------------- in a place

    async def _in_place(self, work: Work, goes_first: bool) -> None:
        """A place in the pool: a row in it, and those that follow it there."""
        task = asyncio.current_task()
        assert task is not None
        try:
            while True:
                try:
                    await self._bring_on(work, goes_first)
                finally:
                    self._let_go(work)
                follower = self._follower(work)
                if follower is None:
                    return
                work, goes_first = follower, False
                self.running[task] = work
                if self.in_flight < self._places():  # the limit has grown
                    self.wake()
        except DifyBatchError as error:
            self._fail(error)

    def _follower(self, work: Work) -> Work | None:
        """The new row that takes the place of `work` at once, where nothing has to be waited for or decided: most rows
        come this way, and each is spared a task and three turns of the event loop. None: `work` goes on."""
        if (
            not work.posted_at  # it did not wait for the server, so it has to let others go on
            or self._leaving()
            or self._known
            or self._ready
            or self._turn is not None
            or self._spaced
            or self._health.outage.active
            or self.in_flight > self._places()
        ):
            return None
        follower = self._take()
        if follower is not None and not self._may_send(follower):
            self._let_go(follower)
            self._ready.appendleft(follower)
            return None
        return follower
