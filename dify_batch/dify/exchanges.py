"""The exchanges of a client with its server: how a request is made and sent, and how a refusal is told.

Requests go straight to the transport: httpx.AsyncClient would add redirects (never wanted: a redirected POST is a
second POST), cookies, and a good part of each row's time. Nothing is repeated here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from dify_batch._version import __version__
from dify_batch.dify import certificates, http
from dify_batch.dify.answers import checked_key, checked_url, error_of, http_date
from dify_batch.dify.failures import Broken
from dify_batch.dify.hearing import error_heard
from dify_batch.dify.proxies import proxy_for
from dify_batch.dify.requests import Asked, Reply
from dify_batch.dify.transport import Transport, drop, whole_body
from dify_batch.dify.word import word_of
from dify_batch.errors import ConnectionFailed, DifyBatchError
from dify_batch.seams import Seams
from dify_batch.strictjson import encoder, json_object

LOOK_UP_TIMEOUT = 30.0
"""Seconds for one look-up: with Redis down every request is answered after 12 to 29 s [26k3, 26k4]."""

# NaN is no JSON, and the server refuses it [09h].
ENCODE = encoder(compact=True)


_USER_AGENT = f"dify-batch/{__version__}"


class Exchanges:
    """Requests to one server with one key. Arguments and errors: see `DifyClient`."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        transport: http.AsyncBaseTransport | None,
        connect_timeout: float,
        seams: Seams,
    ) -> None:
        self._clock = seams.clock
        self._threads = seams.threads
        self.base_url: str = checked_url(base_url)
        self._origin = http.URL(self.base_url)
        self._transport = transport or Transport(self.base_url)
        self._key = checked_key(api_key)
        always = [
            ("Host", self._origin.netloc.decode("ascii")),
            ("Authorization", f"Bearer {self._key}"),
            ("User-Agent", _USER_AGENT),
            ("Accept", "*/*"),
        ]
        # A proxy that compresses a stream holds its events back.
        self._plain_headers = [*always, ("Accept-Encoding", "identity")]
        self._packed_headers = [*always, ("Accept-Encoding", "gzip, deflate")]
        self._timeout = {"connect": connect_timeout, "pool": connect_timeout}
        self._date: tuple[str, float] | None = None
        self.server_version: str | None = None
        self.answered: bool = False
        """Whether Dify itself has answered: until then a gateway's 4xx is a wrong address, proxy or account."""

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._transport.aclose()

    @property
    def server_time_known(self) -> bool:
        """Whether an answer has told the server's time."""
        return self._date is not None

    @property
    def clock_offset(self) -> float:
        """Seconds by which the server's clock is now ahead of ours, good to about half a second; 0.0 until known.

        Since the server told its time the monotonic clock has counted on, so a jump of ours changes the offset at once.
        """
        if self._date is None:
            return 0.0
        text, then = self._date
        server = http_date(text)
        if server is None:
            return 0.0
        passed = self._clock.monotonic() - then
        return server + 0.5 + passed - self._clock.wall()  # the header leaves out the part below a second

    def _request(
        self,
        method: str,
        url: http.URL | str,
        content: bytes | None = None,
        *,
        streaming: bool = False,
        trace_id: str | None = None,
    ) -> Asked:
        headers = list(self._plain_headers if streaming else self._packed_headers)
        if trace_id is not None:
            headers.append(("X-Trace-Id", trace_id))
        if content is not None:
            headers += ("Content-Type", "application/json"), ("Content-Length", str(len(content)))
        return Asked(method, str(url), headers, content or b"", self._timeout)

    async def _send(self, request: Asked | http.Request) -> Reply:
        transport = self._transport
        response: Reply
        try:
            if not isinstance(request, Asked):
                response = await transport.handle_async_request(request)
            elif isinstance(transport, Transport):
                response = await transport.ask(request)
            else:
                response = await transport.handle_async_request(request.as_httpx())
        except Exception as exc:
            raise Broken(exc) from exc
        headers = response.headers
        if (date := headers.get("date")) is not None:
            self._date = (date, self._clock.monotonic())
        if (version := headers.get("x-version")) is not None and version.isascii():
            self.server_version = version
        return response

    async def _exchange(self, request: Asked | http.Request, timeout: float) -> tuple[Reply, bytes]:
        response: Reply | None = None
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                response = await self._send(request)
                return response, await whole_body(response)
        except TimeoutError as exc:
            raise Broken(http.ReadTimeout(f"no answer within {timeout:g} s")) from exc
        except Broken:
            raise
        except Exception as exc:
            raise Broken(exc) from exc
        finally:
            if response is not None:
                await drop(response)

    async def _answer(self, request: Asked | http.Request, timeout: float) -> dict[str, Any]:
        method, url = request.method, str(request.url)
        asked = f"{method} {url.partition('?')[0]}"
        try:
            response, body = await self._exchange(request, timeout)
        except Broken as broken:
            hint = "check the network, the proxy settings and DIFY_API_BASE_URL"
            if broken.distrusted:
                hint = await self._about_certificate(broken)
            failed = ConnectionFailed(
                f"{asked}: {broken}",
                hint=hint,
                method=method,
                url=url,
                certificate=broken.distrusted or None,
                own_limit=broken.own_limit or None,
            )
            raise error_heard(failed, self._key) from broken
        data = json_object(body) if response.is_success else None
        if data is None:
            raise self._refused(response, body, method, url)
        self.answered = True
        return data

    async def _about_certificate(self, broken: Broken) -> str:
        names: tuple[str, ...] = ()
        if broken.other_host and not self.answered and proxy_for(self.base_url) is None:
            names = await certificates.names_at(self._origin.host, self._origin.port or 443)
        return certificates.hint(os.environ, names)

    def _refused(self, response: Reply, body: bytes, method: str, url: str) -> DifyBatchError:
        status, now = response.status_code, self._clock.wall()
        first = self._first(status, body)
        return error_heard(error_of(status, response.headers, body, method, url, now=now, first=first), self._key)

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        content = None if body is None else ENCODE(body).encode()
        return await self._answer(self._request(method, http.URL(self.base_url + path), content), LOOK_UP_TIMEOUT)

    def _first(self, status: int, body: bytes) -> bool:
        """Whether Dify has not answered before; remembers whether this is its answer."""
        first = not self.answered
        if first:
            self.answered = json_object(body) is not None if 200 <= status < 300 else word_of(status, {}, body).dify
        return first
