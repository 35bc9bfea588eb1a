"""What every request goes through: path, method, whole-server faults, connection slot, key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

from . import wire
from .exchange import Connection, Exchange, Request
from .site import Site
from .wire import Answer, Refusal

Handler = Callable[[Exchange], Awaitable[Answer | None]]
"""Gives the whole answer, or None once it has answered over the connection, or has cut it."""

Table = Mapping[str, Mapping[str, Handler]]
"""Path, with `{names}` -> method -> handler."""

_API_PID = 1  # in a container of its own


class Routes:
    """Finds who answers a path."""

    def __init__(self, table: Table) -> None:
        self._fixed = {f"/{path}": (path, handlers) for path, handlers in table.items() if "{" not in path}
        self._named: dict[int, list[tuple[list[str], str, Mapping[str, Handler]]]] = {}
        for path, handlers in table.items():
            if "{" in path:
                parts = f"/{path}".split("/")
                self._named.setdefault(len(parts), []).append((parts, path, handlers))

    def find(self, path: str) -> tuple[str, Mapping[str, Handler], dict[str, str]] | None:
        """(path of the table, its handlers, what the names stand for)."""
        if (fixed := self._fixed.get(path)) is not None:
            return (*fixed, {})
        parts = path.split("/")
        for pattern, name, handlers in self._named.get(len(parts), ()):
            pairs = [(p, value) for p, value in zip(pattern, parts, strict=True) if p != value or "{" in p]
            if all(p.startswith("{") and value for p, value in pairs):
                return name, handlers, {p[1:-1]: value for p, value in pairs}
        return None


async def reached(site: Site, connection: Connection) -> bool:
    """Whether there is an API process to take a request up; it dies with it then."""
    if not site.api.alive:
        await connection.close()
        return False
    task = asyncio.current_task()
    assert task is not None
    site.api.adopt(task)
    return True


async def answer(site: Site, routes: Routes, request: Request, connection: Connection) -> Answer | None:
    """The answer to a request; None if it has been answered, or the connection cut, meanwhile."""
    if request.path == "/health":  # answers even with Postgres or Redis down (dify-wire 26o4b)
        return Answer(200, json.dumps({"pid": _API_PID, "status": "ok", "version": wire.VERSION}).encode())
    found = routes.find(request.path)
    if found is None:
        return wire.NO_PAGE
    name, handlers, request.params = found
    count = f"{request.method} {name.removeprefix('v1/')}"
    site.requests[count] = site.requests.get(count, 0) + 1
    if request.method == "OPTIONS":
        return Answer(200, b"", wire.HTML, (("Allow", ", ".join(sorted({"OPTIONS", *handlers}))),))
    handler = handlers.get("GET" if request.method == "HEAD" else request.method)
    if handler is None:
        return wire.WRONG_METHOD
    try:
        return await _answer(Exchange(site, request, connection), handler)
    except Refusal as e:
        return e.answer


async def _answer(exchange: Exchange, handler: Handler) -> Answer | None:
    async def handle() -> Answer | None:
        exchange.authenticate()
        return await handler(exchange)

    return await admit(exchange.site, exchange.connection, handle)


async def admit(site: Site, connection: Connection, handle: Callable[[], Awaitable[Answer | None]]) -> Answer | None:
    """What `handle` answers, once the faults of the whole server have had their say and a connection slot is free."""
    faults = site.plan.server
    if faults:
        if "hang" in faults:
            await connection.until_closed()
            return None
        if "outage_500" in faults:
            return wire.UNKNOWN_500
        if "redis_down" in faults:
            await asyncio.sleep(faults["redis_down"].seconds or 0.0)
    await site.api.enter()
    try:
        return await handle()
    finally:
        site.api.leave()
