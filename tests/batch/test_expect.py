"""--expect: outputs that miss a JSON Schema are no results, and their answers are kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dify_batch.batch.expectation import read_expectation
from dify_batch.batch.invocation import run_batch
from dify_batch.cli.progress_text import summary_text
from dify_batch.engine.expecting import FIRST
from dify_batch.errors import UsageError
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.spent import spent
from dify_batch.outcomes import Invalid, RunRef, RunResult, SettledRow, Succeeded
from dify_batch.reports.export import export
from dify_batch.reports.html.collect import collect
from dify_batch.reports.status import status_report
from dify_batch.simulator import Simulator
from tests.support.batchfolder import QUICK, BatchFolder
from tests.support.harness import results
from tests.support.result_tables import read_csv

SHORT = {"type": "object", "required": ["query"], "properties": {"query": {"type": "string", "maxLength": 100}}}


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(QUICK) as simulator:
        yield simulator


def write(folder: Path, schema: object, name: str = "schema.json") -> Path:
    path = folder / name
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema), encoding="utf-8")
    return path


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
async def test_an_answer_that_misses_the_schema_is_kept_and_run_again_by_retry(
    tmp_path: Path, server: Simulator, mode: str
) -> None:
    server.faults(rows={"r2": ["big_event"], "r4": ["failed"]})
    folder = BatchFolder(tmp_path, server, rows=5)
    expect = write(tmp_path, SHORT)
    report = await folder.run(expect=expect, mode=mode)
    summary = report.summary
    assert (summary.success, summary.invalid, summary.failed) == (3, 1, 1)
    assert (report.exit_status, report.error and report.error.code) == (1, "rows_failed")
    assert "1 invalid" in summary_text(summary, folder.output, [], ())
    assert [line["id"] for line in results(folder.output)].count("r2") == 0
    assert set(folder.retry.read_text(encoding="utf-8-sig").split()) == {"r2", "r4"}
    (failed,) = [r for r in folder.journal() if r["event"] == "failed" and r["id"] == "r2"]
    assert (failed["kind"], failed["code"]) == ("invalid", "outputs_invalid")
    assert failed["message"].startswith("outputs.query: ")
    assert len(failed["message"]) < 400
    assert "--expect" in report.next_steps[-1] or any("--expect" in step for step in report.next_steps)

    status = status_report(folder.output)
    assert (status.failed, status.invalid, status.done) == (1, 1, 3)
    assert "1 x invalid, outputs_invalid: outputs.query: " in status.text()
    page = collect([folder.output])
    assert (page.counts["invalid"], page.counts["failed"]) == (1, 1)
    export(folder.output, tmp_path / "bad.csv", failed=True)
    bad = {row["id"]: row for row in read_csv(tmp_path / "bad.csv")}
    assert json.loads(bad["r2"]["_outputs"])["query"].strip("x") == ""
    assert (bad["r2"]["_status"], bad["r4"]["_outputs"]) == ("invalid", "")

    again = await folder.run(expect=expect, retry=True, mode=mode, input=str(tmp_path / "bad.csv"))
    assert (again.exit_status, again.summary.success, again.summary.invalid) == (0, 2, 0)
    assert folder.executions()["r2"] == 2


async def test_what_it_used_is_counted_and_on_row_is_told(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=3)
    settled: list[SettledRow] = []
    schema = write(tmp_path, {"properties": {"answer": {"enum": ["Echo: question r1"]}}})
    report = await run_batch(folder.settings(expect=schema, api_key="app-demo"), on_row=settled.append)
    assert {row.id: row.state for row in settled} == {"r1": "success", "r2": "invalid", "r3": "invalid"}
    assert report.summary.invalid == 2
    tokens = sum(r["total_tokens"] for r in folder.journal() if r["event"] == "spent")
    assert spent(Paths.of(folder.output)).tokens == tokens + results(folder.output)[0]["total_tokens"]
    assert tokens > 0


async def test_the_policy_all_repeats_it(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r1": ["big_event", "big_event"], "r2": ["big_event"] * 9})
    folder = BatchFolder(tmp_path, server, rows=2)
    report = await folder.run(expect=write(tmp_path, SHORT), retry_policy="all", max_retries=3)
    assert (report.summary.success, report.summary.invalid) == (1, 1)
    assert folder.executions() == {"r1": 3, "r2": 4}


async def test_a_run_that_an_earlier_invocation_left_is_held_against_it(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r1": ["cut_after_start"]})
    folder = BatchFolder(tmp_path, server, rows=1)
    wrong = write(tmp_path, {"required": ["score"]})
    report = await folder.run(expect=wrong, mode="streaming")
    assert report.summary.invalid == 1
    assert "'score' is a required property" in status_report(folder.output).failures[0].message


async def test_a_schema_that_all_the_first_answers_miss_stops_the_batch(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=60)
    wrong = write(tmp_path, {"required": ["score"]})
    report = await folder.run(expect=wrong)
    assert report.error is not None
    assert report.error.code == "batch_stopped"
    assert "schema.json" in report.error.message
    assert FIRST <= report.summary.invalid <= FIRST + 5
    assert report.summary.untouched == 60 - report.summary.invalid
    right = write(tmp_path, SHORT, "right.json")
    report = await folder.run(expect=right)
    assert report.summary.success + report.summary.retry_waiting == 60
    report = await folder.run(expect=right, retry=True)
    assert (report.exit_status, len(results(folder.output))) == (0, 60)
    # And rows that miss it later are single ones, however many they are.
    folder.retry.write_text("".join(f"r{number}\n" for number in range(1, 41)), encoding="utf-8")
    report = await folder.run(expect=wrong, retry=True)
    assert (report.summary.invalid, report.error and report.error.code) == (40, "rows_failed")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "is no JSON Schema"),
        ('"object"', "is no JSON Schema"),
        ({"type": "text"}, "is no JSON Schema"),
        ({"properties": {"a": {"maxLength": "x"}}}, "is no JSON Schema"),
        ({"pattern": "("}, "is no JSON Schema"),
        ({"$ref": "#/$defs/none"}, "which is not in it"),
        ({"properties": {"a": {"$ref": "https://example.com/a.json"}}}, "which is not in it"),
        ('{"a": NaN}', "is no JSON"),
        ("\udcff", "is no UTF-8"),
    ],
)
async def test_a_schema_that_is_none_sends_nothing(
    tmp_path: Path, server: Simulator, schema: object, words: str
) -> None:
    folder = BatchFolder(tmp_path, server, rows=1)
    if schema == "\udcff":
        path = tmp_path / "schema.json"
        path.write_bytes(b"\xff{}")
    else:
        path = write(tmp_path, schema)
    for dry in (True, False):
        with pytest.raises(UsageError, match=words) as caught:
            await folder.run(expect=path, dry_run=dry)
    assert caught.value.code == "usage_invalid_flag"
    assert "schema.json" in caught.value.message
    assert folder.executions() == {}
    assert not folder.output.exists()


async def test_a_schema_that_is_not_there(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=1)
    with pytest.raises(UsageError, match="No such file"):
        await folder.run(expect=tmp_path / "none.json")
    with pytest.raises(UsageError, match="same file"):
        await folder.run(expect=folder.data)


@pytest.mark.parametrize(
    ("schema", "outputs", "misses"),
    [
        ({}, {"a": 1}, None),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "required": ["a"]}, {}, "outputs: 'a' is a required"),
        ({"$defs": {"n": {"type": "number"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}, {"a": "x"}, "outputs.a: "),
        ({"properties": {"a": {"items": {"type": "string"}}}}, {"a": ["x", 1]}, "outputs.a[1]: 1 is not of type"),
        ({"type": "object"}, "text", "outputs: 'text' is not of type 'object'"),
        ({"type": "object"}, None, "outputs: None is not of type 'object'"),
        ({"properties": {"$ref": {"type": "string"}}}, {"$ref": "x"}, None),
    ],
)
def test_where_and_how_outputs_miss(tmp_path: Path, schema: dict[str, Any], outputs: Any, misses: str | None) -> None:
    done = Succeeded(RunResult(RunRef("r"), "succeeded", outputs))
    outcome = read_expectation(write(tmp_path, schema)).judged(done)
    if misses is None:
        assert outcome is done
    else:
        assert isinstance(outcome, Invalid)
        assert outcome.message.startswith(misses)
        assert (outcome.code, outcome.result) == ("outputs_invalid", done.result)


def test_outputs_without_end_are_no_crash(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    schema = {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}
    outcome = read_expectation(write(tmp_path, schema)).judged(Succeeded(RunResult(RunRef("r"), "succeeded", deep)))
    assert isinstance(outcome, Invalid)


def test_without_its_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(UsageError, match="needs an extra") as caught:
        read_expectation(write(tmp_path, SHORT))
    assert "dify-batch[expect]" in str(caught.value.hint)
