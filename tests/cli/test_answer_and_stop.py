"""`dify-batch answer` and `dify-batch stop`: rows that wait for a person, and runs that nobody looks after."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dify_batch.simulator import SimulatorProcess
from tests.support import harness

BATCH = ("-i", "data.csv", "-o", "results.jsonl", "--no-bom")


@pytest.fixture
def env(server: SimulatorProcess) -> dict[str, str]:
    return harness.environment(server.base_url, key="app-human")


def journal(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = (folder / "results.jsonl.journal").read_text(encoding="utf-8").splitlines()
    return [record for line in lines if (record := json.loads(line))["event"] == event]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


@pytest.fixture
def paused(tmp_path: Path, env: dict[str, str]) -> Path:
    """A folder with three rows that wait for a person, and one that nobody has sent yet."""
    harness.write_csv(tmp_path / "data.csv", 4)
    done = harness.run(tmp_path, env, *BATCH, "--limit", "3")
    assert done.status == 0, done.err
    assert harness.places(tmp_path / "results.jsonl").paused == {"r1", "r2", "r3"}
    return tmp_path


def fill(path: Path, answers: dict[str, tuple[str, str]]) -> None:
    """Writes (action, comment) into the template, by id."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "action", "comment", "_actions", "_form"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            row[1], row[2] = answers.get(row[0], ("", row[2]))
            writer.writerow(row)


def test_a_template_is_filled_and_the_results_are_collected(
    server: SimulatorProcess, env: dict[str, str], paused: Path
) -> None:
    made = harness.run(paused, env, "answer", "results.jsonl", "--template", "answers.csv")
    assert (made.status, made.err) == (0, "")
    with (paused / "answers.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["r1", "r2", "r3"]
    assert {row["comment"] for row in rows} == {"ok"}
    assert {row["_actions"] for row in rows} == {"approve, reject"}
    assert rows[1]["_form"] == "Please review: question r2\n\n[comment]"
    fill(paused / "answers.csv", {"r1": ("approve", "fine"), "r2": ("reject", "no"), "r3": ("", "")})
    done = harness.run(paused, env, "answer", "results.jsonl", "--from", "answers.csv")
    assert done.status == 0, done.err
    assert "row r1: answered" in done.err
    places = harness.places(paused / "results.jsonl")
    assert places.done == {"r1", "r2"}
    assert places.paused == {"r3"}
    assert results(paused)["r1"]["inputs"] == {"id": "r1", "query": "question r1"}
    # The answer stood in the journal before it was sent, and nothing new was sent: r4 is untouched.
    first, second = journal(paused, "answer")
    assert (first["id"], first["action"], first["inputs"]) == ("r1", "approve", {"comment": "fine"})
    assert [record["how"] for record in journal(paused, "answered")] == ["sent", "sent"]
    assert second["id"] == "r2"
    assert server.state(runs=False)["executions"] == {"r1": 1, "r2": 1, "r3": 1}


def test_an_answer_given_elsewhere_is_no_error(env: dict[str, str], paused: Path) -> None:
    (line, *_) = (paused / "results.jsonl.paused").read_text(encoding="utf-8").splitlines()
    form = json.loads(line)["forms"][0]
    url = form["answer_with"].removeprefix("POST ")
    body = form["answer_body"] | {"action": "approve"}
    assert httpx.post(url, json=body, headers={"Authorization": "Bearer app-human"}).status_code == 200
    (paused / "answers.csv").write_text("id,action\nr1,approve\nr2,approve\n")
    done = harness.run(paused, env, "answer", "results.jsonl", "--from", "answers.csv")
    assert done.status == 0, done.err
    assert "row r1: answered elsewhere" in done.err
    assert harness.places(paused / "results.jsonl").done == {"r1", "r2"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("id,action\nr1,approve\nr2,burn\n", '"burn" is no action; there are approve, reject'),
        ("id,action,colour\nr1,approve,red\n", 'no input "colour"; there are comment'),
        ("id,action\nr9,approve\n", "row r9: it does not wait"),
        ("id,what\nr1,approve\n", "has no column action"),
    ],
)
def test_a_table_that_does_not_fit_sends_nothing(table: str, said: str, env: dict[str, str], paused: Path) -> None:
    (paused / "answers.csv").write_text(table)
    done = harness.run(paused, env, "answer", "results.jsonl", "--from", "answers.csv")
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert journal(paused, "answer") == []


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of POSIX")
def test_asked_at_a_terminal(env: dict[str, str], paused: Path) -> None:
    """The first is answered by number with its default, the second left, the third by its word."""
    ours, theirs = os.openpty()
    try:
        os.write(ours, b"\n9\n1\n\n\nmy word\nreject\n")
        done = subprocess.run(
            harness.command("answer", "results.jsonl"),
            cwd=paused,
            env=env,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=harness.LIMIT,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "question r1" in done.stderr
    assert "no such action" in done.stderr
    assert [(a["id"], a["action"], a["inputs"]) for a in journal(paused, "answer")] == [
        ("r1", "approve", {"comment": "ok"}),
        ("r3", "reject", {"comment": "my word"}),
    ]
    assert harness.places(paused / "results.jsonl").done == {"r1", "r3"}


def test_without_a_terminal_it_says_what_to_type(env: dict[str, str], paused: Path) -> None:
    done = harness.run(paused, env, "answer", "results.jsonl")
    assert done.status == 2
    assert "--template answers.csv" in done.err


def test_another_app_is_refused(server: SimulatorProcess, paused: Path) -> None:
    other = harness.environment(server.base_url, key="app-echo")
    (paused / "answers.csv").write_text("id,action\nr1,approve\n")
    for call in (("answer", "results.jsonl", "--from", "answers.csv"), ("stop", "results.jsonl", "--yes")):
        done = harness.run(paused, other, *call)
        assert done.status == 2, done.err
    assert journal(paused, "answer") == []


# ---------------------------------------------------------------- stop


@pytest.fixture
def left(server: SimulatorProcess, tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A batch killed with two runs on the server that take half a minute."""
    server.configure(latency=30.0)
    env = harness.environment(server.base_url)
    harness.write_csv(tmp_path / "data.csv", 3)
    batch = subprocess.Popen(
        harness.command(*BATCH, "-c", "2"), cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        harness.until(
            lambda: (tmp_path / "results.jsonl.journal").exists() and len(journal_of_killed(tmp_path)) == 2,
            "two starts",
        )
    finally:
        batch.send_signal(signal.SIGKILL)
        batch.wait()
    yield tmp_path, env
    server.configure(latency=0.02)


def journal_of_killed(folder: Path) -> list[bytes]:
    return [line for line in (folder / "results.jsonl.journal").read_bytes().split(b"\n") if b'"started"' in line]


def test_runs_of_a_killed_batch_are_stopped_and_their_end_is_recorded(
    server: SimulatorProcess, left: tuple[Path, dict[str, str]]
) -> None:
    folder, env = left
    done = harness.run(folder, env, "stop", "results.jsonl", "--yes", "--json")
    assert (done.status, done.err) == (0, "")
    shown = json.loads(done.out)
    assert (shown["stopped"], shown["unknown"]) == (2, 0)
    assert sorted(shown["rows"]) == ["r1", "r2"]
    assert [run["status"] for run in server.state()["runs"]] == ["stopped", "stopped"]
    assert {(record["kind"], record["code"]) for record in journal(folder, "failed")} == {
        ("stopped", "stopped_by_user")
    }
    places = harness.places(folder / "results.jsonl")
    assert places.running == frozenset()
    assert places.retry == {"r1", "r2"}
    again = harness.run(folder, env, "stop", "results.jsonl")
    assert (again.status, again.out) == (0, "nothing runs\n")
    # The same command goes on with what was never sent, and --retry with what was stopped.
    server.configure(latency=0.02)
    assert harness.run(folder, env, *BATCH).status == 1
    assert harness.run(folder, env, *BATCH, "--retry").status == 0
    assert harness.places(folder / "results.jsonl").done == {"r1", "r2", "r3"}


def test_a_run_that_has_ended_meanwhile_is_left_for_the_batch_to_collect(
    server: SimulatorProcess, tmp_path: Path
) -> None:
    env = harness.environment(server.base_url)
    harness.write_csv(tmp_path / "data.csv", 1)
    server.configure(latency=4.0)
    assert harness.run(tmp_path, env, *BATCH, "--timeout", "1").status == 75
    harness.until(lambda: [run["status"] for run in server.state()["runs"]] == ["succeeded"], "the end")
    told = harness.run(tmp_path, env, "stop", "results.jsonl", "--yes")
    assert told.status == 0
    assert "1 had ended with a result: the same command collects it" in told.out
    assert harness.run(tmp_path, env, *BATCH).status == 0
    assert server.state(runs=False)["executions"] == {"r1": 1}


def test_it_asks_first(server: SimulatorProcess, left: tuple[Path, dict[str, str]]) -> None:
    folder, env = left
    refused = harness.run(folder, env, "stop", "results.jsonl")
    assert refused.status == 2
    assert "--yes" in refused.err
    assert {run["status"] for run in server.state()["runs"]} == {"running"}
    assert harness.run(folder, env, "stop", "results.jsonl", "--yes").status == 0


def test_no_batch_of_that_name(env: dict[str, str], tmp_path: Path) -> None:
    for command in ("answer", "stop"):
        done = harness.run(tmp_path, env, command, "results.jsonl")
        assert done.status == 2
        assert "there is no batch of that name" in done.err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["answer", "stop"])
def test_the_runs_of_a_demo_and_of_an_account_are_others(command: str, env: dict[str, str], tmp_path: Path) -> None:
    harness.write_csv(tmp_path / "data.csv", 1)
    assert harness.run(tmp_path, env, *BATCH, "--demo").status == 0
    done = harness.run(tmp_path, env, command, "results.jsonl")
    assert (done.status, done.out) == (2, "")
    assert "made with --demo" in done.err
    journal = tmp_path / "results.jsonl.journal"
    journal.write_text(journal.read_text().replace('"--demo"', '"--app","A1"'))
    done = harness.run(tmp_path, env, command, "results.jsonl")
    assert (done.status, done.out) == (2, "")
    assert "dify-batch resume app A1 RUN" in done.err
