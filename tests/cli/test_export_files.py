"""`dify-batch export --files`: what a person types, against the simulated Dify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dify_batch.simulator import SimulatorProcess
from tests.support import harness

NOTES, PICTURE = b"hello\n", b"\x89PNG" + bytes(range(256)) * 500


@pytest.fixture
def env(server: SimulatorProcess) -> dict[str, str]:
    server.configure(files_access_timeout=300, clock_skew=0)
    return harness.environment(server.base_url, key="app-files")


@pytest.fixture
def done(tmp_path: Path, env: dict[str, str]) -> Path:
    """A folder with the results of two rows: their outputs are the files that were their inputs."""
    (tmp_path / "notes.txt").write_bytes(NOTES)
    (tmp_path / "pic.png").write_bytes(PICTURE)
    (tmp_path / "data.csv").write_text("id,doc,docs\nr1,notes.txt,pic.png\n../r2,pic.png,\n", encoding="utf-8")
    batch = harness.run(tmp_path, env, "-i", "data.csv", "-o", "results.jsonl")
    assert batch.status == 0, batch.err
    return tmp_path


def test_the_files_are_those_of_the_server(done: Path, env: dict[str, str]) -> None:
    made = harness.run(done, env, "export", "results.jsonl", "--files", "files", "-o", "table.csv")
    assert (made.status, made.err) == (0, "")
    assert made.out.splitlines() == ["table.csv: 2 rows, 15 columns", "files: 3 files: 3 downloaded"]
    records = [json.loads(line) for line in (done / "files" / "files.jsonl").read_text().splitlines()]
    found = {(record["id"], record["output"]): (done / "files" / record["file"]).read_bytes() for record in records}
    assert found == {("r1", "doc"): NOTES, ("r1", "docs.0"): PICTURE, ("../r2", "doc"): PICTURE}
    assert {path.name for path in done.iterdir() if path.is_dir()} == {"files"}
    again = harness.run(done, env, "export", "results.jsonl", "--files", "files", "--json")
    assert (again.status, again.err) == (0, "")
    counts = {"files": 3, "downloaded": 0, "present": 3, "bytes": 0, "failed": []}
    assert json.loads(again.out) == {"files": {"folder": "files"} | counts}


def test_links_that_have_expired(done: Path, env: dict[str, str], server: SimulatorProcess) -> None:
    server.configure(files_access_timeout=0, clock_skew=1000)
    made = harness.run(done, env, "export", "results.jsonl", "--files", "files")
    assert (made.status, made.out) == (1, "")
    assert "error: files: 3 files: 0 downloaded, 3 not to be had" in made.err
    assert "row r1, doc: r1/notes.txt: HTTP 404: File not found or signature is invalid" in made.err
    assert "links of Dify are good for 5 minutes" in made.err
    told = harness.run(done, env, "export", "results.jsonl", "--files", "files", "--json")
    assert (told.status, told.out) == (1, "")
    error = json.loads(told.err)["error"]
    assert (error["code"], len(error["files"]["failed"])) == ("files_failed", 3)


@pytest.mark.parametrize("fault", ["outage_500", "cut", "cut_in_answer", "gateway_502"])
def test_what_passes_is_waited_for(done: Path, env: dict[str, str], server: SimulatorProcess, fault: str) -> None:
    server.faults({"server": {"name": fault, "on": "GET files/{file_id}/file-preview", "times": 1}})
    made = harness.run(done, env, "export", "results.jsonl", "--files", "files")
    assert (made.status, made.out, made.err) == (0, "files: 3 files: 3 downloaded\n", "")
    assert server.state(runs=False)["requests"]["GET files/{file_id}/file-preview"] >= 3


def test_nothing_to_write_is_a_wrong_call(done: Path, env: dict[str, str]) -> None:
    made = harness.run(done, env, "export", "results.jsonl")
    assert (made.status, made.out) == (2, "")
    assert "--files files" in made.err
