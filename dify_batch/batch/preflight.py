"""What is asked of the server before the first run is paid for: is it there, is the key good, what is the form."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from dify_batch.backoff import Backoff
from dify_batch.batch.control import Control
from dify_batch.dify.client import DifyClient
from dify_batch.errors import AppError, AuthError, ConnectionFailed, RateLimited, ServerError
from dify_batch.input.form import Form
from dify_batch.seams import REAL, Clock
from dify_batch.settings import Settings
from dify_batch.summary import Stats

log = logging.getLogger("dify_batch")
T = TypeVar("T")

# What OpenSSL says when it meets plain HTTP: an address that is wrong, not a server that is away.
_SPEAKS_HTTP = "WRONG_VERSION_NUMBER"


async def app_form(
    client: DifyClient, settings: Settings, stats: Stats, control: Control, clock: Clock = REAL.clock
) -> tuple[Form, Mapping[str, Any]]:
    """The form of the app behind the key, and what GET /info says of it ({} where it was not asked). Waits for a server
    that is away, up to --max-outage, or until a signal.

    Raises:
        AuthError, AppError: the key or the app will not do.
        ConnectionFailed, ServerError, RateLimited: the server stayed away.
    """
    if not settings.preflight:
        return Form.absent(), {}
    stats.state = f"asking {client.base_url} for the app's form"
    parameters = await _patiently(client.parameters, settings, stats, control, clock)
    info = await _patiently(client.info, settings, stats, control, clock)
    log.info("Dify %s at %s, app %s", client.server_version or "of unknown version", client.base_url, info.get("name"))
    mode = info.get("mode")
    if isinstance(mode, str) and mode != "workflow":
        raise AppError(
            f'the key is that of the app "{info.get("name")}", whose mode is {mode}; only a workflow app runs a batch',
            hint="use the API key of a workflow app: its page in Dify, API Access, API Key",
            server={"code": "not_workflow_app", "message": f"mode is {mode}", "status": 200},
        )
    return Form.from_parameters(parameters), info


async def _patiently(
    ask: Callable[[], Awaitable[T]], settings: Settings, stats: Stats, control: Control, clock: Clock
) -> T:
    backoff = Backoff(settings.initial_retry_delay, settings.max_retry_delay)
    began, tries = clock.monotonic(), 0
    while True:
        try:
            return await control.unless_halted(ask())
        except (AuthError, AppError):
            raise
        except (ConnectionFailed, RateLimited, ServerError) as error:
            left = settings.max_outage - (clock.monotonic() - began)
            if left <= 0 or _SPEAKS_HTTP in error.message:
                raise
            tries += 1
            if tries == 1:
                log.warning("%s; waiting for it, %.0f s at most", error.message, left)
            stats.state = f"waiting for the server: {error.message}"
            await control.unless_halted(asyncio.sleep(min(backoff.seconds(tries), left)))
