"""Whose word an answer is: Dify speaks JSON with a code, all else is the word of something in front of it."""

from __future__ import annotations

import json

import pytest

from dify_batch.dify.answers import error_of
from dify_batch.dify.cures import SPEAKS_HTTPS
from dify_batch.dify.word import CDN_PAUSE, Word, refusal, word_of
from dify_batch.errors import AppError, AuthError, ConnectionFailed, DifyBatchError, RateLimited, ServerError
from dify_batch.outcomes import Fatal, Lost, Rejected, Throttled, Unreachable

PAGES = [
    b"",
    b"404 page not found\n",
    b"default backend - 404",
    b"<html><head><title>Some page</title></head><body><h1>Some page</h1><hr>nginx</body></html>",
    b'{"message": "no Route matched with those values"}',
    b'{"code": 404, "msg": "not found"}',
    b'{"code": "SERVICE_UNAVAILABLE", "message": "x"}',
    b'{"code": "Not found here", "message": "x"}',
    b'{"code": null}',
    b'["code"]',
    b'"code"',
    b"\xff\xfe",
    b'{"code": "not_found"',
]


@pytest.mark.parametrize("body", PAGES)
@pytest.mark.parametrize("status", [301, 302, 304, 400, 401, 402, 404, 405, 407, 410, 415, 425, 426])
def test_in_mid_batch_a_gateways_word_is_an_outage(status: int, body: bytes) -> None:
    word = word_of(status, {}, body)
    assert not word.dify
    assert isinstance(refusal(word), Unreachable)


@pytest.mark.parametrize("body", PAGES)
def test_what_a_gateway_says_of_one_request_is_that_rows_refusal(body: bytes) -> None:
    for status in (403, 406, 413, 414, 431):
        outcome = refusal(word_of(status, {}, body))
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.http_status, outcome.foreign) == (f"http_{status}", status, True)


@pytest.mark.parametrize("body", PAGES)
def test_what_cannot_be_told_is_looked_up(body: bytes) -> None:
    for status in (200, 204, 408, 409, 460, 499, 500, 502, 503, 504, 524, 530):
        outcome = refusal(word_of(status, {}, body), retry_after=7)
        assert isinstance(outcome, Lost)
        assert (outcome.http_status, outcome.server_error, outcome.retry_after) == (status, True, 7)
    assert refusal(word_of(429, {}, body), retry_after=7).retry_after == 7  # type: ignore[union-attr]
    assert refusal(word_of(429, {}, body)).retry_after == CDN_PAUSE  # type: ignore[union-attr]


@pytest.mark.parametrize("status", [301, 302, 304, 400, 401, 402, 403, 404, 405, 406, 407, 413, 426, 431, 451, 499])
@pytest.mark.parametrize("body", PAGES)
def test_before_dify_has_answered_it_is_a_wrong_address(status: int, body: bytes) -> None:
    outcome = refusal(word_of(status, {}, body), first=True)
    assert isinstance(outcome, Fatal)
    assert (outcome.kind, outcome.http_status) == ("app", status)
    assert outcome.hint
    error = error_of(status, {}, body, "GET", "http://h/v1/parameters", first=True)
    assert type(error) is AppError
    assert error.hint
    assert error.exit_status == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_what_passes_is_waited_for_at_the_first_question_too(status: int) -> None:
    assert isinstance(refusal(word_of(status, {}, b"wait"), first=True), Unreachable | Lost | Throttled)
    error = error_of(status, {"retry-after": "3"}, b"wait", "GET", "http://h/v1/parameters", first=True)
    assert isinstance(error, ServerError | RateLimited | ConnectionFailed)
    assert not isinstance(error, AppError)
    assert error.details["retry_after"] == 3


@pytest.mark.parametrize(
    ("status", "body", "cure"),
    [
        *((400, f"<title>400 Bad Request</title><h1>400</h1>The {said}".encode(), "https://") for said in SPEAKS_HTTPS),
        (401, b"<h1>401 Authorization Required</h1>", "a login of its own"),
        (402, b"", "payment"),
        (403, b"<title>Access denied</title>", "lets this machine in"),
        (404, b"404 page not found", "/v1"),
        (405, b"", "/v1"),
        (407, b"", "user:password@host"),
        (426, b"", "https"),
        (302, b"", "redirects are not followed"),
        (418, b"", "DIFY_API_BASE_URL"),
    ],
)
def test_the_cure_of_a_wrong_address(status: int, body: bytes, cure: str) -> None:
    error = error_of(status, {"location": "/login"}, body, "GET", "http://h/v1/parameters")
    assert cure in (error.hint or "")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, ConnectionFailed),
        (401, ConnectionFailed),
        (404, ConnectionFailed),
        (405, ConnectionFailed),
        (200, ConnectionFailed),
        (413, ServerError),
        (403, ServerError),
        (429, RateLimited),
        (502, ServerError),
        (408, ServerError),
    ],
)
def test_in_mid_batch_no_other_request_blames_app_or_key(status: int, kind: type[DifyBatchError]) -> None:
    for body in PAGES:
        error = error_of(status, {}, body, "GET", "http://h/v1/workflows/logs", first=False)
        assert type(error) is kind
        assert "server" not in error.details


def test_difys_own_word_is_difys_at_any_time() -> None:
    for first in (True, False):
        body = json.dumps({"code": "unauthorized", "message": "Access token is invalid", "status": 401}).encode()
        outcome = refusal(word_of(401, {}, body), first=first)
        assert outcome == Fatal("auth", "unauthorized", "Access token is invalid", 401)
        assert type(error_of(401, {}, body, "GET", "u", first=first)) is AuthError


@pytest.mark.parametrize(
    ("status", "body", "headers", "shown"),
    [
        (502, b"", {}, "HTTP 502 (bad gateway)"),
        (502, b"<html><title>502 Bad\nGateway</title><hr>nginx</html>", {}, "HTTP 502 (Bad Gateway)"),
        (502, b"HTTP 502", {}, "HTTP 502 (bad gateway)"),
        (502, b"error 502: upstream", {}, "HTTP 502 (upstream)"),
        (404, b"404 page not found\n", {}, "HTTP 404 (page not found)"),
        (404, b"default backend - 404", {}, "HTTP 404 (default backend - 404)"),
        (403, b"<TITLE lang=en>Just a moment&hellip;</TITLE>", {}, "HTTP 403 (Just a moment…)"),
        (304, b"", {}, "HTTP 304 (not modified)"),
        (302, b"", {"location": "/login"}, "HTTP 302, a redirect to /login"),
        (599, b"", {}, "HTTP 599"),
        (200, b"", {}, "HTTP 200"),
        (200, b"<title>Welcome</title>", {}, "HTTP 200 (Welcome)"),
        (500, b'{"secret": "of the row"}', {}, "HTTP 500 (internal server error)"),
        (500, b'{"secret": "of the row"', {}, "HTTP 500 (internal server error)"),
        (500, b"line\nline", {}, "HTTP 500 (internal server error)"),
        (500, b"x" * 10_000, {}, "HTTP 500 (internal server error)"),
        (500, b"\x00\x1b[31m", {}, "HTTP 500 (internal server error)"),
    ],
)
def test_a_gateways_word_is_shown_shortly(status: int, body: bytes, headers: dict[str, str], shown: str) -> None:
    assert word_of(status, headers, body).shown == shown


def test_difys_word_is_cut_before_anything_looks_at_it() -> None:
    body = json.dumps({"code": "invalid_param", "message": "x" * 10_000_000, "status": 400}).encode()
    assert len(word_of(400, {}, body).message) < 10_000
    assert Word(400, "invalid_param", dify=True).shown == "invalid_param"
