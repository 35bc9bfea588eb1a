"""The error that each refusal becomes, and what answers tell of the server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import formatdate
from time import time

import httpx
import pytest
import respx

from dify_batch.dify.answers import http_date, retry_after
from dify_batch.dify.client import DifyClient
from dify_batch.errors import (
    AppError,
    AuthError,
    ConnectionFailed,
    DifyBatchError,
    RateLimited,
    ServerError,
    UsageError,
)
from dify_batch.seams import Seams
from tests.dify.client.parts import BASE, KEY, hangs
from tests.support.clocks import JumpingClock
from tests.support.raw_server import serving
from tests.support.wire_files import answer, recorded


@pytest.mark.parametrize(
    ("name", "kind", "code", "hint"),
    [
        ("19h-parameters-bad-key", AuthError, "auth_expired", "DIFY_API_KEY"),
        ("21j-api-disabled", AppError, "access_denied", "turn the app's API on"),
        ("19c-parameters-W6-unpublished", AppError, "server_4xx_other", "publish the app"),
        ("11-wrong-app-mode", AppError, "server_4xx_other", "app of another kind"),
        ("21-v1-root", AppError, "server_4xx_other", "DIFY_API_BASE_URL: should it end in /v1?"),
        ("21d-wrong-method", AppError, "server_4xx_other", "DIFY_API_BASE_URL"),
        ("21a-v1-no-slash", AppError, "server_4xx_other", "redirects are not followed"),
        ("26n-postgres-down-blocking", ServerError, "server_5xx", "server's own log"),
        ("18m-form-submit-twice", ServerError, "server_4xx_other", None),
        ("18h2-form-get-unknown", ServerError, "server_4xx_other", None),
        ("27p-token-rate-limited", RateLimited, "rate_limited", "wait"),
        ("17-rate-limited-blocking", RateLimited, "rate_limited", "wait"),
    ],
)
async def test_refusals_become_errors(
    client: DifyClient, dify: respx.Router, name: str, kind: type[DifyBatchError], code: str, hint: str | None
) -> None:
    dify.get("/info").mock(answer(name))
    with pytest.raises(kind) as failure:
        await client.info()
    error = failure.value
    assert type(error) is kind
    assert error.code == code
    assert error.hint is None if hint is None else hint in (error.hint or "")
    exchange = recorded(name)
    assert error.details["http_status"] == exchange.status
    assert (error.details["method"], error.details["url"]) == ("GET", BASE + "/info")
    if exchange.headers["content-type"] == "application/json":
        theirs = json.loads(exchange.body)
        assert error.details["server"] == {k: theirs[k] for k in ("code", "message", "status")}
    assert KEY not in json.dumps(error.as_dict())


async def test_a_good_answer_that_is_not_difys(client: DifyClient, dify: respx.Router) -> None:
    dify.get("/info").mock(httpx.Response(200, html="<h1>Welcome to nginx</h1>"))
    with pytest.raises(AppError) as failure:
        await client.info()
    assert "DIFY_API_BASE_URL" in (failure.value.hint or "")


async def test_no_connection(client: DifyClient, dify: respx.Router) -> None:
    dify.get("/info").mock(side_effect=httpx.ConnectError("refused"))
    with pytest.raises(ConnectionFailed, match="refused"):
        await client.info()


async def test_probe(client: DifyClient, dify: respx.Router) -> None:
    route = dify.get("/info")
    for name, expected in (
        ("19-info-W1", None),
        ("03-invalid-api-key", None),
        ("13d-run-detail-unknown", None),
        ("17-rate-limited-blocking", None),
        ("26n-postgres-down-blocking", "HTTP 500"),
    ):
        route.mock(answer(name))
        assert await client.probe() == expected
    route.mock(side_effect=httpx.ConnectError("refused"))
    assert "refused" in (await client.probe() or "")


async def test_probe_waits_no_longer_than_asked() -> None:
    async with serving(hangs) as server, DifyClient(server.url, KEY) as client:
        assert "no answer within 0.05 s" in (await client.probe(0.05) or "")


@pytest.mark.parametrize(
    "url", ["", "dify.test/v1", "ftp://x", "http://", "http://h:port/", "http://a b/", "http://h:0x"]
)
def test_a_wrong_address(url: str) -> None:
    with pytest.raises(UsageError, match="DIFY_API_BASE_URL"):
        DifyClient(url, KEY)


def test_an_address_with_credentials_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as failure:
        DifyClient("http://me:hidden@h/v1", KEY)
    assert "hidden" not in str(failure.value.as_dict())


@pytest.mark.parametrize("key", ["", "app x", "app-\n", "äpp"])
def test_a_wrong_key_is_not_shown(key: str) -> None:
    with pytest.raises(UsageError, match="DIFY_API_KEY") as failure:
        DifyClient(BASE, key)
    assert not key or key not in str(failure.value.as_dict())


async def test_the_key_is_not_shown(client: DifyClient) -> None:
    assert KEY not in repr(client)
    assert "dify.test" in repr(client)


async def test_clock_and_version(client: DifyClient, dify: respx.Router) -> None:
    assert (client.clock_offset, client.server_version) == (0.0, None)
    ahead = {"date": formatdate(time() + 100, usegmt=True), "x-version": "1.14.2"}
    dify.get("/info").mock(httpx.Response(200, headers=ahead, json={}))
    await client.info()
    assert client.clock_offset == pytest.approx(100, abs=5)
    assert client.server_version == "1.14.2"


async def test_a_jump_of_our_clock_changes_the_offset_at_once(dify: respx.Router) -> None:
    """Else the time of a POST by the server's clock is an hour wrong, and the log is asked for the wrong hour."""
    clock = JumpingClock()
    transport = httpx.MockTransport(dify.async_handler)
    async with DifyClient(BASE, KEY, transport=transport, seams=Seams(clock=clock)) as client:
        date = {"date": formatdate(clock.wall() + 100, usegmt=True)}
        dify.get("/info").mock(httpx.Response(200, headers=date, json={}))
        await client.info()
        before = clock.wall() + client.clock_offset
        clock.jumped = 3600.0
        assert clock.wall() + client.clock_offset == pytest.approx(before)
        clock.passed = 60.0
        assert clock.wall() + client.clock_offset == pytest.approx(before + 60)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Sun, 22 Nov 2026 00:23:34 GMT", 10.0),
        ("Sun, 22 Nov 2026 00:23:00 GMT", 0.0),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    now = datetime(2026, 11, 22, 0, 23, 24, tzinfo=UTC).timestamp()
    assert retry_after({"retry-after": value}, now) == seconds
    assert retry_after({}, now) is None


@pytest.mark.parametrize("text", ["", "x", "99 Foo 2026", "Sun, 99 Nov 2026 99:99:99 GMT", "\x00"])
def test_what_is_no_date(text: str) -> None:
    assert http_date(text) is None
