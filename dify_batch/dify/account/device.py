"""Signing in by the device flow (RFC 8628): a code, a page where a person approves it, a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tenacity import AsyncRetrying, RetryCallState, retry_if_result

from dify_batch import backoff
from dify_batch.dify.account.client import AccountClient
from dify_batch.errors import AuthError, DifyBatchError
from dify_batch.seams import Clock

INTERVAL = 5.0
"""Seconds between two polls where the server tells none (RFC 8628, section 3.2)."""

SLOWER = 5.0
"""Seconds that `slow_down` adds to the time between two polls (RFC 8628, section 3.5)."""

_WAITS = frozenset({"authorization_pending", "slow_down"})
_AGAIN = "dify-batch auth login"


@dataclass(frozen=True, slots=True)
class Code:
    """What is shown to the person."""

    user_code: str
    address: str
    expires_in: float


async def sign_in(
    client: AccountClient,
    label: str,
    *,
    shown: Callable[[Code], None],
    clock: Clock,
) -> dict[str, Any]:
    """The answer with the token. `shown` is called once with the code, before the first poll.

    Raises:
        AuthError: the person refused, or the time was over.
        DifyBatchError: `unsafe_address`, the page is not of the host that was named.
    """
    begun = await client.device_code(label)
    code = Code(str(begun["user_code"]), str(begun["verification_uri"]), float(begun.get("expires_in") or 900))
    check_address(client.host, code.address)
    shown(code)
    told = begun.get("interval")
    interval = float(told) if isinstance(told, (int, float)) else INTERVAL
    until = clock.monotonic() + code.expires_in

    def seconds(state: RetryCallState) -> float:
        nonlocal interval
        interval += SLOWER if backoff.last(state).get("error") == "slow_down" else 0.0
        return interval

    polling = AsyncRetrying(
        retry=retry_if_result(lambda answer: answer.get("error") in _WAITS),
        stop=lambda _: clock.monotonic() >= until,
        wait=seconds,
        sleep=backoff.pause,
        retry_error_callback=backoff.last,
    )
    await backoff.pause(interval)
    answer: dict[str, Any] = await polling(client.device_token, str(begun["device_code"]))
    if answer.get("error") is None:
        return answer
    if answer["error"] == "access_denied":
        raise AuthError("the sign-in was refused on the page", code="access_denied", hint=f"again: {_AGAIN}")
    raise AuthError("the code has expired, and nobody approved it", code="auth_expired", hint=f"again: {_AGAIN}")


def check_address(host: str, address: str) -> None:
    """A server that sends people elsewhere could have them approve another's sign-in.

    Raises DifyBatchError `unsafe_address` unless the page is of the host that was named; its port may be another
    [27a], and it must not be less safe.
    """
    named, page = urlsplit(host), urlsplit(address)
    safe = page.scheme == "https" or (page.scheme == "http" and named.scheme == "http")
    if page.hostname != named.hostname or not safe:
        raise DifyBatchError(
            f"the server sends you to {address}, which is not of {named.hostname}: nothing was opened",
            code="unsafe_address",
            hint="name the host of that page with --host if it is the one you mean",
        )
