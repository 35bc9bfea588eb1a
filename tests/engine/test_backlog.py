"""What the log tells of the queue, also where it has tens of thousands of runs."""

from __future__ import annotations

from dify_batch.dify.answers import LogEntry
from dify_batch.engine.backlog import Backlog, View
from tests.support.clock import TestClock
from tests.support.engineparts import FakeSurface

MANY = 20_000


class Bench:
    """A server that has executed MANY runs in the last twenty minutes."""

    def __init__(self, runs: int = MANY) -> None:
        self.clock = TestClock()
        self.surface = FakeSurface()
        self.now = self.clock.wall()
        begun = (int(self.now - 1200 * (1 - number / runs)) for number in range(runs))
        self.surface.entries = [
            LogEntry(f"run-{number}", "succeeded", at, at + 1, "web", None) for number, at in enumerate(begun)
        ][::-1]

    def set(self, number: int, status: str, *, ended: bool = False) -> None:
        old = self.surface.entries[number]
        finished = old.finished_at if ended else None
        self.surface.entries[number] = LogEntry(old.run_id, status, old.created_at, finished, old.user, None)

    async def view(self) -> View:
        backlog = Backlog(
            self.surface,
            self.clock,
            ours=lambda entry: False,
            over=lambda run_id: False,
            dead=lambda run_id: False,
            stuck_after=lambda: 1500.0,
        )
        return await backlog.view(self.now, last=True)


async def test_that_all_runs_have_ended_is_told_by_the_totals() -> None:
    bench = Bench()
    assert (await bench.view()).unfinished == 0
    assert bench.surface.log_requests < 10


async def test_runs_that_go_on_are_found_among_many() -> None:
    bench = Bench()
    for number in (3, 9_000, 19_990):
        bench.set(number, "running")
    bench.set(12_000, "partial-succeeded", ended=True)
    view = await bench.view()
    assert (view.unfinished, view.died) == (3, False)
    assert bench.surface.log_requests <= 210


async def test_a_log_that_does_not_heed_the_filter_tells_nothing_by_its_totals() -> None:
    bench = Bench()
    bench.surface.ignores_status = True
    assert (await bench.view()).unfinished is None


async def test_a_log_without_totals_is_read_page_by_page() -> None:
    for runs, unfinished in ((2_000, 1), (MANY, None)):
        bench = Bench(runs)
        bench.surface.tells_totals = False
        bench.set(runs // 2, "running")
        assert (await bench.view()).unfinished == unfinished
