"""The shape of each request, and what is made of its answer."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from dify_batch._version import __version__
from dify_batch.dify.answers import LogEntry
from dify_batch.dify.client import DifyClient
from dify_batch.errors import (
    UsageError,
)
from dify_batch.outcomes import (
    Rejected,
    RunRef,
    Succeeded,
    Throttled,
)
from tests.dify.client.parts import BASE, KEY, run
from tests.support.raw_server import Connection, serving
from tests.support.wire_files import answer, recorded


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
async def test_run_request(client: DifyClient, dify: respx.Router, mode: str) -> None:
    route = dify.post("/workflows/run").mock(answer("01-blocking-success"))
    file = {"type": "document", "transfer_method": "local_file", "upload_file_id": "f"}
    assert isinstance(await run(client, mode=mode, files=[file]), Succeeded)
    request = route.calls.last.request
    text = '{"inputs":{"query":"hé"},"response_mode":"MODE","user":"u-1","files":[FILE]}'
    text = text.replace("FILE", '{"type":"document","transfer_method":"local_file","upload_file_id":"f"}')
    assert request.content == text.replace("MODE", mode).encode()
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-length"] == str(len(request.content))
    assert request.headers["user-agent"] == f"dify-batch/{__version__}"
    assert request.headers["host"] == "dify.test"
    # A proxy that compresses a stream holds its events back.
    assert (request.headers["accept-encoding"] == "identity") is (mode == "streaming")


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
async def test_the_built_in_transport_and_one_that_is_handed_in_send_the_same(mode: str) -> None:
    """Up to the order of the headers, which belongs to the transport."""
    exchange = recorded("01-blocking-success")

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.replay(exchange)

    async with serving(script) as server:
        for transport in (None, httpx.AsyncHTTPTransport()):
            async with DifyClient(server.url, KEY, transport=transport) as client:
                assert isinstance(await run(client, mode=mode), Succeeded)
                assert client.server_time_known is False
        first, second = server.seen
    first.headers.pop("connection", None)
    second.headers.pop("connection", None)
    assert first == second


async def test_a_refusal_s_headers_may_be_in_any_encoding() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        body = b'{"code": "too_many_requests", "message": "no", "status": 429}'
        head = "HTTP/1.1 429 X\r\nretry-after: 7\r\nserver: \xe9\r\ncontent-type: application/json\r\ncontent-length: "
        await connection.send(head.encode("latin-1") + str(len(body)).encode() + b"\r\n\r\n" + body)

    async with serving(script) as server, DifyClient(server.url, KEY) as client:
        outcome = await run(client)
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after == 7


async def test_files_are_left_out_unless_given(client: DifyClient, dify: respx.Router) -> None:
    route = dify.post("/workflows/run").mock(answer("01-blocking-success"))
    await run(client)
    assert set(json.loads(route.calls.last.request.content)) == {"inputs", "response_mode", "user"}


async def test_workflow_id_pins_the_version(dify: respx.Router) -> None:
    route = dify.post("/workflows/a-b-c/run").mock(answer("01-blocking-success"))
    transport = httpx.MockTransport(dify.async_handler)
    async with DifyClient(BASE + "/", KEY, workflow_id="a-b-c", transport=transport) as client:
        assert isinstance(await run(client), Succeeded)
    assert route.call_count == 1


@pytest.mark.parametrize("value", ["\ud83d", float("nan"), float("inf"), object()])
async def test_what_is_no_json_is_rejected_before_it_is_sent(
    client: DifyClient, dify: respx.Router, value: Any
) -> None:
    route = dify.post("/workflows/run").mock(answer("01-blocking-success"))
    outcome = await client.run({"query": value}, user="u", mode="streaming", timeout=5)
    assert isinstance(outcome, Rejected)
    assert "cannot be written as JSON" in outcome.message
    assert not route.called


async def test_logs(client: DifyClient, dify: respx.Router) -> None:
    route = dify.get("/workflows/logs").mock(answer("14b-logs-after-finish-by-user"))
    after = datetime(2026, 11, 21, 20, 34, 11, 999999, tzinfo=timezone(timedelta(hours=-3)))
    page = await client.logs(user="a+b é/1", after=after, page=2, limit=50)
    query = (
        b"page=2&limit=50&created_by_end_user_session_id=a%2Bb%20%C3%A9%2F1&created_at__after=2026-11-21T23%3A34%3A11Z"
    )
    assert route.calls.last.request.url.query == query
    entry = LogEntry("517afdc1-40cc-4cf2-8fe1-0f940929835b", "succeeded", 1795307637, 1795307643, "user-running", None)
    assert (page.entries, page.has_more) == ((entry,), False)


async def test_running_runs_are_listed_without_an_end(client: DifyClient, dify: respx.Router) -> None:
    dify.get("/workflows/logs").mock(answer("14-logs-while-running-by-user"))
    (entry,) = (await client.logs(user="user-running")).entries
    assert (entry.status, entry.finished_at) == ("running", None)


async def test_follow_request(client: DifyClient, dify: respx.Router) -> None:
    exchange = recorded("24l-events-after-finish")
    ref = RunRef(json.loads(exchange.body.partition(b"data: ")[2])["workflow_run_id"])
    route = dify.get(f"/workflow/{ref.run_id}/events").mock(answer("24l-events-after-finish"))
    assert isinstance(await client.follow(ref, user="a b&c", timeout=5), Succeeded)
    assert route.calls.last.request.url.query == b"user=a%20b%26c&include_state_snapshot=true"


async def test_stop_form_and_submit(client: DifyClient, dify: respx.Router) -> None:
    stop = dify.post("/workflows/tasks/t%2F1/stop").mock(answer("16b-stop-request"))
    await client.stop("t/1", user="u")
    assert json.loads(stop.calls.last.request.content) == {"user": "u"}
    dify.get("/form/human_input/tok").mock(answer("18h-form-get"))
    assert [a["id"] for a in (await client.form("tok"))["user_actions"]] == ["approve", "reject"]
    submit = dify.post("/form/human_input/tok").mock(answer("18k-form-submit"))
    await client.submit_form("tok", inputs={"comment": "ok"}, action="approve", user="u")
    assert json.loads(submit.calls.last.request.content) == {
        "inputs": {"comment": "ok"},
        "action": "approve",
        "user": "u",
    }


async def test_parameters_and_info(client: DifyClient, dify: respx.Router) -> None:
    dify.get("/parameters").mock(answer("19-parameters-W1"))
    dify.get("/info").mock(answer("19-info-W1"))
    assert "user_input_form" in await client.parameters()
    assert (await client.info())["mode"] == "workflow"


async def test_upload_over_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "nötes.txt"
    path.write_bytes(b"line\n" * 40_000)

    async def dify(connection: Connection) -> None:
        await connection.request()
        await connection.replay(recorded("20-upload-text"))

    async with serving(dify) as server, DifyClient(server.url, KEY) as client:
        assert await client.upload(path, user="u-1", mime="text/plain") == "3fc91886-2cd0-4f03-bd00-94bb7bc0b6bb"
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("POST", "/v1/files/upload")
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["content-length"] == str(len(seen.body))  # not chunked: werkzeug reads by length
    boundary = seen.headers["content-type"].partition("boundary=")[2].encode()
    user, file, end = seen.body.split(b"--" + boundary)[1:]
    assert user.split(b"\r\n\r\n") == [b'\r\nContent-Disposition: form-data; name="user"', b"u-1\r\n"]
    head, content = file.split(b"\r\n\r\n")
    assert 'name="file"; filename="nötes.txt"'.encode() in head
    assert b"Content-Type: text/plain" in head  # without it the answer is 415 [20g]
    assert content == path.read_bytes() + b"\r\n"
    assert end == b"--\r\n"


async def test_a_file_that_cannot_be_read(client: DifyClient, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*missing\.txt"):
        await client.upload(tmp_path / "missing.txt", user="u", mime="text/plain")
