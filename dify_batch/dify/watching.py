"""A run as it goes, event by event, for people and programs who look at one run. A batch has `DifyClient.run`.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dify_batch.dify.exchanges import Exchanges
from dify_batch.dify.failures import Broken
from dify_batch.dify.requests import Reply
from dify_batch.dify.sse import EventStream
from dify_batch.dify.transport import drop, stream_or_whole, whole_body
from dify_batch.errors import ConnectionFailed

LAST = frozenset({"workflow_finished", "workflow_paused", "error"})
"""Events after which nothing comes that matters: the server holds the stream open for another second, or for 300 s
after an error [02, 05h2]."""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One event of a run. `name`: workflow_started, node_started, node_finished, text_chunk, workflow_finished, ….

    `data`: as Dify gave it; of an `error` event its message and status. `run_id`, `task_id`: None until told.
    """

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    task_id: str | None = None


class RunEvents(Exchanges):
    """The part of the client that streams one run."""

    _run_url: str

    def _body(
        self, inputs: Mapping[str, Any], user: str, mode: str, files: Sequence[Mapping[str, Any]] | None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"inputs": inputs, "response_mode": mode, "user": user}
        if files is not None:
            body["files"] = files
        return body

    async def events(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        files: Sequence[Mapping[str, Any]] | None = None,
        timeout: float = 1200.0,
    ) -> AsyncGenerator[RunEvent, None]:
        """POSTs one run and gives its events as they come, up to workflow_finished, workflow_paused or error.

            async for event in client.events({"query": "hello"}, user="me"):
                print(event.name, event.data.get("title", ""))

        Nothing is repeated and nothing is written down: a run whose stream is cut goes on on the server. Leaving the
        loop closes the connection and stops no run.

        Args:
            timeout: seconds for the whole run.

        Raises:
            ConnectionFailed: no connection, a cut, or the timeout; `details` has run_id and task_id where known.
            AuthError, AppError, RateLimited, ServerError: the server refused, and no run was made.
        """
        body = self._body(inputs, user, "streaming", files)
        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        request = self._request("POST", self._run_url, content, streaming=True)
        until = self._clock.monotonic() + timeout
        stream, run_id, task_id = EventStream(every=True), None, None
        ended = False
        response: Reply | None = None
        try:
            response = await self._send(request)
            if not response.is_success:
                answer = await whole_body(response)
                raise self._refused(response, answer, "POST", str(request.url))
            chunks, answer = await stream_or_whole(response)
            if chunks is None:
                raise self._refused(response, answer, "POST", str(request.url))
            while not ended:
                left = until - self._clock.monotonic()
                try:
                    found = stream.feed(await asyncio.wait_for(anext(chunks), left))
                except StopAsyncIteration:
                    found, ended = stream.finish(), True
                except TimeoutError:
                    raise _cut(f"no end within {timeout:g} s", run_id, task_id) from None
                except Exception as error:
                    raise _cut(str(Broken(error)), run_id, task_id) from error
                for raw in found:
                    run_id = raw.get("workflow_run_id") or run_id
                    task_id = raw.get("task_id") or task_id
                    event = _event(raw, run_id, task_id)
                    yield event
                    if event.name in LAST:
                        return
            raise _cut("the stream ended before the run", run_id, task_id)
        except Broken as broken:
            raise _cut(str(broken), run_id, task_id) from broken
        finally:
            if response is not None:
                await drop(response)


def _event(raw: Mapping[str, Any], run_id: str | None, task_id: str | None) -> RunEvent:
    data = raw.get("data")
    if not isinstance(data, dict):
        data = {key: value for key, value in raw.items() if key not in ("event", "task_id", "workflow_run_id")}
    return RunEvent(str(raw.get("event") or ""), data, run_id, task_id)


def _cut(reason: str, run_id: str | None, task_id: str | None) -> ConnectionFailed:
    hint = "the run may go on on the server: look at the app's log in Dify"
    return ConnectionFailed(reason, hint=hint, run_id=run_id, task_id=task_id)
