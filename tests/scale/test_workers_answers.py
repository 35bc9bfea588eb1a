"""What answers are worth, over several worker processes: the pilot's estimate, the schema, the second pass."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import environment, run, write_csv
from tests.support.workerprocs import done_ids

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pids of children are read from /proc")

CALL = ("-i", "data.csv", "-o", "results.jsonl", "--workers", "2", "--json")


@pytest.fixture
def server() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(Config(latency=0.05, workers=None, linger_after_finish=0.1)) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_csv(tmp_path / "data.csv", 60)
    return tmp_path


def test_a_pilot_tells_of_the_rest_and_so_does_a_dry_run(server: SimulatorProcess, folder: Path) -> None:
    env = environment(server.base_url, key="app-demo")
    pilot = run(folder, env, *CALL, "--sample", "20")
    assert (pilot.status, pilot.summary["success"], pilot.summary["untouched"]) == (0, 20, 40)
    assert (pilot.summary["rest"]["rows"], pilot.summary["rest"]["by_rows"]) == (40, 20)
    plan = json.loads(run(folder, env, *CALL, "--dry-run").out)
    assert plan["estimate"] == pilot.summary["rest"]


def test_what_misses_the_schema_goes_again_at_the_end(server: SimulatorProcess, folder: Path) -> None:
    server.faults(rows={"r5": ["big_event"], "r6": ["big_event"] * 2, "r7": ["failed"]})
    (folder / "schema.json").write_text(json.dumps({"properties": {"query": {"maxLength": 100}}}))
    done = run(folder, environment(server.base_url), *CALL, "--expect", "schema.json", "--retry-pass")
    assert (done.status, done.summary["success"], done.summary["invalid"]) == (1, 59, 1)
    assert len(done_ids(folder)) == 59


def test_a_schema_that_is_none_begins_no_worker(server: SimulatorProcess, folder: Path) -> None:
    (folder / "schema.json").write_text('{"type": "text"}')
    done = run(folder, environment(server.base_url), *CALL, "--expect", "schema.json")
    assert (done.status, done.error["code"]) == (2, "usage_invalid_flag")
    assert server.state(runs=False)["post_total"] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["data.csv", "schema.json"]
