"""What the outcomes of all rows say about the server."""

from __future__ import annotations

import pytest

from dify_batch.engine.health import ALIKE, FOREIGN, kind_of_error, probably_dead
from dify_batch.outcomes import Failed, Lost, Outcome, Rejected, RunRef, RunResult, Succeeded, Throttled, Unreachable
from tests.support.clock import TestClock
from tests.support.engineparts import health

REF = RunRef("run")
GOOD = Succeeded(RunResult(REF, "succeeded", {}, elapsed_time=2.0))


def failed(text: str) -> Failed:
    return Failed(RunResult(REF, "failed", {}, error=text))


def note(bench: object, outcome: Outcome, *, in_flight: int = 3, row: str = "a") -> None:
    bench.ended(outcome, "streaming")  # type: ignore[attr-defined]
    now = bench._clock.monotonic()  # type: ignore[attr-defined]
    bench.note(outcome, row_id=row, seconds=1.0, sent=now, in_flight=in_flight, first=False)  # type: ignore[attr-defined]


async def test_runs_that_all_fail_alike_hold_the_batch_and_a_success_between_does_not() -> None:
    bench = health(TestClock())
    for number in range(ALIKE - 1):
        note(bench, failed(f"Rate limit of request 8f3a{number:04d}bc reached"))
    note(bench, GOOD)
    for number in range(ALIKE - 1):
        note(bench, failed(f"Rate limit of request 8f3a{number:04d}bc reached"))
    assert [bench.outage.active] == [False]
    note(bench, failed("Rate limit of request 8f3a9999bc reached"))
    assert bench.outage.active
    assert bench.outage.alike
    note(bench, failed("another error"))
    assert not bench.all_alike
    bench.outage.close()


def test_an_error_s_kind_leaves_out_what_is_particular() -> None:
    assert kind_of_error("node 12 of run 3f2a9c1db8e4 took 1.5 s") == kind_of_error(
        "node 9 of run 77aa00bb11cc took 30 s"
    )
    assert kind_of_error("quota") != kind_of_error("timeout")


async def test_a_firewall_s_word_about_one_row_is_an_outage_only_three_times_in_a_row() -> None:
    bench = health(TestClock())
    refused = Rejected("forbidden", "a firewall refused it", 403, foreign=True)
    for _ in range(FOREIGN - 1):
        note(bench, refused)
    note(bench, GOOD)
    for _ in range(FOREIGN - 1):
        note(bench, refused)
    assert [bench.outage.active] == [False]
    note(bench, refused)
    assert bench.outage.active
    bench.outage.close()


@pytest.mark.parametrize(
    ("outcome", "in_flight", "active"),
    [
        (Unreachable("refused"), 3, True),
        (Lost("HTTP 502"), 3, True),
        (Lost("timeout", server_error=False), 3, False),
        (Throttled("full"), 3, False),
        (Throttled("full"), 1, True),
        (Throttled("full", retry_after=600.0), 3, True),
        (Rejected("invalid_param", "query is required"), 3, False),
        (GOOD, 3, False),
    ],
)
async def test_who_makes_the_whole_batch_wait(outcome: Outcome, in_flight: int, active: bool) -> None:
    bench = health(TestClock())
    note(bench, outcome, in_flight=in_flight)
    assert bench.outage.active is active
    bench.outage.close()


async def test_rows_lost_together_are_excused_and_one_alone_is_not() -> None:
    bench = health(TestClock())
    note(bench, Lost("timeout", server_error=False), row="a")
    alone = bench.lost_together
    assert not bench.excuses(bench._clock.monotonic(), alone)
    note(bench, Lost("timeout", server_error=False), row="b")
    assert bench.excuses(bench._clock.monotonic(), alone)
    note(bench, GOOD)
    assert bench.excuses(bench._clock.monotonic(), alone), "they were lost together, whatever came after"
    note(bench, Lost("timeout", server_error=False), row="c")
    assert not bench.excuses(bench._clock.monotonic(), bench.lost_together)


def test_a_streamed_request_is_not_proved_alive_by_blocking_runs() -> None:
    clock = TestClock()
    bench = health(clock)
    sent = clock.monotonic()
    clock.now += 1
    bench.active("blocking")
    assert bench.alive_since(sent, "blocking")
    assert not bench.alive_since(sent, "streaming")
    bench.active("streaming")
    assert bench.alive_since(sent, "streaming")
    assert not bench.alive_since(clock.monotonic(), "streaming")


@pytest.mark.parametrize(
    ("suspect", "longest", "dead"),
    [(None, 1.0, False), (29.0, 1.0, False), (30.0, 1.0, True), (60.0, 25.0, False), (75.0, 25.0, True)],
)
def test_when_a_run_is_probably_dead(suspect: float | None, longest: float, dead: bool) -> None:
    assert probably_dead(suspect, longest) is dead
