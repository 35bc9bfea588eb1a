"""The server of a world: the real simulator on the simulated network, its weather, and the ledger of what it executed.

The only module that knows how the simulator is built. The ledger is what the oracle goes by: log and run detail may be
late, wrong or closed, the ledger is not.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dify_batch.simulator import Config
from dify_batch.simulator.apps import APPS
from dify_batch.simulator.exchange import Connection, Request
from dify_batch.simulator.faults import Fault
from dify_batch.simulator.kinds import KINDS
from dify_batch.simulator.ledger import Execution as Executed
from dify_batch.simulator.lookups import ROUTES
from dify_batch.simulator.means import Means
from dify_batch.simulator.routes import answer, reach
from dify_batch.simulator.runs import Run
from dify_batch.simulator.served.http import HttpServer
from dify_batch.simulator.site import Site
from dify_batch.simulator.talks import Message
from dify_batch.simulator.task import Task
from dify_batch.simulator.wire import Answer, answer_json
from tests.world.history import History
from tests.world.network import WorldNetwork

KEY = "app-World0Secret0Key0"
ADDRESS = "http://dify.world/v1"
EPOCH = 1_800_000_000.0

SERVER_FAULTS = ("outage_500", "hang", "redis_down", "closed_log")
GATEWAYS = {
    "gateway_502": (502, b"<html><h1>502 Bad Gateway</h1></html>"),
    "gateway_503": (503, b"<html><h1>503 Service Temporarily Unavailable</h1></html>"),
    "gateway_404": (404, b"<html><h1>404 Not Found</h1></html>"),
    "gateway_200": (200, b"<html>We are back soon</html>"),
}
WEATHER = (
    "refuse",
    "unreachable",
    *SERVER_FAULTS,
    *GATEWAYS,
    "kill_api",
    "kill_worker",
    "no_workers",
    "slow_log",
    "forget",
)
"""What befalls a server: its port is closed; packets to it get lost; one of the simulator's own faults; something in
front of it answers in its place; the API or the queue's workers are killed, and back after so long; no worker takes
anything from the queue; the log takes SLOW_LOG seconds; it forgets what is older than FORGETS seconds, once."""
SLOW_LOG = 20.0
FORGETS = 25 * 3600.0


ARRIVED: contextvars.ContextVar[float] = contextvars.ContextVar("arrived")
"""When the request came that is being answered."""


@dataclass(slots=True)
class Execution:
    """One execution of a row as the oracle wants it. Times are the world's. `status`: None while it goes on; for ever
    so if it is `dead`: what executed it was killed. `pauses`: it waits for a person on its way. `message`: its own, of
    an app that talks; `names`: what a client may call it by, beside its run id."""

    told: Executed
    posted: float
    died: bool = False
    pauses: bool = False
    message: Callable[[], Message | None] = lambda: None

    @property
    def names(self) -> Sequence[str]:
        message = self.message()
        return () if message is None else (message.id, message.conversation_id)

    @property
    def dead(self) -> bool:
        """It will never end."""
        return self.died or self.told.killed

    @property
    def row(self) -> str:
        return self.told.row

    @property
    def run_id(self) -> str:
        return self.told.run_id

    @property
    def mode(self) -> str:
        return self.told.mode

    @property
    def begun(self) -> float:
        return self.told.begun

    @property
    def ended(self) -> float | None:
        return self.told.ended

    @property
    def status(self) -> str | None:
        return self.told.status

    @property
    def inputs(self) -> str:
        """With the message of an app that is asked with one."""
        message = self.message()
        if message is None or not message.query:
            return self.told.inputs
        return json.dumps({**json.loads(self.told.inputs), "query": message.query})

    @property
    def outputs(self) -> str:
        return self.told.outputs or "{}"


class ServerClock:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return EPOCH + self._loop.time()


class ServerChance:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"server {seed}")

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def token(self, size: int) -> str:
        return self._random.randbytes(size).hex()


class WorldServer:
    """The simulator on the world's network. `executions`: what it executed, in the order of the begin."""

    def __init__(self, loop: asyncio.AbstractEventLoop, network: WorldNetwork, history: History) -> None:
        shape = history.server
        self._loop = loop
        self._network = network
        self._shape = shape
        self._means = Means(ServerClock(loop), ServerChance(history.seed))
        config = Config(
            latency=shape.latency,
            latency_tail=shape.spread or None,
            workers=shape.workers,
            worker_processes=shape.processes,
            prefetch=shape.prefetch,
            overtaking=shape.overtaking,
            connections=shape.connections,
            max_active_requests=shape.max_active,
            keep_alive=shape.keep_alive,
            user_creation=shape.user_creation,
        )
        self.site = Site(config, self._means)
        self.site.apps[KEY] = replace((APPS | KINDS)[shape.app], key=KEY)
        for row in history.rows:
            if row.fates:
                self.site.plan.rows[row.id] = [Fault(fate.name, fate.seconds, fate.latency) for fate in row.fates]
        self._add_an_old_run()
        self.executions: list[Execution] = []
        self._gateways: list[str] = []
        self._slow_log = 0.0
        self.forgot = False
        self._lag = shape.lag
        self._keep_the_ledger()
        self._http = HttpServer(self._handle, shape.keep_alive, self._means.now)
        network.listen(self._http, contextvars.Context())

    def _add_an_old_run(self) -> None:
        """The app has run before: a log that shows nothing older than a row proves nothing of that row."""
        means, app = self._means, self.site.apps[KEY]
        begun = EPOCH - 3600.0
        run = Run(means.new_id(), means.new_id(), app, "somebody", "before", "streaming", "{}", begun)
        run.status, run.finished_at = "succeeded", begun + 1.0
        self.site.registry.add(run)
        self.site.registry.by_task.clear()

    def _keep_the_ledger(self) -> None:
        """When a request came, and whether what executes it will ever end it, only this world asks."""
        engine, posted = self.site.engine, dict[int, float]()
        enqueue, begin = engine.enqueue, engine.begin

        def noted_enqueue(task: Task) -> None:
            posted[id(task)] = ARRIVED.get()
            enqueue(task)

        def noted_begin(task: Task, inputs: dict[str, Any]) -> Run:
            run = begin(task, inputs)
            told = self.site.ledger.executions[-1]
            dead = task.fault.name in ("zombie", "zombie_blocking")
            pauses = task.app.human or task.fault.name == "paused"
            message = partial(self._message, lambda message: message.run is run)
            self.executions[-1:] = [Execution(told, posted.pop(id(task), told.begun), dead, pauses, message)]
            return run

        engine.enqueue, engine.begin = noted_enqueue, noted_begin  # type: ignore[method-assign]
        note = self.site.ledger.begin

        def noted(told: Executed) -> None:
            note(told)
            message = partial(self._message, lambda message: message.id == told.run_id)
            self.executions.append(Execution(told, ARRIVED.get(told.begun), message=message))

        self.site.ledger.begin = noted  # type: ignore[method-assign,assignment]

    def _message(self, owns: Callable[[Message], bool]) -> Message | None:
        """The message of an execution, of an app that talks."""
        return next((message for message in self.site.talks.messages.values() if owns(message)), None)

    async def _handle(self, request: Request, connection: Connection) -> Answer | None:
        """One request: by what stands in front, or by Dify."""
        ARRIVED.set(self._loop.time())
        if self._gateways:
            status, body = GATEWAYS[self._gateways[-1]]
            return Answer(status, body, "text/html", dify=False)
        if self._slow_log and request.path.endswith(("/workflows/logs", "/conversations")):
            await asyncio.sleep(self._slow_log)
        if self._lag and request.method == "GET" and "/workflows/run/" in request.path:
            run = self.site.registry.by_id.get(request.path.rpartition("/")[2])
            if run is not None and run.finished_at is not None and self._means.now() - run.finished_at < self._lag:
                before = {"status": "running", "outputs": None, "error": None, "finished_at": None, "elapsed_time": 0}
                return answer_json(run.detail() | before)
        respond = partial(answer, self.site, ROUTES, request, connection)
        return await reach(self.site, ROUTES.name_of(request.path), request, connection, respond)

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
                self._dies("blocking")
                self.site.crash("api")
                self._network.reset()
            case "kill_worker":
                self._dies("streaming")
                self.site.crash("worker")
            case "no_workers":
                self._set_workers(0)
            case "slow_log":
                self._slow_log = SLOW_LOG
            case "forget":
                self.forgot = True
                self.site.registry.forget(EPOCH + self._loop.time() - FORGETS)
            case _ if what in GATEWAYS:
                self._gateways.append(what)
            case _:
                self.site.plan.suffer(Fault(what, 12.0))

    def end(self, what: str) -> None:
        """It is over."""
        match what:
            case "refuse":
                self._network.refuses = not self.site.api.alive
            case "unreachable":
                self._network.swallows = False
            case "kill_api":
                self.site.restart("api")
                self._network.refuses = False
            case "kill_worker":
                self.site.restart("worker")
            case "no_workers":
                self._set_workers(self._shape.workers)
            case "slow_log":
                self._slow_log = 0.0
            case "forget":
                pass
            case _ if what in GATEWAYS:
                if what in self._gateways:
                    self._gateways.remove(what)
            case _:
                self.site.plan.recover(what)

    def _dies(self, mode: str) -> None:
        """What is executed in this mode ends nowhere: it says running for ever. A form that waits does not
        die."""
        for execution in self.executions:
            run = self.site.registry.by_id.get(execution.run_id)  # what no workflow runs dies with the API by itself
            if run is not None and execution.mode == mode and execution.ended is None and run.status == "running":
                execution.died = True

    def _set_workers(self, workers: int | None) -> None:
        self.site.configure(replace(self.site.config, workers=workers))

    def calm(self) -> None:
        """All faults have ceased."""
        for what in WEATHER:
            self.end(what)
        self._gateways.clear()
        self.site.plan.rows.clear()
        self._lag = 0.0

    # --- what the world asks

    def paused(self) -> Sequence[Run]:
        return [run for run in self.site.registry.by_id.values() if run.status == "paused"]

    def answer_forms(self) -> None:
        """A person fills in every form that waits."""
        for run in self.paused():
            self.site.engine.submit(run, "approve", {"comment": "ok"})

    def close(self) -> None:
        self.site.close()
