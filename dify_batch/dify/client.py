"""DifyClient: one method an endpoint, over the exchanges of `exchanges.py`.

`run`, `follow` and `run_detail` give outcomes and never raise for what a network or a server does; the other
methods raise the errors of `errors.py`.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote, urlencode

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt

from dify_batch import backoff as waits
from dify_batch.dify import http
from dify_batch.dify.answers import Detail, LogEntry, LogPage, detail_of, retry_after
from dify_batch.dify.breaks import broken_off, silent, unfinished
from dify_batch.dify.endpoints import Endpoints
from dify_batch.dify.exchanges import ENCODE, LOOK_UP_TIMEOUT
from dify_batch.dify.failures import Broken
from dify_batch.dify.hearing import detail_heard, outcome_heard
from dify_batch.dify.protocol import Events, Reader, follow_outcome
from dify_batch.dify.requests import Asked, Reply
from dify_batch.dify.sse import EventStream
from dify_batch.dify.transport import drop, stream_or_whole
from dify_batch.dify.watch import Silence
from dify_batch.dify.watching import RunEvents
from dify_batch.dify.word import word_of
from dify_batch.masking import reason
from dify_batch.outcomes import (
    Outcome,
    Rejected,
    RunRef,
    Throttled,
    Unreachable,
)
from dify_batch.seams import REAL, Seams
from dify_batch.strictjson import json_object

__all__ = ["Detail", "DifyClient", "LogEntry", "LogPage"]


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
        transport: http.AsyncBaseTransport | None = None,
        connect_timeout: float = 10,
        seams: Seams = REAL,
    ) -> None:
        super().__init__(base_url, api_key, transport=transport, connect_timeout=connect_timeout, seams=seams)
        path = f"/workflows/{quote(workflow_id, safe='')}/run" if workflow_id else "/workflows/run"
        self._run_url = str(http.URL(self.base_url + path))
        self._probe_path = "/info"

    def __repr__(self) -> str:
        return f"DifyClient({self.base_url!r}, api_key='***')"

    async def __aenter__(self) -> DifyClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

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
        body = self._body(inputs, user, mode, files)
        try:
            content = ENCODE(body).encode()
        except (ValueError, TypeError, RecursionError) as exc:
            return Rejected("invalid_inputs", f"the inputs cannot be written as JSON: {exc}")
        request = self._request("POST", self._run_url, content, streaming=mode == "streaming", trace_id=trace_id)
        return outcome_heard(await self._attempt(request, self._reader(), timeout, silence, on_started), self._key)

    def _reader(self) -> Reader:
        return Events()

    async def run_safely(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        mode: Literal["streaming", "blocking"],
        files: Sequence[Mapping[str, Any]] | None = None,
        timeout: float,
        max_retries: int = 3,
        backoff: waits.Backoff | None = None,
    ) -> Outcome:
        """As `run`, for callers without a batch: sent again only while it certainly did not start (Unreachable,
        Throttled), at most `max_retries` times. Gives the last outcome. A Lost one wants to be looked up by its `user`,
        and is not repeated here.
        """
        repeating = AsyncRetrying(
            retry=retry_if_result(lambda outcome: isinstance(outcome, Unreachable | Throttled)),
            stop=stop_after_attempt(max_retries + 1),
            wait=backoff or waits.Backoff(),
            sleep=waits.pause,
            retry_error_callback=waits.last,
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
        request = self._events_of(ref, user)
        outcome = await self._attempt(request, Events(ref=ref), timeout, silence, None, follows=True)
        return outcome_heard(outcome, self._key)

    def _events_of(self, ref: RunRef, user: str) -> Asked:
        query = urlencode({"user": user, "include_state_snapshot": "true"}, quote_via=quote)
        url = f"{self.base_url}/workflow/{quote(ref.run_id, safe='')}/events?{query}"
        return self._request("GET", http.URL(url), streaming=True)

    async def _attempt(
        self,
        request: Asked,
        events: Reader,
        timeout: float,
        silence: float,
        on_started: Callable[[RunRef], None] | None,
        *,
        follows: bool = False,
    ) -> Outcome:
        response: Reply | None = None
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
                return silent(events, silence)
            return unfinished(events, f"timeout: no end within {timeout:g} s")
        except Broken as broken:
            return broken_off(broken, events, begun=response is not None, answered=self.answered)
        finally:
            if watch is not None:
                watch.stop()
            if response is not None:
                await drop(response)

    async def _stream(
        self,
        chunks: AsyncIterator[bytes],
        events: Reader,
        watch: Silence,
        on_started: Callable[[RunRef], None] | None,
    ) -> Outcome:
        stream = EventStream(every=events.every)
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

    def _whole(self, response: Reply, body: bytes, events: Reader, follows: bool) -> Outcome:
        status, headers = response.status_code, response.headers
        first = self._first(status, body)
        if follows and events.ref is not None:
            return follow_outcome(status, body, events.ref)
        wait = None if response.is_success else retry_after(headers, self._clock.wall())
        return events.whole(status, headers, body, retry_after=wait, first=first)

    async def run_detail(self, ref: RunRef, *, user: str | None = None) -> Detail:
        """GET /workflows/run/{id}: what the server itself holds of a run. Never raises for network or server.

        `user`: who it was posted as, which a workflow's run does not ask for; see `KindClient`.
        """
        url = f"{self.base_url}/workflows/run/{quote(ref.run_id, safe='')}"
        try:
            response, body = await self._exchange(self._request("GET", http.URL(url)), LOOK_UP_TIMEOUT)
        except Broken as broken:
            return Detail(Unreachable(reason(str(broken), self._key)))
        self._first(response.status_code, body)
        return detail_heard(detail_of(response.status_code, body, ref), self._key)

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
            response, body = await self._exchange(self._request("GET", http.URL(self.base_url + path)), timeout)
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


@dataclass(frozen=True, slots=True)
class _Silence:
    """Why a probe learnt nothing good; `away`: a connection that failed, or a 5xx, rather than a refusal."""

    text: str
    away: bool
