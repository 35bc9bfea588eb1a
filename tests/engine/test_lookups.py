"""Look-ups of lost requests: whose run is whose, and when silence is a proof. No engine, no server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dify_batch.dify.answers import Detail, LogEntry
from dify_batch.engine.absence import REDELIVERED
from dify_batch.engine.backlog import Backlog
from dify_batch.engine.claims import Claims
from dify_batch.engine.facts import Absent, Sent, Started, Unavailable, Unproven
from dify_batch.engine.lookups import Limits, Lookups
from dify_batch.engine.row import Ask, Row, Stage
from dify_batch.engine.work import Work
from dify_batch.errors import AppError
from dify_batch.outcomes import Running, RunRef
from tests.support.clock import TestClock
from tests.support.engineparts import FakeSurface, health, work

USER = "dify-batch-ab-1"


class Bench:
    def __init__(self) -> None:
        self.clock = TestClock()
        self.surface = FakeSurface()
        self.claims = Claims()
        self.health = health(self.clock)
        self.last = True
        self.taking = True
        self.others: list[Work] = []
        self.dead: set[str] = set()
        self.lookups = self.patient(300.0)

    def patient(self, seconds: float) -> Lookups:
        """Look-ups that go on for so long once nothing else is left."""
        return Lookups(
            self.surface,
            Backlog(
                self.surface,
                self.clock,
                ours=lambda entry: (entry.user or "").startswith("dify-batch-"),
                over=self.claims.over,
                dead=self.dead.__contains__,
                stuck_after=lambda: 1500.0,
            ),
            self.health,
            self.claims,
            self.clock,
            Limits(patience=seconds, settle=10.0, max_outage=60.0),
            gate=asyncio.Semaphore(4),
            last=lambda: self.last,
            taking=lambda: self.taking,
            leaving=lambda: False,
            others=lambda: self.others,
            pause=self.pause,
        )

    async def pause(self, seconds: float) -> None:
        self.clock.now += seconds
        await asyncio.sleep(0)

    def lost(self, row_id: str = "a", *, user: str = USER, ask: Ask = Ask.NOTHING) -> Work:
        sent = Sent(user, "streaming", self.clock.wall(), self.clock.wall())
        row = Row(Stage.LOST, sent, ask=ask)
        return work(row_id, row=row, posted_at=self.clock.now, lost_at=self.clock.now, shared=user != USER)

    def entry(self, run_id: str, *, user: str = USER, status: str = "running", after: float = 1.0) -> LogEntry:
        begun = int(self.clock.wall() + after)
        self.surface.details[run_id] = Detail(Running(RunRef(run_id), "says running"), inputs='{"query": "question a"}')
        finished = begun if status != "running" else None
        found = LogEntry(run_id, status, begun, finished, user, None)
        self.surface.entries.insert(0, found)
        return found

    async def look_up(self, row: Work) -> object:
        async with asyncio.timeout(10):
            return await self.lookups.look_up(row, "cut")


async def test_the_one_run_of_its_user_that_no_row_has_is_the_row_s() -> None:
    bench = Bench()
    row = bench.lost()
    bench.entry("taken")
    bench.entry("free")
    bench.claims.claim("taken", "other")
    found = await bench.look_up(row)
    assert isinstance(found, Started)
    assert (found.ref.run_id, found.found) == ("free", True)
    assert bench.claims.taken("free", "b")


async def test_a_log_that_ignores_the_filter_gives_away_no_run_of_another_user() -> None:
    bench = Bench()
    row = bench.lost()
    bench.entry("theirs", user="somebody", status="succeeded")

    async def everything(**_: object) -> object:
        return await FakeSurface.logs(bench.surface)

    bench.surface.logs = everything  # type: ignore[method-assign, assignment]
    bench.taking = False
    assert await bench.look_up(row) is None


@pytest.mark.parametrize("filtered", [True, False])
async def test_its_run_is_found_behind_the_first_page(filtered: bool) -> None:
    """Of a shared user that has many runs; and where a server ignores the filter, behind those of others."""
    bench = Bench()
    user = "nightly" if filtered else USER
    row = bench.lost(user=user)
    bench.entry("mine", user=user, status="succeeded")
    for number in range(250):
        bench.entry(f"other-{number}", user=user if filtered else "somebody", status="succeeded")
        bench.surface.details[f"other-{number}"] = Detail(
            Running(RunRef(f"other-{number}"), ""), inputs='{"query": "x"}'
        )
    logs = bench.surface.logs

    async def ignoring(**asked: Any) -> object:
        return await logs(**(asked if filtered else asked | {"user": None}))

    bench.surface.logs = ignoring  # type: ignore[method-assign, assignment]
    found = await bench.look_up(row)
    assert isinstance(found, Started)
    assert found.ref.run_id == "mine"


async def test_silence_is_a_proof_only_when_all_parts_hold() -> None:
    bench = Bench()
    row = bench.lost()
    bench.entry("foreign", user="web", status="succeeded", after=3.0)  # work is taken up
    began = bench.clock.now
    assert isinstance(await bench.look_up(row), Absent)
    assert bench.clock.now - began >= 120


async def test_behind_a_run_that_goes_on_silence_proves_nothing() -> None:
    bench = Bench()
    row = bench.lost()
    bench.entry("foreign", user="web", after=-3.0)
    verdict = await bench.look_up(row)
    assert isinstance(verdict, Unproven)
    assert "still goes on" in verdict.reason


async def test_where_nothing_starts_or_ends_silence_proves_nothing() -> None:
    bench = Bench()
    verdict = await bench.look_up(bench.lost())
    assert isinstance(verdict, Unproven)
    assert "no run has started or ended" in verdict.reason


async def test_while_other_rows_are_left_a_lost_one_waits() -> None:
    bench = Bench()
    bench.last = False
    row = bench.lost()
    bench.entry("foreign", user="web", status="succeeded", after=3.0)
    looking = asyncio.ensure_future(bench.look_up(row))
    for _ in range(200):
        await asyncio.sleep(0)
    assert not looking.done()
    bench.last = True
    assert isinstance(await looking, Absent)


async def test_own_blocking_runs_do_not_prove_that_a_worker_takes_up_work() -> None:
    bench = Bench()
    row = bench.lost()
    bench.clock.now += 1
    bench.health.active("blocking")
    assert isinstance(await bench.look_up(row), Unproven)


async def test_what_a_dead_worker_had_reserved_comes_back_within_an_hour() -> None:
    bench = Bench()
    bench.lookups = bench.patient(5_000.0)
    row = bench.lost()
    bench.entry("dead", user="web", after=-3.0)
    bench.dead.add("dead")
    bench.entry("foreign", user="web", status="succeeded", after=3.0)
    began = bench.clock.now
    assert isinstance(await bench.look_up(row), Absent)
    assert bench.clock.now - began >= REDELIVERED


async def test_a_run_that_was_given_up_as_stuck_tells_of_a_dead_worker_too() -> None:
    bench = Bench()
    bench.health.worker_died(bench.clock.wall() - 900)
    bench.entry("foreign", user="web", status="succeeded", after=3.0)
    verdict = await bench.look_up(bench.lost())
    assert isinstance(verdict, Unproven)
    assert "a worker seems to have died" in verdict.reason


async def test_a_worker_that_died_long_before_reserved_nothing_of_now() -> None:
    bench = Bench()
    bench.health.worker_died(bench.clock.wall() - 1_600)
    bench.entry("foreign", user="web", status="succeeded", after=3.0)
    assert isinstance(await bench.look_up(bench.lost()), Absent)


async def test_a_log_whose_clock_is_ahead_of_the_server_s_date_hides_no_run_that_goes_on() -> None:
    bench = Bench()
    row = bench.lost()
    for ahead in (59.0, 61.0, 3.0):  # the last answer came long after its run had ended
        bench.health.told_time(ahead)
    bench.entry("foreign", user="web", after=57.0)
    bench.entry("newer", user="web", status="succeeded", after=90.0)
    verdict = await bench.look_up(row)
    assert isinstance(verdict, Unproven)
    assert "still goes on" in verdict.reason


async def test_a_run_that_began_while_the_request_still_stood_at_the_door_counts() -> None:
    bench = Bench()
    row = bench.lost()
    row.lost_at = row.posted_at + 40
    bench.entry("foreign", user="web", status="succeeded", after=3.0)
    bench.entry("later", user="web", after=30.0)
    bench.clock.now += 40
    verdict = await bench.look_up(row)
    assert isinstance(verdict, Unproven)
    assert "still goes on" in verdict.reason


async def test_a_log_closed_to_the_key_leaves_it_unknown() -> None:
    bench = Bench()
    bench.surface.log_error = AppError("forbidden")
    assert isinstance(await bench.look_up(bench.lost()), Unavailable)


async def test_retry_unknown_looks_once() -> None:
    bench = Bench()
    began = bench.clock.now
    assert isinstance(await bench.look_up(bench.lost(ask=Ask.ANYWAY)), Unproven)
    assert bench.clock.now == began


async def test_with_a_shared_user_the_details_of_a_run_are_asked_for_once() -> None:
    bench = Bench()
    rows = [bench.lost(f"r{number}", user="nightly") for number in range(4)]
    for number in range(60):
        bench.entry(f"run-{number}", user="nightly", status="succeeded")
        bench.surface.details[f"run-{number}"] = Detail(
            Running(RunRef("x"), ""), inputs=f'{{"query": "another {number}"}}'
        )
    verdicts = await asyncio.gather(*(bench.look_up(row) for row in rows))
    assert all(isinstance(verdict, Absent | Unproven) for verdict in verdicts)
    assert len(bench.surface.asked_details) <= 60 * 2, "remembered, but for what was asked for side by side"


async def test_a_row_in_flight_with_the_same_user_and_inputs_may_own_the_run() -> None:
    bench = Bench()
    row = bench.lost(user="nightly")
    twin = work("b", row=Row(Stage.SENT, row.row.sent))
    twin.inputs = row.inputs
    bench.others = [twin]
    bench.entry("run", user="nightly")
    looking = asyncio.ensure_future(bench.look_up(row))
    for _ in range(300):
        await asyncio.sleep(0)
    assert not looking.done()
    twin.row = replace_ref(twin.row)
    assert isinstance(await looking, Started)


def replace_ref(row: Row) -> Row:
    return row._replace(ref=RunRef("its own"))
