"""How attempts end, mostly on real sockets."""

from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import respx

from dify_batch.dify.client import DifyClient
from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Paused,
    Rejected,
    Running,
    RunRef,
    Succeeded,
    Throttled,
    Unreachable,
)
from tests.dify.client.parts import FINISHED, KEY, PING, REF, STARTED, hangs, run, streams
from tests.support.raw_server import Connection, Script, serving
from tests.support.wire_files import answer, recorded


async def ends(connection: Connection) -> None:
    await connection.send(b"0\r\n\r\n")
    await connection.until_closed()


async def cuts(connection: Connection) -> None:
    connection.reset()


async def attempt(script: Script, **changes: Any) -> tuple[Outcome, list[RunRef]]:
    refs: list[RunRef] = []
    async with serving(script) as server, DifyClient(server.url, KEY) as client:
        return await run(client, on_started=refs.append, **changes), refs


async def test_a_run_ends_at_workflow_finished_and_the_connection_with_it() -> None:
    gone = asyncio.Event()

    async def stays(connection: Connection) -> None:
        await connection.until_closed()
        gone.set()

    async with serving(streams(PING, STARTED, FINISHED, then=stays)) as server, DifyClient(server.url, KEY) as client:
        outcome = await run(client)
        await asyncio.wait_for(gone.wait(), 5)  # the stream was left open by the server
    assert isinstance(outcome, Succeeded)
    assert outcome.result.outputs == {"a": "é"}
    assert outcome.result.ref == REF


async def test_started_is_told_once_before_the_end_comes() -> None:
    told = asyncio.Event()
    refs: list[RunRef] = []

    def started(ref: RunRef) -> None:
        refs.append(ref)
        told.set()

    async def waits(connection: Connection) -> None:
        await told.wait()
        await connection.chunk(STARTED)  # as after a pause
        await connection.chunk(FINISHED)
        await connection.until_closed()

    async with serving(streams(PING, STARTED, then=waits)) as server, DifyClient(server.url, KEY) as client:
        assert isinstance(await run(client, on_started=started), Succeeded)
    assert refs == [REF]


async def test_what_on_started_raises_passes_through() -> None:
    def fail(_: RunRef) -> None:
        raise TimeoutError("the disk")

    async with serving(streams(STARTED)) as server, DifyClient(server.url, KEY) as client:
        with pytest.raises(TimeoutError, match="the disk"):
            await run(client, on_started=fail)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("02-streaming-success", Succeeded),
        ("15c-failed-streaming", Failed),
        ("16-stop-during-streaming", Failed),
        ("18-human-input-streaming", Paused),
        ("05h2-streaming-error-until-server-closes", Rejected),
        ("20v2-run-unknown-file-id-streaming", Rejected),
    ],
)
async def test_recorded_streams_left_open(name: str, kind: type) -> None:
    outcome, _ = await attempt(streams(recorded(name).body))
    assert type(outcome) is kind


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("01-blocking-success", Succeeded),
        ("18p-human-input-blocking", Paused),
        ("03-invalid-api-key", Fatal),
        ("05-missing-required-blocking", Rejected),
        ("17-rate-limited-blocking", Throttled),
        ("26n-postgres-down-blocking", Lost),
        ("21-v1-root", Fatal),
    ],
)
async def test_whole_answers_in_either_mode(
    client: DifyClient, dify: respx.Router, name: str, kind: type, mode: str
) -> None:
    dify.post("/workflows/run").mock(answer(name))
    assert type(await run(client, mode=mode)) is kind


async def test_retry_after_is_handed_on(client: DifyClient, dify: respx.Router) -> None:
    said = {"code": "too_many_requests", "message": "slow", "status": 429}
    dify.post("/workflows/run").mock(httpx.Response(429, headers={"Retry-After": "17"}, json=said))
    assert await run(client) == Throttled("slow", 17.0, 429)
    dify.post("/workflows/run").mock(httpx.Response(503, headers={"Retry-After": "5"}, text="away"))
    outcome = await run(client)
    assert isinstance(outcome, Lost)
    assert (outcome.http_status, outcome.retry_after, outcome.server_error) == (503, 5.0, True)


async def test_a_redirect_is_not_followed(client: DifyClient, dify: respx.Router) -> None:
    dify.post("/workflows/run").mock(httpx.Response(308, headers={"Location": "https://dify.test/v1/workflows/run"}))
    outcome = await run(client)
    assert isinstance(outcome, Fatal)
    assert "https://dify.test/v1/workflows/run" in outcome.message
    assert len(dify.calls) == 1


@pytest.mark.parametrize("then", [ends, cuts], ids=["ends", "cut"])
async def test_a_stream_that_stops_after_the_start_is_running(then: Script) -> None:
    outcome, refs = await attempt(streams(PING, STARTED, then=then))
    assert isinstance(outcome, Running)
    assert outcome.ref == REF
    assert refs == [REF]


@pytest.mark.parametrize("then", [ends, cuts], ids=["ends", "cut"])
async def test_a_stream_that_stops_before_the_start_is_lost(then: Script) -> None:
    outcome, refs = await attempt(streams(PING, then=then))
    assert isinstance(outcome, Lost)
    assert outcome.server_error
    assert refs == []


async def test_an_end_that_lacks_only_its_empty_line_counts() -> None:
    outcome, _ = await attempt(streams(STARTED, FINISHED[:-1], then=cuts_after_delivery))
    assert isinstance(outcome, Succeeded)


async def cuts_after_delivery(connection: Connection) -> None:
    connection.writer.close()  # in order: what was written arrives, the end of the chunked body does not


async def test_before_the_start_only_the_timeout_counts() -> None:
    outcome, refs = await attempt(streams(PING), timeout=0.3, silence=0.05)
    assert outcome == Lost("timeout: no end within 0.3 s", server_error=False, accepted=True)
    assert refs == []


async def test_silence_after_the_start_is_running() -> None:
    outcome, _ = await attempt(streams(PING, STARTED), timeout=20, silence=0.1)
    assert outcome == Running(REF, "silent for 0.1 s after the start", silent=True)


async def test_pings_are_a_sign_of_life() -> None:
    async def pings(connection: Connection) -> None:
        for _ in range(10):
            await asyncio.sleep(0.12)  # the traffic itself is tested: pings over 1.2 s, and silence is 1 s
            await connection.chunk(PING)
        await connection.chunk(FINISHED)
        await connection.until_closed()

    outcome, _ = await attempt(streams(STARTED, then=pings), silence=1.0)
    assert isinstance(outcome, Succeeded)


async def test_the_timeout_after_the_start_is_running() -> None:
    async def pings(connection: Connection) -> None:
        while True:
            await connection.chunk(PING)
            await asyncio.sleep(0.02)

    outcome, _ = await attempt(streams(STARTED, then=pings), timeout=0.3)
    assert outcome == Running(REF, "timeout: no end within 0.3 s")


async def test_a_blocking_call_that_takes_too_long_is_lost() -> None:
    outcome, _ = await attempt(hangs, mode="blocking", timeout=0.1)
    assert outcome == Lost("timeout: no end within 0.1 s", server_error=False)


async def test_a_blocking_answer_that_is_cut_is_lost() -> None:
    async def half(connection: Connection) -> None:
        await connection.request()
        await connection.send(b'HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{"task_id"')

    outcome, _ = await attempt(half, mode="blocking")
    assert isinstance(outcome, Lost)
    assert outcome.server_error


async def test_a_refusal_whose_body_is_cut_is_still_one() -> None:
    async def half(connection: Connection) -> None:
        await connection.request()
        await connection.send(b'HTTP/1.1 401 X\r\ncontent-length: 900\r\n\r\n{"code"')

    outcome, _ = await attempt(half)
    assert isinstance(outcome, Fatal)


async def test_closed_without_a_byte_is_lost_and_not_sent_again() -> None:
    async def closes(connection: Connection) -> None:
        await connection.request()

    async with serving(closes) as server, DifyClient(server.url, KEY) as client:
        assert isinstance(await run(client), Lost)
        assert len(server.seen) == 1


async def test_refused_is_unreachable() -> None:
    async with serving(hangs) as server:
        pass
    async with DifyClient(server.url, KEY) as client:
        assert isinstance(await run(client), Unreachable)
        assert isinstance(await client.follow(REF, user="u", timeout=5), Unreachable)
        assert isinstance((await client.run_detail(REF)).outcome, Unreachable)


class Breaks(httpx.AsyncByteStream):
    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    """A body that fails with an error which, while connecting, would mean that nothing was sent."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        raise httpx.ConnectError("network is unreachable")


@pytest.mark.parametrize(("begin", "kind"), [(STARTED, Running), (b'{"task_id":', Lost)])
async def test_once_an_answer_has_begun_nothing_is_unreachable(
    client: DifyClient, dify: respx.Router, begin: bytes, kind: type
) -> None:
    dify.post("/workflows/run").mock(httpx.Response(200, stream=Breaks(begin)))
    assert isinstance(await run(client), kind)


@pytest.mark.parametrize("kind", ["Text/Event-Stream", "TEXT/EVENT-STREAM;charset=utf-8", "application/json", None])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b"\n\n"])
async def test_a_stream_is_known_whatever_its_header_says(
    client: DifyClient, dify: respx.Router, kind: str | None, begin: bytes
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = begin + PING + STARTED + FINISHED
    refs: list[RunRef] = []
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        dify.post("/workflows/run").mock(httpx.Response(200, headers=headers, stream=Breaks(*pieces)))
        assert isinstance(await run(client, on_started=refs.append), Succeeded)
    assert refs == [REF, REF]


async def test_a_compressed_stream_is_read() -> None:
    async def zipped(connection: Connection) -> None:
        await connection.request()
        body = gzip.compress(PING + STARTED + FINISHED)
        await connection.answer(200, body, content_type="text/event-stream", content_encoding="gzip")
        await connection.until_closed()

    outcome, refs = await attempt(zipped)
    assert isinstance(outcome, Succeeded)
    assert refs == [REF]


async def test_cancelling_drops_the_connection_and_passes_through() -> None:
    here, gone = asyncio.Event(), asyncio.Event()

    async def stays(connection: Connection) -> None:
        await connection.until_closed()
        gone.set()

    def started(_: RunRef) -> None:
        here.set()

    async with serving(streams(STARTED, then=stays)) as server, DifyClient(server.url, KEY) as client:
        task = asyncio.create_task(run(client, on_started=started))
        await asyncio.wait_for(here.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 5)


async def test_nothing_is_left_behind() -> None:
    """No timer, task or open connection outlives an attempt, however it ended."""
    loop = asyncio.get_running_loop()
    async with serving(streams(STARTED, FINISHED)) as server, DifyClient(server.url, KEY) as client:
        await run(client)
        before = len(asyncio.all_tasks())
        for _ in range(20):
            await run(client, timeout=1000, silence=500)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) <= before + 1  # the server's side of the last one
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert not [timer for timer in timers if timer.when() > loop.time() + 100]
    gc.collect()
