"""One run from its request to its end: the stream read, followed where it breaks, stopped where the person asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from dify_batch.dify import http
from dify_batch.dify.account.answer import UNKNOWN, Fold, RunAnswer
from dify_batch.dify.account.client import AccountClient, RunAsk
from dify_batch.dify.failures import Broken
from dify_batch.dify.sse import EventStream
from dify_batch.dify.transport import drop, pieces
from dify_batch.errors import ConnectionFailed, DifyBatchError

SILENCE = 45.0
"""Seconds without a byte after which a stream is given up: the server pings every 10 s [02b]."""

TRIES = 3
"""How often a run is followed again when its events break off as well."""

Show = Callable[[str], None]


@dataclass(slots=True)
class Stop:
    """What the person asks for while a run goes on: `ask()` once ends it on the server. `code`: what that is called."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    code: str = "interrupted"

    def ask(self, code: str = "interrupted") -> None:
        self.code = code
        self.asked.set()


class Runner:
    """Runs and resumes. `show` gets the text as it arrives."""

    def __init__(self, client: AccountClient, *, show: Show = lambda _: None, stop: Stop | None = None) -> None:
        self._client = client
        self._show = show
        self._stop = stop or Stop()
        self._known = asyncio.Event()  # the task's id is: what a stop needs

    async def run(self, ask: RunAsk, *, on_limit: bool = False) -> RunAnswer:
        """Sends a run once and gives what it came to. Raises where the server refuses it before it begins; a request
        that was lost on its way is "unknown", for nothing on this surface tells of it."""
        fold = Fold(ask.mode)
        try:
            response = await self._client.run(ask, on_limit=on_limit)
        except ConnectionFailed as error:
            if error.details.get("sent") is False:
                raise
            return fold.lost(f"the request was lost, so the run may have begun: {error.message}")
        return await self._to_its_end(ask.app_id, fold, response)

    async def follow(self, app_id: str, mode: str, run_id: str) -> RunAnswer:
        """The end, or the pause, of a run that is known."""
        fold = Fold(mode, run_id=run_id)
        return await self._to_its_end(app_id, fold, await self._client.events(app_id, run_id))

    async def _to_its_end(self, app_id: str, fold: Fold, response: http.Response) -> RunAnswer:
        watcher = asyncio.create_task(self._stop_when_asked(app_id, fold))
        try:
            reason = await self._read(fold, response)
            for _ in range(TRIES):
                if fold.end is not None and fold.end.status != UNKNOWN:
                    break
                if fold.run_id is None or fold.mode not in ("workflow", "advanced-chat"):
                    break
                fold.end = None
                try:
                    response = await self._client.events(app_id, fold.run_id)
                except DifyBatchError as error:
                    reason = error.message
                    break
                reason = await self._read(fold, response)
            return fold.end or fold.lost(reason)
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher

    async def _read(self, fold: Fold, response: http.Response) -> str:
        """Reads a stream until the run's end or its own; gives why it ended."""
        stream = EventStream(every=True)
        chunks = pieces(response)
        try:
            while fold.end is None:
                async with asyncio.timeout(SILENCE):
                    piece = await anext(chunks)
                self._take(fold, stream.feed(piece))
        except StopAsyncIteration:
            self._take(fold, stream.finish())
            return "the stream ended before the run did"
        except TimeoutError:
            return f"nothing was heard of the run for {SILENCE:g} s"
        except DifyBatchError:
            raise  # of whoever shows the text
        except Exception as error:  # noqa: BLE001 - whatever broke the stream, the run is what it is
            return f"the stream broke off: {Broken(error)}"
        finally:
            await drop(response)
        return ""

    def _take(self, fold: Fold, events: list[dict[str, object]]) -> None:
        for event in events:
            if fold.end is None and (text := fold.feed(event)):
                self._show(text)
        if fold.task_id is not None:
            self._known.set()

    async def _stop_when_asked(self, app_id: str, fold: Fold) -> None:
        """Ends the run on the server, once its task is known; the run's own end is then read as any other."""
        await self._stop.asked.wait()
        await self._known.wait()
        assert fold.task_id is not None
        with contextlib.suppress(DifyBatchError):  # the person is told what became of the run, whatever this comes to
            await self._client.stop(app_id, fold.task_id)
