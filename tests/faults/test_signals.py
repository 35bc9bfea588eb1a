"""SIGINT and SIGTERM: the first drains, the second stops the runs on the server, the third ends the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import LIMIT, command, environment, executed_more_than_once, places, run, until, write_csv

ROWS = 40


@contextmanager
def batch(folder: Path, server: SimulatorProcess, *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("-i", "data.csv", "-o", "results.jsonl", "--json", "--concurrency", "4", *more),
        cwd=folder,
        env=environment(server.base_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)


def running(server: SimulatorProcess) -> int:
    return int(server.state(runs=False)["running"])


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGHUP", 143, "terminated")],
)
def test_the_first_signal_finishes_what_runs(name: str, status: int, code: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", ROWS)
    with SimulatorProcess(Config(latency=1.5, workers=None, linger_after_finish=0.2)) as server:
        with batch(tmp_path, server) as process:
            until(lambda: running(server) == 4, "four runs at once")
            os.kill(process.pid, getattr(signal, name))
            os.kill(process.pid, getattr(signal, name))  # uv run forwards what its process group gets too
            out, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, out) == (status, "")
        report = json.loads(err)
        assert report["error"]["code"] == code
        assert report["summary"]["success"] == 4
        assert report["summary"]["untouched"] == ROWS - 4
        assert server.state(runs=False)["post_total"] == 4
    assert len(places(tmp_path / "results.jsonl").done) == 4


def test_the_second_signal_stops_the_runs_on_the_server(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", ROWS)
    with SimulatorProcess(Config(latency=60, workers=None, linger_after_finish=0.2)) as server:
        with batch(tmp_path, server) as process:
            until(lambda: running(server) == 4, "four runs at once")
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(0.6)  # within half a second two signals are one: this is the meaning, not a wait for a state
            os.kill(process.pid, signal.SIGTERM)
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 143
        assert json.loads(err)["summary"]["failed"] == 4
        assert [one["status"] for one in server.state()["runs"]] == ["stopped"] * 4
        found = places(tmp_path / "results.jsonl")
        assert len(found.retry) == 4
        assert {row.kind for row in found.state.rows.values()} == {"stopped"}
        server.configure(latency=0.05)
        again = run(tmp_path, environment(server.base_url), "-i", "data.csv", "-o", "results.jsonl", "--json")
        assert (again.status, again.summary["retry_waiting"]) == (1, 4)
        retried = run(
            tmp_path, environment(server.base_url), "-i", "data.csv", "-o", "results.jsonl", "--retry", "--json"
        )
        assert retried.status == 0
        assert len(executed_more_than_once(server)) == 4, "only the rows that the user stopped and asked for again"
    assert len(places(tmp_path / "results.jsonl").done) == ROWS


def test_a_run_that_ends_before_its_stop_gives_its_result(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 1)
    with SimulatorProcess(Config(latency=60, workers=None, linger_after_finish=0.2)) as server:
        server.faults(rows={"r1": [{"name": "stopped_but_succeeds", "latency": 1.2}]})
        with batch(tmp_path, server) as process:
            until(lambda: running(server) == 1, "the run")
            os.kill(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 130
        assert json.loads(err)["summary"]["success"] == 1
    assert len(places(tmp_path / "results.jsonl").done) == 1


def test_the_third_signal_ends_at_once_and_the_next_invocation_collects(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 4)
    with SimulatorProcess(Config(latency=6, workers=None, stop_delay=60)) as server:
        with batch(tmp_path, server, "--mode", "blocking") as process:
            until(lambda: running(server) == 4, "four runs at once")
            for _ in range(3):
                os.kill(process.pid, signal.SIGINT)
                time.sleep(0.6)
            _, err = process.communicate(timeout=5)
        assert process.returncode == 130
        assert json.loads(err)["summary"]["running"] == 4
        assert len(places(tmp_path / "results.jsonl").running) == 4
        again = run(tmp_path, environment(server.base_url), "-i", "data.csv", "-o", "results.jsonl", "--json")
        assert (again.status, again.summary["success"], again.summary["recovered"]) == (0, 4, 4)
        assert server.state(runs=False)["post_total"] == 4
    assert len(places(tmp_path / "results.jsonl").done) == 4


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of POSIX")
def test_a_terminal_that_closes_finishes_what_runs(tmp_path: Path) -> None:
    """The batch ends in order although nobody hears it any more, and the same command goes on."""
    write_csv(tmp_path / "data.csv", 12)
    with SimulatorProcess(Config(latency=1.0, workers=None, linger_after_finish=0.2)) as server:
        master, slave = os.openpty()
        script = (
            "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            "os.execv(sys.executable, [sys.executable, '-m', 'dify_batch', *sys.argv[1:]])"
        )
        call = [sys.executable, "-c", script, "-i", "data.csv", "-o", "results.jsonl", "--concurrency", "4"]
        process = subprocess.Popen(
            call, cwd=tmp_path, env=environment(server.base_url), stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        until(lambda: running(server) == 4, "four runs at once")
        os.close(master)
        assert process.wait(LIMIT) == 143
        assert len(places(tmp_path / "results.jsonl").done) == 4
        again = run(tmp_path, environment(server.base_url), "-i", "data.csv", "-o", "results.jsonl", "--json")
        assert (again.status, again.summary["success"]) == (0, 8)
        assert executed_more_than_once(server) == {}


def test_a_hangup_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As nohup asks for it."""
    write_csv(tmp_path / "data.csv", 8)
    with SimulatorProcess(Config(latency=0.6, workers=None, linger_after_finish=0.2)) as server:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with batch(tmp_path, server) as process:
                until(lambda: running(server) == 4, "four runs at once")
                os.kill(process.pid, signal.SIGHUP)
                out, err = process.communicate(timeout=LIMIT)
        finally:
            signal.signal(signal.SIGHUP, before)
        assert (process.returncode, err) == (0, "")
        assert json.loads(out)["success"] == 8
