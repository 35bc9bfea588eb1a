"""The first questions: what is waited for, what is told at once, and what is done without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dify_batch.batch.control import Control
from dify_batch.batch.preflight import app_form
from dify_batch.dify.client import DifyClient
from dify_batch.errors import AppError, AuthError, DifyBatchError, RateLimited
from dify_batch.seams import Seams
from dify_batch.settings import Settings
from dify_batch.summary import Stats
from tests.support.owned_time import LoopClock, play
from tests.support.wire_files import answer

Answer = Callable[[], httpx.Response]


def FORM() -> httpx.Response:
    return answer("19-parameters-W1")


def INFO() -> httpx.Response:
    return answer("19-info-W1")


def said(status: int, body: object = "no", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, dict):
        return lambda: httpx.Response(status, headers=named, json=body)
    return lambda: httpx.Response(status, headers=named, text=str(body))


class Server:
    """Gives the answers of a list to each path, the last one for ever."""

    def __init__(self, parameters: list[Answer], info: list[Answer]) -> None:
        self.answers = {"/v1/parameters": parameters, "/v1/info": info}
        self.asked: list[tuple[str, float]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append((path, asyncio.get_running_loop().time()))
        answers = self.answers[path]
        return (answers.pop(0) if len(answers) > 1 else answers[0])()


def settings_of(**more: Any) -> Settings:
    named: dict[str, Any] = {"input": Path("i.csv"), "output": Path("o.jsonl"), "base_url": "http://dify.test/v1"}
    return Settings(**named, api_key="app-x", **more)  # type: ignore[arg-type]  # text is taken, too


def asks(parameters: list[Answer], info: list[Answer] | None = None, **more: Any) -> tuple[Any, Server]:
    """The form and info, or the error; and what was asked when."""
    server = Server(parameters, info or [INFO])
    clock = LoopClock()

    async def story() -> Any:
        settings = settings_of(**more)
        transport = httpx.MockTransport(server)
        async with DifyClient(settings.base_url, "app-x", transport=transport, seams=Seams(clock)) as client:
            try:
                return await app_form(client, settings, Stats(clock=clock), Control(), clock)
            except DifyBatchError as error:
                return error

    return play(story()), server


@pytest.mark.parametrize("status", [302, 400, 401, 402, 403, 404, 405, 407, 426, 451])
def test_a_wrong_address_is_told_at_once(status: int) -> None:
    error, server = asks([said(status, "<h1>not here</h1>")])
    assert type(error) is AppError
    assert error.hint
    assert len(server.asked) == 1


def test_the_key_is_told_at_once() -> None:
    error, server = asks([lambda: answer("03-invalid-api-key")])
    assert type(error) is AuthError
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for_before_the_second_question(status: int) -> None:
    (form, info), server = asks([said(status, retry_after="3"), FORM], initial_retry_delay=0.01)
    assert info["mode"] == "workflow"
    assert form.variables
    (_, first), (_, second), _ = server.asked
    assert second - first == pytest.approx(3)


def test_retry_after_past_the_longest_outage_is_told_at_once() -> None:
    error, server = asks([said(429, retry_after="3600")], max_outage=900)
    assert type(error) is RateLimited
    assert "3600 s" in (error.hint or "")
    assert len(server.asked) == 1


def test_a_server_that_is_away_is_waited_for_up_to_the_longest_outage() -> None:
    error, server = asks([said(502)], max_outage=900, max_retry_delay=60)
    assert isinstance(error, DifyBatchError)
    assert 850 < server.asked[-1][1] <= 901
    (_, info), _ = asks([said(502), said(408), said(425), said(503), FORM])
    assert info["name"]


@pytest.mark.parametrize(
    "info",
    [
        said(404, {"code": "not_found", "message": "The requested URL was not found", "status": 404}),
        said(404, "<h1>404</h1>"),
        said(403, "<h1>403</h1>"),
        said(403, {"code": "forbidden", "message": "no", "status": 403}),
        said(405),
        said(302, location="/login"),
        said(200, "<h1>Welcome</h1>"),
    ],
)
def test_info_is_done_without(info: Answer) -> None:
    (form, found), server = asks([FORM], [info])
    assert form.variables
    assert found == {}
    assert [path for path, _ in server.asked] == ["/v1/parameters", "/v1/info"]


def test_info_that_is_away_is_waited_for() -> None:
    (_, found), _ = asks([FORM], [said(503), INFO])
    assert found["mode"] == "workflow"


def test_no_time_passes_without_a_reason() -> None:
    began = time.monotonic()
    (_, _), server = asks([FORM])
    assert server.asked[-1][1] == 0
    assert time.monotonic() - began < 10
