"""The server within an event loop: two loopback ports, one of which can refuse."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from .config import Config
from .control import build_control
from .events import FORM_ACTIONS
from .faults import parse_plan
from .lookups import build_app
from .site import Site

HOST = "127.0.0.1"
BACKLOG = 2048  # gunicorn's: requests wait here unanswered rather than be refused


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with the transport within reach of the handlers, so that they can cut the connection."""

    lost: list[Callable[[], None]]

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.lost = []
        self.scope["state"].update(transport=self.transport, lost=self.lost)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for call in getattr(self, "lost", ()):
            call()


class Port:
    """One listening port that can be closed and opened again.

    A second socket stays bound to it, without listening: connections are refused, yet nobody else gets the port.
    """

    def __init__(self, app: ASGIApp, port: int, keep_alive: float) -> None:
        # uvicorn says int, and hands it on to call_later, which takes fractions.
        self._config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=keep_alive,  # type: ignore[arg-type]
        )
        self._config.load()
        self.connections = ServerState()
        self._reserve = _bound(port)
        self.number: int = self._reserve.getsockname()[1]
        self._server: asyncio.Server | None = None

    def set_keep_alive(self, seconds: float) -> None:
        """For the connections to come."""
        self._config.timeout_keep_alive = seconds  # type: ignore[assignment]

    async def open(self) -> None:
        """Listens, if it does not yet."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            listener = _bound(self.number)
            self._server = await loop.create_server(self._protocol, sock=listener, backlog=BACKLOG)

    def _protocol(self) -> _Protocol:
        return _Protocol(config=self._config, server_state=self.connections, app_state={})

    def close(self) -> None:
        """Refuses: no new connection, idle ones are closed, what is being answered is answered."""
        if self._server is not None:
            self._server.close()
            self._server = None
            for connection in list(self.connections.connections):
                connection.shutdown()

    def destroy(self) -> None:
        """Lets go of the port and drops every connection."""
        self.close()
        self._reserve.close()
        for connection in list(self.connections.connections):
            connection.transport.abort()


def _bound(port: int) -> socket.socket:
    # With the protocol named, asyncio sets TCP_NODELAY; without it every answer waits 40 ms for a delayed ACK.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
    except OSError as e:
        sock.close()
        raise OSError(e.errno, f"cannot listen on {HOST}:{port}: {e.strerror}; take another port, or 0") from e
    return sock


class SimulatorCore:
    """The server within a running event loop. `Simulator` and the process are built on it."""

    def __init__(self, config: Config) -> None:
        self.site = Site(config)
        self.main = Port(build_app(self.site), config.port, config.keep_alive)
        try:
            self.control = Port(build_control(self), config.control_port, config.keep_alive)
        except OSError:
            self.main.destroy()
            raise
        self._back: asyncio.TimerHandle | None = None

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.main.number}/v1"

    @property
    def control_url(self) -> str:
        return f"http://{HOST}:{self.control.number}"

    async def open(self) -> None:
        """Listens on both ports."""
        await self.control.open()
        await self.main.open()

    async def close(self) -> None:
        """Drops all connections and tasks."""
        if self._back is not None:
            self._back.cancel()
        self.site.engine.close()
        self.main.destroy()
        self.control.destroy()
        await asyncio.sleep(0)  # lets the protocols see that their connections are gone
        await asyncio.sleep(0)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def state(self, with_runs: bool = True) -> dict[str, Any]:
        return self.site.state(with_runs)

    async def set_faults(self, plan: Mapping[str, object]) -> None:
        parsed = parse_plan(plan)
        before, after = self.site.plan.server.get("refuse"), parsed.server.get("refuse")
        self.site.plan = parsed
        if before is not None or after is not None:
            await self.refuse(after is not None, after.seconds if after is not None else None)

    def set_config(self, changes: Mapping[str, object]) -> None:
        self.site.configure(self.site.config.changed(changes))
        self.main.set_keep_alive(self.site.config.keep_alive)

    async def refuse(self, on: bool, seconds: float | None = None) -> None:
        if self._back is not None:
            self._back.cancel()
            self._back = None
        if not on:
            await self.main.open()
            return
        self.main.close()
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._back = loop.call_later(seconds, lambda: self.site.engine.spawn(self.main.open()))

    def reset(self) -> None:
        self.site.reset()

    def submit_form(self, run_id: str, action: str, answers: Mapping[str, object]) -> None:
        run = self.site.engine.registry.by_id.get(run_id)
        if run is None or run.status != "paused":
            raise ValueError(f"run {run_id} is not paused" if run else f"no run {run_id}")
        known = [str(a["id"]) for a in FORM_ACTIONS]
        if action not in known:
            raise ValueError(f"unknown action {action!r}; one of: {', '.join(known)}")
        self.site.engine.submit(run, action, dict(answers))


def quiet_uvicorn() -> None:
    """uvicorn logs requests that are cut on purpose as errors; nobody wants to read them."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
