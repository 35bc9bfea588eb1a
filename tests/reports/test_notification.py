"""What is told, and that it arrives or is a warning. Receivers are on loopback."""

from __future__ import annotations

import asyncio
import builtins
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dify_batch.errors import DifyBatchError, UsageError
from dify_batch.reports.notification import Notification, ending
from dify_batch.reports.notify import Notifier, shown
from dify_batch.summary import Summary

AT = 1_795_312_800.0
GOOD = Summary(rows=3, success=3)
SECRET = "s3cret-t0ken"


@pytest.mark.parametrize(
    ("summary", "error", "event", "status"),
    [
        (GOOD, None, "end", 0),
        (Summary(rows=3, untouched=3), DifyBatchError("m", code="not_finished"), "end", 75),
        (Summary(rows=3, untouched=3), DifyBatchError("m", code="budget_reached"), "end", 75),
        (GOOD, DifyBatchError("m", code="interrupted"), "end", 130),
        (Summary(rows=3, failed=1), DifyBatchError("m", code="rows_failed"), "needs_person", 1),
        (Summary(rows=3, unknown=1), DifyBatchError("m", code="rows_failed"), "needs_person", 1),
        (Summary(rows=3, paused=1), None, "needs_person", 0),
        (Summary(rows=3, retry_waiting=1), None, "needs_person", 0),
        (Summary(), DifyBatchError("m", code="auth_expired"), "needs_person", 4),
        (Summary(), DifyBatchError("m", code="invalid_csv"), "needs_person", 2),
        (GOOD, DifyBatchError("m", code="rate_limited"), "needs_person", 7),
    ],
)
def test_when_a_person_is_needed(summary: Summary, error: DifyBatchError | None, event: str, status: int) -> None:
    told = ending("out.jsonl", AT, summary, Counter(), error)
    assert (told.event, told.exit_status) == (event, status)


def test_the_schema() -> None:
    failures = Counter(
        {("run_failed", "row says: my secret cell"): 2, ("run_failed", "another"): 1, ("rejected", "x"): 1}
    )
    error = DifyBatchError("line 3: my secret cell", code="rows_failed", hint="my secret cell")
    body = ending("out.jsonl", AT, Summary(rows=9, success=5, failed=4, total_tokens=7), failures, error).as_dict()
    assert list(body) == ["schema", "event", "title", "text", "at", "output", "exit_status", "error", "outage_seconds",
                          "failures", "summary"]  # fmt: skip
    assert body["schema"] == "dify-batch/notification/1"
    assert body["title"] == "dify-batch: a person is needed: out.jsonl"
    assert body["text"].splitlines() == [
        "9 rows: 5 success, 4 failed",
        "It ended with rows_failed (exit status 1).",
        "3 x run_failed",
        "1 x rejected",
    ]
    assert body["at"] == "2026-11-22T02:00:00Z"
    assert body["failures"] == {"run_failed": 3, "rejected": 1}
    assert body["summary"]["total_tokens"] == 7
    assert "secret" not in str(body)


def test_an_outage() -> None:
    told = Notification("outage", "out.jsonl", AT, GOOD.as_dict(), outage_seconds=301.04)
    assert told.as_dict()["outage_seconds"] == 301.0
    assert "The server has been away, or has refused more, for 5 min." in told.text


@asynccontextmanager
async def receiver(*statuses: int, slow: float = 0.0) -> AsyncIterator[tuple[str, list[Any]]]:
    """A webhook that answers with the statuses one after the other, the last one for ever."""
    bodies: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        is_json = request.content_type == "application/json"
        bodies.append(await (request.json() if is_json else request.text()))
        await asyncio.sleep(slow)
        return web.Response(status=statuses[min(len(bodies), len(statuses)) - 1])

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    async with TestServer(app) as server:
        yield f"127.0.0.1:{server.port}", bodies


def told() -> Notification:
    return ending("out.jsonl", AT, GOOD, Counter(), None)


@pytest.mark.parametrize("scheme", ["http", "json"])
async def test_a_webhook_gets_the_notification_as_json(scheme: str) -> None:
    async with receiver(204) as (address, bodies):
        assert await Notifier([f"{scheme}://{address}/hook?x=1"]).send(told())
    assert bodies == [told().as_dict()]


async def test_what_fails_at_first_is_tried_three_times(caplog: pytest.LogCaptureFixture) -> None:
    async with receiver(500, 429, 200) as (address, bodies):
        assert await Notifier([f"http://{address}/{SECRET}"], pause=0).send(told())
        assert len(bodies) == 3
    with caplog.at_level(logging.WARNING, "dify_batch"):
        async with receiver(403) as (address, bodies):
            assert not await Notifier([f"http://{SECRET}@{address}/{SECRET}"], pause=0).send(told())
            assert len(bodies) == 3
    assert "--notify: http://127.0.0.1 was not told: HTTP 403 (3 tries)" in caplog.text
    assert SECRET not in caplog.text


async def test_one_that_does_not_answer_is_left(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dify_batch"):
        async with receiver(200, slow=30.0) as (address, _):
            assert not await Notifier([f"http://{address}/"], timeout=0.05, pause=0).send(told())
    assert "no answer within 0.05 s" in caplog.text


async def test_one_that_is_not_there_keeps_no_other_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dify_batch"):
        async with receiver(200) as (address, bodies):
            assert not await Notifier([f"http://127.0.0.1:9/{SECRET}", f"http://{address}/"], pause=0).send(told())
            assert len(bodies) == 1
    assert "was not told: ClientConnectorError" in caplog.text
    assert SECRET not in caplog.text


async def test_a_service_that_apprise_knows() -> None:
    async with receiver(200) as (address, bodies):
        assert await Notifier([f"xml://{address}/hook"], pause=0, timeout=5).send(told())
        assert "dify-batch: the batch has ended: out.jsonl" in bodies[0]
        assert "3 rows: 3 success" in bodies[0]
    async with receiver(500) as (address, bodies):
        assert not await Notifier([f"xml://{address}/hook"], pause=0, timeout=5).send(told())
        assert len(bodies) == 3


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://", "--notify: https:// is no address"),
        ("https://[::1", "--notify: https:// is no address"),
        (f"nosuchservice://{SECRET}", "--notify: nosuchservice://... is no address that Apprise knows"),
        ("mailto://", "--notify: mailto://... is no address that Apprise knows"),
    ],
)
def test_urls_that_are_none_are_told_before_anything_is_sent(url: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Notifier([url])
    assert caught.value.message.startswith(message)
    assert SECRET not in str(caught.value.as_dict())


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "apprise":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    Notifier(["https://example.com/plain/webhooks/need/none"])
    with pytest.raises(UsageError) as caught:
        Notifier([f"slack://{SECRET}"])
    assert caught.value.hint == 'install it: pip install "dify-batch[notify]"'
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"https://user:{SECRET}@hooks.example.com:8443/{SECRET}?{SECRET}", "https://hooks.example.com"),
        (f"slack://{SECRET}/a/b", "slack://..."),
        (f"jsons://{SECRET}@example.com", "jsons://example.com"),
        ("https://[", "https://"),
    ],
)
def test_how_a_url_is_shown(url: str, text: str) -> None:
    assert shown(url) == text


def test_the_manual_shows_the_schema_as_it_is() -> None:
    manual = (Path(__file__).parents[2] / "docs/manual/seeing.md").read_text(encoding="utf-8")
    match = re.search(r"```json\n(.*?)```", manual, re.DOTALL)
    assert match
    shown = json.loads(match[1])
    summary = Summary(rows=3, success=2, failed=1)
    error = DifyBatchError("m", code="rows_failed")
    real = ending("results.jsonl", AT, summary, Counter({("run_failed", "x"): 1}), error).as_dict()
    assert shown | {"summary": real["summary"]} == real
    assert shown["summary"].items() <= real["summary"].items()
