"""kill -9 at random moments of a batch over each kind of app, with cuts on its way: none lost, none twice, and only a
completion's lost request unknown."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from dify_batch.simulator import DEMO_KEYS, Config, SimulatorProcess
from tests.support.harness import LIMIT, command, environment, executed_more_than_once, places, results, write_csv

# The long version, for a release: DIFY_BATCH_KILLS=40 DIFY_BATCH_KILL_ROWS=1000
ROWS = int(os.environ.get("DIFY_BATCH_KILL_ROWS", "100"))
KILLS = int(os.environ.get("DIFY_BATCH_KILLS", "4"))
CUTS = {"cut_before": 0.02, "cut_after_accept": 0.03, "error_500_run": 0.02}
STREAM_CUTS = CUTS | {"cut_after_start": 0.03, "cut_mid_stream": 0.03}
MIX = {"chatflow": STREAM_CUTS, "agent": STREAM_CUTS, "chat": CUTS, "completion": CUTS}


@pytest.mark.parametrize("kind", MIX)
def test_kill_at_random_moments(kind: str, tmp_path: Path) -> None:
    ids = set(write_csv(tmp_path / "data.csv", ROWS))
    output = tmp_path / "results.jsonl"
    rng = random.Random(f"{kind}-11")
    arguments = command(*("-i", "data.csv", "-o", output.name, "-q", "--concurrency", "10", "--settle", "0.5"))
    config = Config(latency=0.2, workers=None, linger_after_finish=0.2, user_creation=0.02)
    with SimulatorProcess(config) as server:
        server.faults(mix=MIX[kind], seed=5)
        env = environment(server.base_url, DEMO_KEYS[kind])
        kills = 0
        for _ in range(KILLS * 3 + 5):
            with (tmp_path / "stderr.txt").open("wb") as stderr:
                batch = subprocess.Popen(arguments, cwd=tmp_path, env=env, stderr=stderr)
                try:
                    status = batch.wait(rng.uniform(0.6, 1.4) if kills < KILLS else LIMIT)
                except subprocess.TimeoutExpired:
                    os.kill(batch.pid, signal.SIGKILL)
                    batch.wait(LIMIT)
                    kills += 1
                    places(output)
                    continue
            assert status in (0, 1), (tmp_path / "stderr.txt").read_text()
            if kills >= KILLS or len(places(output).done) + len(places(output).retry) == ROWS:
                break
        found = places(output)
        assert kills >= min(KILLS, 2)
        assert found.done | found.retry == ids
        assert not found.running
        assert executed_more_than_once(server) == {}
        unknown = {row_id for row_id, row in found.state.rows.items() if row.kind == "unknown"}
        print(f"{kind}: {kills} kills, {len(found.done)} done, {len(unknown)} unknown")
        assert found.retry == unknown
        if kind == "completion":
            assert unknown, "nothing tells what became of a lost completion"
        else:
            assert not unknown
    for line in results(output):
        assert line["outputs"]["answer"] == f"Echo: {line['inputs']['query']}"
