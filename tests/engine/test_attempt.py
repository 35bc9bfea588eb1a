"""One attempt: what is told of it, in which order, and what never leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from dify_batch.engine.attempt import Attempts
from dify_batch.engine.claims import Claims
from dify_batch.engine.course import Rules, advance
from dify_batch.engine.facts import Answered, Fact, NotSent, Sent, Started
from dify_batch.engine.pace import Starts
from dify_batch.engine.row import Stage
from dify_batch.engine.slots import Slots
from dify_batch.engine.work import Work
from dify_batch.errors import AppError, ConnectionFailed, DifyBatchError, RateLimited, ServerError, UsageError
from dify_batch.input.files import Inputs, LocalFile
from dify_batch.outcomes import Failed, Fatal, Lost, Rejected, RunRef, RunResult, Succeeded, Throttled, Unreachable
from tests.support.clock import TestClock
from tests.support.engineparts import FakeSurface, health, no_pause, work

REF = RunRef("run-1", "task-1")


class Journal:
    def __init__(self) -> None:
        self.intents: list[str] = []

    def next_attempt(self, row_id: str) -> int:
        return self.intents.count(row_id) + 1

    async def sent(
        self, row_id: str, *, user: str, mode: str, server: float | None = None, trace: str = "", shared: bool = False
    ) -> int:
        self.intents.append(row_id)
        return 1


async def test_how_far_the_times_of_runs_are_ahead_of_the_server_s_date_is_learnt() -> None:
    bench = Bench()
    end = int(bench.clock.wall()) + 60
    bench.surface.outcomes = [Succeeded(RunResult(REF, "succeeded", {}, elapsed_time=1.0, finished_at=end))]
    await bench.make(work("a"))
    assert 59 <= bench.health.log_ahead <= 60


class Bench:
    """An attempt with stand-ins around it; `told` has the facts in order."""

    def __init__(self, *, may_send: bool = True, rate: float | None = None, template: str | None = None) -> None:
        self.clock = TestClock()
        self.surface = FakeSurface()
        self.journal = Journal()
        self.claims = Claims()
        self.health = health(self.clock)
        self.told: list[Fact] = []
        self.posts = 0
        self.attempts = Attempts(
            self.surface,
            self.journal,
            Slots("ab", template),
            self.claims,
            self.health,
            Starts(self.clock, rate=rate),
            self.clock,
            mode=lambda: "streaming",
            timeout=9.0,
            tell=self.tell,
            may_send=lambda _: may_send,
            in_flight=lambda: 1,
            pause=no_pause,
            trace=lambda row_id, attempt: f"ab-{row_id}-{attempt}",
            posted=self.posted,
        )

    def tell(self, row: Work, fact: Fact) -> None:
        self.told.append(fact)
        row.row, _ = advance(Rules(), row.row, fact)

    def posted(self, more: int) -> None:
        self.posts += more

    async def make(self, row: Work) -> list[str]:
        await self.attempts.make(row, goes_first=False)
        return [type(fact).__name__ for fact in self.told]


def done(ref: RunRef = REF) -> Succeeded:
    return Succeeded(RunResult(ref, "succeeded", {"answer": "x"}, elapsed_time=1.0))


async def test_the_intent_is_durable_before_the_request_goes_and_the_run_before_its_end() -> None:
    bench = Bench()
    row = work()

    def answer(on_started: object) -> Succeeded:
        assert bench.journal.intents == ["a"]
        on_started(REF)  # type: ignore[operator]
        assert isinstance(bench.told[-1], Started)
        return done()

    bench.surface.outcomes = [answer]
    assert await bench.make(row) == ["Sent", "Started", "Answered"]
    assert row.row.stage is Stage.SETTLED
    assert bench.surface.posts[0]["user"] == "dify-batch-ab-1"


async def test_a_blocking_answer_names_its_run_before_its_end_is_told() -> None:
    bench = Bench()
    bench.surface.outcomes = [done()]
    assert await bench.make(work()) == ["Sent", "Started", "Answered"]


async def test_an_answer_that_names_another_row_s_run_is_no_answer() -> None:
    bench = Bench()
    bench.claims.claim("run-1", "other")
    bench.surface.outcomes = [done()]
    row = work()
    assert await bench.make(row) == ["Sent", "Answered"]
    assert row.row.stage is Stage.LOST
    stream = Bench()
    stream.claims.claim("run-1", "other")

    def answer(on_started: object) -> Succeeded:
        on_started(REF)  # type: ignore[operator]
        return done()

    stream.surface.outcomes = [answer]
    assert await stream.make(row := work()) == ["Sent", "Answered"]
    assert row.row.stage is Stage.LOST


async def test_a_lost_request_takes_its_user_with_it() -> None:
    bench = Bench()
    bench.surface.outcomes = [Lost("cut"), done()]
    await bench.make(work("a"))
    await bench.make(work("b"))
    assert [post["user"] for post in bench.surface.posts] == ["dify-batch-ab-1", "dify-batch-ab-2"]


async def test_what_did_not_leave_is_not_counted() -> None:
    bench = Bench()
    bench.surface.outcomes = [Unreachable("refused")]
    await bench.make(work())
    assert bench.posts == 0
    assert bench.health.outage.active
    bench.health.outage.close()


async def test_a_batch_that_stops_while_the_rate_holds_a_row_back_does_not_send_it() -> None:
    bench = Bench(may_send=False, rate=0.001)
    row = work()
    bench.surface.outcomes = [done()]
    bench.attempts._gate.claim()
    assert await bench.make(row) == ["NotSent"]
    assert isinstance(bench.told[0], NotSent)
    assert bench.surface.posts == []


@pytest.mark.parametrize(
    ("answer", "outcome", "charged"),
    [
        (ConnectionFailed("refused"), Unreachable, False),
        (RateLimited("429"), Throttled, None),
        (ServerError("too large", http_status=413), Rejected, None),
        (ServerError("unsupported", http_status=415), Rejected, None),
        (AppError("no file", http_status=400, server={"code": "no_file_uploaded"}), Rejected, None),
        (ServerError("broken", http_status=500), Unreachable, True),
        (UsageError("cannot read it"), Rejected, None),
    ],
)
async def test_an_upload_s_answer_is_an_outcome_of_the_row(
    answer: DifyBatchError, outcome: type, charged: bool | None, tmp_path: Path
) -> None:
    bench = Bench()
    bench.surface.uploads = [answer]
    file = LocalFile(tmp_path / "a.pdf", "document")
    row = Work("a", 1, Inputs({"file": file}, has_local=True))
    assert await bench.make(row) == ["Sent", "Answered"]
    assert isinstance(bench.told[-1], Answered)
    told = bench.told[-1].outcome
    assert isinstance(told, outcome)
    assert not isinstance(told, Fatal)
    assert charged is None or (isinstance(told, Unreachable) and told.charged is charged)
    assert bench.surface.posts == []
    assert bench.journal.intents == [], "no run can come of it, so no intent is written"
    bench.health.outage.close()


@pytest.mark.parametrize("customer", ["", "x" * 300, "a\0b"])
async def test_a_user_that_dify_does_not_take_is_not_sent(customer: str) -> None:
    bench = Bench(template="{customer}")
    row = work(cells={"customer": customer})
    await bench.make(row)
    assert row.row.stage is Stage.SETTLED
    assert isinstance(bench.told[0], Sent)
    assert bench.surface.posts == []


async def test_a_run_that_nobody_has_named_ends_its_user() -> None:
    """Its message stands on the server, and a look-up of the next row must not take it for that row's."""
    bench = Bench()
    unnamed = Failed(RunResult(RunRef(""), "failed", {}, error="the model said no"))
    refused = Rejected("invalid_param", "refused", 400, left=True)
    bench.surface.outcomes = [unnamed, refused, Rejected("invalid_param", "refused", 400), done()]
    for name in "abcd":
        await bench.make(work(name))
    users = [post["user"] for post in bench.surface.posts]
    assert users == ["dify-batch-ab-1", "dify-batch-ab-2", "dify-batch-ab-3", "dify-batch-ab-3"]
    assert [type(fact).__name__ for fact in bench.told][:4] == ["Sent", "Answered", "Sent", "Answered"]


async def test_a_chatflow_s_run_is_its_row_s_under_both_its_names() -> None:
    bench = Bench()
    ref = RunRef("run-1", "task-1", "talk-1")
    bench.surface.outcomes = [done(ref), done(RunRef("run-2", "task-2", "talk-1"))]
    await bench.make(work("a"))
    assert bench.claims.taken("run-1", "b")
    assert bench.claims.taken("talk-1", "b")
    await bench.make(work("b"))
    answer = bench.told[-1]
    assert isinstance(answer, Answered)
    assert isinstance(answer.outcome, Lost), "a conversation is one row's only"
