"""How a batch stops: once, twice, thrice. Without an engine."""

from __future__ import annotations

import logging

import pytest

from dify_batch.engine.facts import Sent
from dify_batch.engine.row import Row, Stage
from dify_batch.engine.stopping import Stopping, error_of_fatal
from dify_batch.engine.work import Work
from dify_batch.errors import AppError, AuthError, BatchStopped, DifyBatchError, RateLimited
from dify_batch.outcomes import Fatal, RunRef
from tests.support.clock import TestClock
from tests.support.engineparts import FakeSurface, work


class UnderWay:
    def __init__(self, *rows: Work) -> None:
        self.rows = list(rows)
        self.cancelled: list[bool] = []
        self.looks = 0
        self.gone = False

    def works(self) -> list[Work]:
        return self.rows

    def cancel(self, *, unnamed_only: bool) -> None:
        self.cancelled.append(unnamed_only)
        self.rows = [one for one in self.rows if one.ref is not None] if unnamed_only else []

    def let_go(self) -> None:
        self.gone = True

    async def look_again(self, within: float) -> bool:
        self.looks += 1
        return self.looks < 3

    def changed(self) -> None:
        pass


def stopping(*rows: Work) -> tuple[Stopping, UnderWay, FakeSurface]:
    surface, under_way = FakeSurface(), UnderWay(*rows)
    found = Stopping(surface, TestClock(), under_way, release=lambda: None, look_with="dify-batch status r.jsonl")
    return found, under_way, surface


def sent(row_id: str, mode: str, ref: RunRef | None) -> Work:
    stage = Stage.KNOWN if ref else Stage.SENT
    return work(row_id, row=Row(stage, Sent("u", mode, 1.0), ref))


async def test_the_first_error_is_the_one_that_is_told() -> None:
    found, _, _ = stopping()
    first, second = DifyBatchError("one"), DifyBatchError("two")
    found.fail(first)
    found.fail(second)
    assert (found.error, found.taking, found.leaving) == (first, False, False)


async def test_a_stop_reaches_the_named_runs_and_says_which_it_cannot_reach(caplog: pytest.LogCaptureFixture) -> None:
    named = sent("a", "streaming", RunRef("run", "task"))
    found, under_way, surface = stopping(named, sent("b", "blocking", None), sent("c", "streaming", None))
    with caplog.at_level(logging.WARNING):
        found.begin_stop()
        await found.stopped()
    assert surface.stopped == ["task"]
    assert "1 blocking run has no task id" in caplog.text
    assert "1 request has not begun" in caplog.text
    assert under_way.cancelled == [True, False]
    assert not under_way.gone, "their streams tell how they end"
    assert found.leaving


async def test_so_many_failures_stop_it() -> None:
    found, _, _ = stopping()
    found.limit_failures(2)
    found.count_failure()
    assert [found.taking] == [True]
    found.count_failure()
    assert not found.taking
    assert isinstance(found.error, BatchStopped)
    assert "dify-batch status r.jsonl" in str(found.error.hint)


async def test_sleeps_end_when_no_rows_are_taken_and_pauses_when_it_leaves() -> None:
    found, _, _ = stopping()
    found.drain(DifyBatchError("stop"))
    await found.sleep(1000)
    found.leave()
    await found.pause(1000)


@pytest.mark.parametrize(
    ("fatal", "kind"),
    [
        (Fatal("auth", "unauthorized", "no"), AuthError),
        (Fatal("quota", "rate_limit_error", "no"), RateLimited),
        (Fatal("app", "app_unavailable", "no"), AppError),
    ],
)
def test_each_fatal_answer_has_its_error(fatal: Fatal, kind: type) -> None:
    error = error_of_fatal(fatal)
    assert isinstance(error, kind)
    assert error.hint
