"""DifyClient: one method an endpoint, on httpx's transport interface.

`run`, `follow` and `run_detail` give outcomes and never raise for what a network or a server does; the other
methods raise the errors of `errors.py`. Requests go straight to the transport: httpx.AsyncClient would add
redirects (never wanted: a redirected POST is a second POST), cookies, and a good part of each row's time.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote, urlencode

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from dify_batch._version import __version__
from dify_batch.backoff import Backoff
from dify_batch.dify import certificates
from dify_batch.dify.answers import (
    Detail,
    LogEntry,
    LogPage,
    checked_key,
    checked_url,
    detail_of,
    error_of,
    http_date,
    retry_after,
    upload_outcome,
)
from dify_batch.dify.endpoints import Endpoints
from dify_batch.dify.hearing import detail_heard, entry_heard, error_heard, outcome_heard
from dify_batch.dify.protocol import Events, answer_outcome, follow_outcome
from dify_batch.dify.proxies import proxy_for
from dify_batch.dify.sse import EventStream
from dify_batch.dify.transport import Broken, Transport, drop, own_limit, stream_or_whole, whole_body
from dify_batch.dify.watch import Silence
from dify_batch.dify.watching import RunEvents
from dify_batch.dify.word import word_of
from dify_batch.errors import (
    ConnectionFailed,
    DifyBatchError,
    UsageError,
)
from dify_batch.masking import reason
from dify_batch.outcomes import (
    Fatal,
    Lost,
    Outcome,
    Rejected,
    Running,
    RunRef,
    Throttled,
    Unreachable,
)
from dify_batch.seams import REAL, Seams
from dify_batch.strictjson import json_object

__all__ = ["Detail", "DifyClient", "LogEntry", "LogPage"]

LOOK_UP_TIMEOUT = 30.0
"""Seconds for one look-up: with Redis down every request is answered after 12 to 29 s [26k3, 26k4]."""

UPLOAD_TIMEOUT = 300.0
"""Seconds for one upload; documents have up to 15 MB [20k]."""

# NaN is no JSON, and the server refuses it [09h]. Made once, since json.dumps makes one for each call.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


_USER_AGENT = f"dify-batch/{__version__}".encode()


class DifyClient(Endpoints, RunEvents):
    """The service API of one Dify app. Use it as an async context manager; safe for many tasks of one event loop.

    Args:
        base_url: address of the API, as in https://api.dify.ai/v1.
        api_key: the app's key; shown nowhere.
        workflow_id: pins one published version for all runs (POST /workflows/{id}/run).
        transport: in place of the built-in one, which honours HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY,
            SSL_CERT_FILE and SSL_CERT_DIR. It is closed with the client.
        connect_timeout: seconds to reach the server (name look-up, TCP, proxy and TLS).
        seams: where the time and threads come from.

    Raises:
        UsageError: base_url or api_key cannot be one, or the proxy is of a kind that is not supported.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        workflow_id: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        connect_timeout: float = 10,
        seams: Seams = REAL,
    ) -> None:
        self._clock = seams.clock
        self._threads = seams.threads
        self.base_url: str = checked_url(base_url)
        self._transport = transport or Transport(self.base_url)
        self._key = checked_key(api_key)
        self._authorization = f"Bearer {self._key}".encode()
        self._timeout = {"connect": connect_timeout, "pool": connect_timeout}
        path = f"/workflows/{quote(workflow_id, safe='')}/run" if workflow_id else "/workflows/run"
        self._run_url = httpx.URL(self.base_url + path)
        self._date: tuple[str, float] | None = None
        self.server_version: str | None = None
        self.answered: bool = False
        """Whether Dify itself has answered: until then a gateway's 4xx is a wrong address, proxy or account."""
        self._probe_path = "/info"

    def __repr__(self) -> str:
        return f"DifyClient({self.base_url!r}, api_key='***')"

    async def __aenter__(self) -> DifyClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

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

    # --- runs ---------------------------------------------------------------------------------------------------

    async def run(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        mode: Literal["streaming", "blocking"],
        files: Sequence[Mapping[str, Any]] | None = None,
        timeout: float,
        silence: float = 30.0,
        on_started: Callable[[RunRef], None] | None = None,
        trace_id: str | None = None,
    ) -> Outcome:
        """One attempt: one POST, and what it came to. Only cancellation and what `on_started` raises pass through.

        Args:
            inputs: as the app's form wants them, JSON-ready.
            user: at most 255 characters (256 is answered with 500 [07f]).
            files: the `files` of the body, where an app takes them there.
            timeout: seconds for the whole attempt. Past it: Lost without a run id, else Running.
            silence: seconds without any byte, once the run has started, after which it is Running and wants
                looking up: its worker pings every 10 s [02b].
            on_started: called once, synchronously, as soon as the run's id is known (streaming).
            trace_id: sent as X-Trace-Id, by which Langfuse, Phoenix and the like find the run: letters, digits, `_` and
                `-`, at most 128. It is no idempotency key [25e].

        Returns at workflow_finished, workflow_paused or error, and drops the connection there: the server leaves
        a stream open for one second more [02], and after an error for 300 s [05h2].
        """
        body: dict[str, Any] = {"inputs": inputs, "response_mode": mode, "user": user}
        if files is not None:
            body["files"] = files
        try:
            content = _ENCODER.encode(body).encode()
        except (ValueError, TypeError, RecursionError) as exc:
            return Rejected("invalid_inputs", f"the inputs cannot be written as JSON: {exc}")
        request = self._request("POST", self._run_url, content, streaming=mode == "streaming", trace_id=trace_id)
        return outcome_heard(await self._attempt(request, Events(), timeout, silence, on_started), self._key)

    async def run_safely(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        mode: Literal["streaming", "blocking"],
        files: Sequence[Mapping[str, Any]] | None = None,
        timeout: float,
        max_retries: int = 3,
        backoff: Backoff | None = None,
    ) -> Outcome:
        """As `run`, for callers without a batch: sent again only while it certainly did not start (Unreachable,
        Throttled), at most `max_retries` times. Gives the last outcome. A Lost one wants to be looked up by its `user`,
        and is not repeated here.
        """
        wait = backoff or Backoff()

        def seconds(state: RetryCallState) -> float:
            outcome = state.outcome.result() if state.outcome is not None else None
            return wait.seconds(state.attempt_number, getattr(outcome, "retry_after", None))

        repeating = AsyncRetrying(
            retry=retry_if_result(lambda outcome: isinstance(outcome, Unreachable | Throttled)),
            stop=stop_after_attempt(max_retries + 1),
            wait=seconds,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome is not None else None,
        )
        outcome: Outcome = await repeating(self.run, inputs, user=user, mode=mode, files=files, timeout=timeout)
        return outcome

    async def follow(self, ref: RunRef, *, user: str, timeout: float, silence: float = 30.0) -> Outcome:
        """Attaches to a run's events and tells how it ends: Succeeded, Failed, Paused, Running or Unreachable;
        Fatal where the server refuses the key.

        `user` is the one the run was posted with; another gets 404, and so Running [24f]. Here the API itself
        pings, also for a run that is dead or was made in blocking mode [24o, 26d3], so it is `timeout` (seconds)
        that ends this.
        """
        query = urlencode({"user": user, "include_state_snapshot": "true"}, quote_via=quote)
        url = f"{self.base_url}/workflow/{quote(ref.run_id, safe='')}/events?{query}"
        request = self._request("GET", httpx.URL(url), streaming=True)
        outcome = await self._attempt(request, Events(ref=ref), timeout, silence, None, follows=True)
        return outcome_heard(outcome, self._key)

    async def _attempt(
        self,
        request: httpx.Request,
        events: Events,
        timeout: float,
        silence: float,
        on_started: Callable[[RunRef], None] | None,
        *,
        follows: bool = False,
    ) -> Outcome:
        response: httpx.Response | None = None
        watch: Silence | None = None
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                response = await self._send(request)
                chunks, body = await stream_or_whole(response)
                if chunks is not None:
                    watch = Silence(scope, silence)
                    return await self._stream(chunks, events, watch, on_started)
                return self._whole(response, body, events, follows)
        except TimeoutError:
            if not scope.expired():
                raise
            if watch is not None and watch.expired:
                silent = events.end(f"silent for {silence:g} s after the start")
                return replace(silent, silent=True) if isinstance(silent, Running) else silent
            return _unfinished(events, f"timeout: no end within {timeout:g} s")
        except Broken as broken:
            return self._broken(broken, events, sent=response is not None)
        finally:
            if watch is not None:
                watch.stop()
            if response is not None:
                await drop(response)

    def _broken(self, broken: Broken, events: Events, *, sent: bool) -> Outcome:
        """`sent`: an answer had begun."""
        if broken.meaning == "unreachable" and not sent:
            if broken.distrusted and not self.answered:
                return Fatal("app", "certificate", str(broken), None, certificates.hint(os.environ))
            if broken.own_limit:  # never an outage: as many as there are room for go on
                return Throttled(str(broken))
            return Unreachable(str(broken))
        if broken.own_limit:
            return events.end(str(broken))
        if broken.meaning == "timeout":
            return _unfinished(events, f"timeout: {broken}")
        if broken.too_large:
            return _unfinished(events, str(broken))
        return events.end(str(broken) if broken.garbled else f"connection cut: {broken}")

    async def _stream(
        self,
        chunks: AsyncIterator[bytes],
        events: Events,
        watch: Silence,
        on_started: Callable[[RunRef], None] | None,
    ) -> Outcome:
        stream = EventStream()
        events.accepted = self.answered = True
        known = events.ref
        if known is not None:
            watch.start()
        ended, broken = False, None
        while not ended:
            try:
                found = stream.feed(await anext(chunks))
            except StopAsyncIteration:
                found, ended = stream.finish(), True
            except Exception as exc:  # noqa: BLE001
                found, ended, broken = stream.finish(), True, Broken(exc)
            watch.heard()
            for event in found:
                outcome = events.feed(event)
                if known is None and events.ref is not None:
                    known = events.ref
                    watch.start()
                    if on_started is not None:
                        on_started(known)
                if outcome is not None:
                    return outcome
        if broken is not None:
            raise broken
        return events.end("the stream ended before workflow_finished")

    def _whole(self, response: httpx.Response, body: bytes, events: Events, follows: bool) -> Outcome:
        status, headers = response.status_code, response.headers
        first = self._first(status, body)
        if follows and events.ref is not None:
            return follow_outcome(status, body, events.ref)
        wait = None if response.is_success else retry_after(headers, self._clock.wall())
        return answer_outcome(status, headers, body, retry_after=wait, first=first)

    def _first(self, status: int, body: bytes) -> bool:
        """Whether Dify has not answered before; remembers whether this is its answer."""
        first = not self.answered
        if first:
            self.answered = json_object(body) is not None if 200 <= status < 300 else word_of(status, {}, body).dify
        return first

    async def run_detail(self, ref: RunRef) -> Detail:
        """GET /workflows/run/{id}: what the server itself holds of a run. Never raises for network or server."""
        url = f"{self.base_url}/workflows/run/{quote(ref.run_id, safe='')}"
        try:
            response, body = await self._exchange(self._request("GET", httpx.URL(url)), LOOK_UP_TIMEOUT)
        except Broken as broken:
            return Detail(Unreachable(reason(str(broken), self._key)))
        self._first(response.status_code, body)
        return detail_heard(detail_of(response.status_code, body, ref), self._key)

    def _page(self, page: LogPage) -> LogPage:
        return LogPage(tuple(entry_heard(entry, self._key) for entry in page.entries), page.has_more)

    async def upload(self, path: str | Path, *, user: str, mime: str) -> str:
        """POST /files/upload; the file is read as it is sent. Gives the upload's id, good for runs of the same
        `user` only [20u]. The same file sent twice has two ids [20c].

        Raises:
            UsageError: the file cannot be read.
            ServerError: refused; http_status 413 for one that is too large [20k].
            AuthError, AppError, RateLimited, ConnectionFailed: as for the other endpoints.
        """
        url = httpx.URL(f"{self.base_url}/files/upload")
        try:
            file = await self._threads.run(lambda: Path(path).open("rb"))  # noqa: SIM115  closed below
        except (OSError, ValueError) as exc:
            if (limit := own_limit(exc)) is not None:
                raise ConnectionFailed(f"cannot open {path}: {limit}", own_limit=True) from exc
            why = getattr(exc, "strerror", None) or exc
            raise UsageError(f"cannot read {path}: {why}", hint="check the path") from exc
        with file:
            request = httpx.Request(
                "POST",
                url,
                headers=self._headers(),
                data={"user": user},
                files={"file": (Path(path).name, file, mime)},
                extensions={"timeout": self._timeout},
            )
            answer = await self._answer(request, UPLOAD_TIMEOUT)
        return str(answer.get("id") or "")

    async def send_file(self, path: str | Path, *, user: str, mime: str) -> str | Outcome:
        """As `upload`, but what it came to is told as an outcome of the row, by the same table as a run's.

        Unreachable: no connection, or a gateway's word; nothing is used up. Unreachable(charged): it failed (5xx).
        Rejected: `file_unreadable`, or `upload_refused` (413, 415, any other 4xx). Throttled, Fatal: as for a run.
        """
        try:
            uploaded = await self.upload(path, user=user, mime=mime)
        except DifyBatchError as error:
            return upload_outcome(error, str(path))
        return uploaded or Unreachable(f"the upload of {path} was answered without an id", charged=True)

    async def probe(self, timeout: float = 10.0) -> str | None:
        """None when Dify answers a harmless question with anything below 500, else why not. `timeout`: seconds.

        GET /info; a gateway that does not pass that on is asked for /parameters from then on.
        """
        said = await self._ask(self._probe_path, timeout)
        if said is not None and self._probe_path == "/info" and self.answered and not said.away:
            other = await self._ask("/parameters", timeout)
            if other is None:
                self._probe_path, said = "/parameters", None
        return None if said is None else said.text

    async def _ask(self, path: str, timeout: float) -> _Silence | None:
        try:
            response, body = await self._exchange(self._request("GET", httpx.URL(self.base_url + path)), timeout)
        except Broken as broken:
            return _Silence(reason(str(broken), self._key), away=True)
        status = response.status_code
        word = word_of(status, response.headers, body)
        self._first(status, body)
        if status < 500 and (word.dify or (response.is_success and json_object(body) is not None)):
            return None
        if word.dify:
            return _Silence(f"HTTP {status}", away=True)
        return _Silence(reason(word.shown, self._key), away=status >= 500)

    # --- one exchange -------------------------------------------------------------------------------------------

    def _headers(self, *, compressed: bool = True) -> list[tuple[bytes, bytes]]:
        return [
            (b"Host", self._run_url.netloc),
            (b"Authorization", self._authorization),
            (b"User-Agent", _USER_AGENT),
            (b"Accept", b"*/*"),
            # A proxy that compresses a stream holds its events back.
            (b"Accept-Encoding", b"gzip, deflate" if compressed else b"identity"),
        ]

    def _request(
        self,
        method: str,
        url: httpx.URL,
        content: bytes | None = None,
        *,
        streaming: bool = False,
        trace_id: str | None = None,
    ) -> httpx.Request:
        headers = self._headers(compressed=not streaming)
        if trace_id is not None:
            headers.append((b"X-Trace-Id", trace_id.encode("ascii")))
        if content is not None:
            headers += (b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(content))
        # A ready stream and ready headers: httpx would otherwise copy the headers twice more.
        stream = httpx.ByteStream(content or b"")
        return httpx.Request(method, url, headers=headers, stream=stream, extensions={"timeout": self._timeout})

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._transport.handle_async_request(request)
        except Exception as exc:
            raise Broken(exc) from exc
        for name, value in response.headers.raw:  # one pass; a look-up in httpx's headers is a pass as well
            match name.lower():
                case b"date":
                    self._date = (value.decode("latin-1"), self._clock.monotonic())
                case b"x-version":
                    self.server_version = value.decode("latin-1")
        return response

    async def _exchange(self, request: httpx.Request, timeout: float) -> tuple[httpx.Response, bytes]:
        response: httpx.Response | None = None
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                response = await self._send(request)
                return response, await whole_body(response)
        except TimeoutError as exc:
            raise Broken(httpx.ReadTimeout(f"no answer within {timeout:g} s")) from exc
        except Broken:
            raise
        except Exception as exc:
            raise Broken(exc) from exc
        finally:
            if response is not None:
                await drop(response)

    async def _answer(self, request: httpx.Request, timeout: float) -> dict[str, Any]:
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
            names = await certificates.names_at(self._run_url.host, self._run_url.port or 443)
        return certificates.hint(os.environ, names)

    def _refused(self, response: httpx.Response, body: bytes, method: str, url: str) -> DifyBatchError:
        status, now = response.status_code, self._clock.wall()
        first = self._first(status, body)
        return error_heard(error_of(status, response.headers, body, method, url, now=now, first=first), self._key)

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        content = None if body is None else _ENCODER.encode(body).encode()
        return await self._answer(self._request(method, httpx.URL(self.base_url + path), content), LOOK_UP_TIMEOUT)


@dataclass(frozen=True, slots=True)
class _Silence:
    """Why a probe learnt nothing good; `away`: a connection that failed, or a 5xx, rather than a refusal."""

    text: str
    away: bool


def _unfinished(events: Events, reason: str) -> Outcome:
    if events.ref is not None:
        return Running(events.ref, reason)
    return Lost(reason, server_error=False, accepted=events.accepted)
