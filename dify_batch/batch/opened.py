"""The files of an output that a command goes on with which is no batch: locked, read, and open for writing."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from dify_batch.batch.belonging import identify
from dify_batch.dify.client import DifyClient
from dify_batch.errors import StorageError
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.lock import OutputLock
from dify_batch.ledger.place import require_ours
from dify_batch.ledger.state import State, read_state
from dify_batch.ledger.store import Ledger
from dify_batch.seams import REAL
from dify_batch.settings import Settings


@dataclass(slots=True)
class Opened:
    """An output of which this process is the only writer."""

    state: State
    ledger: Ledger
    error: StorageError | None = None

    async def flush(self) -> None:
        """Makes what was recorded durable. Raises StorageError."""
        await self.ledger.flush()
        if self.error is not None:
            raise self.error


@contextlib.asynccontextmanager
async def opened_output(settings: Settings, client: DifyClient) -> AsyncIterator[Opened]:
    """Locks, reads and opens the output of `settings`.

    Raises:
        OutputLocked: a batch is under way.
        UsageError: the output belongs to another app (other_app).
        AuthError, AppError, ConnectionFailed, …: the server cannot be asked whose app it is.
        StorageError: a file cannot be read or written.
    """
    paths = Paths.of(settings.output)
    disk = Disk()
    lock = OutputLock(paths.lock, disk)
    lock.acquire()
    try:
        state = read_state(paths)
        require_ours(paths, state.strange)
        identify(
            await client.info(),
            state,
            REAL.chance,
            base_url=settings.base_url,
            owner=settings.api_key.reveal(),
            workflow_id=settings.workflow_id,
            demo=settings.demo,
            allowed=settings.allow_other_app,
        )
        opened: Opened | None = None

        def on_error(error: StorageError) -> None:
            if opened is not None:
                opened.error = error

        ledger = Ledger(
            paths, state, base_url=settings.base_url, on_error=on_error, bom=settings.bom, disk=disk, seams=REAL
        )
        opened = Opened(state, ledger)
        try:
            yield opened
        finally:
            await ledger.close()
    finally:
        lock.release()
