"""Every fault of the simulator, in both modes, under every policy, with real processes.

For each: how often the server executed the row, where the row is afterwards, and that it is nowhere else.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dify_batch.simulator import RUN_FAULTS, Config, SimulatorProcess
from tests.support.harness import Ran, environment, places, run, write_csv

POLICIES = ("strict", "safe", "all")
MODES = ("streaming", "blocking")
PLACES = ("done", "retry", "paused", "running")

# Where a row ends, and how often it was executed: one value for all policies, or one for each.
Ending = tuple[str, int]
DONE, RETRY, PAUSED, RUNNING = ("done", 1), ("retry", 1), ("paused", 1), ("running", 1)
REFUSED: Ending = ("retry", 0)
NEVER_RAN: dict[str, Ending] = {"strict": REFUSED, "safe": DONE, "all": DONE}

ENDINGS: dict[str, Ending | dict[str, Ending]] = {
    "normal": DONE,
    # no run was made, and the client cannot know: repeated unless the policy is strict
    "cut_before": NEVER_RAN,
    "error_500": NEVER_RAN,
    "error_502": NEVER_RAN,
    "error_503": NEVER_RAN,
    "error_unknown": NEVER_RAN,
    # a run was made, and the answer was lost: found, and never sent again
    "cut_after_accept": DONE,
    "cut_after_start": DONE,
    "cut_mid_stream": DONE,
    "clean_end": DONE,
    "error_500_run": DONE,
    "error_502_run": DONE,
    "bad_request_unknown": DONE,
    "error_event_after_start": DONE,
    "silence": DONE,
    "silence_before_start": DONE,
    # no run was made, and the server says so
    "throttle_429": DONE,
    "throttle_400": DONE,
    "rejected": REFUSED,
    # a run was made, and its end is told
    "failed": {"strict": RETRY, "safe": RETRY, "all": ("done", 2)},
    "partial": DONE,
    "stopped": RETRY,
    "stopped_but_succeeds": DONE,
    "paused": PAUSED,
    "db_down_at_end": DONE,
    "slow_queue": DONE,
    "slow_answer": DONE,
    "big_event": DONE,
    "unknown_event": DONE,
    "split_utf8": DONE,
    # a run was made, and says running for ever
    "zombie": RUNNING,
    "zombie_blocking": RUNNING,
}
# While one of these says running, nothing proves that a lost request does not wait behind it.
FOR_EVER = ("zombie", "zombie_blocking")
# Each of these ends the batch: exit status, and the code of the error.
FATAL = {
    "quota": (7, "rate_limited"),
    "quota_provider": (7, "rate_limited"),
    "not_initialized": (1, "server_4xx_other"),
    "bad_key": (4, "auth_expired"),
    "forbidden": (4, "access_denied"),
}
SECONDS = {"slow_queue": 1.5, "slow_answer": 1.5}


def test_every_fault_has_its_ending() -> None:
    assert set(RUN_FAULTS) == set(ENDINGS) | set(FATAL)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", MODES)
def test_faults_of_one_request(mode: str, policy: str, tmp_path: Path) -> None:
    seen, ran = endings(tmp_path, [fault for fault in ENDINGS if fault not in FOR_EVER], mode, policy)
    expected = {}
    for fault in seen:
        ending = ENDINGS[fault]
        expected[fault] = ending[policy] if isinstance(ending, dict) else ending
    assert seen == expected
    assert ran.status == 1, "rows failed"
    assert ran.error["code"] == "rows_failed"
    summary = ran.summary
    states = ("done_before", "success", "partial_success", "failed", "unknown", "paused", "running")
    assert sum(summary[state] for state in states) + summary["retry_waiting"] + summary["untouched"] == len(seen)
    assert summary["partial_success"] == 1
    assert summary["paused"] == 1


@pytest.mark.parametrize(("mode", "fault"), [("streaming", "zombie"), ("blocking", "zombie_blocking")])
def test_behind_a_run_that_says_running_a_lost_request_may_still_wait(mode: str, fault: str, tmp_path: Path) -> None:
    seen, ran = endings(tmp_path, [fault, "cut_before", "normal"], mode, "safe")
    assert seen == {fault: RUNNING, "cut_before": REFUSED, "normal": DONE}
    assert ran.summary["unknown"] == 1


def endings(tmp_path: Path, faults: list[str], mode: str, policy: str) -> tuple[dict[str, Ending], Ran]:
    """One batch with a row for each fault: where each row is afterwards, and how often it was executed."""
    data = tmp_path / "data.csv"
    data.write_text("id,query\n" + "".join(f"{fault},question of {fault}\n" for fault in faults), encoding="utf-8")
    plan = {fault: [{"name": fault, "seconds": SECONDS.get(fault, 0)}] for fault in faults}
    with SimulatorProcess(Config(latency=0.1, workers=None, linger_after_finish=0.2)) as server:
        server.faults(rows=plan)
        ran = run(
            tmp_path,
            environment(server.base_url),
            *("-i", "data.csv", "-o", "results.jsonl", "--json", "--mode", mode, "--retry-policy", policy),
            *("--concurrency", "40", "--timeout", "5", "--settle", "2", "--initial-retry-delay", "0.1"),
        )
        executions = server.state(runs=False)["executions"]
    found = places(tmp_path / "results.jsonl")
    seen = {
        fault: (
            next(
                (name for name in ("done", "retry", "paused", "running") if fault in getattr(found, name)), "untouched"
            ),
            executions.get(fault, 0),
        )
        for fault in faults
    }
    return seen, ran


@pytest.mark.parametrize("fault", FATAL)
@pytest.mark.parametrize("mode", MODES)
def test_faults_that_concern_every_row_stop_the_batch(fault: str, mode: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 30)
    with SimulatorProcess(Config(latency=0.05, workers=None)) as server:
        server.faults(rows={"r5": [fault]})
        ran = run(
            tmp_path,
            environment(server.base_url),
            *("-i", "data.csv", "-o", "results.jsonl", "--json", "--mode", mode, "--concurrency", "2"),
        )
        status, code = FATAL[fault]
        assert (ran.status, ran.error["code"], ran.out) == (status, code, "")
        assert ran.summary["untouched"] > 20
        assert ran.summary["failed"] == ran.summary["retry_waiting"] == 0
        assert "r5" not in server.state(runs=False)["executions"]
        again = run(tmp_path, environment(server.base_url), "-i", "data.csv", "-o", "results.jsonl", "--json")
        assert (again.status, again.err) == (0, "")
        assert set(server.state(runs=False)["executions"].values()) == {1}
    assert len(places(tmp_path / "results.jsonl").done) == 30
