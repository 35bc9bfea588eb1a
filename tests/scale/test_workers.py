"""Several worker processes on one batch: each row once, whoever is killed, stopped, or started twice."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch import Secret, Settings, UsageError, run_batch, run_workers
from dify_batch.ledger.formats import Paths, utc
from dify_batch.ledger.lock import OutputLock
from dify_batch.ledger.shards import part_of
from dify_batch.scale.permits import LIFETIME
from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import environment as environment_of
from tests.support.harness import executed_more_than_once, run, until, write_csv
from tests.support.workerprocs import all_places, coordinator, done_ids, is_worker, outputs, part_of_worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pids of children are read from /proc")

ROWS = 120


@pytest.fixture
def server() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(Config(latency=0.2, workers=None, linger_after_finish=0.1)) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_csv(tmp_path / "data.csv", ROWS)
    return tmp_path


def each_once(server: SimulatorProcess, folder: Path, rows: int = ROWS) -> None:
    assert sorted(done_ids(folder)) == sorted(f"r{number}" for number in range(1, rows + 1))
    assert executed_more_than_once(server) == {}
    for here in all_places(folder):
        assert not here.running
        assert not here.retry


def test_all_rows_once_over_two_workers(server: SimulatorProcess, folder: Path) -> None:
    env = environment_of(server.base_url)
    done = run(folder, env, "-i", "data.csv", "-o", "results.jsonl", "--workers", "2", "-c", "12", "--json")
    assert (done.status, done.err) == (0, "")
    assert (done.summary["rows"], done.summary["success"], done.summary["posts"]) == (ROWS, ROWS, ROWS)
    assert len(outputs(folder)) == 8
    each_once(server, folder)
    assert 6 < server.state(runs=False)["max_in_flight"] <= 12
    again = run(folder, env, "-i", "data.csv", "-o", "results.jsonl", "--workers", "3", "--json")
    assert (again.status, again.summary["done_before"], again.summary["posts"]) == (0, ROWS, 0)
    assert len(outputs(folder)) == 8, "another number of workers is no other number of parts"
    merged = run(folder, env, "merge", "results.jsonl", "-o", "all.jsonl", "--keep-order")
    assert merged.status == 0


def test_fewer_runs_in_flight_than_workers(server: SimulatorProcess, folder: Path) -> None:
    write_csv(folder / "data.csv", 12)
    server.configure(latency=0.05)
    done = run(folder, environment_of(server.base_url), *CALL, "--workers", "3", "-c", "1", "--json")
    assert done.status == 0
    each_once(server, folder, 12)
    assert server.state(runs=False)["max_in_flight"] == 1


CALL = ("-i", "data.csv", "-o", "results.jsonl")


def test_a_worker_that_is_killed_loses_nothing_and_repeats_nothing(server: SimulatorProcess, folder: Path) -> None:
    """Each kill is in the midst of a part: where a lost row is the last of its part, its fate takes --timeout."""
    write_csv(folder / "data.csv", rows := 400)
    with coordinator(folder, server.base_url, "-c", "12", "--settle", "0.3") as batch:
        first = batch.await_workers(2)
        until(lambda: len(done_ids(folder)) > 10, "some results")
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(set(batch.workers()) - set(first)) == 1, "another worker")
        until(lambda: len(done_ids(folder)) > 64, "more results")
        os.kill(batch.workers()[-1], signal.SIGKILL)
        assert batch.end() == 0, batch.said()
        assert "a worker has died (killed by signal 9)" in batch.said()
        assert f"{rows} rows: {rows} success" in batch.said()
    each_once(server, folder, rows)
    assert server.state(runs=False)["max_in_flight"] <= 12


def test_rows_that_were_never_sent_keep_no_others_from_going(server: SimulatorProcess, folder: Path) -> None:
    """A worker was killed when the intents of as many rows as may be in flight were on the disk, and none was sent: the
    proof that they never ran takes other rows that run meanwhile."""
    env = environment_of(server.base_url)
    assert run(folder, env, *CALL, "--workers", "2", "--limit", "6", "-q").status == 0
    done, part = set(done_ids(folder)), outputs(folder)[0]
    shard = part_of(part)[1]
    assert shard is not None
    rest = [f"r{number}" for number in range(1, ROWS + 1) if f"r{number}" in shard and f"r{number}" not in done]
    assert len(rest) > 8
    with Path(f"{part}.journal").open("a") as journal:
        for number, row_id in enumerate(rest[:4]):
            sent = {"event": "sent", "id": row_id, "attempt": 1, "user": f"dify-batch-0123456789s1of8-{number}"}
            journal.write(
                json.dumps(sent | {"mode": "streaming", "at": utc(time.time())}, separators=(",", ":")) + "\n"
            )
    with coordinator(folder, server.base_url, "-c", "4", "--settle", "0.3") as batch:
        assert batch.end(90) == 0, batch.said()
    each_once(server, folder)


def test_a_coordinator_that_is_killed_pauses_all_and_goes_on_when_started_again(
    server: SimulatorProcess, folder: Path
) -> None:
    server.configure(latency=1.0)
    with coordinator(folder, server.base_url, "-c", "10", "--settle", "0.3") as batch:
        workers = batch.await_workers(2)
        until(lambda: server.state(runs=False)["in_flight"] == 10, "ten runs")
        os.kill(batch.pid, signal.SIGKILL)
        batch.end()
        sent = len(server.state()["runs"])
        until(lambda: not any(map(is_worker, workers)), "the workers end once what runs has ended")
        assert len(server.state()["runs"]) <= sent + 1, "at most what was on its way"
        server.configure(latency=0.1)
    with coordinator(folder, server.base_url, "-c", "10", "--settle", "0.3") as batch:
        assert batch.end() == 0, batch.said()
    each_once(server, folder)
    assert server.state(runs=False)["max_in_flight"] <= 10


def test_one_started_again_waits_for_workers_of_the_old_one(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=2.0)
    with coordinator(folder, server.base_url, "-c", "6", "--settle", "0.3") as old:
        old.await_workers(2)
        until(lambda: server.state(runs=False)["in_flight"] == 6, "six runs")
        os.kill(old.pid, signal.SIGKILL)
        old.end()
        server.configure(latency=0.1)
        with coordinator(folder, server.base_url, "-c", "6", "--settle", "0.3") as new:
            assert new.end() == 0, new.said()
    each_once(server, folder)
    # What the old workers finish comes on top of what the new ones may send.
    assert server.state(runs=False)["max_in_flight"] <= 12


def test_of_two_coordinators_the_second_ends_with_75(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=0.5)
    with coordinator(folder, server.base_url, "-c", "4") as batch:
        batch.await_workers(2)
        second = run(folder, environment_of(server.base_url), *CALL, "--workers", "2", "--json")
        assert (second.status, second.error["code"]) == (75, "output_locked")
        whole = run(folder, environment_of(server.base_url), *CALL, "--json")
        assert whole.status in (2, 75), "nor does one process take it as a whole"
        os.kill(batch.pid, signal.SIGINT)
        assert batch.end() == 130


def test_a_worker_that_was_stopped_sends_nothing_once_its_permits_have_run_out(
    server: SimulatorProcess, folder: Path
) -> None:
    """It goes on while the coordinator stands still, so that it has no other permits than those of before."""
    write_csv(folder / "data.csv", 300)
    with coordinator(folder, server.base_url, "-c", "8", "--rate", "30/s", "--settle", "0.3") as batch:
        worker, _ = batch.await_workers(2)
        until(lambda: len(done_ids(folder)) > 10, "some results")
        os.kill(worker, signal.SIGSTOP)
        part = part_of_worker(worker)

        def sent() -> int:
            return sum(f"s{part}-" in run["user"] for run in server.state()["runs"])

        began = time.monotonic()
        until(lambda: time.monotonic() - began > LIFETIME + 1, "its permits have run out")
        before = sent()
        os.kill(batch.pid, signal.SIGSTOP)
        os.kill(worker, signal.SIGCONT)
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 3, "it has had the time to send")
        assert sent() == before
        assert is_worker(worker)
        os.kill(batch.pid, signal.SIGCONT)
        until(lambda: sent() > before or part_of_worker(worker) != part, "it has permits again, and goes on")
        assert batch.end() == 0, batch.said()
        assert "has died" not in batch.said()
    each_once(server, folder, 300)


def test_ctrl_c_finishes_what_runs_in_all_workers(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=0.8)
    with coordinator(folder, server.base_url, "-c", "8") as batch:
        workers = batch.await_workers(2)
        until(lambda: server.state(runs=False)["in_flight"] == 8, "eight runs")
        os.kill(batch.pid, signal.SIGINT)
        assert batch.end() == 130, batch.said()
        assert "finishing 8 runs" in batch.said(), batch.said()
        assert not any(map(is_worker, workers))
    assert not any(here.running for here in all_places(folder))
    assert 8 <= len(done_ids(folder)) < ROWS
    assert executed_more_than_once(server) == {}


def test_a_second_ctrl_c_stops_what_runs_on_the_server(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=30.0)
    with coordinator(folder, server.base_url, "-c", "6") as batch:
        batch.await_workers(2)
        until(lambda: server.state(runs=False)["in_flight"] == 6, "six runs")
        os.kill(batch.pid, signal.SIGTERM)
        until(lambda: "SIGTERM" in batch.said(), "the first signal")
        time.sleep(0.6)  # signals within half a second are one
        os.kill(batch.pid, signal.SIGINT)
        assert batch.end(40) == 143, batch.said()
    assert {run["status"] for run in server.state()["runs"]} == {"stopped"}


def test_the_rate_is_that_of_all_workers_together(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=0.05)
    done = run(folder, environment_of(server.base_url), *CALL, "--workers", "3", "-c", "20", "--rate", "20/s", "--json")
    assert done.status == 0
    began = sorted(entry["begun"] for entry in server.ledger())
    assert began[-1] - began[0] >= 0.98 * (ROWS - 1) / 20
    for first, last in zip(began, began[20:], strict=False):
        assert last - first > 0.9, "never more than that in a second"
    each_once(server, folder)


def test_failures_and_budget_are_those_of_all_workers_together(server: SimulatorProcess, folder: Path) -> None:
    server.faults(mix={"failed": 1.0})
    server.configure(latency=0.05)
    env = environment_of(server.base_url, "app-demo")  # whose runs use 18 tokens each
    done = run(folder, env, *CALL, "--workers", "2", "-c", "4", "--max-failures", "6", "--json")
    assert (done.status, done.error["code"]) == (1, "batch_stopped")
    assert 6 <= done.summary["failed"] <= 6 + 4
    server.faults({})
    done = run(folder, env, *CALL, "--workers", "2", "-c", "4", "--max-tokens", "500", "--json")
    assert (done.status, done.error["code"]) == (75, "budget_reached")
    assert 300 < done.summary["total_tokens"] <= 500
    assert done.summary["untouched"] > 0
    assert sum(done.summary[name] for name in STATES) == ROWS


STATES = (
    *("done_before", "success", "partial_success", "failed", "unknown", "paused", "running", "retry_waiting"),
    "untouched",
)


def test_limit_retry_overwrite_and_dry_run(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=0.02)
    env = environment_of(server.base_url)
    plan = run(folder, env, *CALL, "--workers", "2", "--dry-run")
    assert (plan.status, "120 to run" in plan.out) == (0, True)
    assert outputs(folder) == []
    server.faults({"rows": {"r5": ["failed"]}})
    first = run(folder, env, *CALL, "--workers", "2", "--limit", "17", "--json")
    assert first.summary["success"] + first.summary["failed"] == 17
    rest = run(folder, env, *CALL, "--workers", "2", "--json")
    assert (rest.status, rest.error["code"]) == (1, "rows_failed")
    again = run(folder, env, *CALL, "--workers", "2", "--retry", "--json")
    assert (again.status, again.summary["success"]) == (0, 1)
    assert len(done_ids(folder)) == ROWS
    anew = run(folder, env, *CALL, "--workers", "2", "--overwrite", "--json")
    assert (anew.status, anew.summary["success"]) == (0, ROWS)
    assert len(list(folder.glob("results.*of8.2*.jsonl"))) == 8, "the old files are kept"


def test_nothing_is_begun_anew_while_a_part_is_being_written(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=0.02)
    env = environment_of(server.base_url)
    assert run(folder, env, *CALL, "--workers", "2", "-q").status == 0
    before = sorted(path.name for path in folder.iterdir())
    lock = OutputLock(Paths.of(outputs(folder)[5]).lock)
    lock.acquire()
    try:
        anew = run(folder, env, *CALL, "--workers", "2", "--overwrite", "--json")
    finally:
        lock.release()
    assert (anew.status, anew.error["code"]) == (75, "output_locked")
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_table_that_cannot_work_is_told_before_any_worker_is_started(server: SimulatorProcess, folder: Path) -> None:
    (folder / "data.csv").write_text("id,query\na,x\na,y\n")
    done = run(folder, environment_of(server.base_url), *CALL, "--workers", "2", "--json")
    assert (done.status, done.error["code"]) == (2, "invalid_csv")
    assert outputs(folder) == []


def test_a_refused_key_stops_all(server: SimulatorProcess, folder: Path) -> None:
    done = run(folder, environment_of(server.base_url, key="app-nobody-knows-this-key"), *CALL, "--workers", "2")
    assert done.status == 4


def test_the_key_is_on_no_command_line_and_in_no_file(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=0.3)
    with coordinator(folder, server.base_url, "-c", "4", "-vv", "--log-file", "batch.log") as batch:
        for pid in batch.await_workers(2):
            assert b"app-echo" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        until(lambda: len(done_ids(folder)) > 5, "some results")
        os.kill(batch.pid, signal.SIGINT)
        batch.end()
    for path in folder.iterdir():
        assert "app-echo" not in path.read_text(encoding="utf-8-sig"), path


async def test_from_python(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=0.02)
    settings = Settings(
        input=str(folder / "data.csv"),
        output=folder / "results.jsonl",
        api_key=Secret("app-echo"),
        base_url=server.base_url,
        workers=2,
        concurrency=8,
    )
    with pytest.raises(UsageError, match="run_workers"):
        await run_batch(settings)
    report = await run_workers(settings)
    assert (report.error, report.summary.success, report.parts) == (None, ROWS, 8)
    each_once(server, folder)


def test_the_progress_is_that_of_all(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=0.5)
    with coordinator(folder, server.base_url, "-c", "4", "--metrics", "batch.prom") as batch:
        batch.await_workers(2)
        until(lambda: (folder / "batch.prom").exists(), "figures")
        assert batch.end() == 0, batch.said()
    text = (folder / "batch.prom").read_text()
    assert str(ROWS) in text
    assert json.dumps(ROWS) in text
