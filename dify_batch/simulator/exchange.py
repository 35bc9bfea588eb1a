"""One request as it reaches the simulated Dify, and the connection that it came on. Whoever serves it fills both in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from . import wire
from .apps import App
from .faults import Fault
from .site import Site
from .wire import Headers, Refusal

MAX_USER = 255  # more is a 500 (dify-wire 07f)


@dataclass(slots=True)
class Request:
    """One HTTP request, read to its end. path is decoded; names in `headers` are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    base_url: str  # "http://HOST/", by the Host header
    params: dict[str, str] = field(default_factory=dict)  # what the route found in the path
    met: Fault | None = None  # what the plan has for this request, if it is of the whole server


class Connection(Protocol):
    """A request's connection: whether the client is still there, and every way to answer it or not to."""

    @property
    def started(self) -> bool:
        """Whether anything of an answer has been sent."""

    @property
    def closed(self) -> bool:
        """Whether the client has gone, or the server has closed."""

    def when_lost(self, call: Callable[[], None]) -> None:
        """Has `call` called, once, when the connection is gone; forgotten when its next request comes."""

    async def until_closed(self) -> None:
        """Waits for the client to go away."""

    async def close(self) -> None:
        """Closes the connection after what was sent, and no byte more."""

    async def start(self, status: int, headers: Headers) -> None:
        """Sends the head of an answer in parts."""

    async def write(self, data: bytes) -> None:
        """Sends a part of a started answer; goes nowhere if the client has gone."""

    async def end(self) -> None:
        """Ends a started answer properly."""

    async def raw(self, data: bytes) -> None:
        """Sends bytes that are no proper answer, in place of one."""


class Exchange:
    """One request on its way through: what a handler needs."""

    __slots__ = ("app", "connection", "request", "site")

    def __init__(self, site: Site, request: Request, connection: Connection) -> None:
        self.site: Site = site
        self.request: Request = request
        self.connection: Connection = connection
        self.app: App

    def meets(self, name: str) -> bool:
        """Whether the request meets that fault of the whole server."""
        met = self.request.met
        return (met is not None and met.name == name) or name in self.site.plan.server

    def authenticate(self) -> None:
        """Finds the app by its key (dify-wire 03, 04, 21j)."""
        scheme, _, key = self.request.headers.get("authorization", "").partition(" ")
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

    def json_body(self) -> dict[str, Any]:
        """The body as an object; raises Refusal as Dify refuses others (dify-wire 09)."""
        media = self.request.headers.get("content-type", "").split(";")[0].strip().lower()
        if media != "application/json" and not media.endswith("+json"):
            raise Refusal(wire.WRONG_MEDIA_TYPE)
        try:
            body = json.loads(self.request.body, parse_constant=_no_constant)
            if b"\\u" in self.request.body:
                json.dumps(body, ensure_ascii=False).encode()  # a lone surrogate (dify-wire 22d)
        except ValueError:
            raise Refusal(wire.BAD_REQUEST) from None
        if not isinstance(body, dict):
            raise Refusal(wire.UNKNOWN_500)
        return body


def user_of(fields: Mapping[str, Any]) -> str:
    """The `user` of a body or a query (dify-wire 07, 22m). Raises Refusal."""
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
