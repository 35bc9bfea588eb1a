"""The outermost form of the account surface's answers: headers, error bodies, the catalog of the newest shape
(dify-wire section 7)."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from .wire import EVENT_STREAM, JSON, Answer, Headers

VERSIONS = {"A": "1.14.2", "B": "1.16.1", "C": "1.19.0"}
PREFIX = "/openapi/v1"


def common(shape: str) -> Headers:
    """The headers of every answer; C tells the catalog's value with each."""
    catalog = (("X-Dify-Catalog", catalog_value()),) if shape == "C" else ()
    return (
        ("X-Version", VERSIONS[shape]),
        ("X-Env", "PRODUCTION"),
        ("Vary", "Cookie"),
        *catalog,
    )


_FRAMES: Headers = (("X-Frame-Options", "DENY"), ("Content-Security-Policy", "frame-ancestors 'none'"))


def unrouted(shape: str, status: int, code: str, message: str) -> Answer:
    """The answer where no path, or no method of it, fits: without the headers against frames (dify-wire 27h)."""
    body = json.dumps({"code": code, "message": message, "status": status}) + "\n"
    return Answer(status, body.encode(), JSON, (("Server", "gunicorn"), *common(shape)), dify=False)


def reply(shape: str, value: object, status: int = 200, *headers: tuple[str, str]) -> Answer:
    """A JSON answer."""
    body = json.dumps(value) + "\n"
    return raw(shape, body.encode(), status, *headers)


def raw(shape: str, body: bytes, status: int = 200, *headers: tuple[str, str]) -> Answer:
    return Answer(status, body, JSON, (("Server", "gunicorn"), *headers, *_FRAMES, *common(shape)), dify=False)


def refuse(shape: str, status: int, code: str, message: str, *headers: tuple[str, str], **more: Any) -> Answer:
    """`{"code", "message", "status"}`, with `details` or `hint` where there are any."""
    return reply(shape, {"code": code, "message": message, "status": status, **more}, status, *headers)


def invalid(shape: str, kind: str, name: str, text: str) -> Answer:
    """A request that does not fit: 422 with details (dify-wire 27f6, 27g3)."""
    details = [{"type": kind, "loc": [name], "msg": text}]
    return refuse(shape, 422, "invalid_param", "Request validation failed", details=details)


def stream_headers(shape: str, extra: Headers = ()) -> Headers:
    """The head of an event stream."""
    return (("Server", "gunicorn"), *extra, ("Content-Type", EVENT_STREAM), *_FRAMES, *common(shape))


NO_PATH = (
    "The requested URL was not found on the server. If you entered the URL manually please check your spelling and "
    "try again."
)


def no_path(shape: str) -> Answer:
    """dify-wire 27h."""
    return unrouted(shape, 404, "not_found", NO_PATH)


def internal(shape: str) -> Answer:
    """dify-wire 27d3: also for a token that is dead."""
    return refuse(shape, 500, "internal_server_error", "Internal Server Error")


def bearer_required(shape: str) -> Answer:
    """dify-wire 27d2."""
    return refuse(shape, 401, "unauthorized", "bearer required", ("WWW-Authenticate", 'Bearer realm="api"'))


@cache
def catalog() -> bytes:
    """GET _catalog of shape C: read in sources, not seen."""
    operations = {
        "console_app.list": ("GET", "/apps"),
        "console_app.get": ("GET", "/apps/{app_id}"),
        "console_app.workflow.run": ("POST", "/apps/{app_id}/workflow:run"),
        "console_app.advanced_chat.run": ("POST", "/apps/{app_id}/advanced-chat:run"),
        "console_app.chat.run": ("POST", "/apps/{app_id}/chat:run"),
        "console_app.completion.run": ("POST", "/apps/{app_id}/completion:run"),
        "console_app.run.list": ("GET", "/apps/{app_id}/runs"),
        "console_app.run.get": ("GET", "/apps/{app_id}/runs/{run_id}"),
    }
    ops = {
        name: {"summary": name, "method": method, "path": path, "kind": "json", "input": {}, "bind": {}}
        for name, (method, path) in operations.items()
    }
    return json.dumps({"ops": ops}).encode()


@cache
def catalog_value() -> str:
    """The value that requests to C must bear."""
    return hashlib.sha256(catalog()).hexdigest()
