"""An event loop whose time is made up: where nothing is left to do now, it is the time of the next timer.

One thread, no sockets, no waiting: half a minute of a batch takes milliseconds, and the same seed plays the same.
(`detangle` and its like were looked at: they search the orders of tasks, and their crash runs `finally` blocks. What is
needed here is fifty lines.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NoReturn


class Stalled(RuntimeError):
    """Nothing is left that could ever happen, and somebody still waits; or it goes round in circles."""


class WorldLoop(asyncio.BaseEventLoop):
    """asyncio's own loop with a selector that never waits. `most`: turns after which it counts as going in circles."""

    def __init__(self, most: int = 2_000_000) -> None:
        super().__init__()
        self._now = 0.0
        self._left = most
        self._selector = self  # asks `select` for what has happened
        self._clock_resolution = 1e-7
        self.complaints: list[str] = []
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> Iterable[Any]:
        """What the loop calls between two turns: nothing comes from outside, so time goes on to the next timer."""
        self._left -= 1
        if self._left <= 0:
            raise Stalled("it goes round in circles")
        if timeout is None:
            raise Stalled("nothing can happen any more")
        if timeout > 0:
            self._now += timeout
        return ()

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("there are no threads in this world")

    def _process_events(self, events: Iterable[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Errors that nobody fetched."""
        error = context.get("exception")
        self.complaints.append(f"{context.get('message')}: {type(error).__name__}: {error}")
