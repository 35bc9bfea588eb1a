"""One request to the account surface on its way through: token, scope, limit, body. What each kind of refusal looks
like differs with the shape."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from . import account_wire as wire
from .account import Token
from .account_apps import Listed
from .exchange import Connection, Request
from .site import Site
from .wire import Answer, Refusal, is_uuid

FULL, EXTERNAL = "full", "apps:run apps:read:permitted-external"


class AccountExchange:
    """What a handler needs. `params`: what the route found in the path."""

    __slots__ = ("connection", "params", "request", "site", "token")

    def __init__(self, site: Site, request: Request, connection: Connection, params: Mapping[str, str]) -> None:
        self.site: Site = site
        self.request: Request = request
        self.connection: Connection = connection
        self.params: Mapping[str, str] = params
        self.token: Token

    @property
    def shape(self) -> str:
        return self.site.config.api_shape

    def refuse(self, status: int, code: str, message: str, *headers: tuple[str, str]) -> Refusal:
        return Refusal(wire.refuse(self.shape, status, code, message, *headers))

    def reply(self, value: object, status: int = 200) -> Answer:
        return wire.reply(self.shape, value, status)

    def authenticate(self) -> None:
        """Token, then the limit, then the catalog: 401 and 429 come before 412. Raises Refusal."""
        scheme, _, text = self.request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise Refusal(wire.bearer_required(self.shape))
        token = self.site.accounts.valid(text.strip())
        if token is None:  # 500 on the servers that were seen (dify-wire 27d3, 27o4)
            if self.shape == "C":
                raise self.refuse(401, "unauthorized", "invalid token", ("WWW-Authenticate", 'Bearer realm="api"'))
            raise Refusal(wire.internal(self.shape))
        self.token = token
        self._throttle()
        if self.shape == "C" and self.request.headers.get("x-dify-catalog") != wire.catalog_value():
            raise self.refuse(412, "catalog_stale", "the operations of this server have changed")
        if self.site.config.external_sso and not self.site.config.licensed:
            raise self.refuse(402, "license_required", "the enterprise licence of this server has ended")

    def _throttle(self) -> None:
        accounts = self.site.accounts
        if self.request.path == f"{wire.PREFIX}/account":  # a limit of its own, without Retry-After (dify-wire 27p)
            if accounts.throttle(f"account {self.token.person.id}") is not None:
                raise self.refuse(429, "too_many_requests", "rate_limited")
            return
        wait = accounts.throttle(self.token.text)
        if wait is None:
            return
        seconds = math.ceil(wait)
        header = ("Retry-After", str(seconds))
        if self.shape == "C":
            raise Refusal(wire.reply("C", {"error": "rate_limited", "retry_after_ms": seconds * 1000}, 429, header))
        message = "This user has exceeded an allotted request count. Try again later."
        raise self.refuse(429, "too_many_requests", message, header)

    def account_only(self) -> None:
        """Refuses a person of an external sign-on."""
        if self.token.person.external:
            raise self.refuse(403, "unsupported_token_type", "this operation needs an account token")

    def listed(self) -> Listed:
        """The app of the path, if this person may use it (dify-wire 27g6, 27g9). Raises Refusal."""
        app_id = self.params["app_id"]
        entry = self.site.accounts.by_id.get(app_id) if is_uuid(app_id) else None
        if entry is None:
            raise self.refuse(404, "not_found", "app not found")
        if self.token.person.external and not entry.external:
            raise self.refuse(403, "insufficient_scope", "this app is not open to external users")
        if not entry.app.enabled:
            raise self.refuse(403, "forbidden", "service_api_disabled")
        return entry

    def json_body(self) -> dict[str, Any]:
        """The body; one that cannot be read counts as an empty object (dify-wire 27i15)."""
        try:
            body = json.loads(self.request.body)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}
