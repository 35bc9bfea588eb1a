"""A server that is away costs no row: the batch waits as one, and goes on when it is back."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import (
    LIMIT,
    Ran,
    command,
    environment,
    executed_more_than_once,
    places,
    run,
    until,
    write_csv,
)

ROWS = 60
FLAGS = ("-i", "data.csv", "-o", "results.jsonl", "--json", "--concurrency", "8", "--settle", "1")


def start(folder: Path, server: SimulatorProcess, *more: str) -> subprocess.Popen[str]:
    """A batch; to be ended by `ended`."""
    return subprocess.Popen(
        command(*FLAGS, "--initial-retry-delay", "0.2", "--max-retry-delay", "1", "--max-retries", "0", *more),
        cwd=folder,
        env=environment(server.base_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> Ran:
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=LIMIT)
    return Ran(process.returncode, out, err)


def probes(server: SimulatorProcess) -> int:
    return int(server.state(runs=False)["requests"].get("GET info", 0))


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
@pytest.mark.parametrize("outage", ["refuse", "outage_500", "redis_down"])
def test_an_outage_in_the_middle_costs_no_row(outage: str, mode: str, tmp_path: Path) -> None:
    """With no retries at all: a row that failed from the outage would be in `.retry`."""
    write_csv(tmp_path / "data.csv", ROWS)
    with SimulatorProcess(Config(latency=0.3, workers=None, linger_after_finish=0.2)) as server:
        process = start(tmp_path, server, "--mode", mode)
        until(lambda: int(server.state(runs=False)["post_total"]) > 10, "the batch is under way")
        if outage == "refuse":
            server.refuse(seconds=3)
        else:
            server.faults(server={"name": outage, "seconds": 1})
            posts = int(server.state(runs=False)["post_total"])
            until(lambda: probes(server) >= 4, "it is asked again and again for a sign of life")
            assert process.poll() is None
            # eight may have been on their way, and then one goes first at a time
            assert int(server.state(runs=False)["post_total"]) - posts < 8 + 12
            server.faults(server=None)
        ran = ended(process)
        assert (ran.status, ran.err) == (0, "")
        assert executed_more_than_once(server) == {}
    assert len(places(tmp_path / "results.jsonl").done) == ROWS


def test_an_outage_that_lasts_too_long_ends_the_batch_with_the_rest_untouched(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", ROWS)
    with SimulatorProcess(Config(latency=0.2, workers=None, linger_after_finish=0.2)) as server:
        process = start(tmp_path, server, "--max-outage", "2s")
        until(lambda: int(server.state(runs=False)["post_total"]) > 10, "the batch is under way")
        server.refuse(True)
        ran = ended(process)
        assert ran.status == 1
        assert ran.error["code"] == "network_connection"
        assert ran.summary["untouched"] > 0
        assert ran.summary["failed"] == ran.summary["unknown"] == 0
        server.refuse(False)
        again = run(tmp_path, environment(server.base_url), *FLAGS)
        assert (again.status, again.err) == (0, "")
        assert executed_more_than_once(server) == {}
    assert len(places(tmp_path / "results.jsonl").done) == ROWS


def test_throttling_that_lasts_too_long_is_a_rate_limit(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 5)
    with SimulatorProcess(Config(latency=0.05)) as server:
        server.faults(all="throttle_429")
        ran = ended(start(tmp_path, server, "--max-outage", "1s"))
        assert (ran.status, ran.error["code"]) == (7, "rate_limited")
        assert ran.summary["untouched"] == 5
        assert server.state(runs=False)["executions"] == {}


def test_the_app_s_own_limit_is_kept_without_failures(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", ROWS)
    with SimulatorProcess(Config(latency=0.1, max_active_requests=3)) as server:
        ran = ended(start(tmp_path, server, "--mode", "blocking"))
        state = server.state(runs=False)
        assert (ran.status, ran.err) == (0, "")
        assert state["max_running"] <= 3
        assert state["post_total"] < ROWS * 2, "refusals are few once the limit has been met"
    assert len(places(tmp_path / "results.jsonl").done) == ROWS


def test_a_server_that_is_away_at_the_beginning_is_waited_for(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 3)
    with SimulatorProcess(Config(latency=0.05)) as server:
        server.refuse(seconds=1.5)
        ran = ended(start(tmp_path, server))
        assert (ran.status, ran.summary["success"]) == (0, 3)
        server.refuse(True)
        gone = ended(start(tmp_path, server, "--max-outage", "1s"))
        assert (gone.status, gone.error["code"]) == (1, "network_connection")
        server.refuse(False)


def test_a_log_closed_to_the_key_leaves_a_lost_row_unknown(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 3)
    with SimulatorProcess(Config(latency=0.05)) as server:
        server.faults(server="closed_log", rows={"r2": ["cut_after_accept"]})
        ran = ended(start(tmp_path, server))
        assert (ran.status, ran.summary["unknown"]) == (1, 1)
        assert places(tmp_path / "results.jsonl").retry == {"r2"}
        server.faults(server=None)
        again = run(tmp_path, environment(server.base_url), *FLAGS, "--retry")
        assert (again.status, again.summary["recovered"]) == (0, 1)
        assert executed_more_than_once(server) == {}, "an unknown row is looked up before it is run again"
