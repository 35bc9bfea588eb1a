"""The reins of a batch under way: what signals pull, and a caller from Python may."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from dify_batch.errors import DifyBatchError

if TYPE_CHECKING:
    from dify_batch.engine import Engine


class Control:
    """The reins of a batch under way; to be used from the thread of its event loop."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.halt = asyncio.Event()
        self.signal_error: DifyBatchError | None = None

    def drain(self, signal_name: str = "SIGINT") -> None:
        """Take no more rows, finish what runs."""
        if self.signal_error is None:
            code = "terminated" if signal_name == "SIGTERM" else "interrupted"
            self.signal_error = DifyBatchError(
                f"stopped by {signal_name}", code=code, hint="run the same command again: it goes on where it stopped"
            )
        self.halt.set()
        if self._engine is not None:
            self._engine.stopping.drain(self.signal_error)

    def stop(self) -> None:
        """Stop the runs on the server, and wait until it says how each ended."""
        if self.signal_error is None:
            self.drain()
        if self._engine is not None and self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._engine.stopping.stop_runs())

    def abandon(self) -> None:
        """End now, with what is journalled."""
        self.drain()
        if self._engine is not None:
            self._engine.stopping.abandon()

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        if self.signal_error is not None:
            engine.stopping.drain(self.signal_error)

    async def detach(self) -> None:
        self._engine = None
        if self._stopping is not None:
            self._stopping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._stopping
