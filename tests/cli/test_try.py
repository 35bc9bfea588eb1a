"""`dify-batch try`: one row, node by node, and nothing on the disk."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from dify_batch.simulator import DEMO_KEYS, SimulatorProcess
from tests.support import harness


def run(folder: Path, server: SimulatorProcess, *arguments: str, key: str = "app-demo") -> harness.Ran:
    return harness.run(folder, harness.environment(server.base_url, key=key), "try", *arguments)


def test_inputs_of_the_command_line_alone(server: SimulatorProcess, tmp_path: Path) -> None:
    done = run(tmp_path, server, "--set", "query=a = b")
    assert done.status == 0
    assert json.loads(done.out) == {"answer": "Echo: a = b"}
    lines = done.err.splitlines()
    assert lines[0].startswith("run ")
    assert [line.split()[0] for line in lines[1:-1]] == ["Start", "LLM", "Output"]
    assert lines[-1].startswith("succeeded, 0.")
    assert lines[-1].endswith("15 tokens")
    assert list(tmp_path.iterdir()) == []


def test_a_row_of_a_table_with_an_input_in_place_of_its_own(server: SimulatorProcess, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("id,query,tone\n1,one,formal\n2,two,casual\n")
    call = ("-i", "data.csv", "--id", "2", "--set", "tone=neutral", "--set", "n=7", "--json")
    done = run(tmp_path, server, *call, key="app-echo")
    assert (done.status, done.err) == (0, "")
    shown = json.loads(done.out)
    assert shown["id"] == "2"
    assert shown["inputs"] == {"id": "2", "query": "two", "tone": "neutral", "n": 7}
    assert shown["outputs"]["tone"] == "neutral"
    assert shown["status"] == "succeeded"
    assert [node["status"] for node in shown["nodes"]] == ["succeeded"] * len(shown["nodes"])
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_the_first_row_without_an_id(server: SimulatorProcess, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("id,query\nfirst,one\nsecond,two\n")
    assert json.loads(run(tmp_path, server, "-i", "data.csv", "--json").out)["id"] == "first"


def test_with_o_the_result_line_is_what_a_batch_would_write(server: SimulatorProcess, tmp_path: Path) -> None:
    harness.write_csv(tmp_path / "data.csv", 1)
    assert run(tmp_path, server, "-i", "data.csv", "-o", "one.jsonl").status == 0
    env = harness.environment(server.base_url, key="app-demo")
    assert harness.run(tmp_path, env, "-i", "data.csv", "-o", "batch.jsonl", "--no-bom").status == 0
    tried, batched = (json.loads((tmp_path / name).read_text()) for name in ("one.jsonl", "batch.jsonl"))
    assert list(tried) == list(batched)
    assert (tried["id"], tried["outputs"]) == (batched["id"], batched["outputs"])
    again = run(tmp_path, server, "-i", "data.csv", "-o", "one.jsonl")
    assert again.status == 2
    assert "one.jsonl exists" in again.err


def test_a_run_that_fails_is_told_with_its_node(server: SimulatorProcess, tmp_path: Path) -> None:
    server.faults({"rows": {"try": ["failed"]}})
    done = run(tmp_path, server, "--set", "query=x", "-o", "one.jsonl")
    assert (done.status, done.out) == (1, "")
    assert "the run ended as failed: " in done.err
    assert "failed: " in done.err.splitlines()[2]
    assert not (tmp_path / "one.jsonl").exists()


def test_a_paused_run_shows_its_form_and_is_no_failure(server: SimulatorProcess, tmp_path: Path) -> None:
    done = run(tmp_path, server, "--set", "query=x", key="app-human")
    assert done.status == 0
    (form,) = json.loads(done.out)
    assert form["form_token"]
    assert "paused" in done.err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--set", "query"), 2, "is not name=value"),
        ((), 2, "nothing to try"),
        (("-i", "nowhere.csv"), 2, "nowhere.csv"),
        (("-i", "data.csv", "--id", "9"), 2, 'no row with the id "9"'),
        (("-i", "data.csv", "--set", "tone=rude"), 2, "rude"),
        (("-i", "data.csv", "--set", "colour=red"), 2, 'no input "colour"'),
        (("-i", "data.csv", "--set", "n=abc"), 2, "abc"),
    ],
)
def test_what_cannot_be_tried_is_told_before_anything_is_sent(
    arguments: tuple[str, ...], status: int, said: str, server: SimulatorProcess, tmp_path: Path
) -> None:
    harness.write_csv(tmp_path / "data.csv", 2)
    done = run(tmp_path, server, *arguments, key="app-echo")
    assert (done.status, done.out) == (status, "")
    assert said in done.err
    assert server.state(runs=False)["executions"] == {}


def test_a_stream_that_is_cut_names_the_run_that_goes_on(server: SimulatorProcess, tmp_path: Path) -> None:
    server.faults({"rows": {"try": ["cut_after_start"]}})
    done = run(tmp_path, server, "--set", "query=x", "--json")
    assert (done.status, done.out) == (1, "")
    assert done.error["code"] == "network_connection"
    assert done.error["run_id"]


def test_ctrl_c_stops_the_run_on_the_server(server: SimulatorProcess, tmp_path: Path) -> None:
    server.configure(latency=30.0)
    env = harness.environment(server.base_url, key="app-demo")
    command = harness.command("try", "--set", "query=x")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        harness.until(lambda: bool(server.state(runs=False)["executions"]), "the run")
        assert process.stderr is not None
        assert process.stderr.readline().startswith("run ")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=harness.LIMIT)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (process.returncode, out) == (130, "")
    harness.until(lambda: [run["status"] for run in server.state()["runs"]] == ["stopped"], "the stop")


@pytest.mark.parametrize("kind", ["chatflow", "chat", "agent", "completion"])
def test_every_kind_of_app_is_tried_as_it_is_asked(server: SimulatorProcess, tmp_path: Path, kind: str) -> None:
    done = run(tmp_path, server, "--set", "query=hello", "--json", key=DEMO_KEYS[kind])
    assert (done.status, done.err) == (0, "")
    shown = json.loads(done.out)
    assert (shown["status"], shown["outputs"]["answer"]) == ("succeeded", "Echo: hello")
    assert [node["title"] for node in shown["nodes"]] == (["Start", "LLM", "Answer"] if kind == "chatflow" else [])


def test_an_answer_that_is_cut_off_is_no_result(server: SimulatorProcess, tmp_path: Path) -> None:
    server.faults(rows={"try": ["cut_off"]})
    done = run(tmp_path, server, "--set", "query=hello", key=DEMO_KEYS["chat"])
    assert (done.status, done.out) == (1, "")
    assert "ended as cut_off" in done.err
