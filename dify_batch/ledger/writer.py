"""Appends to the results and the journal with group commit: many rows share one fsync.

The order that everything rests on: a result line is durable before the journal says `done`; and an intent counts only
when the fsync of the journal that bears it has returned.

Trade-off: a commit takes as long as the disk needs (0.2 ms on an SSD, 10 ms on a disk that spins), and a POST waits
for the one that bears its intent. Nobody waits for a result or its `done`: a result is written at once, so that a
killed process has it, and a moment later several of them are made durable together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from dify_batch.errors import StorageError
from dify_batch.ledger.appendfile import AppendFile
from dify_batch.seams import REAL, Threads

Work: TypeAlias = Callable[[], list[bytes]]
"""Done on the writing thread; gives journal lines that say what was done. May raise StorageError."""

# Seconds that lines for which nobody waits are kept for the next intent to bear: that of the row that takes the place
# of the one that ended comes a few turns of the event loop later, and would have to wait for their commit and its own.
_LINGER = 0.005
# Seconds between two fsyncs of the results while intents keep the disk busy. Should the power go in that time, results
# are fetched from the server again.
_SYNC_EVERY = 0.02
# Those whose commit has returned go on in so many turns of the event loop. Let go all at once, hundreds of requests
# would be made before the first is written, would be answered all at once, and so stay together for ever; a place in
# the pool would be empty while all others are served. One by one, each would pay for a turn of its own.
_TURNS = 32
# So few at a time hold nobody up, so they need not wait for turns of their own.
_AT_ONCE = 4


@dataclass(slots=True)
class _Commit:
    results: list[bytes] = field(default_factory=list)
    journal: list[bytes] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    others: list[Callable[[], Work]] = field(default_factory=list)
    synced: list[bytes] = field(default_factory=list)  # `done` records that an fsync of the results allows

    def __bool__(self) -> bool:
        return bool(self.results or self.journal or self.waiters or self.others)


class Writer:
    """Takes lines on the event loop, commits them on one thread, in order.

    After an error nothing more is written: `error` is set, `on_error` is called once, waiters get the error.
    """

    def __init__(
        self,
        results: AppendFile,
        journal: AppendFile,
        on_error: Callable[[StorageError], None],
        threads: Threads = REAL.threads,
    ) -> None:
        self.results = results
        self.journal = journal
        self.error: StorageError | None = None
        self._on_error = on_error
        self._next = _Commit()
        self._unsynced: list[bytes] = []  # `done` records of results that are not yet durable
        self._done: list[bytes] = []  # of results that are
        self._synced_at = float("-inf")
        self._thread = threads.single("dify-batch-writer")
        self._busy: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def record(self, line: bytes) -> None:
        """A journal line; durable soon."""
        self._next.journal.append(line)
        self._linger()

    def result(self, line: bytes, done: bytes) -> None:
        """A result line, and the journal's `done`, which follows once the result is durable."""
        self._next.results.append(line)
        self._unsynced.append(done)
        self._linger()

    def other(self, prepare: Callable[[], Work]) -> None:
        """Other work for the writing thread, after the lines of the same commit, which are durable by then.

        `prepare` is called on the event loop when that commit begins, so what it takes note of agrees with the lines
        that are written before it, to the row.
        """
        self._next.others.append(prepare)
        self._linger()

    def durable(self) -> asyncio.Future[None]:
        """Done when the journal durably has all lines that were handed over so far. Raises StorageError."""
        future = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
            return future
        self._next.waiters.append(future)
        self._kick()
        return future

    async def flush(self) -> None:
        """Returns when all that was handed over, `done` records included, is durable. Raises StorageError."""
        while self.error is None and (self._busy is not None or self._left):
            self._synced_at = float("-inf")
            self._kick()
            assert self._busy is not None
            await asyncio.shield(self._busy)
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """Flushes and closes the files. Raises StorageError if something could not be written."""
        try:
            await self.flush()
        finally:
            self._thread.shutdown(wait=True)
            self.results.close()
            self.journal.close()

    def _linger(self) -> None:
        """Begins a commit soon; what comes until then comes along."""
        if self._timer is None and self._busy is None and self.error is None:
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self._kick)

    def _kick(self) -> None:
        """Begins a commit; what else this turn of the event loop hands over comes along."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._busy is None and self.error is None:
            loop = asyncio.get_running_loop()
            self._busy = loop.create_future()
            loop.call_soon(self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hands the next commit to the writing thread."""
        commit, self._next = self._next, _Commit()
        commit.journal[:0], self._done = self._done, []
        now = loop.time()
        if self._unsynced and (commit.others or now - self._synced_at >= _SYNC_EVERY):
            commit.synced, self._unsynced = self._unsynced, []
            self._synced_at = now
        try:
            works = [prepare() for prepare in commit.others]
        except Exception as error:  # noqa: BLE001  # as in _commit
            self._committed(loop, commit, error)
            return
        self._thread.submit(self._commit, loop, commit, works)

    def _commit(self, loop: asyncio.AbstractEventLoop, commit: _Commit, works: list[Work]) -> None:
        """On the writing thread: one commit, and word of it to the event loop."""
        follow_up: list[bytes] | Exception
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            try:
                if commit.results:
                    self.results.write(b"".join(commit.results))
                if commit.journal:
                    self.journal.append(b"".join(commit.journal))
                if commit.synced:
                    if commit.waiters:
                        loop.call_soon_threadsafe(self._release, loop, commit)
                    self.results.sync()
                follow_up = commit.synced
                for work in works:
                    follow_up = follow_up + work()
            except Exception as error:  # noqa: BLE001  # whatever it is, nobody must wait for this commit for ever
                follow_up = error
            loop.call_soon_threadsafe(self._committed, loop, commit, follow_up)

    def _committed(self, loop: asyncio.AbstractEventLoop, commit: _Commit, result: list[bytes] | Exception) -> None:
        """A commit has returned: the next one begins, and those who waited for it go on."""
        if isinstance(result, Exception):
            if not isinstance(result, StorageError):
                result = StorageError(f"{self.journal.path} cannot be written: {result!r}")
            self._fail(result, commit)
        else:
            self._done += result
            self._release(loop, commit)
            if self._next.waiters:
                self._begin(loop)
                return
        assert self._busy is not None
        self._busy.set_result(None)
        self._busy = None
        if self._left:
            self._linger()

    @property
    def _left(self) -> bool:
        """Whether something is not yet durable."""
        return bool(self._next or self._unsynced or self._done)

    def _release(self, loop: asyncio.AbstractEventLoop, commit: _Commit) -> None:
        """Lets those go on whose intents are durable, some in each turn of the event loop."""
        waiters, commit.waiters = deque(commit.waiters), []
        if waiters:
            self._let_go(loop, waiters, max(_AT_ONCE, 1 + len(waiters) // _TURNS))

    def _let_go(self, loop: asyncio.AbstractEventLoop, waiters: deque[asyncio.Future[None]], at_once: int) -> None:
        for _ in range(min(at_once, len(waiters))):
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if waiters:
            loop.call_soon(self._let_go, loop, waiters, at_once)

    def _fail(self, error: StorageError, commit: _Commit) -> None:
        self.error = error
        for waiter in commit.waiters + self._next.waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._next = _Commit()
        self._on_error(error)
