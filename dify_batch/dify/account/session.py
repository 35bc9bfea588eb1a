"""Which server is spoken to, as whom: the environment before what is stored, and what must hold before any request."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import platformdirs

from dify_batch.dify.account.hosts import Host, Workspace
from dify_batch.dify.account.shapes import Shape
from dify_batch.errors import AuthError, UsageError

Kind = Literal["account", "external"]

DEFAULT_HOST = "https://cloud.dify.ai"
DEMO = "demo"
"""The host that stands for the built-in simulated Dify: `demo`, or `demo-B` and `demo-C` for the newer shapes."""

_NAME = "dify-batch"


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in that requests are made with. `kind` is None where only the server can tell it. `expires_at`: ISO 8601.

    The token shows itself nowhere: it is in no repr.
    """

    host: str
    token: Token
    kind: Kind | None
    email: str = ""
    workspace: Workspace | None = None
    expires_at: str | None = None
    shape: Shape | None = None
    stored: bool = False


class Token:
    """A text that does not show itself."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Token('********')"

    __str__ = __repr__


def config_folder(environ: Mapping[str, str]) -> Path:
    """Where hosts.yml is: DIFY_CONFIG_DIR, else what the system has for settings."""
    given = environ.get("DIFY_CONFIG_DIR", "").strip()
    return Path(given) if given else platformdirs.user_config_path(_NAME)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where what can be asked again is: DIFY_CACHE_DIR, else what the system has for caches."""
    given = environ.get("DIFY_CACHE_DIR", "").strip()
    return Path(given) if given else platformdirs.user_cache_path(_NAME)


def is_demo(host: str) -> bool:
    return host == DEMO or host in (f"{DEMO}-A", f"{DEMO}-B", f"{DEMO}-C")


def read_host(text: str, *, insecure: bool = False) -> str:
    """The host as it is kept: scheme, name and port. A path of the API, which people paste with it, is left out.

    Raises UsageError: it is no host, or plain http to another machine without `insecure`.
    """
    host = text.strip()
    if is_demo(host):
        return host
    if "://" not in host:
        host = f"https://{host}"
    try:
        parts = urlsplit(host)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or "@" in parts.netloc or parts.query or parts.fragment or any(map(str.isspace, host)):
        raise UsageError("--host is no address of a server", hint=f"write it as --host {DEFAULT_HOST}")
    path = parts.path.rstrip("/")
    if path not in ("", "/v1", "/openapi/v1", "/console", "/apps", "/signin", "/device"):
        raise UsageError(f"--host has a path ({path}); only the server's address belongs there")
    if parts.scheme == "http" and not insecure and not _loopback(parts.hostname or ""):
        raise UsageError(
            f"http:// to {parts.hostname} would send the token in the clear",
            hint="use https://, or add --insecure-http where nobody can listen",
        )
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def kind_of_token(token: str) -> Kind | None:
    """What a token's beginning tells for certain. Others, such as personal access tokens, begin otherwise: the server
    is asked."""
    if token.startswith("dfoa_"):
        return "account"
    return "external" if token.startswith("dfoe_") else None


def kind_of_subject(subject_type: object) -> Kind:
    """What GET account tells."""
    return "external" if isinstance(subject_type, str) and "external" in subject_type else "account"


def check_token(token: str) -> str:
    """A token that can stand in a header. Raises UsageError, which does not show it."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("that is no token: it is empty, or has blanks or letters that no token has")
    if token.startswith("app-"):
        raise UsageError(
            "that is an app's key, which the account surface does not take",
            hint="put it into .env as DIFY_API_KEY, or sign in: dify-batch auth login",
        )
    return token


def environment_host(environ: Mapping[str, str]) -> str | None:
    """DIFY_HOST, or DIFY_SERVER, its newer name."""
    return environ.get("DIFY_HOST", "").strip() or environ.get("DIFY_SERVER", "").strip() or None


def no_session(host: str | None) -> AuthError:
    where = f" to {host}" if host else ""
    again = "dify-batch auth login" + (f" --host {host}" if host else "")
    return AuthError(f"you are not signed in{where}", code="not_logged_in", hint=f"{again} (to try it: --host {DEMO})")


def of_environment(token: str, host: str, known: Host | None) -> Session:
    """A session out of DIFY_TOKEN: for CI, which needs no file."""
    text = check_token(token)
    shape = known.shape if known is not None else None
    return Session(host, Token(text), kind_of_token(text), shape=shape)


def of_store(name: str, host: Host, token: str) -> Session:
    kind: Kind = "external" if host.kind == "external" else "account"
    return Session(name, Token(token), kind, host.email, host.workspace, host.expires_at, host.shape, stored=True)


def workspace_of(flag: str | None, environ: Mapping[str, str], session: Session) -> str:
    """The workspace: flag, DIFY_WORKSPACE_ID, the stored one. Raises UsageError `workspace_required`."""
    stored = session.workspace.id if session.workspace is not None else ""
    found = (flag or "").strip() or environ.get("DIFY_WORKSPACE_ID", "").strip() or stored
    if not found:
        raise UsageError(
            "no workspace is chosen",
            code="workspace_required",
            hint="add -w ID, or choose one for good: dify-batch auth use WORKSPACE",
        )
    return found


def check_surface(kind: Kind | None, *, external: bool, twin: str) -> None:
    """That a command is for this kind of sign-in, before any request. `twin`: the command that is.

    Raises UsageError `illegal_argument`.
    """
    if kind is not None and (kind == "external") != external:
        who = "an external" if kind == "external" else "an account's"
        raise UsageError(
            f"this sign-in is {who}, which has another command for that",
            code="illegal_argument",
            hint=f"dify-batch {twin}",
        )
