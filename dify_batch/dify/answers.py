"""Dify's answers to everything but a run: what they hold, and the error each refusal means. Pure.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from dify_batch.dify import cures
from dify_batch.dify.protocol import detail_outcome
from dify_batch.dify.results import seconds, text
from dify_batch.dify.word import ABOUT_THE_REQUEST, Word, is_wrong_address, refusal, server_of, word_of
from dify_batch.errors import (
    AppError,
    AuthError,
    ConnectionFailed,
    DifyBatchError,
    RateLimited,
    ServerError,
    UsageError,
)
from dify_batch.outcomes import Fatal, Outcome, Rejected, RunRef, Throttled, Unreachable
from dify_batch.strictjson import json_object


@dataclass(frozen=True, slots=True)
class Detail:
    """Run detail, the server's own record of one run.

    `outcome` is None where the server does not know the run [13d], and Unreachable where nothing was learnt.
    `inputs`: the run's inputs as JSON text, Dify's `sys.` keys among them. `created_at`: seconds since 1970.
    """

    outcome: Outcome | None
    inputs: str | None = None
    created_at: int | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One run in the app's log [14]. Times: seconds since 1970; `user`: the `user` it was posted with."""

    run_id: str
    status: str
    created_at: int | None
    finished_at: int | None
    user: str | None
    error: str | None


Ended: TypeAlias = Literal["succeeded", "failed", "stopped"]
"""The statuses that the log can be filtered by; a server answers 400 to others [14l]."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """One page of the log, newest run first. `total`: runs on all pages; None where the server does not tell."""

    entries: tuple[LogEntry, ...]
    has_more: bool
    total: int | None = None


def checked_url(base_url: str) -> str:
    """The base URL without a slash at its end.

    Raises:
        UsageError: it is not an http or https URL, or it bears what belongs elsewhere (credentials, a query).
    """
    url = base_url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        plain = "@" not in parts.netloc and not parts.query and not parts.fragment
    except ValueError:
        valid, plain = False, True
    if not valid or any(char.isspace() or not char.isprintable() for char in url):
        raise UsageError(
            f"DIFY_API_BASE_URL is {_without_credentials(base_url)!r}, which is not an http or https URL",
            hint="write it like DIFY_API_BASE_URL=https://dify.example.com/v1",
        )
    if not plain:
        raise UsageError(
            "DIFY_API_BASE_URL holds credentials, a query or a fragment",
            hint="write the address alone, like https://dify.example.com/v1, and the key as DIFY_API_KEY",
        )
    return url


def _without_credentials(url: str) -> str:
    return url if "@" not in url else "***@" + url.rpartition("@")[2]


def checked_key(api_key: str) -> str:
    """The key, if it can stand in a header.

    Raises:
        UsageError: it is empty or has blanks, line ends or letters outside ASCII. The text does not show it.
    """
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise UsageError(
            "DIFY_API_KEY is empty or has characters that no key has (blanks, line ends, letters outside ASCII)",
            hint="copy the key from the app's page API Access in Dify: DIFY_API_KEY=app-...",
        )
    return api_key


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or an HTTP date less `now` (seconds since 1970).

    None without the header or with one that cannot be read; never negative. Header names in lower case, or a
    mapping that does not mind. Dify sends it on /openapi/v1 only [27p]; proxies in front of it send it too.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        date = http_date(value)
        return None if date is None else max(0.0, date - now)
    return max(0.0, seconds) if math.isfinite(seconds) else None


@lru_cache(maxsize=8)  # most answers of one second have the same
def http_date(text: str) -> float | None:
    """An HTTP date as seconds since 1970, None if it is none."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def log_time(moment: datetime) -> str:
    """A moment as the log takes it: UTC with `Z`, whole seconds, rounded down [14n; a bare `+` is refused, 14r]."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def detail_of(http_status: int, body: bytes, ref: RunRef) -> Detail:
    """Run detail out of its answer [13]."""
    outcome = detail_outcome(http_status, body, ref)
    data = json_object(body) if 200 <= http_status < 300 else None
    if data is None:
        return Detail(outcome)
    inputs = data.get("inputs")
    return Detail(
        outcome=outcome,
        inputs=inputs if isinstance(inputs, str) else None if inputs is None else json.dumps(inputs),
        created_at=seconds(data.get("created_at")),
        status=data.get("status") if isinstance(data.get("status"), str) else None,
    )


def log_page(answer: Mapping[str, Any]) -> LogPage:
    """A page of the log; rows without a run id are left out."""
    entries = []
    rows = answer.get("data")
    for row in rows if isinstance(rows, list) else ():
        run = row.get("workflow_run") if isinstance(row, dict) else None
        if not isinstance(run, dict) or not run.get("id"):
            continue
        user = row.get("created_by_end_user")
        session = user.get("session_id") if isinstance(user, dict) else None
        error = run.get("error")
        entries.append(
            LogEntry(
                run_id=text(run["id"]),
                status=text(run.get("status")),
                created_at=seconds(run.get("created_at")),
                finished_at=seconds(run.get("finished_at")),
                user=session if isinstance(session, str) else None,
                error=None if error is None else text(error),
            )
        )
    total = answer.get("total")
    return LogPage(tuple(entries), bool(answer.get("has_more")), total if type(total) is int else None)


def error_of(
    http_status: int,
    headers: Mapping[str, str],
    body: bytes,
    method: str,
    url: str,
    *,
    now: float = 0.0,
    first: bool = True,
) -> DifyBatchError:
    """The error that an answer means which is no result (difyctl's codes).

    `first`: Dify has not answered yet in this invocation. Details: http_status, method, url, Dify's own error as
    `server`, and `retry_after`, the seconds that the answer asks to wait.
    """
    word = word_of(http_status, headers, body)
    wait = retry_after(headers, now)
    facts: dict[str, Any] = {"http_status": http_status, "method": method, "url": url, "retry_after": wait}
    facts["server"] = server_of(word)
    again = "wait, then run the command again" if wait is None else f"wait {wait:.0f} s, then run the command again"
    if not word.dify:
        return _of_a_gateway(word, f"{method} {url}", first=first, again=again, facts=facts)
    shown = f"{method} {url} answers HTTP {http_status}: {word.shown}"
    outcome = refusal(word)
    if http_status == 401:
        return AuthError(shown, hint=cures.of_code("unauthorized"), **facts)
    if http_status >= 500:
        return ServerError(shown, hint="look at the server's own log, then run the command again", **facts)
    if isinstance(outcome, Throttled) or (isinstance(outcome, Fatal) and outcome.kind == "quota"):
        return RateLimited(shown, hint=again, **facts)
    if http_status == 403:
        return AppError(shown, code="access_denied", hint=cures.of_code("forbidden", word.message), **facts)
    if http_status in (404, 405) and word.code != "not_found":
        return AppError(shown, hint="check DIFY_API_BASE_URL: should it end in /v1?", **facts)
    if isinstance(outcome, Fatal) and outcome.kind == "app" and http_status == 400:
        return AppError(shown, hint=cures.of_code(outcome.code), **facts)
    return ServerError(shown, code="server_4xx_other", **facts)


def _of_a_gateway(word: Word, asked: str, *, first: bool, again: str, facts: Mapping[str, Any]) -> DifyBatchError:
    """The error that the word of something in front of Dify means: see the table of `word.py`."""
    http_status = word.http_status
    shown = f"{asked}: something in front of Dify answers {word.shown}"
    if http_status < 300:
        shown = f"{asked} answers HTTP {http_status} with something that is not Dify's JSON"
        if first:
            hint = "check DIFY_API_BASE_URL: it is the address of the API and usually ends in /v1"
            return AppError(shown, hint=hint, **facts)
        return ConnectionFailed(shown, hint="look at the gateway or proxy in front of Dify", **facts)
    if first and is_wrong_address(word):
        return AppError(shown, hint=cures.of_gateway(http_status, word.message), **facts)
    if http_status == 429:
        return RateLimited(shown, hint=again, **facts)
    if http_status >= 500 or http_status == 408:
        return ServerError(shown, hint=again, **facts)
    if http_status in ABOUT_THE_REQUEST:
        return ServerError(shown, code="server_4xx_other", **facts)
    return ConnectionFailed(shown, hint="look at the gateway or proxy in front of Dify", **facts)


def upload_outcome(error: DifyBatchError, path: str) -> Outcome:
    """What an upload that raised means for its row."""
    message = f"{path}: {error.message}"
    status = error.details.get("http_status")
    match error:
        case RateLimited():
            return Throttled(error.message, error.details.get("retry_after"), status)
        case ConnectionFailed() if error.details.get("own_limit"):
            return Throttled(error.message)
        case ConnectionFailed():
            return Unreachable(error.message)
        case AuthError():
            return Fatal("auth", error.code, error.message, status)
        case ServerError() if (isinstance(status, int) and status >= 500) or status == 408:
            # A gateway without a server behind it is an outage; what else fails is charged, or it would go on for ever.
            return Unreachable(f"the upload of {message}", charged="server" in error.details or status == 500)
        case AppError() if "server" not in error.details:
            return Fatal("app", "not_dify", error.message, status, error.hint)
        case AppError() | ServerError():
            return Rejected("upload_refused", message, status)
        case _:
            return Rejected("file_unreadable", message)
