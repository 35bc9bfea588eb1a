"""What every request goes through: path, method, whole-server faults, connection slot, key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

from . import wire
from .exchange import Connection, Exchange, Request
from .gateway import GATEWAY_FAULTS, gateway_answer, page
from .plan import meet
from .site import Site
from .trouble import before, odd_answer
from .wire import Answer, Refusal

Handler = Callable[[Exchange], Awaitable[Answer | None]]
"""Gives the whole answer, or None once it has answered over the connection, or has cut it."""

Found = tuple[str, Mapping[str, Handler], dict[str, str]]
"""(path of the table, its handlers, what the names stand for)."""

Table = Mapping[str, Mapping[str, Handler]]
"""Path, with `{names}` -> method -> handler."""

FILE_PREVIEW = "files/{file_id}/file-preview"
"""The one path of the table that asks for no key: its links are signed."""

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

    def find(self, path: str) -> Found | None:
        """Who answers that path, if anybody does."""
        if (fixed := self._fixed.get(path)) is not None:
            return (*fixed, {})
        parts = path.split("/")
        for pattern, name, handlers in self._named.get(len(parts), ()):
            pairs = [(p, value) for p, value in zip(pattern, parts, strict=True) if p != value or "{" in p]
            if all(p.startswith("{") and value for p, value in pairs):
                return name, handlers, {p[1:-1]: value for p, value in pairs}
        return None

    def name_of(self, path: str) -> str:
        """How counters and fault plans call an endpoint: its path of the table without the version, else the path."""
        found = self.find(path)
        return path.removeprefix("/") if found is None else found[0].removeprefix("v1/")


async def reach(
    site: Site, name: str, request: Request, connection: Connection, respond: Callable[[], Awaitable[Answer | None]]
) -> Answer | None:
    """What `respond` answers if the request reaches a living API; else what is in front of it says, or nothing.

    name: of the endpoint, for the plan of faults.
    """
    if site.plan.requests:
        met = request.met = meet(site.plan, f"{request.method} {name}", site.means.monotonic())
        if met is not None and met.name in GATEWAY_FAULTS:  # Dify never sees it
            return gateway_answer(met.name, met.seconds)
    task = asyncio.current_task()
    assert task is not None
    site.api.adopt(task)
    try:
        if site.api.alive:
            return await respond()
    except asyncio.CancelledError:
        if site.api.alive or "proxied" not in site.plan.server or connection.started:
            raise
        task.uncancel()  # the API has died; what is in front of it has not
    finally:
        site.api.release(task)
    if "proxied" in site.plan.server:
        return page(502)
    await connection.close()
    return None


async def answer(site: Site, routes: Routes, request: Request, connection: Connection) -> Answer | None:
    """The answer to a request that has reached the API; None if it has been answered, or the connection cut."""
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
    exchange = Exchange(site, request, connection)

    async def handle() -> Answer | None:
        if name != FILE_PREVIEW:
            exchange.authenticate()
        return await handler(exchange)

    try:
        return await admit(site, request, connection, handle)
    except Refusal as e:
        return e.answer


async def admit(
    site: Site, request: Request, connection: Connection, handle: Callable[[], Awaitable[Answer | None]]
) -> Answer | None:
    """What `handle` answers, once the faults of the whole server have had their say and a connection slot is free."""
    met = request.met
    if met is not None:
        answered, early = await before(site, met, connection)
        if answered:
            return early
    await site.api.enter()
    try:
        result = await handle()
    finally:
        site.api.leave()
    return result if met is None or result is None else await odd_answer(connection, met.name, result)
