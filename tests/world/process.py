"""One invocation of the command as a process of this world: its clock, chance, threads and disk, and its death.

kill -9 runs no cleanup: what the process has open on disk and network is closed first, by the system as it were; only
then are its tasks cancelled, and nothing that their `finally` does reaches anything.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dify_batch.batch.control import Control
from dify_batch.batch.invocation import BatchReport, run_batch
from dify_batch.cli.signals import Escalation
from dify_batch.dify.transport import KEEPALIVE, Transport
from dify_batch.engine import conductor, course
from dify_batch.engine.facts import Fact
from dify_batch.engine.row import Row, check
from dify_batch.errors import DifyBatchError, Exit
from dify_batch.seams import Seams
from dify_batch.settings import Settings
from dify_batch.summary import Stats, Summary
from tests.world.disk import Machine, ProcessDisk
from tests.world.history import Clock, Invocation
from tests.world.network import WorldConnector, WorldNetwork
from tests.world.server import ADDRESS, EPOCH, KEY


def _checked(rules: course.Rules, row: Row, fact: Fact) -> course.Advance:
    """The course, and after each step what must hold of every row."""
    after, steps = course.advance(rules, row, fact)
    check(after)
    return after, steps


setattr(conductor, "advance", _checked)  # noqa: B010 - what the engine calls
T = TypeVar("T")
OWNER: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
LONGEST = 3 * 3600.0
"""Seconds in which every invocation must have ended: all that it waits for is bounded by minutes."""


@dataclass(frozen=True)
class WorldClock:
    """The clock of a machine that is wrong, and jumps; the monotonic one never does."""

    loop: asyncio.AbstractEventLoop
    wrong: Clock
    began: float

    def monotonic(self) -> float:
        return self.loop.time() + 5000.0

    def wall(self) -> float:
        now = self.loop.time()
        jumped = sum(by for at, by in self.wrong.jumps if now - self.began >= at)
        return EPOCH + now + self.wrong.skew + jumped


class WorldChance:
    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def token(self, size: int) -> str:
        return self._random.randbytes(size).hex()


class WorldThreads:
    """Blocking work takes a moment of the world's time, and is done all at once at its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: str) -> None:
        self._loop = loop
        self._chance = random.Random(seed)

    async def run(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(self._chance.uniform(0.0, 0.01))
        return work()

    run_forlorn = run

    def single(self, name: str) -> Executor:
        return OneByOne(self._loop, self._chance)


class OneByOne(Executor):
    """Does one thing after the other, each after what a disk takes for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: random.Random) -> None:
        self._loop = loop
        self._chance = chance
        self._free_at = 0.0
        self._jobs: list[Callable[[], None]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def job() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._jobs.append(job)
        self._free_at = max(self._loop.time(), self._free_at) + self._chance.uniform(0.0002, 0.004)
        self._loop.call_at(self._free_at, self._next)
        return future

    def _next(self) -> None:
        if self._jobs:
            self._jobs.pop(0)()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        while self._jobs:
            self._next()


@dataclass(frozen=True)
class Ended:
    """How an invocation ended. `how`: "exit", "kill", "power", "late" (it did not), "crash" (an error that nobody
    foresaw). `status`: its exit status. `error`: its code and message."""

    how: str
    status: int | None = None
    summary: Summary | None = None
    error: str = ""
    message: str = ""


class Process:
    """One invocation under way."""

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        network: WorldNetwork,
        machine: Machine,
        invocation: Invocation,
        paths: tuple[Path, Path],
        *,
        seed: str,
        log: Callable[[str], None],
    ) -> None:
        self.name = name
        self.dead = False
        self._how = "exit"
        self._log = log
        self._loop = loop
        self._network = network
        self._machine = machine
        self._invocation = invocation
        self._paths = paths
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their making, which a set has not
        self.seams = Seams(
            WorldClock(loop, invocation.clock, loop.time()), WorldChance(f"c{seed}"), WorldThreads(loop, f"t{seed}")
        )
        self.disk = ProcessDisk(machine, invocation.disk, self.kill, self.seams.chance)
        self._control: Control | None = None
        self._escalation = Escalation()
        self._died: asyncio.Future[None] = loop.create_future()
        self.began = loop.time()
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        self._main = loop.create_task(self._run(), context=context)

    @property
    def at_work(self) -> bool:
        return not self.dead and not self._main.done()

    @property
    def flags(self) -> tuple[tuple[str, Any], ...]:
        return self._invocation.flags

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that this process has made."""
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    async def _run(self) -> BatchReport:
        flags: dict[str, Any] = dict(self._invocation.flags)
        settings = Settings(input=str(self._paths[0]), output=self._paths[1], api_key=KEY, base_url=ADDRESS, **flags)  # type: ignore[arg-type]
        self._control = Control()
        transport = Transport(ADDRESS, lambda: WorldConnector(self._network, self, KEEPALIVE))
        stats = Stats(clock=self.seams.clock)
        return await run_batch(
            settings, control=self._control, stats=stats, transport=transport, seams=self.seams, disk=self.disk
        )

    async def ended(self) -> Ended:
        """Waits for its end, or gives it up as late."""
        ends: set[asyncio.Future[Any]] = {self._main, self._died}
        await asyncio.wait(ends, timeout=LONGEST, return_when=asyncio.FIRST_COMPLETED)
        if self.dead:
            await self._bury()
            return Ended(self._how)
        if not self._main.done():
            self.kill("late")
            await self._bury()
            return Ended("late")
        error = self._main.exception()
        self.dead = True  # what it forgot to close
        self.disk.die()
        self._network.drop(self)
        await self._bury()
        if error is None:
            report = self._main.result()
            told = report.error
            code, message = ("", "") if told is None else (told.code, told.message)
            return Ended("exit", int(report.exit_status), report.summary, code, message)
        if isinstance(error, DifyBatchError):
            return Ended("exit", int(error.exit_status), None, error.code, error.message)
        return Ended("crash", int(Exit.FAILED), None, type(error).__name__, str(error))

    async def _bury(self) -> None:
        for _ in range(50):
            left = [task for task in self._tasks if not task.done()]
            if not left:
                return
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=0.01)
        raise RuntimeError(f"tasks that cannot be ended: {left}")

    def kill(self, what: str = "kill", kept: float = 1.0) -> None:
        """It is dead at once: -9, or ("power") the whole machine with it."""
        if self.dead or self._main.done():
            return
        self._log(f"{self.name}: {what}")
        self.dead = True
        self._how = what
        self.disk.die()
        self._network.drop(self)
        if what == "power":
            self._machine.power_cut(kept)
        self._died.set_result(None)

    def signal(self, name: str) -> None:
        """SIGTERM or SIGINT, as the command line takes them."""
        if self.dead or self._control is None or self._main.done():
            return
        level = self._escalation.received(self._loop.time())
        self._log(f"{self.name}: {name} ({level})")
        if level == 1:
            self._control.drain(name)
        elif level == 2:
            self._control.stop()
        elif level is not None:
            self._control.abandon()


def adopting(loop: asyncio.AbstractEventLoop, coro: Any, context: contextvars.Context | None = None) -> Any:
    """A task factory: each task belongs to the process in whose context it runs."""
    task = asyncio.Task(coro, loop=loop, context=context)
    owner = OWNER.get() if context is None else context.get(OWNER)
    if owner is not None:
        owner.adopt(task)
    return task
