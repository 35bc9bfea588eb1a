"""Signals, and the stop of what a killed batch has left, for the kinds of app that talk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dify_batch.simulator import DEMO_KEYS, Config, SimulatorProcess
from tests.support.harness import LIMIT, command, environment, executed_more_than_once, places, run, until, write_csv

BATCH = ("-i", "data.csv", "-o", "results.jsonl", "--json", "--concurrency", "2")
LONG = "{} @n=200 @gap=0.3"
"""A message that has the model speak for a minute."""


def long_table(folder: Path, rows: int = 2) -> None:
    lines = [f"r{number},{LONG.format(number)}" for number in range(1, rows + 1)]
    (folder / "data.csv").write_text("\n".join(["id,query", *lines]) + "\n", encoding="utf-8")


def start(folder: Path, server: SimulatorProcess, kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command(*BATCH),
        cwd=folder,
        env=environment(server.base_url, DEMO_KEYS[kind]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: int(server.state(runs=False)["running"]) == 2, "two rows under way")
    return process


@pytest.mark.parametrize("kind", ["chatflow", "agent"])
def test_the_second_signal_stops_what_streams(kind: str, tmp_path: Path) -> None:
    long_table(tmp_path)
    with SimulatorProcess(Config(latency=60, workers=None, linger_after_finish=0.2)) as server:
        process = start(tmp_path, server, kind)
        started = b'"started"'
        journal = tmp_path / "results.jsonl.journal"
        until(lambda: journal.exists() and journal.read_bytes().count(started) == 2, "two runs are known")
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.6)  # within half a second two signals are one: this is the meaning, not a wait for a state
        began = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=LIMIT)
        assert time.monotonic() - began < 15
        assert process.returncode == 143
        assert json.loads(err)["summary"]["failed"] == 2
        until(lambda: int(server.state(runs=False)["running"]) == 0, "nothing runs any more")
        found = places(tmp_path / "results.jsonl")
        assert {(row.kind, row.code) for row in found.state.rows.values()} == {("stopped", "stopped_by_user")}
        assert found.retry == {"r1", "r2"}


def test_a_chat_cannot_be_stopped_and_is_found_by_the_next_invocation(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 2)
    with SimulatorProcess(Config(latency=4, workers=None)) as server:
        process = start(tmp_path, server, "chat")
        for _ in range(2):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.6)  # see above
        process.communicate(timeout=LIMIT)
        assert process.returncode == 130
        env = environment(server.base_url, DEMO_KEYS["chat"])
        until(lambda: int(server.state(runs=False)["running"]) == 0, "both answers are stored")
        again = run(tmp_path, env, *BATCH)
        assert (again.status, again.summary["success"], again.summary["recovered"]) == (0, 2, 2)
        assert executed_more_than_once(server) == {}


def test_stop_ends_the_chatflows_of_a_killed_batch(tmp_path: Path) -> None:
    long_table(tmp_path)
    with SimulatorProcess(Config(latency=60, workers=None, linger_after_finish=0.2)) as server:
        process = start(tmp_path, server, "chatflow")
        journal = tmp_path / "results.jsonl.journal"
        until(lambda: journal.exists() and journal.read_bytes().count(b'"started"') == 2, "two runs are known")
        process.kill()
        process.communicate(timeout=LIMIT)
        env = environment(server.base_url, DEMO_KEYS["chatflow"])
        done = run(tmp_path, env, "stop", "results.jsonl", "--yes", "--json")
        assert (done.status, done.err) == (0, "")
        assert json.loads(done.out)["stopped"] == 2
        found = places(tmp_path / "results.jsonl")
        assert {(row.kind, row.code) for row in found.state.rows.values()} == {("stopped", "stopped_by_user")}
