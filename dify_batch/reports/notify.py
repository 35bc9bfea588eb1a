"""Sends notifications: plain webhooks by ourselves, everything else by Apprise. Never more than a warning goes wrong.

Each try has 10 s, and there are three. A URL is shown by its scheme and host only: the rest is often a password.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_incrementing

from dify_batch import backoff
from dify_batch.errors import UsageError
from dify_batch.reports.notification import Notification

TRIES = 3
TIMEOUT = 10.0  # seconds for one try
PAUSE = 1.0  # seconds before the second try; twice that before the third
EXTRA = 'install it: pip install "dify-batch[notify]"'
_WEBHOOKS = {"https": "https", "http": "http", "jsons": "https", "json": "http"}

log: logging.Logger = logging.getLogger("dify_batch")


class Notifier:
    """Knows where to.

    Raises:
        UsageError: a URL is none, or needs Apprise, which is not installed or does not know it.
    """

    def __init__(self, urls: Sequence[str], *, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
        self._timeout, self._pause = timeout, pause
        self._hooks: list[str] = []
        self._services: list[tuple[str, Any]] = []
        for url in urls:
            scheme, _, rest = url.partition("://")
            if scheme.lower() in _WEBHOOKS:
                self._hooks.append(self._checked(f"{_WEBHOOKS[scheme.lower()]}://{rest}"))
            else:
                with warnings.catch_warnings():  # some of its modules import what Python 3.13 has dropped
                    warnings.simplefilter("ignore")
                    self._services.append((shown(url), _service(url)))

    @staticmethod
    def _checked(url: str) -> str:
        try:
            good = bool(urlsplit(url).hostname) and urlsplit(url).port != 0
        except ValueError:
            good = False
        if not good:
            raise UsageError(
                f"--notify: {shown(url)} is no address", hint="it looks like https://example.com/hook",
                code="usage_invalid_flag",
            )  # fmt: skip
        return url

    async def send(self, notification: Notification) -> bool:
        """Sends it everywhere at the same time; whether all took it. What went wrong is a warning in the log."""
        tasks = [self._tried(shown(hook), lambda hook=hook: _post(hook, notification)) for hook in self._hooks]
        tasks += [
            self._tried(name, lambda service=service: _tell(service, notification)) for name, service in self._services
        ]
        return all(await asyncio.gather(*tasks))

    async def _tried(self, name: str, attempt: Any) -> bool:
        async def why_not() -> str:
            try:
                why: str = await asyncio.wait_for(attempt(), self._timeout)
            except TimeoutError:
                return f"no answer within {self._timeout:g} s"
            except Exception as error:  # noqa: BLE001 - whatever it is, the batch is none of its business
                return type(error).__name__  # its text may hold the URL
            return why

        trying = AsyncRetrying(
            retry=retry_if_result(bool),
            stop=stop_after_attempt(TRIES),
            wait=wait_incrementing(self._pause, self._pause),
            sleep=backoff.pause,
            retry_error_callback=backoff.last,
        )
        why: str = await trying(why_not)
        if not why:
            return True
        log.warning("--notify: %s was not told: %s (%d tries)", name, why, TRIES)
        return False


def shown(url: str) -> str:
    """A URL without what may be secret in it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    scheme = url.partition("://")[0]
    # In the URLs of many services what stands in the host's place is a token.
    return f"{scheme}://{host}" if scheme.lower() in _WEBHOOKS else f"{scheme}://..."


def _service(url: str) -> Any:
    try:
        import apprise
    except ImportError:
        raise UsageError(
            f"--notify: {shown(url)} needs an extra that is not installed", code="usage_invalid_flag", hint=EXTRA
        ) from None
    quiet = logging.getLogger("apprise")  # its messages hold URLs
    quiet.setLevel(logging.CRITICAL + 1)
    service = apprise.Apprise()
    if not service.add(url):
        raise UsageError(
            f"--notify: {shown(url)} is no address that Apprise knows, or it lacks something",
            hint="its list of services tells how each is written; a plain webhook is https://...",
            code="usage_invalid_flag",
        )
    return service


async def _tell(service: Any, notification: Notification) -> str:
    done = await service.async_notify(title=notification.title, body=notification.text)
    return "" if done else "the service did not take it"


async def _post(url: str, notification: Notification) -> str:
    """One POST; "" where it was taken, else why not."""
    import aiohttp

    async with (
        aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(TIMEOUT)) as session,
        session.post(url, json=notification.as_dict(), allow_redirects=True) as answer,
    ):
        return "" if answer.status < 300 else f"HTTP {answer.status}"
