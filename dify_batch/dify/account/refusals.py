"""What a refusal of the account surface means, and what to type next. Pure.

The numbers in brackets name recorded exchanges of a Dify 1.14.2 server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dify_batch.dify.answers import retry_after
from dify_batch.errors import AppError, AuthError, DifyBatchError, RateLimited, ServerError
from dify_batch.strictjson import json_object

STALE = "catalog_stale"
"""The code of a 412 that proves that nothing was executed: the request is made anew with the value of that answer."""

LOGIN = "sign in again: dify-batch auth login"
_SURFACE = (
    "this address has no account surface: check --host, or have OPENAPI_ENABLED and ENABLE_OAUTH_BEARER set on it"
)


def server_part(body: bytes) -> dict[str, Any]:
    """The server's own error: code, message, status, hint, details, what it gave of them; {} where it is not Dify's."""
    parsed = json_object(body)
    if parsed is None:
        return {}
    if isinstance(parsed.get("error"), str):  # sign-in, and a form of 429
        return {"code": parsed["error"], "message": str(parsed.get("message") or parsed["error"])}
    kept = {key: parsed[key] for key in ("code", "message", "status", "hint", "details") if parsed.get(key) is not None}
    return kept if "code" in kept or "message" in kept else {}


def code_of(body: bytes) -> str:
    return str(server_part(body).get("code") or "")


def wait_of(headers: Mapping[str, str], body: bytes, now: float) -> float | None:
    """Seconds that a 429 asks to wait for: its header, or `retry_after_ms` of its body."""
    told = retry_after(headers, now)
    if told is not None:
        return told
    parsed = json_object(body) or {}
    value = parsed.get("retry_after_ms")
    return value / 1000 if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, method: str, url: str, *, now: float = 0.0
) -> DifyBatchError:
    """The error that an answer of 300 or more means. `url` has no query, so that no input is shown."""
    server = server_part(body)
    code, message = str(server.get("code") or ""), str(server.get("message") or "")
    facts: dict[str, Any] = {"http_status": status, "method": method, "url": url}
    if server:
        facts["server"] = {"status": status, **server}
    shown = f"{method} {url} answers HTTP {status}: {message or code or 'no reason given'}"
    if details := _details(server):
        shown = f"{shown} ({details})"
    if not server and status not in (429, 502, 503, 504):
        target = headers.get("location")
        hint = f"redirects are not followed; it points to {target}" if target else _SURFACE
        return AppError(shown, hint=hint, **facts)
    if code == "token_expired":
        return AuthError(shown, code="token_expired", hint=LOGIN, **facts)
    if status == 401:
        return AuthError(shown, hint=LOGIN, **facts)
    if status == 402:
        return AppError(shown, hint="the server's enterprise licence has ended: ask its administrator", **facts)
    if status == 403:
        return AuthError(shown, code="access_denied", hint=_FORBIDDEN.get(code, _FORBIDDEN.get(message)), **facts)
    if status == 412 and code == STALE:
        hint = "several versions of the server answer in turn: try again when its update is done"
        return AppError(shown, code="version_skew", hint=hint, **facts)
    if status == 412 and code == "human_input_form_submitted":
        return ServerError(shown, code="server_4xx_other", hint="the form has been answered: nothing is to do", **facts)
    if status == 426:
        return AppError(shown, code="version_skew", hint="update dify-batch", **facts)
    if status == 429:
        wait = wait_of(headers, body, now)
        if code == "rate_limit_error":
            return RateLimited(shown, hint="the plan's quota is used up", **facts)
        hint = "wait a minute" if wait is None else f"wait {wait:.0f} s"
        return RateLimited(shown, hint=f"{hint}, then run the command again", retry_after=wait, **facts)
    if status >= 500:
        hint = "look at the server's own log, then run the command again"
        return ServerError(shown, hint=hint, **facts)
    if status in (404, 405) and code in ("not_found", "method_not_allowed") and "URL" in message:
        return AppError(shown, code="unsupported_endpoint", hint=_SURFACE, **facts)
    return ServerError(shown, code="server_4xx_other", hint=_NOT_FOUND.get(message), **facts)


_FORBIDDEN = {
    "service_api_disabled": "switch the app's API on in Dify (Monitoring, Backend Service API)",
    "unsupported_token_type": "this sign-in is external: dify-batch get permitted-external-apps",
    "wrong_surface": "this sign-in is an account's: dify-batch get apps",
    "insufficient_scope": "this sign-in may not do that: see dify-batch auth status",
}
_NOT_FOUND = {
    "app not found": "dify-batch get apps shows the ids of the apps that there are",
    "workspace not found": "dify-batch auth status shows the workspaces that there are",
}


def _details(server: Mapping[str, Any]) -> str:
    """`query: Field required; …` out of a 422's details."""
    found = []
    for item in server.get("details") or ():
        if isinstance(item, dict):
            place = ".".join(str(part) for part in item.get("loc") or ())
            found.append(f"{place}: {item.get('msg')}" if place else str(item.get("msg")))
    return "; ".join(found)
