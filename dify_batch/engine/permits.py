"""What a coordinator of several processes is to the engine of one of them: it lets rows go, and is told what became of
them.

Without one the engine has its own limit, rate and budget. With one it has none of them: a row is taken only while a
permit is there for it, and sent only while that permit holds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from dify_batch.engine.limit import Limit
from dify_batch.engine.work import Work
from dify_batch.usage import Use


class Engaged(Protocol):
    """The engine, as permits see it."""

    def taken_places(self) -> int:
        """Rows that hold a place, or wait in front of one."""

    def being_looked_up(self) -> int:
        """Rows whose answer was lost, and of which the server's log has not told enough yet. They hold no place."""

    def has_rows(self) -> bool:
        """Whether a row would be sent, were there a permit for it."""

    def outage(self) -> str:
        """Why the server is waited for; "" while it is not."""

    def changed(self) -> None:
        """Something has changed that may let a row go."""


class Permits(Limit, Protocol):
    """Told what happens as a limit is; `current` is how many places this process may have at most."""

    def attach(self, engine: Engaged) -> None:
        """The engine is at work, and what earlier invocations left is taken up."""

    def detach(self) -> None:
        """The engine has ended."""

    def may_take(self) -> bool:
        """Whether a permit is there for one more row than those that have been taken and not sent."""

    def took(self, work: Work) -> None:
        """A row was taken that is to be sent."""

    def let_go(self, work: Work) -> None:
        """A row is out of its place, or not sent after all; nothing for one that was sent."""

    async def use(
        self, work: Work, may_send: Callable[[], bool], pause: Callable[[float], Awaitable[None]]
    ) -> Callable[[], bool] | None:
        """Uses a permit up, the next moment before the POST; waits for one where those that were there have run out.
        Gives whether that permit still holds, to be asked just before the bytes go. None: the batch stops."""

    def told(self, use: Use) -> None:
        """What a run used."""

    def failed(self) -> None:
        """A row has come to `.retry`."""
