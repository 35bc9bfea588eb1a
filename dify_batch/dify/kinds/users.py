"""Users made known to the server before their first request.

Every request with a `user` makes an end user if there is none, without a check that there is none: two that meet make
two of one name, and what belongs to the one is never found by the other [31i, 31q5].
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dify_batch.errors import AppError, AuthError, ConnectionFailed, DifyBatchError, RateLimited, ServerError
from dify_batch.outcomes import Fatal, Outcome, Rejected, Throttled, Unreachable

_REMEMBERED = 10_000
"""Users: those of slots are few, with --user each row may have one."""


class KnownUsers:
    """`ask`: one harmless request as a user."""

    def __init__(self, ask: Callable[[str], Awaitable[Any]]) -> None:
        self._ask = ask
        self._known: dict[str, None] = {}
        self._making: dict[str, asyncio.Lock] = {}

    async def make(self, user: str) -> Outcome | None:
        """What keeps the server from knowing the user; None once it does."""
        if user in self._known:
            return None
        async with self._making.setdefault(user, asyncio.Lock()):
            if user in self._known:
                return None
            try:
                await self._ask(user)
            except DifyBatchError as error:
                return _not_sent(error)
            finally:
                self._making.pop(user, None)
            self._known[user] = None
            if len(self._known) > _REMEMBERED:
                self._known.pop(next(iter(self._known)))
        return None


def _not_sent(error: DifyBatchError) -> Outcome:
    """What it means for a row that its user could not be made known: nothing of it was sent."""
    status = error.details.get("http_status")
    match error:
        case AuthError():
            return Fatal("auth", error.code, error.message, status)
        case RateLimited():
            return Throttled(error.message, error.details.get("retry_after"), status)
        case ConnectionFailed() if error.details.get("own_limit"):
            return Throttled(error.message)
        case AppError():
            return Fatal("app", error.code, error.message, status, error.hint)
        case ServerError() if isinstance(status, int) and status < 500:
            return Rejected("invalid_user", error.message, status)
        case _:
            return Unreachable(error.message)
