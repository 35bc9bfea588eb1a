"""Plays a history: the world is built, the invocations follow one another, the oracle looks after each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from dify_batch.simulator import DEMO_KEYS
from tests.world.disk import Machine
from tests.world.history import Deed, History, Invocation, Network, Weather, fitting
from tests.world.loop import Stalled, WorldLoop
from tests.world.network import WorldNetwork
from tests.world.oracle import Oracle, Span, Violation
from tests.world.person import Desk, edit, new_desk
from tests.world.process import Ended, Process, adopting
from tests.world.server import WorldServer

MEMORY = Path("/dev/shm")
CLOSING: tuple[tuple[dict[str, Any], float], ...] = (
    ({"mode": "streaming"}, 150.0),
    ({"mode": "blocking"}, 1800.0),
    ({}, 1800.0),
    ({"retry": True}, 60.0),
    ({}, 60.0),
)
"""The last invocations: flags, and the pause before each."""


@dataclass
class Verdict:
    """What came of a history. `told`: what happened, line by line. `rows`: how many executions the server saw."""

    violations: list[Violation] = field(default_factory=list)
    executed: int = 0
    invocations: int = 0
    state: str = ""
    told: list[str] = field(default_factory=list)
    rows: dict[str, list[str]] = field(default_factory=dict)

    @property
    def kinds(self) -> set[str]:
        return {violation.kind for violation in self.violations}


def play(history: History, *, log: int = logging.CRITICAL, stories: bool = False) -> Verdict:
    """Plays it to its end. Always the same for the same history. `log`: from which level on the command's own log is
    told, too. `stories`: tells each row from both sides even where nothing goes wrong."""
    verdict = Verdict()
    loop = WorldLoop()
    loop.set_task_factory(adopting)
    folder = Path(tempfile.mkdtemp(prefix="world-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        with surroundings(loop, history.seed), _listening(verdict, loop, log):
            try:
                loop.run_until_complete(_whole(loop, history, folder, verdict, stories))
            except Stalled as stalled:
                verdict.violations.append(Violation("stalled", str(stalled)))
    finally:
        close_loop(loop)
        shutil.rmtree(folder, ignore_errors=True)
    return verdict


async def _whole(loop: WorldLoop, history: History, folder: Path, verdict: Verdict, stories: bool) -> None:
    world = World(loop, history, folder, verdict)
    try:
        await world.play()
    finally:
        world.finish(stories=stories)


_FOLDER = re.compile(r"/\S*/world-\w+/")  # it has another name each time


class _Listener(logging.Handler):
    def __init__(self, verdict: Verdict, loop: WorldLoop) -> None:
        super().__init__()
        self._verdict, self._loop = verdict, loop

    def emit(self, record: logging.LogRecord) -> None:
        row, text = getattr(record, "row", ""), _FOLDER.sub("", record.getMessage())
        self._verdict.told.append(f"{self._loop.time():9.2f}      {record.levelname} {row} {text}")


@contextlib.contextmanager
def _listening(verdict: Verdict, loop: WorldLoop, level: int) -> Iterator[None]:
    """The command's log belongs to the world; nothing of it reaches the terminal."""
    logger = logging.getLogger("dify_batch")
    before, handler = (logger.level, logger.propagate), _Listener(verdict, loop)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


@contextlib.contextmanager
def surroundings(loop: WorldLoop, seed: int) -> Iterator[None]:
    """What libraries ask this machine for in spite of all: aiohttp the age of connections, tenacity its jitter."""
    connector: Any = aiohttp.connector
    state, clock, proxies = random.getstate(), connector.monotonic, os.environ.get("NO_PROXY")
    random.seed(seed)
    connector.monotonic = loop.time
    os.environ["NO_PROXY"] = "*"
    try:
        yield
    finally:
        random.setstate(state)
        connector.monotonic = clock
        if proxies is None:
            del os.environ["NO_PROXY"]
        else:
            os.environ["NO_PROXY"] = proxies


def close_loop(loop: WorldLoop) -> None:
    """Ends what is left: the server's runs, connections that wait."""
    for _ in range(20):
        left = asyncio.all_tasks(loop)
        if not left:
            break
        for task in left:
            task.cancel()
        with contextlib.suppress(Stalled):
            loop.run_until_complete(asyncio.wait(left, timeout=0.01))
    loop.close()


class World:
    def __init__(self, loop: WorldLoop, history: History, folder: Path, verdict: Verdict) -> None:
        self.loop = loop
        self.history = history
        self.verdict = verdict
        self.desk: Desk = new_desk(folder, history)
        self.machine = Machine(folder)
        chance = random.Random(f"network {history.seed}")
        self.network = WorldNetwork(loop, history.network, chance, self.tell)
        self.server = WorldServer(loop, self.network, history)
        self.oracle = Oracle(self.desk, self.server.executions)
        self._number = self._added = 0
        self._others: list[asyncio.Task[None]] = []

    def tell(self, text: str) -> None:
        self.verdict.told.append(f"{self.loop.time():9.2f}  {_FOLDER.sub('', text)}")

    async def play(self) -> None:
        for invocation in self.history.invocations:
            await asyncio.sleep(invocation.pause)
            for what in invocation.edits:
                self.tell(f"edit: {what.what}")
                edit(self.desk, what)
            if invocation.edits:
                self.machine.touched()
            if not await self.invoke(invocation):
                return
        await self.close()

    async def close(self) -> None:
        """Faults have ceased. A new row in each mode shows that work is taken up; some plain reruns, one --retry. The
        last is one that finds nothing to do."""
        self.server.calm()
        self.network.weather = Network()
        self.tell("all is well from here on")
        self._added = self.desk.added
        for flags, pause in CLOSING:
            if "retry" not in flags and self.desk.added < 2 + self._added and self.oracle.left():
                self.desk.add_row()
                self.machine.touched()
            self.server.answer_forms()
            await asyncio.sleep(pause)
            was_done = not self.oracle.left()
            if not await self.invoke(Invocation(flags=fitting(self.history.server.app, flags))):
                return
            if was_done and not self.oracle.left():
                break
        unlisted = self.history.server.app == DEMO_KEYS["completion"]
        self.verdict.violations += self.oracle.at_last(forgot=self.server.forgot, unlisted=unlisted)

    async def invoke(self, invocation: Invocation) -> bool:
        """One invocation to its end. Whether all is well after it."""
        self._number += 1
        self.verdict.invocations += 1
        began = self.loop.time()
        process = self._start(invocation, f"#{self._number}")
        self.tell(f"#{self._number} begins {dict(invocation.flags) or ''}")
        timers = [self.loop.call_later(deed.at, self._do, deed, process) for deed in invocation.deeds]
        timers += [self.loop.call_later(weather.at, self._weather, weather) for weather in invocation.weather]
        ended = await process.ended()
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*self._others)
        self._others.clear()
        self.tell(f"#{self._number} ends: {_told(ended)}")
        span = Span(self._number, invocation, began, self.loop.time())
        self.verdict.violations += self.oracle.after(span, ended)
        return not self.verdict.violations

    def _start(self, invocation: Invocation, name: str) -> Process:
        seed = f"{self.history.seed} {name}"
        paths = (self.desk.input, self.desk.output)
        return Process(name, self.loop, self.network, self.machine, invocation, paths, seed=seed, log=self.tell)

    def _do(self, deed: Deed, process: Process) -> None:
        match deed.what:
            case "kill" | "power":
                process.kill(deed.what, deed.kept)
            case "term":
                process.signal("SIGTERM")
            case "int":
                process.signal("SIGINT")
            case "answer":
                self.server.answer_forms()
            case "second":
                if process.at_work:
                    self._others.append(asyncio.ensure_future(self._second(process)))

    async def _second(self, first: Process) -> None:
        """Another process on the same output: it ends at once, or the first had just ended."""
        had = first.at_work and self.loop.time() - first.began > 0.1  # by then it has its lock
        ended = await self._start(Invocation(flags=first.flags), "second").ended()
        self.tell(f"second ends: {_told(ended)}")
        if had and first.at_work and ended.status != 75:
            self.verdict.violations.append(Violation("second", f"a second process ended with {_told(ended)}"))

    def _weather(self, weather: Weather) -> None:
        self.tell(f"weather: {weather.what} for {weather.seconds:g} s")
        self.server.begin(weather.what)
        self.loop.call_later(weather.seconds, self._weather_over, weather)

    def _weather_over(self, weather: Weather) -> None:
        self.tell(f"weather: {weather.what} is over")
        self.server.end(weather.what)

    def finish(self, *, stories: bool) -> None:
        self.verdict.executed = len(self.server.executions)
        self.verdict.state = self.oracle.state()
        if self.verdict.violations or stories:
            self.verdict.rows = self.oracle.stories()
        self.server.close()


def _told(ended: Ended) -> str:
    if ended.how != "exit":
        return f"{ended.how} {ended.error} {ended.message}"
    shown = (
        ""
        if ended.summary is None
        else ", ".join(f"{number} {name}" for name in ended.summary.STATES if (number := getattr(ended.summary, name)))
    )
    return f"status {ended.status} {ended.error} {ended.message}; {shown}"
