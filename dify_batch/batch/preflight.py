"""What is asked of the server before the first run is paid for: is it there, is the key good, what is the form."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from dify_batch import backoff
from dify_batch.batch.appkind import kind_told, require_fitting
from dify_batch.batch.control import Control
from dify_batch.batch.surface import AppClient
from dify_batch.dify.client import DifyClient
from dify_batch.dify.kinds.client import KindClient
from dify_batch.dify.kinds.kind import WORKFLOW, Kind
from dify_batch.errors import (
    AppError,
    AuthError,
    ConnectionFailed,
    DifyBatchError,
    RateLimited,
    ServerError,
)
from dify_batch.input.form import Form
from dify_batch.seams import REAL, Clock
from dify_batch.settings import Settings
from dify_batch.summary import Stats

log: logging.Logger = logging.getLogger("dify_batch")
T = TypeVar("T")

# What OpenSSL says when it meets plain HTTP: an address that is wrong, not a server that is away.
_SPEAKS_HTTP = "wrong version number"


async def app_form(
    client: AppClient, settings: Settings, stats: Stats, control: Control, clock: Clock = REAL.clock
) -> tuple[Form, Mapping[str, Any]]:
    """The form of the app behind the key, and what GET /info says of it ({} where it was not asked or not told). Waits
    for a server that is away, up to --max-outage, or until a signal.

    Raises:
        AuthError, AppError: the key, the address or the app will not do.
        ConnectionFailed, ServerError, RateLimited: the server stayed away.
    """
    if not settings.preflight:
        return Form.absent(), {}
    stats.state = f"asking {client.base_url} for the app's form"
    parameters = await _patiently(client.parameters, settings, stats, control, clock)
    info = await _patiently(lambda: _info(client), settings, stats, control, clock)
    log.info("Dify %s at %s, app %s", client.server_version or "of unknown version", client.base_url, info.get("name"))
    return Form.from_parameters(parameters), info


async def app_kind(
    client: AppClient, settings: Settings, info: Mapping[str, Any], stats: Stats, control: Control, clock: Clock
) -> Kind:
    """The kind of the app: as --app-kind says, else GET /info, else what the app answers.

    Raises:
        UsageError: a setting does not go with the kind.
        AppError: it is a kind that nobody knows here; others as `app_form`.
    """
    kind = kind_told(settings, info)
    if kind is None and settings.preflight and isinstance(client, DifyClient):
        asking = KindClient.of(WORKFLOW, client)
        kind = await _patiently(asking.kind_by_answers, settings, stats, control, clock)
    kind = kind or WORKFLOW
    require_fitting(settings, kind)
    return kind


async def _info(client: AppClient) -> dict[str, Any]:
    """The app's name and mode: useful, not needed. Older servers have no such endpoint, and gateways often pass only
    what is documented; the first run's refusal tells the rest."""
    try:
        return await client.info()
    except RateLimited:
        raise
    except (ServerError, ConnectionFailed) as error:
        status = error.details.get("http_status")
        if not isinstance(status, int) or status >= 500 or status in (408, 425):
            raise
        log.info("the app's name and mode are not known: %s", error.message)
        return {}


def _passes(error: BaseException) -> bool:
    """Whether waiting may mend it."""
    if isinstance(error, AuthError | AppError):
        return False
    if isinstance(error, ConnectionFailed):
        return not error.details.get("certificate") and _SPEAKS_HTTP not in error.message
    return isinstance(error, RateLimited | ServerError)


async def _patiently(
    ask: Callable[[], Awaitable[T]], settings: Settings, stats: Stats, control: Control, clock: Clock
) -> T:
    """Asks until there is an answer. Retry-After is waited for; one that goes past --max-outage is told at once, as a
    server that is asked again too early may wait for longer."""
    waits = backoff.Backoff(settings.initial_retry_delay, settings.max_retry_delay)
    until = clock.monotonic() + settings.max_outage

    def wait(state: RetryCallState) -> float:
        asked = backoff.asked(state)
        return min(waits(state), max(0.0, until - clock.monotonic())) if asked is None else asked

    def stop(state: RetryCallState) -> bool:
        left = until - clock.monotonic()
        return left <= 0 or (backoff.asked(state) or 0.0) > left

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        assert isinstance(error, DifyBatchError)
        if state.attempt_number == 1:
            left = until - clock.monotonic()
            log.warning("%s; waiting for it, %.0f s at most", error.message, left)
        stats.state = f"waiting for the server: {error.message}"

    asking = AsyncRetrying(
        retry=retry_if_exception(_passes),
        wait=wait,
        stop=stop,
        before_sleep=tell,
        sleep=lambda seconds: control.unless_halted(backoff.pause(seconds)),
        reraise=True,
    )

    async def once() -> T:
        return await control.unless_halted(ask())

    return await asking(once)
