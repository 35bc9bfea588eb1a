"""What is repeated under each policy, and how long it waits."""

from __future__ import annotations

import statistics

import pytest

from dify_batch.engine.policy import Follow, GiveUp, Keep, LookUp, PolicyName, Repeat, RetryPolicy, Stop, waiting
from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Paused,
    Rejected,
    Running,
    RunRef,
    RunResult,
    Succeeded,
    Throttled,
    Unreachable,
)

REF = RunRef("run", "task")
POLICIES: tuple[PolicyName, ...] = ("strict", "safe", "all")


def result(status: str) -> RunResult:
    return RunResult(REF, status, {}, error="node broke")


def decide(outcome: Outcome, policy: PolicyName = "safe", retries: int = 0) -> object:
    return RetryPolicy(policy).decide(outcome, retries=retries, repetition=retries + 1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("outcome", "follows"),
    [
        (Succeeded(result("succeeded")), Keep),
        (Paused(REF), Keep),
        (Failed(result("stopped")), GiveUp),
        (Failed(result("stopped"), confirmed=False), Follow),
        (Rejected("invalid_param", "query is required"), GiveUp),
        (Throttled("Too many requests."), Repeat),
        (Unreachable("refused"), Repeat),
        (Running(REF, "cut"), Follow),
        (Lost("cut"), LookUp),
        (Fatal("auth", "unauthorized", "no"), Stop),
    ],
)
def test_what_follows_whatever_the_policy(outcome: Outcome, follows: type, policy: PolicyName) -> None:
    assert isinstance(decide(outcome, policy), follows)


def test_failed_runs_are_repeated_by_all_alone_and_not_for_ever() -> None:
    failed = Failed(result("failed"))
    assert isinstance(decide(failed, "strict"), GiveUp)
    assert isinstance(decide(failed, "safe"), GiveUp)
    repeat = decide(failed, "all")
    assert isinstance(repeat, Repeat)
    assert repeat.charged
    given_up = decide(failed, "all", retries=3)
    assert given_up == GiveUp("failed", "run_failed", "node broke", "run")


def test_an_outage_uses_up_no_retries() -> None:
    for outcome in (Throttled("full"), Unreachable("refused")):
        decision = decide(outcome, retries=99)
        assert isinstance(decision, Repeat)
        assert not decision.charged


def test_a_lost_request_that_the_log_does_not_show() -> None:
    absent = RetryPolicy("strict").decide_absent("cut", retries=0, repetition=1, excused=False)
    assert isinstance(absent, GiveUp)
    assert absent.kind == "unknown"
    for policy in ("safe", "all"):
        again = RetryPolicy(policy).decide_absent("cut", retries=2, repetition=3, excused=False)
        assert isinstance(again, Repeat)
        assert again.charged
        used_up = RetryPolicy(policy).decide_absent("cut", retries=3, repetition=4, excused=False)
        assert isinstance(used_up, GiveUp)
        excused = RetryPolicy(policy).decide_absent("cut", retries=3, repetition=4, excused=True)
        assert isinstance(excused, Repeat)
        assert not excused.charged


def test_a_lost_request_whose_log_cannot_be_had() -> None:
    for policy in ("strict", "safe"):
        decision = RetryPolicy(policy).decide_unavailable("closed", retries=0, repetition=1)
        assert isinstance(decision, GiveUp)
        assert decision.kind == "unknown"
    assert isinstance(RetryPolicy("all").decide_unavailable("closed", retries=0, repetition=1), Repeat)
    assert isinstance(RetryPolicy("all").decide_unavailable("closed", retries=3, repetition=4), GiveUp)


def test_the_wait_is_drawn_evenly_up_to_a_bound_that_doubles() -> None:
    policy = RetryPolicy(initial=1, maximum=60)
    for repetition, bound in ((1, 1), (2, 2), (4, 8), (7, 60), (1000, 60)):
        waits = [policy.wait(repetition) for _ in range(400)]
        assert all(0 <= wait <= bound for wait in waits)
        assert statistics.mean(waits) == pytest.approx(bound / 2, rel=0.25)


def test_retry_after_is_honoured_up_to_the_maximum() -> None:
    policy = RetryPolicy(initial=1, maximum=60)
    assert policy.wait(1, 7.5) == 7.5
    assert policy.wait(1, 3600) == 60
    assert policy.wait(1, 0) == 0


def test_waits_are_switched_off_in_one_place() -> None:
    with waiting(False):
        assert RetryPolicy(initial=100, maximum=100).wait(5, 30) == 0
    assert max(RetryPolicy(initial=100, maximum=100).wait(5) for _ in range(50)) > 1
