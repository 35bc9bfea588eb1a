"""API or workers killed under a batch over each kind of app: what was in them is lost, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dify_batch.simulator import DEMO_KEYS, Config, SimulatorProcess
from tests.support.harness import LIMIT, command, environment, executed_more_than_once, places, until, write_csv

ROWS, AT_ONCE = 60, 8
BATCH = (
    "-i",
    "data.csv",
    "-o",
    "results.jsonl",
    "-q",
    "--concurrency",
    AT_ONCE,
    "--settle",
    "0.5",
    "--stuck-after",
    "4s",
    "--timeout",  # so long is a row looked up that nobody can tell of; by itself it would be 300 s
    "20",
)


@pytest.mark.parametrize(
    ("kind", "what", "lost"),
    [
        ("chatflow", "api", False),  # its runs go on in the worker, and are found by their ids
        ("chatflow", "worker", True),
        ("chat", "api", True),
        ("chat", "worker", False),
        ("agent", "api", True),
        ("completion", "api", True),
    ],
)
def test_what_dies_with_a_process_is_unknown_and_nothing_runs_twice(
    kind: str, what: str, lost: bool, tmp_path: Path
) -> None:
    ids = set(write_csv(tmp_path / "data.csv", ROWS))
    output = tmp_path / "results.jsonl"
    config = Config(latency=0.4, workers=AT_ONCE, linger_after_finish=0.2, user_creation=0.02)
    with SimulatorProcess(config) as server:
        env = environment(server.base_url, DEMO_KEYS[kind])
        with (tmp_path / "stderr.txt").open("wb") as stderr:
            batch = subprocess.Popen(command(*map(str, BATCH)), cwd=tmp_path, env=env, stderr=stderr)
            until(lambda: output.exists() and output.read_bytes().count(b"\n") >= AT_ONCE, "some rows are done")
            server.crash(what, 1.0)
            status = batch.wait(LIMIT)
        assert status in (0, 1), (tmp_path / "stderr.txt").read_text()
        found = places(output)
        assert found.done | found.retry == ids
        assert executed_more_than_once(server) == {}
    unknown = {row_id for row_id, row in found.state.rows.items() if row.kind == "unknown"}
    assert found.retry == unknown, "what is lost is unknown, not failed"
    assert bool(unknown) == lost
    assert len(unknown) <= AT_ONCE
