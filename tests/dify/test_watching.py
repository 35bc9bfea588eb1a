"""The client's events of one run, and what the API tells of an app beside its runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import httpx
import pytest

from dify_batch.dify.client import DifyClient
from dify_batch.dify.watching import RunEvent
from dify_batch.errors import AuthError, ConnectionFailed, ServerError
from dify_batch.outcomes import Running, RunRef, Succeeded
from dify_batch.simulator import Config, Simulator

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(Config(latency=0.02)) as server:
        yield server


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[DifyClient]:
    simulator.reset()
    async with DifyClient(simulator.base_url, "app-demo") as client:
        yield client


def mocked(answer: Handler) -> DifyClient:
    return DifyClient("http://dify.test/v1", "app-key", transport=httpx.MockTransport(answer))


async def test_every_event_up_to_the_end_and_none_after(client: DifyClient) -> None:
    events = [event async for event in client.events({"query": "hello"}, user="me")]
    names = [event.name for event in events]
    assert names[0] == "workflow_started"
    assert names[-1] == "workflow_finished"
    assert names.count("node_started") == names.count("node_finished") == 3
    assert "".join(e.data["text"] for e in events if e.name == "text_chunk") == "Echo: hello"
    assert len({event.run_id for event in events}) == len({event.task_id for event in events}) == 1
    assert events[-1].data["outputs"] == {"answer": "Echo: hello"}


async def test_leaving_the_loop_stops_no_run(client: DifyClient) -> None:
    async with aclosing(client.events({"query": "hello"}, user="me")) as events:
        first = await anext(events)
    assert first.run_id is not None
    detail = await client.run_detail(RunRef(first.run_id))
    while isinstance(detail.outcome, Running):
        detail = await client.run_detail(RunRef(first.run_id))
    assert isinstance(detail.outcome, Succeeded)


async def test_a_refused_input_is_an_error_event_and_the_last(client: DifyClient) -> None:
    events = [event async for event in client.events({}, user="me")]
    assert [event.name for event in events] == ["error"]
    assert "query is required" in events[0].data["message"]


async def test_a_key_that_is_refused(simulator: Simulator) -> None:
    async with DifyClient(simulator.base_url, "app-nobody") as client:
        with pytest.raises(AuthError):
            await anext(client.events({"query": "x"}, user="me"))


@pytest.mark.parametrize("fault", ["cut_after_start", "cut_mid_stream", "clean_end"])
async def test_a_cut_names_the_run(fault: str, client: DifyClient, simulator: Simulator) -> None:
    simulator.faults({"rows": {"r": [fault]}})
    seen: list[RunEvent] = []

    async def watch() -> None:
        async for event in client.events({"query": "x", "id": "r"}, user="me"):
            seen.append(event)  # noqa: PERF401 - what came before the cut is kept

    with pytest.raises(ConnectionFailed) as caught:
        await watch()
    assert caught.value.details["run_id"] == seen[0].run_id


async def test_a_run_that_takes_too_long(client: DifyClient, simulator: Simulator) -> None:
    simulator.configure(latency=30.0)
    with pytest.raises(ConnectionFailed, match=r"no end within 0\.3 s"):
        async for _ in client.events({"query": "x"}, user="me", timeout=0.3):
            pass
    simulator.configure(latency=0.02)


async def test_an_answer_that_is_no_stream() -> None:
    async with mocked(lambda _: httpx.Response(200, text="<html>")) as client:
        with pytest.raises(ServerError, match="something that is not Dify's JSON"):
            await anext(client.events({}, user="me"))


async def test_pages_of_the_app() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        if request.url.path.endswith("/preview"):
            return httpx.Response(200, content=b"%PDF-1.7 ...")
        return httpx.Response(200, json={"path": request.url.path})

    async with mocked(answer) as client:
        assert await client.site() == {"path": "/v1/site"}
        assert await client.meta() == {"path": "/v1/meta"}
        assert await client.end_user("a/b") == {"path": "/v1/end-users/a/b"}
        assert b"".join([piece async for piece in client.file_preview("f1")]) == b"%PDF-1.7 ..."
        assert [piece async for piece in client.file_preview("f1", as_attachment=True)]
    assert asked == [
        "/v1/site",
        "/v1/meta",
        "/v1/end-users/a%2Fb",
        "/v1/files/f1/preview",
        "/v1/files/f1/preview?as_attachment=true",
    ]


async def test_a_file_that_is_not_there() -> None:
    body = {"code": "file_not_found", "message": "File not found", "status": 404}
    async with mocked(lambda _: httpx.Response(404, json=body)) as client:
        with pytest.raises(ServerError) as caught:
            await anext(client.file_preview("f1"))
    assert caught.value.details["http_status"] == 404


async def test_the_log_by_keyword_and_status() -> None:
    asked: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        return httpx.Response(200, content=json.dumps({"data": [], "has_more": False}))

    async with mocked(answer) as client:
        await client.logs(keyword="a b", status="failed", limit=5)
        await client.logs()
    assert asked == [
        {"page": "1", "limit": "5", "keyword": "a b", "status": "failed"},
        {"page": "1", "limit": "100"},
    ]
