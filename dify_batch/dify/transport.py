"""The HTTP transport in use. `failures.py` says what each of its failures means.

httpx's own pool does work that grows with the square of the requests in flight, so requests go through aiohttp, behind
httpx's transport interface: whoever holds an `httpx.AsyncBaseTransport` can put another one in its place.

aiohttp repeats a request by itself only for idempotent methods (`IDEMPOTENT_METHODS` in aiohttp/client.py, RFC 9112
section 9.3.1), so a POST is sent at most once, also on a reused connection that the server has just closed.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout
from yarl import URL

from dify_batch.dify import http
from dify_batch.dify.bodies import Chained, Unpacked, begins_stream, read_head, read_whole
from dify_batch.dify.failures import Broken, as_httpx
from dify_batch.dify.pool import Connector
from dify_batch.dify.proxies import proxy_for
from dify_batch.dify.requests import Answered, Asked, Reply

AnyTransport: TypeAlias = http.AsyncBaseTransport
"""What a client sends requests through. A caller may hand in another one, such as a mock."""

KEEPALIVE = 1.0
"""Seconds that an idle connection is kept. Dify's server drops it after 2 s, and a POST sent at that moment gets
no answer [dify-wire 29]; half of it leaves room for a slow network."""

READ_BUFFER = 1 << 18
"""Bytes that aiohttp takes from a socket before it makes the server wait (twice this): events of several MB arrive in
few, large pieces. Its default of 64 KiB pauses and resumes the socket eight times as often."""


class _Body(http.AsyncByteStream):
    """The body of an answer, in pieces as they arrive.

    Not an async generator: one that is left unfinished would cost a task for its clean-up.
    """

    def __init__(self, response: ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as exc:
            raise as_httpx(exc) from exc
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        # close() drops the connection of an unfinished answer at once; a finished one is back in the pool already.
        self._response.close()


@lru_cache(maxsize=1024)
def _yarl(url: str) -> URL:
    return URL(url, encoded=True)  # httpx has quoted it; quoting twice would turn %2B into +


@lru_cache(maxsize=64)
def _timeouts(connect: float | None, read: float | None) -> ClientTimeout:
    # `connect` bounds name look-up, TCP, proxy and TLS together; there is no waiting for a free connection in it,
    # because the pool has no limit.
    return ClientTimeout(total=None, connect=connect, sock_connect=connect, sock_read=read)


class Transport(http.AsyncBaseTransport):
    """httpx's transport interface on one aiohttp session. Made anywhere; its session is opened by the first request.

    Args:
        base_url: what the requests' URLs begin with. It decides the proxy (`proxy_for`), and whether certificates
            are loaded (which takes 20 ms): those of SSL_CERT_FILE or SSL_CERT_DIR, else certifi's.

    Raises:
        UsageError: the environment names a proxy that is not supported.
        httpx.TransportError: from requests and from reading answers; of a class that agrees with `meaning`.
    """

    def __init__(self, base_url: str, connector: Callable[[], aiohttp.BaseConnector] | None = None) -> None:
        self._connector = connector or self._tcp
        self._proxy: URL | None = None
        self._credentials: str | None = None
        if (found := proxy_for(base_url)) is not None:
            self._proxy, self._credentials = URL(found[0]), found[1]
        self._tunnel = self._proxy is not None and base_url.startswith("https:")
        tls = base_url.startswith("https:") or (self._proxy is not None and self._proxy.scheme == "https")
        self._context = http.create_ssl_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._session: ClientSession | None = None

    def _tcp(self) -> aiohttp.BaseConnector:
        return Connector(
            limit=0,  # the engine decides how many run at once; a second limit here would be a hidden queue
            keepalive_timeout=KEEPALIVE,
            ssl=self._context,
        )

    def session(self) -> ClientSession:
        """The session, opened by the first call: it belongs to the event loop that runs then."""
        if self._session is None:
            self._session = ClientSession(
                connector=self._connector(),
                auto_decompress=False,  # `pieces` does it, to a bound
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_BUFFER,
            )
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def handle_async_request(self, request: http.Request) -> http.Response:
        limits = request.extensions.get("timeout", {})
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        stream = request.stream
        data: bytes | http.AsyncByteStream | None
        if isinstance(stream, http.ByteStream):
            data = b"".join(stream)
        else:
            assert isinstance(stream, http.AsyncByteStream)
            data = stream
            headers = [item for item in headers if item[0].lower() != "transfer-encoding"]  # aiohttp adds it
        response = await self._exchange(request.method, str(request.url), headers, data, limits)
        return http.Response(response.status, headers=response.raw_headers, stream=_Body(response), request=request)

    async def ask(self, asked: Asked) -> Answered:
        """As `handle_async_request`, for what needs no httpx."""
        response = await self._exchange(asked.method, asked.url, asked.headers, asked.content, asked.timeout)
        return Answered(response.status, response.headers, response.raw_headers, _Body(response))

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: list[tuple[str, str]],
        data: bytes | http.AsyncByteStream,
        limits: Mapping[str, float],
    ) -> ClientResponse:
        session = self._session or self.session()
        proxy_headers = None
        if self._credentials is not None:
            if self._tunnel:
                proxy_headers = {"Proxy-Authorization": self._credentials}
            else:
                headers = [*headers, ("Proxy-Authorization", self._credentials)]
        try:
            return await session.request(
                method,
                _yarl(url),
                headers=headers,
                data=data or None,
                allow_redirects=False,
                timeout=_timeouts(limits.get("connect"), limits.get("read")),
                proxy=self._proxy,
                proxy_headers=proxy_headers,
            )
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise as_httpx(exc) from exc


def pieces(response: Reply) -> AsyncIterator[bytes]:
    """The body as it arrives, unpacked. Raises Unreadable."""
    stream = response.stream
    assert isinstance(stream, http.AsyncByteStream)
    coding = response.headers.get("content-encoding", "").strip().lower()
    return aiter(stream) if coding in ("", "identity") else Unpacked(aiter(stream), coding)


async def whole_body(response: Reply) -> bytes:
    """The whole body of a good answer, up to MAX_EVENT bytes, else its first bytes. Raises TooLarge, Unreadable."""
    return await (read_whole if response.is_success else read_head)(pieces(response))


async def stream_or_whole(response: Reply) -> tuple[AsyncIterator[bytes] | None, bytes]:
    """An event stream's bytes as they arrive, or the whole body of another answer. Raises Broken.

    A media type may be written in capitals, and a gateway may have lost it: then the first bytes tell.
    """
    try:
        if not response.is_success:
            with contextlib.suppress(Exception):  # a refusal is one by its status
                return None, await read_head(pieces(response))
            return None, b""
        chunks = pieces(response)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            return chunks, b""
        first = await anext(chunks, b"")
        if first.startswith(b"{"):
            return None, await read_whole(chunks, first)
        streams, chunks = await begins_stream(Chained(first, chunks))
        return (chunks, b"") if streams else (None, await read_whole(chunks))
    except Exception as exc:
        raise Broken(exc) from exc


async def drop(response: Reply) -> None:
    """Lets go of an answer: the connection of an unfinished one is closed at once."""
    stream = response.stream
    with contextlib.suppress(Exception):  # the outcome is known; how the connection ends changes nothing
        if isinstance(stream, http.AsyncByteStream):
            await stream.aclose()  # without httpx's book-keeping, which nobody asks for any more
