"""Whose results an output holds: one app on one server. Pure.

The head of each invocation in the journal says it. Of the key it holds a salted fingerprint, cut so short that many
keys have the same: enough to notice another key, and nothing to find one by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dify_batch.errors import UsageError
from dify_batch.text import show

_FINGERPRINT = 4  # bytes: of a thousand keys hardly two are alike, and a key of 24 letters cannot be told from it
SALT = 8  # bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """What one invocation addressed. `server`: host, port and path, without scheme and credentials; "" in a demo.

    `app`, `mode`: by GET /info, None where it was not asked or the server has none. `key`: the fingerprint.
    `workflow_id`: the version that was pinned.
    """

    server: str = ""
    app: str | None = None
    mode: str | None = None
    workflow_id: str | None = None
    key: str = ""
    salt: str = ""
    demo: bool = False

    @classmethod
    def of(
        cls, base_url: str, key: str, salt: str, *, app: str | None = None, mode: str | None = None, **more: Any
    ) -> Identity:
        """`more`: workflow_id."""
        return cls(server=server_of(base_url), app=app, mode=mode, key=fingerprint(key, salt), salt=salt, **more)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Identity:
        """From the head of an invocation; those of earlier versions say only whether it was a demo."""
        texts = {name: record.get(name) for name in ("app", "workflow_id")}
        return cls(
            server=record.get("server", ""),
            mode=record.get("app_mode"),
            key=record.get("key", ""),
            salt=record.get("salt", ""),
            demo=record.get("demo") is True,
            **texts,
        )

    def facts(self) -> dict[str, Any]:
        """For the head of an invocation."""
        if self.demo:
            return {"demo": True}
        facts = {
            "server": self.server,
            "app": self.app,
            "app_mode": self.mode,
            "workflow_id": self.workflow_id,
            "key": self.key,
            "salt": self.salt,
        }
        return {name: value for name, value in facts.items() if value}


def server_of(base_url: str) -> str:
    """What tells one server from another: http and https are the same one."""
    parts = urlsplit(base_url)
    port = {None: "", 80: "", 443: ""}.get(parts.port, f":{parts.port}")
    return f"{(parts.hostname or '').lower()}{port}{parts.path.rstrip('/')}"


def fingerprint(key: str, salt: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=_FINGERPRINT, salt=salt.encode()[:16]).hexdigest()


def require_same(before: Sequence[Identity], base_url: str, key: str, now: Identity, *, allowed: bool) -> str | None:
    """Whether an output that holds results of `before` may take those of `now`. Gives a note, or None.

    Args:
        before: what earlier invocations addressed, the oldest first.
        key: that of now, for a comparison by each salt.
        allowed: --allow-other-app.

    Raises:
        UsageError: code other_app; real results and those of a demo never stand in one file, whatever is allowed.
    """
    if any(one.demo != now.demo for one in before):
        mine, theirs = ("the demo", "a real server") if now.demo else ("a real server", "the demo")
        raise UsageError(
            f"the output holds results of {theirs}, and this is {mine}; the two never stand in one file",
            hint="give another -o",
            code="other_app",
        )
    known = [one for one in before if one.server]
    if now.demo or not known:
        return None
    same_server = [one for one in known if one.server == now.server]
    if not same_server:
        if allowed:
            return f"the output holds results of {known[-1].server}, too"
        raise UsageError(
            f"the output holds results of the server {show(known[-1].server, 200)}, and this is {now.server}",
            hint="give another -o; or add --allow-other-app if it is the same app at another address",
            code="other_app",
        )
    if any(one.key == fingerprint(key, one.salt) for one in same_server):
        return None
    last = same_server[-1]
    names = {one.app for one in same_server if one.app}
    if now.app is None or not names or now.app in names:
        which = "" if now.app is None else f" of the app {show(now.app)}"
        return f"the key is another one than before; the results{which} go on"
    if allowed:
        return f"the output holds results of the app {show(last.app)}, too"
    raise UsageError(
        f"the output holds results of the app {show(last.app)}, and the key is that of the app {show(now.app)}",
        hint="give another -o, or the key of that app; or add --allow-other-app to have both in one file",
        code="other_app",
    )
