"""The server within an event loop: two loopback ports, one of which can refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..events import FORM_ACTIONS
from ..plan import parse_plan
from ..site import Site
from .control import build_control
from .http import HttpServer, site_server
from .port import HOST, Port


class SimulatorCore:
    """The server within a running event loop. `Simulator` and the process are built on it."""

    def __init__(self, config: Config) -> None:
        self.site: Site = Site(config)
        self.main: Port = Port(site_server(self.site), config.port)
        try:
            self.control: Port = Port(
                HttpServer(build_control(self), config.keep_alive, self.site.means.now), config.control_port
            )
        except OSError:
            self.main.destroy()
            raise
        self.site.api.watch(self._api_changed)
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
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
        for timer in self._timers:
            timer.cancel()
        if self._back is not None:
            self._back.cancel()
        self.site.close()
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

    def ledger(self) -> list[dict[str, Any]]:
        return self.site.ledger.rows()

    async def set_faults(self, plan: Mapping[str, object]) -> None:
        parsed = parse_plan(plan)
        before, after = self.site.plan.server.get("refuse"), parsed.server.get("refuse")
        self.site.plan = parsed
        if before is not None or after is not None:
            await self.refuse(after is not None, after.seconds if after is not None else None)

    def set_config(self, changes: Mapping[str, object]) -> None:
        self.site.configure(self.site.config.changed(changes))
        self.main.http.keep_alive = self.site.config.keep_alive

    async def refuse(self, on: bool, seconds: float | None = None) -> None:
        if self._back is not None:
            self._back.cancel()
            self._back = None
        if not on:
            await self.main.open()
            return
        self.main.close()
        if seconds is not None:
            self._back = asyncio.get_running_loop().call_later(seconds, self._open_main)

    async def crash(self, what: str, seconds: float | None = None, number: int | None = None) -> None:
        self.site.crash(what, number)
        if seconds is not None:

            def again() -> None:
                self._timers.discard(timer)
                self.site.restart(what, number)

            timer = asyncio.get_running_loop().call_later(seconds, again)
            self._timers.add(timer)

    async def restart(self, what: str, number: int | None = None) -> None:
        self.site.restart(what, number)
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _api_changed(self, alive: bool) -> None:
        if alive:
            self._open_main()
        elif "proxied" not in self.site.plan.server:
            self.main.close()

    def _open_main(self) -> None:
        task = asyncio.ensure_future(self.main.open())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reset(self) -> None:
        self.site.reset()

    def submit_form(self, run_id: str, action: str, answers: Mapping[str, object]) -> None:
        run = self.site.registry.by_id.get(run_id)
        if run is None or run.status != "paused":
            raise ValueError(f"run {run_id} is not paused" if run else f"no run {run_id}")
        known = [str(a["id"]) for a in FORM_ACTIONS]
        if action not in known:
            raise ValueError(f"unknown action {action!r}; one of: {', '.join(known)}")
        self.site.engine.submit(run, action, dict(answers))
