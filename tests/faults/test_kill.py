"""kill -9 at random moments of a batch, again and again: no row twice, none missing, files whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import LIMIT, command, environment, executed_more_than_once, places, write_csv

# The long version, for a release: DIFY_BATCH_KILLS=200 DIFY_BATCH_KILL_ROWS=1000 DIFY_BATCH_KILL_LATENCY=2
ROWS = int(os.environ.get("DIFY_BATCH_KILL_ROWS", "150"))
KILLS = int(os.environ.get("DIFY_BATCH_KILLS", "8"))
LATENCY = float(os.environ.get("DIFY_BATCH_KILL_LATENCY", "0.2"))
MIX = {"cut_before": 0.02, "cut_after_accept": 0.02, "cut_after_start": 0.02, "error_500_run": 0.02, "failed": 0.01}


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
def test_kill_at_random_moments(mode: str, tmp_path: Path) -> None:
    ids = write_csv(tmp_path / "data.csv", ROWS)
    output = tmp_path / "results.jsonl"
    rng = random.Random(f"{mode}-7")
    arguments = command(
        *("-i", "data.csv", "-o", output.name, "-q", "--concurrency", "20", "--mode", mode, "--settle", "1")
    )
    with SimulatorProcess(Config(latency=LATENCY, workers=None, linger_after_finish=0.2)) as server:
        server.faults(mix=MIX, seed=3)
        kills = ended = 0
        log = tmp_path / "stderr.txt"
        for _ in range(KILLS * 3 + 5):
            with log.open("wb") as stderr:
                batch = subprocess.Popen(arguments, cwd=tmp_path, env=environment(server.base_url), stderr=stderr)
                try:
                    # The moment is random between the first journal line and the end of a fifth of the rows.
                    status = batch.wait(rng.uniform(0.4, 1.2) if kills < KILLS else LIMIT)
                except subprocess.TimeoutExpired:
                    os.kill(batch.pid, signal.SIGKILL)
                    batch.wait(LIMIT)
                    kills += 1
                    places(output)
                    continue
            assert status in (0, 1), log.read_text()  # 1: rows that failed
            ended += 1
            if ended >= 1 and kills >= KILLS:
                break
            if len(places(output).done) + len(places(output).retry) == ROWS:
                break
        found = places(output)
        print(f"{kills} kills, {ended} ends")
        assert kills >= min(KILLS, 3)
        assert found.done | found.retry == set(ids)
        assert not found.running
        assert not found.paused
        assert executed_more_than_once(server) == {}
        executions = server.state(runs=False)["executions"]
        assert set(executions) == set(ids)
    assert {row.kind for row in found.state.rows.values()} <= {"failed", ""}
