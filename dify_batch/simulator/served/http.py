"""HTTP by aiohttp.web, without a network of its own: a factory of protocols, to be served in any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from .. import account_api, account_signin
from ..exchange import Connection, Request
from ..lookups import ROUTES
from ..routes import answer, reach
from ..site import Site
from ..wire import Answer, Headers

Handle = Callable[[Request, Connection], Awaitable[Answer | None]]

MAX_BODY = 1 << 30  # no limit of ours: that is a matter of what stands in front
_NO_QUERY: dict[str, str] = {}
CLOSING = 1.0  # seconds; a client that does not read keeps the last bytes from going out for no longer


class HttpServer(web.Server):
    """Serves `handle`: `loop.create_server(HttpServer(...))`, `web.ServerRunner(HttpServer(...))`, or a simulated
    network that calls it for each connection and gives the protocol a transport.

    keep_alive: seconds after which an idle connection is closed; may be changed, for connections to come.
    now: seconds since 1970, for the header Date.
    """

    def __init__(self, handle: Handle, keep_alive: float, now: Callable[[], float]) -> None:
        super().__init__(self._respond)
        self.keep_alive = keep_alive
        self._handle = handle
        self._now = now
        self._date = (0, "")

    def __call__(self) -> web.RequestHandler:
        loop = asyncio.get_running_loop()
        return _Protocol(self, loop=loop, keepalive_timeout=self.keep_alive, access_log=None)

    def _make_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)

    def drop(self) -> None:
        """Cuts every connection at once, as the death of the process does."""
        for protocol in self.connections:
            if protocol.transport is not None:
                protocol.transport.abort()

    def close_idle(self) -> None:
        """No connection takes another request: idle ones are closed, what is being answered is answered."""
        self.pre_shutdown()
        for protocol in self.connections:
            if isinstance(protocol, _Protocol) and not protocol.busy:
                protocol.force_close()

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, _Protocol)
        protocol.busy = True
        try:
            response = await self._answer(request, protocol)
            with suppress(ConnectionError, RuntimeError, AssertionError):  # the client has gone
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            protocol.busy = False

    async def _answer(self, request: web.BaseRequest, protocol: _Protocol) -> web.StreamResponse:
        connection = _Connection(request, protocol, self.date)
        try:
            # Before any waiting: a client that goes away meanwhile is served all the same (dify-wire 23d).
            body = await request.read()
        except (ConnectionError, web.RequestPayloadError):
            return _Sent(keep=False)
        query = request.query if request.query_string else _NO_QUERY
        base_url = f"http://{request.headers.get('Host', '')}/"
        inner = Request(request.method, request.path, query, request.headers, body, base_url)
        result = await self._handle(inner, connection)
        if result is None:
            return connection.sent()
        headers = CIMultiDict(result.head())
        headers["Date"] = self.date()
        return web.Response(status=result.status, headers=headers, body=result.body)

    def date(self) -> str:
        """The header Date, by the server's clock."""
        now = int(self._now())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]


def site_server(site: Site) -> HttpServer:
    """The HTTP server of a simulated Dify. When its API is killed, every connection is cut; whether new ones are then
    refused is up to the network that it is served on."""

    async def handle(request: Request, connection: Connection) -> Answer | None:
        def respond() -> Awaitable[Answer | None]:
            if request.path.startswith("/openapi/v1/"):
                return account_api.answer(site, request, connection)
            if request.path == "/device":
                return account_signin.device_page(site, request)
            return answer(site, ROUTES, request, connection)

        name = ROUTES.name_of(request.path) if site.plan.requests else ""
        return await reach(site, name, request, connection, respond)

    server = HttpServer(handle, site.config.keep_alive, site.means.now)
    site.api.watch(lambda alive: None if alive or "proxied" in site.plan.server else server.drop())
    return server


class _Protocol(web.RequestHandler):
    """aiohttp's, which tells those who want to know that the connection is gone."""

    __slots__ = ("busy", "lost")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.busy = False  # a request is being answered
        self.lost: list[Callable[[], None]] = []
        super().__init__(*args, **kwargs)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        lost, self.lost = self.lost, []
        for call in lost:
            call()


class _Sent(web.StreamResponse):
    """Stands for an answer that has been given, or withheld, without aiohttp."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self._keep = keep

    @property
    def keep_alive(self) -> bool:
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is to be sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is to be ended."""


class _Connection:
    """One request's connection."""

    __slots__ = ("_date", "_kept", "_protocol", "_request", "_response", "_transport")

    def __init__(self, request: web.BaseRequest, protocol: _Protocol, date: Callable[[], str]) -> None:
        self._request = request
        self._protocol = protocol
        self._date = date
        self._transport = protocol.transport
        self._response: web.StreamResponse | None = None
        self._kept = False
        protocol.lost = []

    @property
    def started(self) -> bool:
        return self._response is not None or self._kept

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def when_lost(self, call: Callable[[], None]) -> None:
        self._protocol.lost.append(call)

    async def until_closed(self) -> None:
        if self.closed:
            return
        gone = asyncio.get_running_loop().create_future()
        self.when_lost(lambda: None if gone.done() else gone.set_result(None))
        await gone

    async def close(self) -> None:
        if self._transport is None:
            return
        gone = asyncio.get_running_loop().create_future()
        self.when_lost(lambda: None if gone.done() else gone.set_result(None))
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSING):
                await gone
        except TimeoutError:
            self._transport.abort()

    async def start(self, status: int, headers: Headers) -> None:
        response = self._response = web.StreamResponse(status=status, headers=CIMultiDict(headers))
        response.headers["Date"] = self._date()
        with suppress(ConnectionError):
            await response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        assert self._response is not None
        with suppress(ConnectionError, RuntimeError):  # RuntimeError: its head never went out
            await self._response.write(data)

    async def end(self) -> None:
        assert self._response is not None
        with suppress(ConnectionError, RuntimeError, AssertionError):
            await self._response.write_eof()

    async def raw(self, data: bytes) -> None:
        self._kept = True
        if self._transport is not None:
            self._transport.write(data)

    def sent(self) -> web.StreamResponse:
        """What stands for the answer when all of it has been said."""
        if self._response is None or self.closed:
            return _Sent(self._kept)
        return self._response
