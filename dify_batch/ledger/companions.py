"""`.retry` and `.paused` of a batch that writes: which rows belong there, and when the files are replaced.

Both can be told again from the journal, so they are written behind, whole and in one step.
"""

from __future__ import annotations

from collections.abc import Callable

from dify_batch.ids import DONE, RETRY
from dify_batch.ledger import formats
from dify_batch.ledger.disk import PRIVATE, Disk
from dify_batch.ledger.formats import Paths, json_line
from dify_batch.ledger.retryfile import RetryFile, put
from dify_batch.ledger.state import Phase, State
from dify_batch.ledger.writer import Work, Writer
from dify_batch.seams import Clock

RETRY_FILE_EVERY = 1.0
"""Seconds: `.retry` is written whole each time, so it is written at most so often while rows go on failing."""


class Companions:
    """The two files. `wrote(count)`: the journal's line about a `.retry` that was written."""

    def __init__(
        self, paths: Paths, state: State, writer: Writer, disk: Disk, clock: Clock, wrote: Callable[[int], bytes]
    ) -> None:
        self._paths = paths
        self._state = state
        self._writer = writer
        self._disk = disk
        self._clock = clock
        self._wrote = wrote
        self._retry_file = RetryFile(paths.retry, disk, state.retry_stamp, state.retry_seen)
        self._retry_at = 0.0
        self._retry_dirty = self._restored()
        # Told again from the journal, which repairs a torn file.
        self._paused_dirty = any(row.phase is Phase.PAUSED for row in state.rows.values()) or paths.paused.exists()

    def _restored(self) -> bool:
        """Puts right the rows that failed when the process was killed before `.retry` was written, and ids that are
        done; whether there were any."""
        state = self._state
        wanted = dict.fromkeys(
            row_id for row_id in state.retry if row_id in state.asked or not state.index.has(row_id, DONE)
        )
        for row_id in state.failed_ids():
            wanted.setdefault(row_id)
        stale = state.retry_stale or list(wanted) != list(state.retry)
        state.retry = wanted
        return stale

    def take(self, row_id: str) -> None:
        """The row belongs into `.retry`."""
        self._state.index.add(row_id, RETRY)
        self._state.retry.setdefault(row_id)
        self._retry_dirty = True

    def forget(self, row_id: str) -> None:
        """The row does not belong into `.retry` any more, if it did."""
        if self._state.index.has(row_id, RETRY):
            self._state.index.remove(row_id, RETRY)
            self._state.retry.pop(row_id, None)
            self._retry_dirty = True
            self.tidy()

    def paused_changed(self) -> None:
        """A row has come into `.paused`, or has left it."""
        self._paused_dirty = True

    def tidy(self, *, now: bool = False) -> None:
        """Has the files written if they are due."""
        moment = self._clock.monotonic()
        if not now and moment - self._retry_at < RETRY_FILE_EVERY:
            return
        if self._retry_dirty:
            self._retry_dirty = False
            self._writer.other(self._retry_work)
        if self._paused_dirty:
            self._paused_dirty = False
            self._writer.other(self._paused_work)
        self._retry_at = moment

    def _retry_work(self) -> Work:
        ids = list(self._state.retry)

        def write() -> list[bytes]:
            return [self._wrote(self._retry_file.write(ids))]

        return write

    def _paused_work(self) -> Work:
        lines = [
            json_line(formats.paused_record(row_id, row.ref, row.forms))
            for row_id, row in self._state.rows.items()
            if row.phase is Phase.PAUSED
        ]

        def write() -> list[bytes]:
            put(self._disk, self._paths.paused, b"".join(lines), PRIVATE)
            return []

        return write
