"""The server of a world: the real simulator, its weather, and a ledger of what it executed.

The only module that knows how the simulator is built. The ledger is what the oracle goes by: log and run detail may be
late, wrong or closed, the ledger is not.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from dify_batch.simulator import Config
from dify_batch.simulator.apps import APPS
from dify_batch.simulator.core import _Protocol
from dify_batch.simulator.engine import Engine, Task
from dify_batch.simulator.faults import Fault
from dify_batch.simulator.lookups import build_app
from dify_batch.simulator.posting import Task as Task
from dify_batch.simulator.runs import Run
from dify_batch.simulator.site import Site
from tests.world.history import History, Server
from tests.world.network import WorldNetwork

KEY = "app-World0Secret0Key0"
ADDRESS = "http://dify.world/v1"
EPOCH = 1_800_000_000.0

SERVER_FAULTS = ("outage_500", "hang", "redis_down", "closed_log")
GATEWAYS = {
    "gateway_502": (502, b"text/html", b"<html><h1>502 Bad Gateway</h1></html>"),
    "gateway_503": (503, b"text/html", b"<html><h1>503 Service Temporarily Unavailable</h1></html>"),
    "gateway_404": (404, b"text/html", b"<html><h1>404 Not Found</h1></html>"),
    "gateway_200": (200, b"text/html", b"<html>We are back soon</html>"),
}
WEATHER = ("refuse", "unreachable", *SERVER_FAULTS, *GATEWAYS, "kill_api", "kill_worker", "no_workers")
"""What befalls a server: its port is closed; packets to it get lost; one of the simulator's own faults; something in
front of it answers in its place; the API or the queue's worker is killed, and back after so long; no worker takes
anything from the queue."""


@dataclass(slots=True)
class Execution:
    """One execution of a row. Times are the world's. `status`: None while it goes on; for ever so if it is `dead`."""

    row: str
    run_id: str
    mode: str
    posted: float
    begun: float
    ended: float | None = None
    status: str | None = None
    inputs: str = "{}"
    outputs: str = "{}"
    dead: bool = False


class WorldEngine(Engine):
    """The simulator's queue and worker, with a ledger, and workers that reach further back into the queue."""

    def __init__(self, config: Config, clock: Callable[[], float], chance: random.Random, overtake: int) -> None:
        super().__init__(config)
        self._clock = clock
        self._chance = chance
        self._overtake = overtake
        self._posted: dict[int, float] = {}
        self.ledger: list[Execution] = []
        self._of_run: dict[str, Execution] = {}

    def enqueue(self, task: Task) -> None:
        self._posted[id(task)] = self._clock()
        super().enqueue(task)

    def pump(self) -> None:
        if self._overtake and len(self._queue) > 1:
            nth = self._chance.randrange(min(self._overtake + 1, len(self._queue)))
            job = self._queue[nth]
            del self._queue[nth]
            self._queue.appendleft(job)
        super().pump()

    def begin(self, task: Task, inputs: dict[str, Any]) -> Run:
        run = super().begin(task, inputs)
        now = self._clock()
        execution = Execution(task.row, run.id, task.mode, self._posted.pop(id(task), now), now, inputs=run.inputs)
        execution.dead = task.fault.name in ("zombie", "zombie_blocking")
        self.ledger.append(execution)
        self._of_run[run.id] = execution
        return run

    def _store(self, run: Run, ending: Any, error: str | None = None) -> None:
        super()._store(run, ending, error)
        self._note(run, run.status, run.outputs)

    def _note(self, run: Run, status: str, outputs: str) -> None:
        execution = self._of_run[run.id]
        execution.ended, execution.status, execution.outputs = self._clock(), status, outputs

    def paused(self) -> Iterable[Run]:
        return [run for run in self.registry.by_id.values() if run.status == "paused"]

    def kill(self, what: str) -> None:
        """The runs of the worker ("streaming") or of the API ("blocking") end nowhere: they say running for ever."""
        name = "Engine._occupy" if what == "streaming" else "_hold_slot"
        for task in list(self._tasks):
            if getattr(task.get_coro(), "__qualname__", "") == name:
                task.cancel()
        for run in self.registry.by_id.values():
            if run.mode == what and run.status == "running" and run.live is not None:
                self._of_run[run.id].dead = True


class WorldServer:
    """The simulator on the world's network."""

    def __init__(self, loop: asyncio.AbstractEventLoop, network: WorldNetwork, history: History) -> None:
        self._loop = loop
        self._network = network
        self._shape: Server = history.server
        shape = history.server
        chance = random.Random(f"server {history.seed}")
        self.config = Config(
            latency=shape.latency,
            latency_tail=shape.spread or None,
            workers=shape.workers,
            connections=shape.connections,
            max_active_requests=shape.max_active,
            keep_alive=shape.keep_alive,
        )
        self.site = Site(self.config)
        self.engine = self.site.engine = WorldEngine(self.config, loop.time, chance, shape.overtake)
        self.app = replace(APPS[shape.app], key=KEY)
        self.site.apps[KEY] = self.app
        for row in history.rows:
            if row.fates:
                self.site.plan.rows[row.id] = [Fault(fate.name, fate.seconds, fate.latency) for fate in row.fates]
        self.gateways: list[str] = []
        self._install_clock()
        router = build_app(self.site)

        async def front(scope: Scope, receive: Receive, send: Send) -> None:
            """What stands in front of Dify, and the Date that its server adds."""
            date = formatdate(EPOCH + loop.time(), usegmt=True).encode()
            if self.gateways:
                status, kind, body = GATEWAYS[self.gateways[-1]]
                headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"date", date)]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return

            async def dated(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], (b"date", date)]}
                await send(message)

            await router(scope, receive, dated)

        config = uvicorn.Config(
            front,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=shape.keep_alive,  # type: ignore[arg-type]
        )
        config.load()
        state = ServerState()
        network.listen(lambda: _Protocol(config=config, server_state=state, app_state={}), contextvars.Context())

    def _install_clock(self) -> None:
        """The simulator of today asks the system for the time."""
        loop = self._loop

        class Time:
            time = staticmethod(lambda: EPOCH + loop.time())
            monotonic = staticmethod(loop.time)

        for name, module in list(sys.modules.items()):
            if name.startswith("dify_batch.simulator.") and hasattr(module, "time"):
                module.time = Time  # type: ignore[attr-defined]

    @property
    def ledger(self) -> list[Execution]:
        return self.engine.ledger

    # --- weather

    def begin(self, what: str) -> None:
        """A weather sets in."""
        match what:
            case "refuse":
                self._network.refuses = True
            case "unreachable":
                self._network.swallows = True
            case "kill_api":
                self._network.refuses = True
                self.engine.kill("blocking")
                self._network.reset()
            case "kill_worker" | "no_workers":
                self._set_workers(0)
                if what == "kill_worker":
                    self.engine.kill("streaming")
            case _ if what in GATEWAYS:
                self.gateways.append(what)
            case _:
                self.site.plan.server[what] = Fault(what, 12.0)

    def end(self, what: str) -> None:
        """It is over."""
        match what:
            case "refuse" | "kill_api":
                self._network.refuses = False
            case "unreachable":
                self._network.swallows = False
            case "kill_worker" | "no_workers":
                self._set_workers(self._shape.workers)
            case _ if what in GATEWAYS:
                self.gateways.remove(what)
            case _:
                self.site.plan.server.pop(what, None)

    def _set_workers(self, workers: int | None) -> None:
        self.site.configure(replace(self.site.config, workers=workers))

    def calm(self) -> None:
        """All faults have ceased."""
        for what in WEATHER:
            while what in GATEWAYS and what in self.gateways:
                self.gateways.remove(what)
            if what not in GATEWAYS:
                self.end(what)
        self.site.plan.rows.clear()

    def answer_forms(self) -> None:
        """A person fills in every form that waits."""
        for run in self.engine.paused():
            self.engine.submit(run, "approve", {"comment": "ok"})

    def expected(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The outputs of a run that succeeds on these inputs."""
        return dict(self.app.answer(inputs))

    def close(self) -> None:
        self.engine.close()


def outputs_of(execution: Execution) -> Any:
    return json.loads(execution.outputs)
