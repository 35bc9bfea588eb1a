"""Refusals of the surface as errors, by recorded bodies and by those that were read in sources."""

from __future__ import annotations

import json

import pytest

from dify_batch.dify.account.batch_client import outcome_of
from dify_batch.dify.account.device import check_address
from dify_batch.dify.account.refusals import refusal
from dify_batch.errors import EXIT_OF_CODE, ConnectionFailed, DifyBatchError
from dify_batch.outcomes import Fatal, Lost, Rejected, Throttled, Unreachable
from tests.support.wire_files import recorded

URL = "https://dify.example.com/openapi/v1/apps"


def of(status: int, body: object = None, **headers: str) -> DifyBatchError:
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return refusal(status, headers, raw, "GET", URL)


def coded(status: int, code: str, message: str = "m") -> DifyBatchError:
    return of(status, {"code": code, "message": message, "status": status})


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (coded(401, "unauthorized"), "auth_expired", 4),
        (coded(401, "token_expired"), "token_expired", 4),
        (coded(403, "forbidden", "service_api_disabled"), "access_denied", 4),
        (coded(403, "unsupported_token_type"), "access_denied", 4),
        (coded(402, "license_required"), "server_4xx_other", 1),
        (coded(404, "not_found", "app not found"), "server_4xx_other", 1),
        (coded(404, "not_found", "The requested URL was not found"), "unsupported_endpoint", 6),
        (coded(412, "catalog_stale"), "version_skew", 6),
        (coded(412, "human_input_form_submitted"), "server_4xx_other", 1),
        (coded(426, "upgrade_required"), "version_skew", 6),
        (coded(422, "invalid_param"), "server_4xx_other", 1),
        (coded(429, "too_many_requests"), "rate_limited", 7),
        (coded(429, "rate_limit_error"), "rate_limited", 7),
        (of(429, {"error": "rate_limited", "retry_after_ms": 1500}), "rate_limited", 7),
        (coded(500, "internal_server_error"), "server_5xx", 1),
        (of(502, b"<html>Bad Gateway</html>"), "server_5xx", 1),
        (of(200, b"<html>"), "server_4xx_other", 1),
        (of(302, b"", location="https://elsewhere.example"), "server_4xx_other", 1),
    ],
)
def test_codes_and_statuses(error: DifyBatchError, code: str, status: int) -> None:
    assert (error.code, int(error.exit_status)) == (code, status)
    assert code in EXIT_OF_CODE


def test_details_of_a_422_are_named() -> None:
    body = recorded("27i4-run-no-inputs").body
    error = refusal(422, {}, body, "POST", URL)
    assert "(inputs: Field required)" in error.message
    assert error.details["server"]["details"][0]["loc"] == ["inputs"]


@pytest.mark.parametrize(
    ("headers", "body", "wait"),
    [
        ({"retry-after": "60"}, b"{}", 60.0),
        ({}, b'{"error": "rate_limited", "retry_after_ms": 2500}', 2.5),
        ({"retry-after": "5"}, b'{"error": "rate_limited", "retry_after_ms": 2500}', 5.0),
        ({}, b'{"code": "too_many_requests", "message": "rate_limited", "status": 429}', None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], body: bytes, wait: float | None) -> None:
    assert refusal(429, headers, body, "GET", URL).details.get("retry_after") == wait


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionFailed("x", sent=False), Unreachable),
        (ConnectionFailed("x", sent=True), Lost),
        (coded(500, "internal_server_error"), Lost),
        (of(502, b"<html>"), Lost),
        (coded(429, "too_many_requests"), Throttled),
        (coded(429, "rate_limit_error"), Fatal),
        (coded(401, "unauthorized"), Fatal),
        (coded(403, "forbidden"), Fatal),
        (coded(404, "not_found", "app not found"), Fatal),
        (coded(412, "catalog_stale"), Throttled),
        (coded(422, "invalid_param"), Rejected),
    ],
)
def test_what_a_refusal_means_for_a_row(error: DifyBatchError, kind: type) -> None:
    assert isinstance(outcome_of(error), kind)


@pytest.mark.parametrize(
    ("host", "page", "safe"),
    [
        ("https://dify.example.com", "https://dify.example.com/device", True),
        ("http://127.0.0.1:5001", "http://127.0.0.1:3000/device", True),
        ("http://127.0.0.1:5001", "https://127.0.0.1/device", True),
        ("https://dify.example.com", "http://dify.example.com/device", False),
        ("https://dify.example.com", "https://dify.example.com.evil.example/device", False),
        ("https://dify.example.com", "https://evil.example/device?dify.example.com", False),
        ("https://dify.example.com", "https://dify.example.com@evil.example/device", False),
        ("https://dify.example.com", "javascript:alert(1)", False),
    ],
)
def test_pages_that_may_be_opened(host: str, page: str, safe: bool) -> None:
    if safe:
        check_address(host, page)
        return
    with pytest.raises(DifyBatchError) as error:
        check_address(host, page)
    assert error.value.code == "unsafe_address"
