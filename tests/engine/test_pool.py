"""Which row goes next and in which place; without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from dify_batch.engine.pace import Starts
from dify_batch.engine.pool import Pool
from dify_batch.engine.row import Row, Stage
from dify_batch.engine.work import Work
from dify_batch.errors import DifyBatchError, InvalidInput
from dify_batch.summary import Stats
from tests.support.clock import TestClock
from tests.support.engineparts import health, no_pause, work


class Bench:
    def __init__(self, rows: Iterator[Work], most: int = 2) -> None:
        self.clock = TestClock()
        self.health = health(self.clock, most=most)
        self.went: list[str] = []
        self.most = 0
        self.gates: dict[str, asyncio.Event] = {}
        self.beside = (0, 0)
        self.budget: str | None = "begin"
        self.sends = True
        self.dropped: list[str] = []
        self.errors: list[BaseException] = []
        self.taking = True
        self.pool = Pool(
            rows,
            [],
            self.health,
            self.clock,
            Stats(),
            starts=Starts(self.clock),
            pause_after=0.0,
            auto=False,
            bring_on=self.bring_on,
            may_send=lambda _: self.sends,
            taking=lambda: self.taking,
            leaving=lambda: False,
            sleep=no_pause,
            budget=lambda: self.budget,
            begin=lambda one: one.row.stage is Stage.NEW,
            drop=lambda one: self.dropped.append(one.id),
            beside=lambda: self.beside,
            held=lambda: 0,
            read_all=lambda: None,
            fail=self.fail,
            crashed=lambda error, _: self.errors.append(error),
        )

    def fail(self, error: DifyBatchError) -> None:
        self.errors.append(error)
        self.taking = False

    async def bring_on(self, row: Work, goes_first: bool) -> None:
        self.went.append(row.id)
        self.most = max(self.most, self.pool.in_flight)
        if row.id in self.gates:
            await self.gates[row.id].wait()
        else:
            await asyncio.sleep(0)
        row.posted_at = 1.0
        row.row = row.row._replace(stage=Stage.SETTLED)

    async def work(self) -> None:
        async with asyncio.timeout(5):
            await self.pool.work()


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def rows(count: int) -> Iterator[Work]:
    return (work(f"r{number}") for number in range(count))


async def test_all_rows_go_and_never_more_than_the_limit_at_once() -> None:
    bench = Bench(rows(20), most=3)
    await bench.work()
    assert bench.went == [f"r{number}" for number in range(20)]
    assert bench.most == 3


async def test_known_runs_go_before_rows_whose_turn_has_come_and_those_before_new_ones() -> None:
    bench = Bench(rows(2), most=1)
    bench.pool.send(work("again"))
    bench.pool.follow(work("known", row=Row(Stage.KNOWN)))
    await bench.work()
    assert bench.went == ["known", "again", "r0", "r1"]


async def test_a_run_that_outlived_the_timeout_keeps_its_place_but_not_the_batch() -> None:
    bench = Bench(rows(4), most=2)
    bench.gates["r0"] = asyncio.Event()
    working = asyncio.ensure_future(bench.work())
    await turns()
    assert bench.went == ["r0", "r1", "r2", "r3"]
    assert not working.done()
    next(iter(bench.pool.running.values())).overdue = True
    bench.pool.wake()
    await working
    assert bench.pool.in_flight == 1
    bench.gates["r0"].set()
    await turns()
    assert bench.pool.in_flight == 0


async def test_the_end_is_the_last_only_when_nothing_but_lost_rows_is_left() -> None:
    bench = Bench(rows(1))
    bench.gates["r0"] = asyncio.Event()
    bench.beside = (0, 1)
    working = asyncio.ensure_future(bench.work())
    await turns()
    assert [bench.pool.last] == [False]
    bench.gates["r0"].set()
    await turns()
    assert bench.pool.last
    assert not working.done(), "a row is still looked up"
    bench.beside = (0, 0)
    bench.pool.wake()
    await working


async def test_a_budget_that_waits_lets_nobody_begin_beside_the_run_in_flight() -> None:
    bench = Bench(rows(3), most=3)
    bench.gates["r0"] = asyncio.Event()
    working = asyncio.ensure_future(bench.work())
    bench.budget = "begin"
    await turns(1)
    bench.budget = "wait"
    await turns()
    assert len(bench.went) < 4
    bench.budget = "begin"
    bench.gates["r0"].set()
    await turns()
    bench.pool.wake()
    await working
    assert sorted(bench.went) == ["r0", "r1", "r2"]


async def test_rows_that_may_not_be_sent_any_more_are_dropped() -> None:
    bench = Bench(rows(2))
    bench.sends = False
    await bench.work()
    assert (bench.went, bench.dropped) == ([], ["r0", "r1"])


async def test_an_error_of_the_input_ends_the_taking() -> None:
    def broken() -> Iterator[Work]:
        yield work("r0")
        raise InvalidInput("the file has changed")

    bench = Bench(broken())
    await bench.work()
    assert bench.went == ["r0"]
    assert [type(error) for error in bench.errors] == [InvalidInput]


async def test_what_goes_wrong_in_a_place_is_told() -> None:
    bench = Bench(rows(1))

    async def crash(row: Work, goes_first: bool) -> None:
        raise ZeroDivisionError

    bench.pool._bring_on = crash
    await bench.work()
    assert [type(error) for error in bench.errors] == [ZeroDivisionError]
