"""Whose word an answer is, and what a refusal means. Pure: the one place that decides it, for every endpoint.

Dify speaks JSON with a `code`, or an event stream. All else (HTML, plain text, an empty body, a redirect, foreign JSON)
is the word of something in front of it and tells nothing about app, key, workflow or row:

    status of a gateway's word      to a run                          to anything else
    3xx, 4xx, before the first      Fatal: a wrong address, proxy     AppError, with the cure
      good answer of an invocation    or account
    403, 406, 413, 414, 431         Rejected(foreign): this row       ServerError (an upload: the row is rejected)
    429                             Throttled                         RateLimited
    5xx, 408, 409, 460, 499         Lost: an outage, looked up        ServerError
    2xx                             Lost: an outage, looked up        ConnectionFailed
    any other                       Unreachable: an outage            ConnectionFailed

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from http import HTTPStatus
from typing import Any

from dify_batch.dify import cures
from dify_batch.masking import LONGEST
from dify_batch.outcomes import Fatal, Lost, Outcome, Rejected, Throttled, Unreachable
from dify_batch.strictjson import json_object
from dify_batch.text import one_line

# Dify's codes are names of its error classes in snake case; gateways write numbers, sentences or capitals.
_CODE = re.compile(r"[a-z][a-z0-9_]{0,99}")

# Codes that say: this app cannot run a batch, whatever the row. [11, 19c, 21j] and Dify's error classes.
_APP_CODES = frozenset(
    {
        "not_workflow_app",
        "not_chat_app",
        "not_completion_app",
        "app_unavailable",
        "provider_not_initialize",
        "model_currently_not_support",
        "forbidden",
    }
)
_QUOTA_CODES = frozenset({"provider_quota_exceeded", "rate_limit_error"})

# Texts of refusals that Dify gives for one row's inputs [05, 06, 20]. Each was answered without a run.
_INPUT_REFUSALS = re.compile(
    r"^(\(type '[\w-]{1,40}'\) )?\S{1,300} (is required )?in input form\b|^Invalid upload file|^expected value type "
    r"|^Reached maximum retries \(\d{1,9}\) for URL"
    r"|^\d{1,9} validation errors? for |^Arg user must be provided|^Detected file type does not match"
    r"|^\w{1,300} is required in file mapping|^A string literal cannot contain NUL"
)
# Refused before a run is made: too large, no JSON, not to be processed [09d, 20k].
_REFUSALS = frozenset({413, 415, 422})
ABOUT_THE_REQUEST = frozenset({403, 406, 413, 414, 431})
"""What gateways say about one request: a firewall's rule, a size."""
# What passes by itself, also at the first question.
_PASSES = frozenset({408, 425, 429})
# What gateways say of a request that they may have passed on: it took too long, or who asked had gone.
_AFTER_PASSING_IT_ON = frozenset({408, 409, 460, 499})
_NOT_PUBLISHED = re.compile(r"^Workflow not published", re.IGNORECASE)
_TOO_MANY = re.compile(r"^Too many requests", re.IGNORECASE)
_STATUS = re.compile(r"^(HTTP ?)?(error )?[1-5][0-9][0-9]\b[\s:,-]{0,3}", re.IGNORECASE)  # "502 Bad Gateway"
_TITLE = re.compile(rb"<(title|h1)[^<>]{0,200}>([^<]{1,300})<", re.IGNORECASE)

LOOKED_AT = 8192
"""Bytes of a page in which its title is looked for."""

CDN_PAUSE = 15.0
"""Seconds to wait after a CDN's 429 that asks for none: it counts over minutes, where Dify counts what runs now."""


@dataclass(frozen=True, slots=True)
class Word:
    """An answer that is no result, read once.

    `dify`: it is Dify's own; then `code` and `message` are. Else `message` is a page's title or a line of text, if it
    has one, and `target` where a redirect points.
    """

    http_status: int
    code: str = ""
    message: str = ""
    dify: bool = False
    target: str = ""

    @property
    def shown(self) -> str:
        """Its own words, or the status's: never the status twice."""
        if self.dify:
            return self.message or self.code
        if self.target:
            return f"HTTP {self.http_status}, a redirect to {self.target}"
        named = f"HTTP {self.http_status}"
        phrase = status_phrase(self.http_status) if self.http_status >= 300 else ""
        said = _STATUS.sub("", self.message, count=1) or phrase
        return f"{named} ({said})" if said else named


def status_phrase(http_status: int) -> str:
    """The registered name of a status, in lower case: "not modified"."""
    try:
        return HTTPStatus(http_status).phrase.lower()
    except ValueError:
        return ""


def word_of(http_status: int, headers: Mapping[str, str], body: bytes) -> Word:
    """Reads an answer that is no result. Names of `headers` in lower case."""
    parsed = json_object(body)
    if parsed is not None:
        code = parsed.get("code")
        if isinstance(code, str) and _CODE.fullmatch(code) and not 300 <= http_status < 400:
            message = parsed.get("message")
            return Word(http_status, code, message[:LONGEST] if isinstance(message, str) else "", dify=True)
        return Word(http_status, target=_target(http_status, headers))
    return Word(http_status, message=_title(body), target=_target(http_status, headers))


def _target(http_status: int, headers: Mapping[str, str]) -> str:
    return one_line(headers.get("location", "")[:LOOKED_AT]) if 300 <= http_status < 400 else ""


def _title(body: bytes) -> str:
    """The title of a page, or a line of plain text; not what else a page says, which may quote the request."""
    head = body[:LOOKED_AT]
    for said in cures.SPEAKS_HTTPS:
        if said.encode() in head:
            return said
    found = _TITLE.search(head)
    if found is not None:
        return one_line(unescape(found[2].decode("utf-8", "replace")), 100)
    line = head.strip()
    if b"<" in line or b"\n" in line or len(line) > 100 or not line.isascii():
        return ""
    text = line.decode("ascii")
    return text if text.isprintable() and text[:1] not in ("{", "[", '"') else ""


def refusal(word: Word, *, retry_after: float | None = None, first: bool = False) -> Outcome:
    """The outcome of an answer to a POST that runs a workflow and gives no run.

    `first`: Dify has not answered yet in this invocation. `retry_after`: seconds that the answer asked for.
    """
    if not word.dify:
        return _of_a_gateway(word, retry_after, first)
    http_status, code, message, shown = word.http_status, word.code, word.message, word.shown
    if http_status == 401:
        return Fatal("auth", code, shown, http_status)
    if code in _QUOTA_CODES:
        return Fatal("quota", code, shown, http_status)
    if code in _APP_CODES or http_status == 403:
        return Fatal("app", code, shown, http_status)
    if http_status == 429 or (http_status == 400 and _TOO_MANY.match(message)):
        return Throttled(shown, retry_after, http_status)
    if http_status >= 500 or http_status < 400:
        return Lost(f"HTTP {http_status}: {shown}", http_status, True, retry_after)
    if http_status == 400:
        if _NOT_PUBLISHED.match(message):
            return Fatal("app", "not_published", shown, http_status)
        if code == "bad_request":
            if message.startswith("Invalid workflow_id format"):
                return Fatal("app", code, shown, http_status)
            return Rejected(code, shown, http_status)  # malformed JSON: refused before anything else [09, 22d]
        if _INPUT_REFUSALS.search(message):
            return Rejected(code, shown, http_status)
        # A blocking POST can answer 400 after the run has begun, so an unknown text or code is looked up first.
        return Lost(f"HTTP 400: {shown}", http_status, False)
    if http_status in (404, 405):
        return Fatal("app", code, shown, http_status)  # no row's fault: an unknown workflow id [12b]
    if http_status in _REFUSALS:
        return Rejected(code, shown, http_status)
    return Lost(f"HTTP {http_status}: {shown}", http_status, False)


def _of_a_gateway(word: Word, retry_after: float | None, first: bool) -> Outcome:
    http_status = word.http_status
    shown = f"something in front of Dify answers {word.shown}"
    if first and is_wrong_address(word):
        return Fatal(
            "app",
            "redirect" if word.target else "not_dify",
            shown,
            http_status,
            cures.of_gateway(http_status, word.message),
        )
    if http_status == 429:
        return Throttled(shown, CDN_PAUSE if retry_after is None else retry_after, http_status)
    if http_status in ABOUT_THE_REQUEST:
        return Rejected(f"http_{http_status}", shown, http_status, foreign=True)
    if http_status < 300:
        return Lost(f"{word.shown}, and the answer is not Dify's", http_status, True, retry_after)
    if http_status >= 500 or http_status in _AFTER_PASSING_IT_ON:
        return Lost(word.shown, http_status, True, retry_after)
    return Unreachable(shown, foreign=True)


def is_wrong_address(word: Word) -> bool:
    """Whether this, at the first question, is a wrong address, proxy or account, which waiting does not mend."""
    return not word.dify and 300 <= word.http_status < 500 and word.http_status not in _PASSES


def event_refusal(message: str) -> Outcome:
    """An `error` event before workflow_started. No run was seen to be made then [05b, 05k].

    The event has no code and its status is 500 even for a bad input, so the text alone tells row, app and server apart.
    An unknown text may be a server in trouble as well as a bad input: Lost, so that it is looked up and tried again.
    """
    message = message[:LONGEST]
    if _NOT_PUBLISHED.match(message):
        return Fatal("app", "not_published", message, 200)
    if _TOO_MANY.match(message):
        return Throttled(message, None, 200)
    if _INPUT_REFUSALS.search(message):
        return Rejected("invalid_param", message, 200)
    if "quota" in message.lower() and "exceeded" in message.lower():
        return Fatal("quota", "provider_quota_exceeded", message, 200)
    return Lost(f"an error event before the start: {message or 'without a message'}", 200, False)


def server_of(word: Word) -> dict[str, Any] | None:
    """Dify's own error for the details of ours."""
    if not word.dify:
        return None
    return {"code": word.code, "message": word.message, "status": word.http_status}
