"""Who may use the simulated Dify's account surface: sign-in by device code, tokens, sessions, rate limits (dify-wire
27a to 27d, 27o, 27p). State and rules; no request is read here."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .account_apps import WORKSPACES, Listed, Workspace, catalogue
from .apps import App
from .config import Config
from .means import Means
from .wire import derived_id

CLIENTS = ("difyctl",)  # OPENAPI_KNOWN_CLIENT_IDS
CODE_LIFETIME = 900  # seconds
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ23456789"
_WINDOW = 60.0  # seconds of the rate limits


@dataclass(frozen=True, slots=True)
class Person:
    """Who signs in. `kind` is `subject_type`: account, or external_sso for a person of an external sign-on."""

    kind: str
    id: str
    email: str
    name: str
    issuer: str | None = None

    @property
    def external(self) -> bool:
        return self.kind != "account"

    def creator(self) -> dict[str, Any]:
        """`created_by` of what this person's runs tell (dify-wire 27i)."""
        return {"id": self.id, "name": self.name, "email": self.email}


ADMIN = Person("account", derived_id("account", "admin"), "admin@example.com", "Admin")
GUEST = Person(
    "external_sso", derived_id("account", "guest"), "guest@partner.example", "Guest", "https://sso.partner.example"
)


@dataclass(slots=True)
class Window:
    """Requests within the minute that began with the first of them."""

    began: float = -math.inf
    count: int = 0

    def take(self, now: float, limit: int | None) -> float | None:
        """None if there was room, else the seconds until there is."""
        if now - self.began >= _WINDOW:
            self.began, self.count = now, 0
        if limit is not None and self.count >= limit:
            return self.began + _WINDOW - now
        self.count += 1
        return None


@dataclass(slots=True)
class Token:
    """One session. Times: seconds since 1970."""

    text: str
    id: str
    person: Person
    client_id: str
    label: str
    created: float
    expires: float

    def describe(self) -> dict[str, Any]:
        """An entry of GET account/sessions (dify-wire 27d5)."""
        return {
            "id": self.id,
            "prefix": self.text[:5],
            "client_id": self.client_id,
            "device_label": self.label,
            "created_at": moment(self.created, "Z"),
            "last_used_at": None,
            "expires_at": moment(self.expires, "Z"),
        }


@dataclass(slots=True)
class Device:
    """A sign-in that is under way. state: pending, approved, denied, used."""

    code: str
    user_code: str
    client_id: str
    label: str
    began: float
    polled: float = -math.inf
    state: str = "pending"
    person: Person = ADMIN


def moment(seconds: float, zone: str) -> str:
    """ISO 8601 with microseconds, UTC written as `zone`."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + zone


class Accounts:
    """Everybody's tokens and what they may see. To be used in the server's event loop only."""

    def __init__(self, config: Config, means: Means, apps: Mapping[str, App]) -> None:
        self.config = config
        self._means = means
        self.listed: tuple[Listed, ...] = catalogue(apps)
        self.by_id: dict[str, Listed] = {entry.app.id: entry for entry in self.listed}
        self.tokens: dict[str, Token] = {}
        self._devices: dict[str, Device] = {}
        self._windows: dict[str, Window] = {}
        self.conversations: dict[str, tuple[str, str]] = {}  # id -> (app, person)
        self.talks: dict[str, asyncio.Event] = {}  # task id -> set when somebody stops it

    def begin(self, client_id: str, label: str) -> Device | None:
        """A new sign-in; None for a client that is not known (dify-wire 27a2)."""
        if client_id not in CLIENTS:
            return None
        digits = [int(self._means.chance.token(1), 16) % len(_LETTERS) for _ in range(8)]
        word = "".join(_LETTERS[digit] for digit in digits)
        device = Device(
            f"dc_{self._means.chance.token(16)}",
            f"{word[:4]}-{word[4:]}",
            client_id,
            label,
            self._means.monotonic(),
        )
        self._devices[device.code] = device
        return device

    def device(self, user_code: str) -> Device | None:
        """The sign-in that a person sees by this code, while it waits."""
        for device in self._devices.values():
            if device.user_code == user_code.strip().upper() and self._left(device) > 0 and device.state == "pending":
                return device
        return None

    def remaining(self, device: Device) -> int:
        """Seconds that it still waits."""
        return math.ceil(self._left(device))

    def _left(self, device: Device) -> float:
        return device.began + CODE_LIFETIME - self._means.monotonic()

    def poll(self, code: str) -> Token | str:
        """The token, once; or the error of RFC 8628 (dify-wire 27b, 27c)."""
        device = self._devices.get(code)
        if device is None or device.state == "used" or self._left(device) <= 0:
            return "expired_token"
        now = self._means.monotonic()
        approval = self.config.device_approval
        if device.state == "pending" and approval is not None and now - device.began >= approval:
            device.state = "approved"
        if device.state == "denied":
            return "access_denied"
        if device.state == "approved":
            device.state = "used"
            return self.issue(device.person, device.client_id, device.label)
        early = now - device.polled < self.config.device_interval
        device.polled = now
        return "slow_down" if early else "authorization_pending"

    def issue(self, person: Person, client_id: str = "difyctl", label: str = "", text: str | None = None) -> Token:
        """A new session. One of the same person under the same label ends."""
        for other in [t for t in self.tokens.values() if t.person is person and t.label == label]:
            del self.tokens[other.text]
        prefix = "dfoe_" if person.external else "dfoa_"
        now = self._means.now()
        token = Token(
            text or f"{prefix}{self._means.chance.token(24)}",
            self._means.new_id(),
            person,
            client_id,
            label,
            now,
            now + self.config.token_lifetime,
        )
        self.tokens[token.text] = token
        return token

    def valid(self, text: str) -> Token | None:
        """The session of a token that is neither unknown nor revoked nor past its end."""
        token = self.tokens.get(text)
        return token if token is not None and token.expires > self._means.now() else None

    def revoke(self, token: Token) -> None:
        self.tokens.pop(token.text, None)

    def sessions(self, person: Person) -> list[Token]:
        """Newest first."""
        found = [token for token in self.tokens.values() if token.person is person]
        return sorted(found, key=lambda token: token.created, reverse=True)

    def throttle(self, name: str) -> float | None:
        """Counts a request against the limit of `name`: None, or the seconds to wait (dify-wire 27p)."""
        limit = self.config.account_rate
        window = self._windows.setdefault(name, Window())
        return window.take(self._means.monotonic(), None if limit is None else int(limit))

    def workspaces(self, person: Person) -> tuple[Workspace, ...]:
        return () if person.external else WORKSPACES

    def visible(self, person: Person, workspace_id: str | None) -> list[Listed]:
        """The apps that GET apps shows: an app whose API is off is not among them."""
        return [
            entry
            for entry in self.listed
            if entry.app.enabled and (entry.external if person.external else entry.workspace.id == workspace_id)
        ]
