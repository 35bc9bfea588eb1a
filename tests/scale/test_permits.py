"""The permits of one worker: none is used after its lifetime, by the worker's own clock."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from dify_batch.dify.client import DifyClient
from dify_batch.dify.fence import fenced
from dify_batch.engine.work import Work
from dify_batch.outcomes import Succeeded, Unreachable
from dify_batch.scale.messages import Grant
from dify_batch.scale.permits import HANDFUL, LIFETIME, LOOKED_AT, WorkerPermits
from dify_batch.simulator import Config, Simulator


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Engine:
    """Five rows in places, and more to come."""

    def __init__(self) -> None:
        self.places, self.rows, self.woken, self.lost = 0, True, 0, 0

    def taken_places(self) -> int:
        return self.places

    def being_looked_up(self) -> int:
        return self.lost

    def has_rows(self) -> bool:
        return self.rows

    def outage(self) -> str:
        return ""

    def changed(self) -> None:
        self.woken += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def permits(clock: Clock) -> WorkerPermits:
    found = WorkerPermits(clock, lambda urgent: None)
    found.attach(Engine())
    return found


async def use(permits: WorkerPermits, clock: Clock, work: Work, *, patience: int = 3) -> Any:
    """Uses a permit; each pause is as long as asked, and after `patience` of them the batch stops."""
    pauses = 0

    async def pause(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        clock.now += seconds
        await asyncio.sleep(0)

    return await permits.use(work, lambda: pauses < patience, pause)


async def test_a_permit_lets_one_row_go(permits: WorkerPermits, clock: Clock) -> None:
    assert not permits.may_take()
    permits.granted(Grant(beat=clock.now, count=1))
    assert permits.may_take()
    work = Work("a")
    permits.took(work)
    assert not permits.may_take(), "it is the row's"
    holds = await use(permits, clock, work)
    assert holds()
    assert (permits.used, permits.dropped) == (1, 0)
    clock.now += LIFETIME + 0.001
    assert not holds(), "to be asked just before the bytes go"


async def test_a_permit_runs_out_by_the_beat_that_the_coordinator_had_heard(
    permits: WorkerPermits, clock: Clock
) -> None:
    """The grant lay in the socket while the worker was stopped: when it is read, it is an old one."""
    beat = clock.now
    clock.now += LIFETIME
    permits.granted(Grant(beat=beat, count=3))
    assert not permits.may_take()
    assert permits.dropped == 3


async def test_a_worker_that_was_stopped_has_no_permits_when_it_goes_on(permits: WorkerPermits, clock: Clock) -> None:
    permits.granted(Grant(beat=clock.now, count=2))
    work = Work("a")
    permits.took(work)
    clock.now += 3600.0
    assert await use(permits, clock, work) is None
    assert (permits.used, permits.dropped) == (0, 2)


async def test_a_row_whose_permit_has_run_out_waits_for_another(permits: WorkerPermits, clock: Clock) -> None:
    permits.granted(Grant(beat=clock.now, count=1))
    work = Work("a")
    permits.took(work)
    clock.now += LIFETIME + 1
    task = asyncio.ensure_future(use(permits, clock, work))
    await asyncio.sleep(0)
    assert permits.report().want >= 1
    permits.granted(Grant(beat=clock.now, count=1))
    assert (await task)()


async def test_a_permit_of_a_rate_waits_for_its_moment(permits: WorkerPermits, clock: Clock) -> None:
    permits.granted(Grant(beat=clock.now, after=(0.0, 0.2)))
    began = clock.now
    for row_id in ("a", "b"):
        work = Work(row_id)
        permits.took(work)
        assert await use(permits, clock, work)
    assert clock.now - began == pytest.approx(0.2)


async def test_once_the_coordinator_has_gone_nothing_is_let_go(permits: WorkerPermits, clock: Clock) -> None:
    permits.granted(Grant(beat=clock.now, count=5))
    permits.close()
    permits.granted(Grant(beat=clock.now, count=5))
    assert not permits.may_take()
    assert permits.report().want == 0


async def test_what_the_coordinator_hears(permits: WorkerPermits, clock: Clock) -> None:
    engine = Engine()
    permits.attach(engine)
    permits.take_up(3)
    permits.granted(Grant(beat=clock.now, count=4))
    assert engine.woken == 1
    works = [Work(str(number)) for number in range(3)]
    for work in works:
        permits.took(work)
    engine.places = 3
    told = permits.report()
    assert (told.busy, told.used, told.at) == (0, 0, 3), "rows that wait for their permit hold no place"
    assert told.want == HANDFUL - 1
    for work in works:
        await use(permits, clock, work)
    permits.failed()
    permits.throttled(3)
    told = permits.report()
    assert (told.busy, told.used, told.failed, told.throttled, told.finished) == (3, 3, 1, 1, ())
    permits.let_go(works[0])
    engine.places, engine.rows = 2, False
    told = permits.report()
    assert (told.busy, told.ended, told.want, told.throttled) == (2, 1, 0, 0)
    permits.detach()
    assert permits.report().dropped == 1


async def test_what_an_earlier_worker_left_is_looked_at_before_its_places_are_free(
    permits: WorkerPermits, clock: Clock
) -> None:
    """And not waited for until its fate is proved, for which other rows must be able to go."""
    engine = Engine()
    engine.lost, engine.places = 12, 1
    permits.take_up(7)
    permits.attach(engine)
    told = permits.report()
    assert (told.at, told.lost, told.busy) == (0, 12, 1)
    clock.now += LOOKED_AT
    assert permits.report().at == 7
    permits.detach()
    permits.take_up(8)
    assert permits.report().at == 0
    permits.attach(engine)
    assert permits.report().at == 0
    engine.lost = 0
    assert permits.report().at == 8
    engine.lost = 1
    assert permits.report().at == 8, "it is lost now, not from before"


async def test_a_request_whose_time_is_over_when_its_connection_is_there_is_not_sent() -> None:
    with Simulator(Config(latency=0.01)) as server:
        async with DifyClient(server.base_url, "app-echo") as client:
            with fenced(lambda: False) as fence:
                outcome = await client.run({"query": "x"}, user="u", mode="blocking", timeout=5)
            assert isinstance(outcome, Unreachable)
            assert fence.stopped
            assert server.state()["post_total"] == 0
            for _ in range(2):  # a kept connection too
                outcome = await client.run({"query": "x"}, user="u", mode="blocking", timeout=5)
                assert isinstance(outcome, Succeeded)
            with fenced(lambda: False):
                outcome = await client.run({"query": "x"}, user="u", mode="blocking", timeout=5)
            assert isinstance(outcome, Unreachable)
            assert server.state()["post_total"] == 2


def test_aiohttp_has_the_method_that_is_wrapped() -> None:
    assert asyncio.iscoroutinefunction(aiohttp.TCPConnector.connect)
