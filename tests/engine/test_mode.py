"""Which response mode `--mode auto` takes."""

from __future__ import annotations

import pytest

from dify_batch.engine.mode import Mode, Modes
from dify_batch.outcomes import Failed, Lost, Outcome, Paused, Rejected, Running, RunRef, RunResult, Succeeded

REF = RunRef("run")
CUT = Lost("connection cut")


def run(seconds: float) -> Succeeded:
    return Succeeded(RunResult(REF, "succeeded", {}, elapsed_time=seconds))


def after(*told: tuple[Outcome, float], modes: Modes | None = None) -> Modes:
    modes = modes or Modes("auto")
    for outcome, seconds in told:
        modes.ended(outcome, modes.current, seconds)
    return modes


SHORT = [(run(0.2), 1.2)] * 20
PAUSE: list[tuple[Outcome, float]] = [(Paused(REF), 1.0)]


@pytest.mark.parametrize(
    ("told", "mode"),
    [
        ([], "streaming"),
        (SHORT[:19], "streaming"),
        (SHORT, "blocking"),
        ([(Failed(RunResult(REF, "failed", {}, elapsed_time=0.1)), 1.0)] * 20, "blocking"),
        ([(run(12.0), 13.0)] * 40, "streaming"),
        ([*SHORT[:18], (run(15.0), 15.0), (run(15.0), 15.0)], "streaming"),
        ([*SHORT, (run(25.0), 25.0)], "streaming"),
        ([*SHORT, (run(25.0), 25.0), *SHORT[:19]], "streaming"),
        ([*SHORT, (run(25.0), 25.0), *SHORT], "blocking"),
        ([*SHORT, *PAUSE], "streaming"),
        ([*SHORT, *PAUSE, *SHORT, *SHORT], "streaming"),
        ([*SHORT, (Lost("HTTP 504", 504), 60.0), *SHORT], "streaming"),
        ([*SHORT, (Lost("HTTP 524", 524), 100.0), *SHORT], "streaming"),
        ([*SHORT, (CUT, 60.1), *SHORT], "streaming"),
        ([*SHORT, (CUT, 3.3)], "blocking"),
        ([*SHORT, (Lost("HTTP 502", 502), 1.0)], "blocking"),
        ([*SHORT, (Running(REF, "timeout"), 300.0)], "streaming"),
        ([(Rejected("invalid_param", "no"), 0.1)] * 40, "streaming"),
    ],
)
def test_the_mode_after(told: list[tuple[Outcome, float]], mode: Mode) -> None:
    assert after(*told).current == mode


@pytest.mark.parametrize("asked", ["streaming", "blocking"])
def test_a_mode_that_was_asked_for_stays(asked: Mode) -> None:
    modes = after(*SHORT, *PAUSE, modes=Modes(asked))
    assert (modes.current, modes.why) == (asked, "as asked for")


def test_a_budget_in_money_keeps_streaming() -> None:
    modes = after(*SHORT, modes=Modes("auto", stay="streaming"))
    assert modes.current == "streaming"
    assert "--max-cost" in modes.why


def test_a_change_is_told_once() -> None:
    modes = after(*SHORT[:19])
    assert modes.ended(run(0.2), "streaming", 1.2)
    assert not modes.ended(run(0.2), "blocking", 0.3)
    assert "20 of the last 20 runs" in modes.why
