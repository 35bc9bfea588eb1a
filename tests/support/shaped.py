"""One batch in front of the simulated Dify of a given shape, in virtual time: real engine, client and storage.

What a minute of rows costs is some seconds of this machine, and the figures are the same each time, however busy it is.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from dify_batch.batch.control import Control
from dify_batch.batch.invocation import run_batch
from dify_batch.dify.transport import KEEPALIVE, Transport
from dify_batch.seams import Seams
from dify_batch.settings import Secret, Settings
from dify_batch.simulator import Config, HttpServer, Means, Site, site_server
from dify_batch.simulator.apps import APPS
from dify_batch.simulator.faults import Fault
from dify_batch.summary import Stats
from tests.world.history import Clock, Network
from tests.world.loop import WorldLoop
from tests.world.network import WorldConnector, WorldNetwork
from tests.world.process import WorldChance, WorldClock, WorldThreads
from tests.world.run import MEMORY, close_loop, surroundings
from tests.world.server import ADDRESS, KEY, ServerChance, ServerClock

T = TypeVar("T")
MOST_TURNS = 1 << 40
LOOK_EVERY = 1.0
"""Seconds from the answer to one look-up to the next."""


@dataclass
class Played:
    """What happened. Times: seconds since the batch began. `ends`: of each row; `limits`: (time, limit, in flight);
    `looks`: (time, seconds) of a look-up that somebody else sends each second, over connections of its own;
    `stopped`: runs that the server has stopped."""

    ends: list[float] = field(default_factory=list)
    limits: list[tuple[float, int, int]] = field(default_factory=list)
    looks: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0
    mode_why: str = ""
    stopped: int = 0

    def rate(self, since: float, until: float) -> float:
        """Rows a second."""
        return sum(since < at <= until for at in self.ends) / (until - since)

    def longest_look(self, since: float = 0.0) -> float:
        """Seconds of the slowest look-up that was sent since."""
        return max((took for at, took in self.looks if at >= since), default=0.0)


class Shaped:
    """A simulated Dify on a network of its own."""

    def __init__(self, loop: WorldLoop, config: Config, seed: int) -> None:
        self.loop = loop
        self.network = WorldNetwork(loop, Network(), random.Random(f"network {seed}"), lambda text: None)
        self.site = Site(config, Means(ServerClock(loop), ServerChance(seed)))
        self.site.apps[KEY] = replace(APPS["app-demo"], key=KEY)
        server: HttpServer = site_server(self.site)
        self.network.listen(server, contextvars.Context())

    def session(self) -> aiohttp.ClientSession:
        """Plain aiohttp on that network; each request over a connection of its own."""
        return aiohttp.ClientSession(
            connector=WorldConnector(self.network, self, 0.0), headers={"Authorization": f"Bearer {KEY}"}
        )

    async def watch(self, played: Played, stats: Stats | None, began: float) -> None:
        """Looks at the server's log, as a person or another batch would; and notes the limit."""
        async with self.session() as session:
            while True:
                if stats is not None:
                    played.limits.append((self.loop.time() - began, stats.limit, stats.in_flight))
                sent = self.loop.time()
                async with session.get(f"{ADDRESS}/workflows/logs", headers={"Connection": "close"}) as answer:
                    await answer.read()
                played.looks.append((sent - began, self.loop.time() - sent))
                await asyncio.sleep(LOOK_EVERY)


def _played(config: Config, seed: int, story: Callable[[Shaped], Coroutine[Any, Any, T]]) -> T:
    loop = WorldLoop(MOST_TURNS)
    logger = logging.getLogger("dify_batch")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.CRITICAL)

    async def whole() -> T:
        return await story(Shaped(loop, config, seed))

    try:
        with surroundings(loop, seed):
            return loop.run_until_complete(whole())
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        close_loop(loop)


def batch(
    config: Config,
    rows: int,
    *,
    seed: int = 1,
    seconds: float | None = None,
    faults: Mapping[str, Sequence[str]] | None = None,
    stop_at: float | None = None,
    **flags: Any,
) -> Played:
    """A batch of so many rows; with `seconds`, it stops taking rows then. `faults`: what the requests of a row meet, by
    its number. `stop_at`: a person presses Ctrl-C then, and again two seconds later."""
    folder = Path(tempfile.mkdtemp(prefix="shaped-", dir=MEMORY if MEMORY.is_dir() else None))
    table = folder / "rows.csv"
    table.write_text("id,query\n" + "".join(f"{number},q\n" for number in range(rows)))

    async def story(shaped: Shaped) -> Played:
        loop, played = shaped.loop, Played()
        for row, names in (faults or {}).items():
            shaped.site.plan.rows[row] = [Fault(name) for name in names]
        seams = Seams(WorldClock(loop, Clock(), loop.time()), WorldChance(f"c{seed}"), WorldThreads(loop, f"t{seed}"))
        settings = Settings(
            input=str(table),
            output=folder / "out.jsonl",
            api_key=Secret(KEY),
            base_url=ADDRESS,
            max_runtime=seconds,
            **flags,
        )
        stats = Stats(clock=seams.clock)
        began = loop.time()
        watching = loop.create_task(shaped.watch(played, stats, began))
        transport = Transport(ADDRESS, lambda: WorldConnector(shaped.network, shaped, KEEPALIVE))
        control = Control()
        if stop_at is not None:
            loop.call_later(stop_at, control.drain, "SIGINT")
            loop.call_later(stop_at + 2.0, control.stop)
        report = await run_batch(
            settings,
            control=control,
            stats=stats,
            transport=transport,
            seams=seams,
            on_row=lambda row: played.ends.append(loop.time() - began),
        )
        watching.cancel()
        played.seconds, played.mode_why = loop.time() - began, stats.mode_why
        played.stopped = sum(run.status == "stopped" for run in shaped.site.ledger.executions)
        assert stop_at is not None or report.summary.success == len(played.ends), report
        return played

    try:
        return _played(config, seed, story)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plain(config: Config, workers: int, seconds: float, *, seed: int = 1) -> Played:
    """What `xargs -P workers curl` does: blocking requests, each over a connection of its own, one after the other."""

    async def story(shaped: Shaped) -> Played:
        loop, played = shaped.loop, Played()
        began = loop.time()

        async def work(number: int, session: aiohttp.ClientSession) -> None:
            while loop.time() - began < seconds:
                body = {"inputs": {"query": "q"}, "response_mode": "blocking", "user": f"curl-{number}"}
                headers = {"Connection": "close"}
                async with session.post(f"{ADDRESS}/workflows/run", json=body, headers=headers) as answer:
                    await answer.read()
                played.ends.append(loop.time() - began)

        watching = loop.create_task(shaped.watch(played, None, began))
        async with shaped.session() as session:
            await asyncio.gather(*(work(number, session) for number in range(workers)))
        watching.cancel()
        played.seconds = loop.time() - began
        return played

    return _played(config, seed, story)
