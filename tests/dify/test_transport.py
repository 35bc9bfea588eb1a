"""Each failure on real sockets has the same meaning with every transport, so that changing it is one line."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from dify_batch.dify.failures import Broken, in_words, meaning
from dify_batch.dify.requests import Asked
from dify_batch.dify.transport import KEEPALIVE, Transport, drop, pieces, whole_body
from tests.support.raw_server import Connection, Script, self_made_certificate, serving

Make = Callable[[str], httpx.AsyncBaseTransport]


class Direct(Transport):
    """The way that rows take: without httpx's request and answer."""

    async def handle_async_request(self, request: httpx.Request) -> Any:
        headers = [(name.decode(), value.decode()) for name, value in request.headers.raw]
        limits = request.extensions["timeout"]
        return await self.ask(Asked(request.method, str(request.url), headers, request.content, limits))


MAKERS: dict[str, Make] = {
    "ours": Transport,
    "direct": Direct,
    "httpx": lambda _: httpx.AsyncHTTPTransport(),
}


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


def post(url: str, *, connect: float = 5.0, read: float = 5.0) -> httpx.Request:
    limits = {"connect": connect, "read": read, "write": 5.0, "pool": connect}
    return httpx.Request("POST", url + "/workflows/run", content=b'{"a":1}', extensions={"timeout": limits})


async def outcome(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> str:
    """The body of the answer, or the meaning of the failure."""
    try:
        response = await transport.handle_async_request(request)
        try:
            return (await whole_body(response)).decode()
        finally:
            await drop(response)
    except Exception as exc:
        return meaning(exc)


async def once(make: Make, url: str, **limits: float) -> str:
    async with make(url) as transport:
        return await outcome(transport, post(url, **limits))


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_refused_is_unreachable(make: Make, closed_port: int) -> None:
    assert await once(make, f"http://127.0.0.1:{closed_port}") == "unreachable"


async def test_unknown_host_is_unreachable(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert await once(make, "http://dify.invalid") == "unreachable"


async def test_tls_against_a_plain_server_is_unreachable(make: Make) -> None:
    async def plain(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 400 this is no TLS\r\n\r\n")
        await connection.until_closed()

    async with serving(plain) as server:
        assert await once(make, f"https://127.0.0.1:{server.port}") == "unreachable"


async def test_connect_timeout_is_unreachable(make: Make) -> None:
    # A listener that never accepts: once its queue is full the kernel drops the first packet of further connections.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert await once(make, url, connect=0.3) == "unreachable"
        finally:
            for filler in fillers:
                filler.close()


async def in_plain_words(url: str, **limits: float) -> str:
    async with Transport(url) as transport:
        try:
            response = await transport.handle_async_request(post(url, **limits))
            try:
                await whole_body(response)
            finally:
                await drop(response)
        except Exception as exc:
            return str(Broken(exc))
    raise AssertionError("nothing went wrong")


async def test_a_refused_connection_in_words(closed_port: int) -> None:
    words = await in_plain_words(f"http://127.0.0.1:{closed_port}")
    assert words == f"cannot connect to 127.0.0.1:{closed_port}: Connection refused"


async def test_a_name_that_cannot_be_resolved_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    words = await in_plain_words("http://dify.invalid")
    assert words == "the name dify.invalid cannot be resolved: Name or service not known"


async def closes_unread(connection: Connection) -> None:
    connection.writer.close()


async def reads_then_closes(connection: Connection) -> None:
    await connection.request()


async def half_a_status_line(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 2")


async def not_http(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"220 mail.example ESMTP\r\n\r\n")


async def resets(connection: Connection) -> None:
    await connection.request()
    connection.reset()


async def half_a_chunk(connection: Connection) -> None:
    await connection.request()
    await connection.begin_stream()
    await connection.send(b"20\r\nevent: ping\n")


async def a_short_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"task')


async def resets_in_the_body(connection: Connection) -> None:
    await connection.request()
    await connection.begin_stream()
    await connection.chunk(b"event: ping\n\n")
    connection.reset()


@pytest.mark.parametrize(
    "script",
    [
        closes_unread,
        reads_then_closes,
        half_a_status_line,
        not_http,
        resets,
        half_a_chunk,
        a_short_body,
        resets_in_the_body,
    ],
    ids=lambda script: script.__name__,
)
async def test_what_cannot_be_told_is_cut(make: Make, script: Script) -> None:
    async with serving(script) as server:
        assert await once(make, server.url) == "cut"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (reads_then_closes, "the server closed the connection without an answer"),
        (resets, "the connection broke off: Connection reset by peer"),
        (half_a_chunk, "the answer broke off before its end"),
        (a_short_body, "the answer broke off before its end"),
        (not_http, "the answer is not HTTP (is it another service's port?)"),
    ],
)
async def test_failures_in_words(script: Script, words: str) -> None:
    async with serving(script) as server:
        said = await in_plain_words(server.url)
    assert said.startswith(words)
    assert "Error" not in said


def test_an_error_without_a_text_still_has_words() -> None:
    assert in_words(httpx.ReadTimeout("")) == in_words(aiohttp.SocketTimeoutError()) == "no answer in time"
    assert in_words(httpx.ConnectError("")) == in_words(aiohttp.InvalidURL("x")) == "no connection could be made"
    assert in_words(aiohttp.ConnectionTimeoutError()) == "no connection in time"
    assert in_words(httpx.ReadError("")) == in_words(OSError()) == "the connection broke off"
    assert in_words(RuntimeError("odd")) == "odd"


@pytest.mark.parametrize("after_head", [False, True])
async def test_hanging_is_timeout(make: Make, after_head: bool) -> None:
    async def hangs(connection: Connection) -> None:
        await connection.request()
        if after_head:
            await connection.begin_stream()
        await connection.until_closed()

    async with serving(hangs) as server:
        assert await once(make, server.url, read=0.2) == "timeout"


async def test_a_post_on_a_kept_connection_that_the_server_drops_is_cut_and_not_sent_again(make: Make) -> None:
    async def drops_the_second(connection: Connection) -> None:
        await connection.request()
        await connection.answer()
        await connection.request()  # taken, and no byte in return

    async with serving(drops_the_second) as server, make(server.url) as transport:
        assert await outcome(transport, post(server.url)) == "{}"
        assert await outcome(transport, post(server.url)) == "cut"
        assert (server.connections, len(server.seen)) == (1, 2)


async def test_a_kept_connection_closed_while_idle_is_replaced(make: Make) -> None:
    async def one_answer(connection: Connection) -> None:
        await connection.request()
        await connection.answer()

    async with serving(one_answer) as server, make(server.url) as transport:
        assert await outcome(transport, post(server.url)) == "{}"
        # The loop delivers the end of the connection; another request gives it the turns to do so.
        async with make(server.url) as other:
            assert await outcome(other, post(server.url)) == "{}"
        assert await outcome(transport, post(server.url)) == "{}"
        assert len(server.seen) == 3


async def test_an_unfinished_answer_drops_its_connection_at_once(make: Make) -> None:
    gone = asyncio.Event()

    async def endless(connection: Connection) -> None:
        await connection.request()
        await connection.begin_stream()
        await connection.chunk(b"event: ping\n\n")
        await connection.until_closed()
        gone.set()

    async with serving(endless) as server, make(server.url) as transport:
        response = await transport.handle_async_request(post(server.url))
        chunks = pieces(response)
        assert await anext(chunks) == b"event: ping\n\n"
        await drop(response)
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_finished_answer_leaves_its_connection_for_the_next(make: Make) -> None:
    async def many(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer()

    async with serving(many) as server, make(server.url) as transport:
        for _ in range(3):
            assert await outcome(transport, post(server.url)) == "{}"
        assert server.connections == 1


async def test_kept_connections_are_given_up_before_the_server_does() -> None:
    transport = Transport("http://127.0.0.1:1")
    session = transport.session()
    assert isinstance(session.connector, aiohttp.TCPConnector)
    assert session.connector._keepalive_timeout == KEEPALIVE < 2.0  # Dify drops them after 2 s
    assert session.connector.limit == 0
    await session.close()


async def test_a_line_of_several_megabytes_passes() -> None:
    line = b"data: " + b"x" * 5_000_000 + b"\n\n"

    async def large(connection: Connection) -> None:
        await connection.request()
        await connection.begin_stream()
        await connection.chunk(line)
        await connection.send(b"0\r\n\r\n")
        await connection.until_closed()

    async with serving(large) as server:
        assert await once(Transport, server.url) == line.decode()


async def test_a_body_in_pieces_is_sent_whole_and_compressed_answers_are_unpacked() -> None:
    import gzip

    async def zipped(connection: Connection) -> None:
        seen = await connection.request()
        await connection.answer(200, gzip.compress(seen.body), content_encoding="gzip")

    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with serving(zipped) as server, Transport(server.url) as transport:
        assert await outcome(transport, httpx.Request("POST", server.url, content=parts())) == "one two"


async def test_a_query_keeps_its_quoting() -> None:
    async def echo(connection: Connection) -> None:
        await connection.answer(200, (await connection.request()).target.encode())

    async with serving(echo) as server, Transport(server.url) as transport:
        request = httpx.Request("GET", server.url + "/logs?user=a%2Bb%26c%20d%C3%A9%7e%41")
        assert await outcome(transport, request) == "/v1/logs?user=a%2Bb%26c%20d%C3%A9%7e%41"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_handed_on(make: Make, status: int) -> None:
    async def elsewhere(connection: Connection) -> None:
        await connection.request()
        await connection.answer(status, b"moved", location="/v1/other")

    async with serving(elsewhere) as server:
        assert await once(make, server.url) == "moved"
        assert len(server.seen) == 1


def test_unknown_errors_are_cut() -> None:
    assert meaning(RuntimeError("anything")) == "cut"
    assert meaning(httpx.RemoteProtocolError("x")) == "cut"


def test_the_cause_decides_over_the_wrapper() -> None:
    # Some transports say "connect timeout" of a connection that was lost after the request had been sent.
    wrapped = httpx.ConnectTimeout("Server disconnected")
    wrapped.__cause__ = aiohttp.ServerDisconnectedError()
    assert meaning(wrapped) == "cut"
    assert meaning(httpx.ConnectTimeout("alone")) == "unreachable"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_made_certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("trusted", [True, False])
async def test_certificates_are_checked_and_ssl_cert_file_is_honoured(
    certificate: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fine(connection: Connection) -> None:
        await connection.request()
        await connection.answer()

    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    else:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with serving(fine, tls=context) as server:
        assert await once(Transport, server.url) == ("{}" if trusted else "unreachable")
        if not trusted:
            said = await in_plain_words(server.url)
            assert said == f"the certificate of 127.0.0.1:{server.port} cannot be trusted: self-signed certificate"
        assert len(server.seen) == int(trusted)
