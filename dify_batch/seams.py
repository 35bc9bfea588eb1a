"""What the world gives to the program, each as one object: the time, chance, threads.

They are made once, at the top, and handed down; no other module asks the operating system for them. So a test, or the
simulated world (`tests/world/`), can put its own in their place. The disk stands in `ledger/disk.py`, the network in
`dify/transport.py`, both given in the same way. `tests/test_seams.py` finds whoever goes around them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

_T = TypeVar("_T")


class Clock(Protocol):
    """Two times, which differ and may jump against each other."""

    def monotonic(self) -> float:
        """Seconds since some moment: for durations. It never goes back. The event loop goes by it."""

    def wall(self) -> float:
        """Seconds since 1970, as this machine believes: for what is written down and compared with a server's times.
        It may be wrong, and jump."""


class Chance(Protocol):
    """What nobody can foresee."""

    def uniform(self, low: float, high: float) -> float:
        """Evenly from `low` to `high`: jitter."""

    def token(self, size: int) -> str:
        """`size` random bytes as lower-case hexadecimal digits: names that must not be guessed or met twice."""


def drawing(number: int) -> random.Random:
    """Draws that are the same each time for the same number: no chance, but what an estimate is made with."""
    return random.Random(number)  # noqa: S311  # nothing is to be kept from guessing


class Threads(Protocol):
    """Where blocking work is done, so that the event loop goes on."""

    async def run(self, work: Callable[[], _T]) -> _T:
        """Does `work` on a thread and gives its result or raises its exception."""

    async def run_forlorn(self, work: Callable[[], _T]) -> _T:
        """As `run`, for what may block for ever (reading a pipe): it keeps neither signals nor the end waiting."""

    def single(self, name: str) -> Executor:
        """An executor that does one thing after the other."""


class RealClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class RealChance:
    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)  # noqa: S311 - it spreads waits, it guards nothing

    def token(self, size: int) -> str:
        return secrets.token_hex(size)


class RealThreads:
    async def run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.to_thread(work)

    async def run_forlorn(self, work: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def settle(result: _T | None, error: BaseException | None) -> None:
            if not future.done():
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(cast(_T, result))

        def run() -> None:
            result, failed = None, None
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, result, failed)

        threading.Thread(target=run, daemon=True, name="dify-batch-reader").start()
        return await future

    def single(self, name: str) -> Executor:
        return ThreadPoolExecutor(1, thread_name_prefix=name)


@dataclass(frozen=True, slots=True)
class Seams:
    """All of them together, as they are handed to one invocation."""

    clock: Clock = field(default_factory=RealClock)
    chance: Chance = field(default_factory=RealChance)
    threads: Threads = field(default_factory=RealThreads)


REAL = Seams()
"""Those of this machine: what is taken where nobody gives others."""

__all__ = ["REAL", "Chance", "Clock", "RealChance", "RealClock", "RealThreads", "Seams", "Threads"]
