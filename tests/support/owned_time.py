"""An event loop whose time is the test's: what waits for seconds is done at once, in the right order."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class _Selector(selectors.SelectSelector):
    """Where another would wait for a file, time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits, and nothing will ever happen")
            self.now += max(0.0, timeout)
        return ready


class OwnedTimeLoop(asyncio.SelectorEventLoop):
    """Its time goes on when nothing else can."""

    def __init__(self) -> None:
        self._own = _Selector()
        super().__init__(self._own)

    def time(self) -> float:
        return self._own.now


def play(story: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end in a loop of its own time."""
    with asyncio.Runner(loop_factory=OwnedTimeLoop) as runner:
        return runner.run(story)


def in_own_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """An async test that is played in a loop of its own time."""

    @functools.wraps(test)
    def played(*args: P.args, **more: P.kwargs) -> None:
        play(test(*args, **more))

    return played


class LoopClock:
    """A clock of the running loop's time; 1970 begins with the loop."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return asyncio.get_running_loop().time()


class CountingChance:
    """Counts in place of chance: every token is the next number, every share the next of a fixed row."""

    def __init__(self) -> None:
        self.count = 0

    def uniform(self, low: float, high: float) -> float:
        self.count += 1
        return low + (high - low) * (self.count * 0.61803398875 % 1.0)

    def token(self, size: int) -> str:
        self.count += 1
        return f"{self.count:0{2 * size}x}"
