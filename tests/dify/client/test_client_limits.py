"""Files and ports of this machine that are used up are no outage of the server."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from dify_batch.dify.client import DifyClient
from dify_batch.errors import ConnectionFailed
from dify_batch.outcomes import Lost, Throttled, Unreachable
from tests.dify.client.parts import KEY, run
from tests.support.raw_server import Connection, serving

OWN = [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL]


async def never(connection: Connection) -> None:
    await connection.until_closed()


@pytest.mark.parametrize("number", OWN)
async def test_no_socket_to_be_had(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    async with serving(never) as server, DifyClient(server.url, KEY) as client:
        monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", fails)
        outcome = await run(client)
        assert isinstance(outcome, Throttled)
        assert "this" in outcome.message
        with pytest.raises(ConnectionFailed) as failure:
            await client.parameters()
        assert failure.value.details["own_limit"] is True


async def test_a_refused_connection_is_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.ECONNREFUSED, "refused")

    async with serving(never) as server, DifyClient(server.url, KEY) as client:
        monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", fails)
        assert isinstance(await run(client), Unreachable)


async def test_a_file_that_cannot_be_opened_now_is_sent_later(
    client: DifyClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", fails)
    assert isinstance(await client.send_file(tmp_path / "a.txt", user="u", mime="text/plain"), Throttled)


@pytest.mark.parametrize(
    ("headers", "content", "words"),
    [
        ({"content-encoding": "gzip"}, b"{}", "the answer says gzip and is not"),
        ({"content-encoding": "br"}, b"{}", "the answer is packed in a way that was not asked for"),
    ],
)
async def test_an_answer_whose_bytes_cannot_be_read_is_lost(
    client: DifyClient, dify: respx.Router, headers: dict[str, str], content: bytes, words: str
) -> None:
    async def body() -> Any:
        yield content

    dify.post("/workflows/run").mock(httpx.Response(200, headers=headers, content=body()))
    outcome = await run(client, mode="blocking")
    assert isinstance(outcome, Lost)
    assert (outcome.reason, outcome.server_error) == (words, True)


async def test_an_answer_without_end_is_lost_at_once_and_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def endless(connection: Connection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            await connection.send(b"x" * (1 << 20))
            sent += 1

    async with serving(endless) as server, DifyClient(server.url, KEY) as client:
        outcome = await run(client, mode="blocking")
    assert isinstance(outcome, Lost)
    assert (outcome.reason, outcome.server_error) == ("an answer of more than 64 MB", False)
    assert sent < 80


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n", "the answer is not HTTP (is it another service's port?)"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "HTTP 502 (bad gateway)"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP 304 (not modified)"),
        (b'HTTP/1.1 204 No Content\r\n\r\n{"data":{"outputs":{"secret":"of the row"}}}', ""),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
            "the answer says gzip and is not",
        ),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"secret": "', "the answer broke off before its end"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz secret\r\n", ""),
    ],
)
@pytest.mark.parametrize("mode", ["streaming", "blocking"])
async def test_reasons_are_one_short_line_without_the_answers_bytes(wire: bytes, reason: str, mode: str) -> None:
    async def says(connection: Connection) -> None:
        await connection.request()
        await connection.send(wire)

    async with serving(says) as server, DifyClient(server.url, KEY) as client:
        client.answered = True
        outcome = await run(client, mode=mode)
        said = getattr(outcome, "reason", "") or getattr(outcome, "message", "")
        assert reason in said
        assert said.isprintable()
        assert len(said) <= 200
        for never_said in ("secret", "b'", "Error", "HTTP 502: HTTP 502"):
            assert never_said not in said
