"""One exchange with the account surface: its shape found and kept, its catalog's value borne, what is safe repeated.

GETs are repeated on 429, 5xx and a connection that fails. A POST is repeated only where the answer proves that nothing
was executed: 404 on a path that another shape has, 412 `catalog_stale`, or, when asked for, 429.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from dify_batch import backoff
from dify_batch._version import __version__
from dify_batch.dify import http
from dify_batch.dify.account.refusals import LOGIN, STALE, code_of, refusal, wait_of
from dify_batch.dify.account.shapes import CATALOG, RELEASES, UNGUARDED, Route, Shape, kind_of_run, route, shape_of
from dify_batch.dify.answers import http_date
from dify_batch.dify.failures import Broken
from dify_batch.dify.transport import Transport, drop, whole_body
from dify_batch.errors import AppError, AuthError, ConnectionFailed, DifyBatchError, RateLimited, ServerError
from dify_batch.seams import REAL, Seams
from dify_batch.strictjson import json_object

TIMEOUT = 30.0
"""Seconds for one whole answer."""

HEAD_TIMEOUT = 120.0
"""Seconds until a stream begins: chats send nothing before their first token, or 10 s [32b]."""

REPEATS = 3
LONGEST_WAIT = 60.0
"""Seconds: a server that asks for more ends the attempt at once."""

_FIRST_WAIT = 0.5
_STALE_REPEATS = 2
"""How often a `catalog_stale` is followed: with replicas of two versions it could go on for ever."""


class _Passing(Exception):
    """An error that may pass by itself; `retry_after`: seconds that the server asks for."""

    def __init__(self, error: DifyBatchError, retry_after: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Ask:
    """One request by its operation. `ids` fill the path, `mode` is the app's where the path tells it."""

    operation: str
    ids: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[Shape], Mapping[str, Any]] | None = None
    mode: str = "workflow"
    files: Mapping[str, Any] | None = None
    on_limit: bool = False

    def route(self, shape: Shape) -> Route | None:
        return route(shape, self.operation, kind=kind_of_run(self.mode), **self.ids)


class AccountExchange:
    """Requests to one host with one token.

    Args:
        host: address of the server without a path, such as https://cloud.dify.ai.
        token: the bearer token, "" where there is none yet; shown nowhere.
        shape: the shape that the host had last; asked of the server where None.
        on_shape: told of a shape that is new.
        transport: in place of the built-in one. It is closed with this.
    """

    def __init__(
        self,
        host: str,
        token: str = "",
        *,
        shape: Shape | None = None,
        on_shape: Callable[[Shape], None] | None = None,
        transport: http.AsyncBaseTransport | None = None,
        seams: Seams = REAL,
    ) -> None:
        self.host = host
        self._token = token
        self._shape = shape
        self._on_shape = on_shape
        self._transport = transport or Transport(host)
        self._seams = seams
        self._waits = backoff.Backoff(_FIRST_WAIT, LONGEST_WAIT, seams.chance)
        self._catalog: str | None = None
        self._date: tuple[str, float] | None = None

    @property
    def clock_offset(self) -> float | None:
        """Seconds by which the server's clock is ahead of ours, good to about half a second; None until known."""
        if self._date is None:
            return None
        text, local = self._date
        server = http_date(text)
        return None if server is None else server + 0.5 - local  # the header leaves out the part below a second

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def shape(self) -> Shape:
        """The server's shape, by one GET unless it is known. C's catalog value is learnt with it."""
        if self._shape is None or (self._shape == "C" and self._catalog is None):
            await self._find_shape()
        assert self._shape is not None
        return self._shape

    async def _find_shape(self) -> None:
        response, body, asked = await self._settled(Ask("version"), stream=False)
        version = str((json_object(body) or {}).get("version") or "")
        if not version:
            raise AppError(
                f"GET {self.host}{asked.path} tells no version: this is hardly a Dify server",
                hint="check --host",
                code="unsupported_endpoint",
            )
        self._catalog = response.headers.get(CATALOG)
        self._become(shape_of(version, self._catalog))

    def _become(self, shape: Shape) -> None:
        changed, self._shape = self._shape != shape, shape
        if changed and self._on_shape is not None:
            self._on_shape(shape)

    async def call(self, ask: Ask) -> dict[str, Any]:
        """The JSON object that a request is answered with. Raises the errors of `refusals`, and ConnectionFailed."""
        response, body, asked = await self._settled(ask, stream=False)
        found = json_object(body)
        if found is None and not response.is_success:
            raise self._refused(response, body, asked)
        if found is None:
            raise AppError(
                f"{asked.method} {self._url(asked)} answers with something that is not Dify's JSON",
                hint="check --host",
                http_status=response.status_code,
            )
        return found

    async def open(self, ask: Ask) -> http.Response:
        """An event stream, to be read and dropped by the caller. Raises as `call` does for every other answer."""
        response, _, asked = await self._settled(ask, stream=True)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            await drop(response)
            raise AppError(f"{asked.method} {self._url(asked)} answers without a stream", hint="check --host")
        return response

    # --- repeating -----------------------------------------------------------------------------------------------

    async def _settled(self, ask: Ask, *, stream: bool) -> tuple[http.Response, bytes, Route]:
        """The good answer to a request, after whatever may be repeated has been."""
        repeating = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, _Passing)),
            stop=stop_after_attempt(REPEATS + 1),
            wait=self._waits,
            sleep=backoff.pause,
            reraise=True,
        )
        try:
            answer: tuple[http.Response, bytes, Route] = await repeating(self._once, ask, stream=stream)
        except _Passing as passing:
            raise passing.error from passing.__cause__
        return answer

    async def _once(self, ask: Ask, *, stream: bool) -> tuple[http.Response, bytes, Route]:
        """The good answer, after what proves that nothing was executed. Raises _Passing for what may be repeated."""
        stale, looked = 0, False
        while True:
            asked = await self._route(ask)
            repeatable = asked.method != "POST"
            try:
                response, body = await self._whole(ask, asked, stream=stream)
            except ConnectionFailed as failed:
                if repeatable:
                    raise _Passing(failed) from failed.__cause__
                raise
            if response.is_success:
                return response, body, asked
            status = response.status_code
            if status == 412 and code_of(body) == STALE and stale < _STALE_REPEATS:
                stale += 1
                self._catalog = response.headers.get(CATALOG)
                self._become("C")
                continue
            if status == 404 and not looked and ask.operation not in UNGUARDED:
                looked, before = True, self._shape
                await self._find_shape()
                if self._shape != before:
                    continue
            error = self._refused(response, body, asked)
            if status == 500 and ask.operation not in UNGUARDED and await self._token_is_dead(ask):
                raise AuthError(
                    "the token of this sign-in has ended or was revoked", code="token_expired", hint=LOGIN
                ) from error
            wait = wait_of(response.headers, body, self._seams.clock.wall())
            limited = isinstance(error, RateLimited) and code_of(body) != "rate_limit_error"
            again = (limited and (repeatable or ask.on_limit)) or (repeatable and isinstance(error, ServerError))
            again = again and (limited or status >= 500) and (wait is None or wait <= LONGEST_WAIT)
            raise _Passing(error, wait) if again else error

    async def _token_is_dead(self, ask: Ask) -> bool:
        """A dead token is answered with 500 by servers of A and B [27d3, 27o4]: so is GET account then, while the
        server says that it is well."""
        if self._shape == "C":
            return False
        if ask.operation != "account":
            response, _ = await self._whole(Ask("account"), await self._route(Ask("account")))
            if response.status_code != 500:
                return False
        health, _ = await self._whole(Ask("health"), await self._route(Ask("health")))
        return health.is_success

    async def _route(self, ask: Ask) -> Route:
        shape = self._shape or "A" if ask.operation in UNGUARDED else await self.shape()
        found = ask.route(shape)
        if found is None:
            raise AppError(
                f"this server (of {RELEASES[shape]}) has no {ask.operation.replace('_', ' ')}",
                code="unsupported_endpoint",
                hint="dify-batch help -o json tells what needs which server",
            )
        return found

    # --- one exchange --------------------------------------------------------------------------------------------

    def _url(self, asked: Route) -> str:
        return self.host + asked.path

    def _refused(self, response: http.Response, body: bytes, asked: Route) -> DifyBatchError:
        now = self._seams.clock.wall()
        return refusal(response.status_code, response.headers, body, asked.method, self._url(asked), now=now)

    def _request(self, ask: Ask, asked: Route) -> http.Request:
        url = self._url(asked) + (f"?{urlencode(ask.query)}" if ask.query else "")
        headers = {"User-Agent": f"dify-batch/{__version__}", "Accept": "*/*"}
        if ask.operation not in UNGUARDED:
            headers["Authorization"] = f"Bearer {self._token}"
            if self._catalog is not None:
                headers[CATALOG] = self._catalog
        limits = {"timeout": {"connect": 10.0, "pool": 10.0}}
        if ask.files is not None:
            return http.Request(asked.method, url, headers=headers, files=ask.files, extensions=limits)
        content = None
        if ask.body is not None:
            body = ask.body(self._shape or "A")
            content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
            headers["Content-Type"] = "application/json"
        return http.Request(asked.method, url, headers=headers, content=content, extensions=limits)

    async def _whole(self, ask: Ask, asked: Route, *, stream: bool = False) -> tuple[http.Response, bytes]:
        """One answer. With `stream` a good one is left open, and its body is not read."""
        request = self._request(ask, asked)
        response: http.Response | None = None
        limit, sent = HEAD_TIMEOUT if stream else TIMEOUT, True
        try:
            async with asyncio.timeout(limit):
                response = await self._transport.handle_async_request(request)
                if (date := response.headers.get("date")) is not None:
                    self._date = date, self._seams.clock.wall()
                if stream and response.is_success:
                    opened, response = response, None
                    return opened, b""
                return response, await whole_body(response)
        except TimeoutError:
            why = f"no answer within {limit:g} s"
        except Exception as exc:  # noqa: BLE001 - of whatever kind: `Broken` says what it means
            broken = Broken(exc)
            why, sent = str(broken), broken.meaning != "unreachable"
        finally:
            if response is not None:
                await drop(response)
        raise ConnectionFailed(
            f"{asked.method} {self._url(asked)}: {why}",
            hint="check the address, the network and the proxy settings",
            method=asked.method,
            url=self._url(asked),
            sent=sent,
        )
