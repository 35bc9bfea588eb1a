"""The outermost form of Dify's answers: headers, JSON text, error bodies."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass

VERSION = "1.14.2"
JSON = "application/json"
JSON_UTF8 = "application/json; charset=utf-8"  # of the blocking answer only (dify-wire 01)
HTML = "text/html; charset=utf-8"
EVENT_STREAM = "text/event-stream; charset=utf-8"

Headers = tuple[tuple[str, str], ...]
_COMMON: Headers = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Expose-Headers", "X-Env, X-Trace-Id, X-Version"),
    ("X-Version", VERSION),
    ("X-Env", "PRODUCTION"),
    ("Vary", "Cookie"),
)
_SERVER = ("Server", "gunicorn")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Headers = ()
    dify: bool = True  # whether it is Dify's own, with its own headers; else something in front of it speaks

    def head(self) -> Headers:
        """All headers but Content-Length and Date, which whoever sends it adds."""
        own = ("Content-Type", self.content_type)
        return (_SERVER, own, *self.headers, *_COMMON) if self.dify else (own, *self.headers)


def stream_head(extra: Headers = ()) -> Headers:
    """The headers of an event stream: no Content-Length, no Cache-Control unless `extra` has it."""
    return (_SERVER, *extra, ("Content-Type", EVENT_STREAM), *_COMMON)


class Refusal(Exception):
    """Raised anywhere in a request to answer it with an error."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def compact(value: object) -> str:
    """JSON as in a POST stream: no spaces, UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def spaced(value: object) -> str:
    """JSON as in every other answer: spaces and \\u escapes."""
    return json.dumps(value)


def answer_json(value: object, status: int = 200) -> Answer:
    """A JSON answer; flask-restx ends it with a newline."""
    return Answer(status, (spaced(value) + "\n").encode())


def refuse(status: int, code: str, message: str, *headers: tuple[str, str]) -> Answer:
    """An error answer of /v1: `{"code", "message", "status"}`."""
    body = spaced({"code": code, "message": message, "status": status}) + "\n"
    return Answer(status, body.encode(), JSON, headers)


def unauthorized(message: str = "Access token is invalid") -> Answer:
    """dify-wire 03, 04."""
    return refuse(401, "unauthorized", message, ("WWW-Authenticate", 'Bearer realm="api"'))


# Dify puts the keys of this one in another order (dify-wire 13e).
UNKNOWN_500 = Answer(500, b'{"message": "Internal Server Error", "code": "unknown", "status": 500}\n')
INTERNAL_500 = refuse(
    500,
    "internal_server_error",
    "The server encountered an internal error and was unable to complete your request. Either the server is "
    "overloaded or there is an error in the application.",
)
BAD_REQUEST = refuse(400, "bad_request", "The browser (or proxy) sent a request that this server could not understand.")
WRONG_MEDIA_TYPE = refuse(
    415,
    "unsupported_media_type",
    "Did not attempt to load JSON data because the request Content-Type was not 'application/json'.",
)
NO_USER = refuse(400, "invalid_param", "Arg user must be provided.")
NOT_FOUND = "The requested URL was not found on the server."
DISABLED = refuse(403, "forbidden", "The app's API service has been disabled.")
WRONG_METHOD = refuse(405, "method_not_allowed", "The method is not allowed for the requested URL.")
NO_PAGE = Answer(
    404,
    b"<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n"
    b"<p>The requested URL was not found on the server. If you entered the URL manually please check your "
    b"spelling and try again.</p>\n",
    HTML,
)


def too_many(app_id: str, limit: int) -> Answer:
    """The app's concurrency limit (dify-wire 17)."""
    return refuse(400, "invalid_param", too_many_text(app_id, limit))


def too_many_text(app_id: str, limit: int) -> str:
    """The message of 17, also used by the 429 form."""
    return (
        "Too many requests. Please try again later. The current maximum concurrent requests allowed for "
        f"{app_id} is {limit}."
    )


def derived_id(*parts: str) -> str:
    """A UUID text that is always the same for the same parts: saves keeping one for each row of the log."""
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return str(uuid.UUID(bytes=digest, version=4))


def is_uuid(text: str) -> bool:
    """Whether Postgres would take `text` for a UUID."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
