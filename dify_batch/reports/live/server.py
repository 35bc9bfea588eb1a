"""Serves the live page: read-only, under a random token, to this machine only unless told otherwise.

    GET /TOKEN/          the page, without rows
    GET /TOKEN/figures   what stands above the rows, as HTML
    GET /TOKEN/rows      the rows from ?from= on, as JSON
    GET /TOKEN/events    server-sent events: there is something new

The files are read only while somebody looks, and never so often that it costs the machine more than a few percent.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from dify_batch.errors import UsageError
from dify_batch.ledger import formats
from dify_batch.ledger.shards import outputs_of
from dify_batch.reports.html.collect import STATES, Columns
from dify_batch.reports.html.page import fragment, render
from dify_batch.reports.html.report import FIGURES, figures_of, lead_of, title_of
from dify_batch.reports.live.follow import Follow
from dify_batch.reports.status import require_batch
from dify_batch.seams import Seams

LOOPBACK = "127.0.0.1"
EVERY = 1.0  # seconds between two looks at the files, at least
SHARE = 50  # a look is followed by a pause of so many times what it took: at most 2 % of one core
ALIVE_EVERY = 15.0  # seconds between two signs of life, for whatever stands between
_TOKEN = 16  # bytes
_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class Live:
    """The page of some outputs. `watch` reads on until cancelled; `app` answers requests.

    Raises:
        UsageError: one of the outputs is no batch.
    """

    def __init__(self, outputs: Sequence[Path], seams: Seams, *, every: float = EVERY) -> None:
        paths = [formats.Paths.of(part) for output in outputs for part in outputs_of(output)]
        for each in paths:
            require_batch(each)
        self._seams, self._every = seams, every
        self._follow = Follow(paths)
        self._sources = [str(each.results) for each in paths]
        self.token: str = seams.chance.token(_TOKEN)
        self._viewers: set[asyncio.Event] = set()
        self._looked_at = asyncio.Event()
        self._version = 0
        self._figures = ""
        self._rows: dict[int, str] = {}
        self._reading = asyncio.Lock()  # what is read on one thread is given out on another

    # ---------------------------------------------------------------- the files

    async def watch(self) -> None:
        """Reads on while there are viewers, and tells them."""
        while True:
            await self._looked_at.wait()
            began = self._seams.clock.monotonic()
            async with self._reading:
                new = await self._seams.threads.run(self._look)
            if new:
                for viewer in self._viewers:
                    viewer.set()
            took = self._seams.clock.monotonic() - began
            await asyncio.sleep(max(self._every, SHARE * took if self._version > 1 else 0.0))

    def _look(self) -> bool:
        with contextlib.suppress(OSError):  # it may be back at the next look
            if not self._follow.poll() and self._version:
                return False
        found = self._follow.collected()
        self._figures = fragment(FIGURES, figures_of(found, lead_of(found)))
        self._rows.clear()
        self._version += 1
        return True

    # ---------------------------------------------------------------- the requests

    @property
    def app(self) -> web.Application:
        app = web.Application()
        root = "/{token}"
        for path, answer in (
            ("/", self._page),
            ("/figures", self._get_figures),
            ("/rows", self._get_rows),
            ("/events", self._events),
        ):
            app.router.add_get(root + path, self._guarded(answer))
        return app

    def _guarded(self, answer: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if not hmac.compare_digest(request.match_info["token"].encode(), self.token.encode()):
                raise web.HTTPNotFound
            response: web.StreamResponse = await answer(request)
            return response

        return handle

    async def _page(self, request: web.Request) -> web.Response:
        pieces = render(
            title=title_of(self._sources),
            lead_template=FIGURES,
            figures=_EMPTY,
            meta={
                "kind": "report",
                "sources": [Path(source).name for source in self._sources],
                "states": STATES,
                "names": [],
                "block_rows": [],
                "priced": True,
                "live": True,
            },
            columns=Columns().as_dict(),
            blocks=[],
            rows_title="Rows",
            rows_note="",
            states=STATES,
            sources=self._sources,
            made_at=formats.utc(self._seams.clock.wall()).replace("T", " "),
            scripts=("live.js",),
            live=True,
        )
        return web.Response(text="".join(pieces), content_type="text/html", headers=_HEADERS)

    async def _get_figures(self, request: web.Request) -> web.Response:
        return web.Response(text=self._figures, content_type="text/html", headers=_HEADERS)

    async def _get_rows(self, request: web.Request) -> web.Response:
        try:
            first = max(0, int(request.query.get("from", "0")))
        except ValueError:
            raise web.HTTPBadRequest from None
        text = self._rows.get(first)
        if text is None:
            async with self._reading:
                text = await self._seams.threads.run(lambda: self._rows_json(first))
                self._rows[first] = text
        return web.Response(text=text, content_type="application/json", headers=_HEADERS)

    def _rows_json(self, first: int) -> str:
        return json.dumps({"epoch": self._follow.epoch, **asdict(self._follow.rows(first))})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        news = asyncio.Event()
        if self._version:
            news.set()
        self._viewers.add(news)
        self._looked_at.set()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), ALIVE_EVERY)
                if news.is_set():
                    news.clear()
                    state = {"version": self._version, "epoch": self._follow.epoch}
                    await response.write(f"data: {json.dumps(state)}\n\n".encode())
                else:
                    await response.write(b": alive\n\n")
        except (ConnectionError, asyncio.CancelledError):
            return response
        finally:
            self._viewers.discard(news)
            if not self._viewers:
                self._looked_at.clear()


_EMPTY: Mapping[str, Any] = {
    "lead": "reading …",
    "warnings": [],
    "counts": [],
    "groups": [],
    "more_groups": "",
    "charts": [],
    "slowest": [],
    "dearest": [],
}


async def serve(
    outputs: Sequence[Path], seams: Seams, *, host: str = LOOPBACK, port: int = 0, ready: Callable[[str], None]
) -> None:
    """Serves until cancelled. `port` 0: any that is free. `ready` is told the address once it answers.

    Raises:
        UsageError: an output is no batch; the address cannot be opened.
    """
    live = Live(outputs, seams)
    runner = web.AppRunner(live.app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    watching = asyncio.create_task(live.watch())
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(
                f"{host}, port {port} cannot be opened: {error.strerror or error}",
                hint="leave --port out: any that is free is taken",
                code="usage_invalid_flag",
            ) from None
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{bound}/{live.token}/")
        await watching
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await runner.cleanup()
