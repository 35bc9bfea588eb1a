"""Whether a request may still go, asked when its connection is there and no byte of it has been written.

Making a connection takes its time, and a process may be stopped meanwhile for hours. Whoever may send only until some
moment has that looked at here, as late as it can be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import aiohttp


class TooLate(aiohttp.ClientConnectionError):
    """The request was not sent: its time was over when its connection was there."""


@dataclass(slots=True)
class Fence:
    """`holds`: whether the request may still go. `stopped`: one was kept back."""

    holds: Callable[[], bool]
    stopped: bool = False


_FENCE: ContextVar[Fence | None] = ContextVar("dify_batch_fence", default=None)


@contextlib.contextmanager
def fenced(holds: Callable[[], bool]) -> Iterator[Fence]:
    """The requests of this task, as long as the context lasts, go only while `holds` says so."""
    fence = Fence(holds)
    before = _FENCE.set(fence)
    try:
        yield fence
    finally:
        _FENCE.reset(before)


def require_in_time() -> None:
    """Raises TooLate."""
    fence = _FENCE.get()
    if fence is not None and not fence.holds():
        fence.stopped = True
        raise TooLate("its permit had run out")
