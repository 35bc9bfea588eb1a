"""The reins of a batch under way: what signals pull, and a caller from Python may."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from dify_batch.errors import DifyBatchError

T = TypeVar("T")


class Brakes(Protocol):
    """What brings a batch to its end."""

    def drain(self, error: DifyBatchError) -> None: ...
    def begin_stop(self) -> None: ...
    def abandon(self) -> None: ...


class Stoppable(Protocol):
    """A batch under way."""

    @property
    def stopping(self) -> Brakes: ...


class Control:
    """The reins of a batch under way; to be used from the thread of its event loop."""

    def __init__(self) -> None:
        self._engine: Stoppable | None = None
        self._whole: asyncio.Task[object] | None = None
        self.halt: asyncio.Event = asyncio.Event()
        self.signal_error: DifyBatchError | None = None

    def drain(self, signal_name: str = "SIGINT") -> None:
        """Take no more rows, finish what runs."""
        if self.signal_error is None:
            code = "interrupted" if signal_name == "SIGINT" else "terminated"
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
        if self._engine is not None:
            self._engine.stopping.begin_stop()

    def abandon(self) -> None:
        """End now, with what is journalled."""
        self.drain()
        if self._engine is not None:
            self._engine.stopping.abandon()
        elif self._whole is not None:
            self._whole.cancel()

    def watch_over(self, task: asyncio.Task[object] | None) -> None:
        """The task of the whole batch: what `abandon` ends before anything has been sent."""
        self._whole = task

    async def unless_halted(self, work: Awaitable[T]) -> T:
        """Awaits something that a signal may interrupt, as nothing has been sent yet. Raises the signal's error."""
        doing = asyncio.ensure_future(work)
        halted = asyncio.ensure_future(self.halt.wait())
        try:
            await asyncio.wait([doing, halted], return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                assert self.signal_error is not None
                raise self.signal_error
            return doing.result()
        finally:
            doing.cancel()
            halted.cancel()

    def attach(self, engine: Stoppable) -> None:
        self._engine = engine
        if self.signal_error is not None:
            engine.stopping.drain(self.signal_error)

    def detach(self) -> None:
        self._engine = None
