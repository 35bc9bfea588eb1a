"""What every request of /v1 goes through: method, whole-server faults, connection slot, key, body."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from . import wire
from .apps import App
from .site import Site
from .streams import Connection
from .wire import Answer, Refusal

MAX_USER = 255  # more is a 500 (dify-wire 07f)


class Exchange:
    """One request on its way through: what a handler needs."""

    __slots__ = ("app", "connection", "request", "site")

    def __init__(self, site: Site, request: Request, connection: Connection) -> None:
        self.site = site
        self.request = request
        self.connection = connection
        self.app: App

    def authenticate(self) -> None:
        """Finds the app by its key (dify-wire 03, 04, 21j)."""
        header = self.request.headers.get("authorization", "")
        scheme, _, key = header.partition(" ")
        if not key.strip():
            raise Refusal(wire.unauthorized("Authorization header must be provided and start with 'Bearer'"))
        if scheme.lower() != "bearer":
            raise Refusal(wire.unauthorized("Authorization scheme must be 'Bearer'"))
        app = self.site.apps.get(key.strip())
        if app is None:
            raise Refusal(wire.unauthorized())
        if not app.enabled:
            raise Refusal(wire.DISABLED)
        self.app = app

    async def json_body(self) -> dict[str, Any]:
        """The body as an object; raises Refusal as Dify refuses others (dify-wire 09)."""
        media = self.request.headers.get("content-type", "").split(";")[0].strip().lower()
        if media != "application/json" and not media.endswith("+json"):
            raise Refusal(wire.WRONG_MEDIA_TYPE)
        try:
            body = json.loads(await self.request.body(), parse_constant=_no_constant)
            if b"\\u" in await self.request.body():
                json.dumps(body, ensure_ascii=False).encode()  # a lone surrogate (dify-wire 22d)
        except ValueError:
            raise Refusal(wire.BAD_REQUEST) from None
        if not isinstance(body, dict):
            raise Refusal(wire.UNKNOWN_500)
        return body

    def user_of(self, fields: Mapping[str, Any]) -> str:
        """The `user` (dify-wire 07, 22m)."""
        user = fields.get("user")
        if user is None or user == "":
            raise Refusal(wire.NO_USER)
        user = str(user)
        if "\x00" in user:
            message = "A string literal cannot contain NUL (0x00) characters."
            raise Refusal(wire.refuse(400, "invalid_param", message))
        if len(user) > MAX_USER:
            raise Refusal(wire.UNKNOWN_500)
        return user


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


Handler = Callable[[Exchange], Awaitable[Answer | None]]


class Endpoint:
    """One path: a handler for each method."""

    def __init__(self, site: Site, name: str, handlers: dict[str, Handler]) -> None:
        self.site = site
        self.name = name
        self.handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        count = f"{method} {self.name}"
        self.site.requests[count] = self.site.requests.get(count, 0) + 1
        handler = self.handlers.get("GET" if method == "HEAD" else method)
        if method == "OPTIONS":
            allow = ", ".join(sorted({"OPTIONS", *self.handlers}))
            await wire.send_answer(send, Answer(200, b"", wire.HTML, ((b"allow", allow.encode()),)))
            return
        if handler is None:
            await wire.send_answer(send, wire.WRONG_METHOD)
            return
        exchange = Exchange(self.site, Request(scope, receive), Connection(scope, receive, send))
        answer: Answer | None
        try:
            # Before any waiting: a client that goes away meanwhile is served all the same (dify-wire 23d).
            await exchange.request.body()
        except ClientDisconnect:
            return
        try:
            answer = await self._answer(exchange, handler)
        except Refusal as e:
            answer = e.answer
        if answer is not None:
            await wire.send_answer(send, answer)

    async def _answer(self, exchange: Exchange, handler: Handler) -> Answer | None:
        faults = self.site.plan.server
        if "hang" in faults:
            await exchange.connection.until_closed()
            return None
        if "outage_500" in faults:
            return wire.UNKNOWN_500
        if "redis_down" in faults:
            await asyncio.sleep(faults["redis_down"].seconds or 0.0)
        await self.site.enter()
        try:
            exchange.authenticate()
            return await handler(exchange)
        finally:
            self.site.leave()


class Health:
    """GET /health: answers even with Postgres or Redis down (dify-wire 26o4b)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = json.dumps({"pid": os.getpid(), "status": "ok", "version": wire.VERSION})
        await wire.send_answer(send, Answer(200, text.encode()))


async def no_page(scope: Scope, receive: Receive, send: Send) -> None:
    """Paths that the router does not know: 404 as HTML (dify-wire 21b)."""
    await wire.send_answer(send, wire.NO_PAGE)


def build_router(site: Site, table: Mapping[str, dict[str, Handler]]) -> Router:
    """The ASGI application over `table`: path below /v1 -> method -> handler."""
    routes = [Route(f"/v1/{path}", Endpoint(site, path, handlers)) for path, handlers in table.items()]
    return Router([*routes, Route("/health", Health())], redirect_slashes=False, default=no_page)
