"""The simulated server's state: apps, engine, faults, counters and connection slots."""

from __future__ import annotations

import asyncio
from typing import Any

from .apps import APPS, App
from .config import Config
from .engine import Engine
from .faults import FaultPlan
from .files import FileStore
from .runs import Run


class Site:
    """The simulated server: apps, engine, faults and counters."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.apps: dict[str, App] = dict(APPS)
        self.slots = 0
        self.waiting: list[asyncio.Future[None]] = []
        self.engine = Engine(config)
        self.reset()

    def reset(self) -> None:
        """Forgets every run, file, counter and fault."""
        self.engine.close()
        self.engine = Engine(self.config)
        self.plan = FaultPlan()
        self.files = FileStore()
        self.posts: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self.post_total = 0
        self.flight = Flight()
        self.active: dict[str, int] = {}  # blocking runs of each app, for max_active_requests

    def configure(self, config: Config) -> None:
        """Takes new settings while running."""
        self.config = self.engine.config = config
        self.engine.pump()
        self._admit()

    async def enter(self) -> None:
        """Takes a connection slot; waits unanswered for one if all are taken (dify-wire section 8)."""
        limit = self.config.connections
        if limit is not None and self.slots >= limit:
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            await turn
        else:
            self.slots += 1

    def leave(self) -> None:
        """Gives the slot back."""
        self.slots -= 1
        self._admit()

    def _admit(self) -> None:
        limit = self.config.connections
        while self.waiting and (limit is None or self.slots < limit):
            turn = self.waiting.pop(0)
            if not turn.done():
                self.slots += 1
                turn.set_result(None)

    def state(self, with_runs: bool = True) -> dict[str, Any]:
        """What GET /state of the control port tells."""
        engine = self.engine
        result: dict[str, Any] = {
            "executions": dict(engine.executions),
            "posts": dict(self.posts),
            "post_total": self.post_total,
            "in_flight": self.flight.now,
            "max_in_flight": self.flight.most,
            "running": engine.running,
            "max_running": engine.max_running,
            "queued": engine.queued,
            "requests": dict(self.requests),
        }
        if with_runs:
            result["runs"] = [_run_row(run) for run in engine.registry.by_id.values()]
        return result


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "task_id": run.task_id,
        "user": run.user,
        "status": run.status,
        "row": run.row,
        "mode": run.mode,
        "created_at": int(run.created_at),
    }


class Flight:
    """How many POSTs wait for their answer, now and at most."""

    __slots__ = ("most", "now")

    def __init__(self) -> None:
        self.now = 0
        self.most = 0


class OpenPost:
    """Counts a POST as in flight until its client has the answer, or has gone."""

    __slots__ = ("_flight",)

    def __init__(self, flight: Flight) -> None:
        self._flight: Flight | None = flight
        flight.now += 1
        flight.most = max(flight.most, flight.now)

    def answered(self) -> None:
        """Counts it out; once."""
        if self._flight is not None:
            self._flight.now -= 1
            self._flight = None
