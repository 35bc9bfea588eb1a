"""--dedupe: rows with equal inputs run once, and the others share the result."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dify_batch.batch.control import Control
from dify_batch.batch.invocation import run_batch
from dify_batch.errors import UsageError
from dify_batch.ids import parse_ids
from dify_batch.ledger.drawn import drawn
from dify_batch.ledger.formats import Paths, is_copy
from dify_batch.ledger.spent import spent
from dify_batch.outcomes import SettledRow
from dify_batch.reports.export import export
from dify_batch.reports.html.collect import collect
from dify_batch.reports.status import status_report
from dify_batch.settings import Failures
from dify_batch.simulator import Config, Simulator
from dify_batch.summary import Stats
from tests.support.batchfolder import BatchFolder, soon
from tests.support.harness import places, result_ids, results


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(Config(latency=0.02, workers=None, linger_after_finish=0.1, snapshot_delay=0.01)) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path, server: Simulator) -> BatchFolder:
    """a, b and c ask the same; d and e, too; f asks something else."""
    made = BatchFolder(tmp_path, server)
    put(made, {"a": "one", "d": "two", "b": "one", "f": "three", "c": "one", "e": "two"})
    return made


def put(folder: BatchFolder, questions: dict[str, str]) -> None:
    lines = ["id,query", *(f"{row_id},{query}" for row_id, query in questions.items())]
    folder.data.write_text("\n".join(lines) + "\n", encoding="utf-8")


def lines(folder: BatchFolder) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in results(folder.output)}


def firsts(folder: BatchFolder) -> dict[str, Any]:
    return {row_id: line.get("copy_of") for row_id, line in lines(folder).items()}


ALL = {"a": None, "b": "a", "c": "a", "d": None, "e": "d", "f": None}


async def test_equal_rows_run_once_and_share_the_result(folder: BatchFolder) -> None:
    stats = Stats()
    report = await run_batch(folder.settings(dedupe=True, api_key="app-demo"), stats=stats)
    summary = report.summary
    assert (report.exit_status, summary.success, summary.copied, summary.posts) == (0, 6, 3, 3)
    assert (summary.untouched, stats.finished, stats.to_run) == (0, 6, 6)
    assert folder.executions() == {"a": 1, "d": 1, "f": 1}
    found = lines(folder)
    assert firsts(folder) == ALL
    assert list(found["b"])[-1] == "copy_of"
    assert found["b"]["outputs"] == found["a"]["outputs"]
    assert found["b"]["workflow_run_id"] == found["a"]["workflow_run_id"]
    assert found["b"]["executed_at"] == found["a"]["executed_at"]
    assert found["b"]["inputs"] == {"id": "b", "query": "one"}
    assert (found["b"]["total_tokens"], found["b"]["elapsed_time"], found["b"]["retry_count"]) == (0, None, 0)
    ran = [line for line in found.values() if "copy_of" not in line]
    assert spent(Paths.of(folder.output)).tokens == sum(line["total_tokens"] for line in ran)
    assert status_report(folder.output).total_tokens == sum(line["total_tokens"] for line in ran)
    assert collect([folder.output]).used.tokens == sum(line["total_tokens"] for line in ran)
    assert len(drawn([Paths.of(folder.output)])) == 3
    export(folder.output, folder.path / "t.csv")
    again = await folder.run(dedupe=True, api_key="app-demo")
    assert (again.exit_status, again.summary.posts, again.summary.done_before) == (0, 0, 6)


async def test_without_the_flag_each_row_runs(folder: BatchFolder) -> None:
    report = await folder.run()
    assert (report.summary.posts, set(firsts(folder).values())) == (6, {None})


async def test_the_plan_says_how_many_runs_are_saved(folder: BatchFolder) -> None:
    plan = (await folder.run(dedupe=True, dry_run=True)).plan
    assert plan is not None
    assert (plan.to_run, plan.copies) == (3, 3)
    assert "3 rows have the inputs of another and will share its result: 3 runs are saved" in plan.text()
    assert [payload["inputs"]["id"] for payload in plan.payloads] == ["a", "d", "f"]
    without = (await folder.run(dry_run=True)).plan
    assert without is not None
    assert (without.to_run, without.copies) == (6, 0)


async def test_copies_of_a_row_that_was_done_before(folder: BatchFolder) -> None:
    await folder.run(limit=1)
    assert result_ids(folder.output) == ["a"]
    report = await folder.run(dedupe=True)
    assert (report.exit_status, report.summary.success, report.summary.done_before) == (0, 5, 1)
    assert firsts(folder) == ALL
    put(folder, {"g": "one", "a": "one", "d": "two", "b": "one", "f": "three", "c": "one", "e": "two", "h": "two"})
    report = await folder.run(dedupe=True)
    assert (report.summary.posts, report.summary.copied) == (0, 2)
    assert (firsts(folder)["g"], firsts(folder)["h"]) == ("a", "d")


async def test_a_copy_is_no_source_under_its_own_name(folder: BatchFolder) -> None:
    await folder.run(dedupe=True)
    put(folder, {"b": "one", "c": "one", "d": "two", "e": "two", "z": "one"})
    await folder.run(dedupe=True)
    assert firsts(folder)["z"] == "a"


async def test_when_the_first_fails_the_others_fail_and_retry_runs_it_once(folder: BatchFolder) -> None:
    folder.server.faults(rows={"a": ["failed"]})
    report = await folder.run(dedupe=True)
    assert (report.exit_status, report.summary.failed, report.summary.success) == (1, 3, 3)
    assert sorted(parse_ids(folder.retry.read_bytes())) == ["a", "b", "c"]
    reasons = {record["id"]: record["code"] for record in folder.journal() if record["event"] == "failed"}
    assert reasons == {"a": "run_failed", "b": "first_failed", "c": "first_failed"}
    assert {row.code for row in status_report(folder.output).failures} == {"run_failed", "first_failed"}
    places(folder.output)
    report = await folder.run(dedupe=True, retry=True)
    assert (report.exit_status, report.summary.success, report.summary.posts) == (0, 3, 1)
    assert firsts(folder) == ALL
    assert not folder.retry.exists()


async def test_failures_of_copies_count_for_max_failures(folder: BatchFolder) -> None:
    folder.server.faults(rows={"a": ["failed"]})
    report = await folder.run(dedupe=True, max_failures=Failures(3), concurrency=1)
    assert (report.summary.failed, report.error and report.error.code) == (3, "batch_stopped")
    assert report.summary.untouched == 3


async def test_a_second_pass_gives_copies_their_result_after_all(folder: BatchFolder) -> None:
    folder.server.faults(rows={"a": ["failed"], "d": ["failed"] * 2})
    stats = Stats()
    report = await run_batch(folder.settings(dedupe=True, retry_pass=True), stats=stats)
    assert (report.summary.success, report.summary.failed, report.summary.untouched) == (4, 2, 0)
    assert firsts(folder) == {"a": None, "b": "a", "c": "a", "f": None}
    assert sorted(parse_ids(folder.retry.read_bytes())) == ["d", "e"]
    assert folder.executions() == {"a": 2, "d": 2, "f": 1}
    assert (stats.finished, stats.failures.total()) == (6, 2)
    places(folder.output)


async def test_a_run_of_a_killed_batch_serves_its_copies(folder: BatchFolder) -> None:
    folder.server.configure(latency=1.0)
    task = asyncio.create_task(run_batch(folder.settings(dedupe=True, concurrency=1)))
    await soon(lambda: any(record["event"] == "started" for record in folder.journal()), "a run")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert result_ids(folder.output) == []
    folder.server.configure(latency=0.02)
    report = await folder.run(dedupe=True)
    assert (report.exit_status, report.summary.success) == (0, 6)
    assert folder.executions() == {"a": 1, "d": 1, "f": 1}
    assert firsts(folder) == ALL


async def test_a_run_that_answered_another_question_serves_nobody(folder: BatchFolder) -> None:
    folder.server.configure(latency=1.0)
    task = asyncio.create_task(run_batch(folder.settings(dedupe=True, concurrency=1)))
    await soon(lambda: any(record["event"] == "started" for record in folder.journal()), "a run")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    folder.server.configure(latency=0.02)
    put(folder, {"a": "changed", "b": "changed", "c": "changed"})  # the run of a was asked "one"
    report = await folder.run(dedupe=True)
    assert (report.exit_status, report.summary.untouched) == (0, 0)
    found = lines(folder)
    assert found["a"]["outputs"]["query"] == "one"
    assert found["b"]["outputs"]["query"] == found["c"]["outputs"]["query"] == "changed"
    assert "copy_of" not in found["b"]


async def test_a_stop_leaves_copies_of_what_did_not_run(folder: BatchFolder) -> None:
    folder.server.configure(latency=0.6)
    control = Control()
    task = asyncio.create_task(run_batch(folder.settings(dedupe=True, concurrency=1), control=control))
    await soon(lambda: any(record["event"] == "started" for record in folder.journal()), "a run")
    control.drain()
    report = await task
    assert (report.summary.success, report.summary.untouched, report.summary.copied) == (3, 3, 2)
    report = await folder.run(dedupe=True)
    assert (report.exit_status, report.summary.success, report.summary.posts) == (0, 3, 2)


async def test_a_paused_first_has_its_copies_wait(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server)
    put(folder, {"a": "one", "b": "one"})
    report = await folder.run(dedupe=True, api_key="app-human", limit=9)
    assert (report.summary.paused, report.summary.untouched, report.summary.posts) == (1, 1, 1)
    run_id = report.summary.paused_rows[0].workflow_run_id
    assert run_id is not None
    server.submit_form(run_id)
    report = await folder.run(dedupe=True, api_key="app-human")
    assert (report.exit_status, report.summary.success, report.summary.posts) == (0, 2, 0)
    assert firsts(folder) == {"a": None, "b": "a"}


async def test_changed_rows_that_run_again(folder: BatchFolder) -> None:
    await folder.run(dedupe=True)
    folder.change("b", "three")
    report = await folder.run(dedupe=True, rerun_changed=True)
    assert (report.summary.posts, firsts(folder)["b"]) == (0, "f")
    assert lines(folder)["b"]["outputs"] == lines(folder)["f"]["outputs"]
    assert is_copy(folder.superseded.read_bytes().splitlines()[-1])
    folder.change("a", "new")
    folder.change("c", "new")
    report = await folder.run(dedupe=True, rerun_changed=True)
    assert (report.summary.posts, firsts(folder)["c"], lines(folder)["c"]["outputs"]["query"]) == (1, "a", "new")


async def test_a_row_that_a_person_asks_for_runs_itself(folder: BatchFolder) -> None:
    await folder.run(dedupe=True)
    folder.retry.write_text("b\n")
    report = await folder.run(dedupe=True, retry=True)
    assert (report.exit_status, report.summary.posts, firsts(folder)["b"]) == (0, 1, None)


async def test_lost_results_are_copied_again(folder: BatchFolder) -> None:
    await folder.run(dedupe=True)
    kept = [line for line in folder.output.read_bytes().splitlines(keepends=True) if b'"copy_of"' not in line]
    folder.output.write_bytes(b"".join(kept))
    report = await folder.run(dedupe=True)
    assert (report.exit_status, report.summary.posts, firsts(folder)) == (0, 0, ALL)
    folder.output.unlink()
    report = await folder.run(dedupe=True)
    assert (report.exit_status, report.summary.posts, firsts(folder)) == (0, 0, ALL)


@pytest.mark.parametrize("latency", [0.02, 0.3])
async def test_with_keep_order_copies_stand_at_their_place(folder: BatchFolder, latency: float) -> None:
    folder.server.faults(rows={"d": [{"name": "normal", "latency": latency}]})
    await folder.run(dedupe=True, keep_order=True)
    assert result_ids(folder.output) == ["a", "d", "b", "f", "c", "e"]
    assert firsts(folder) == ALL


async def test_more_copies_than_results_may_wait_do_not_hold_the_batch(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server)
    put(folder, {f"r{number}": "same" if number % 2 else f"q{number}" for number in range(60)} | {
        f"s{number}": "same" for number in range(1200)
    })  # fmt: skip
    report = await folder.run(dedupe=True, keep_order=True)
    assert (report.exit_status, report.summary.posts) == (0, 31)
    assert result_ids(folder.output) == [f"r{number}" for number in range(60)] + [f"s{n}" for n in range(1200)]


async def test_a_sample_takes_no_row_that_is_not_in_it(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server)
    put(folder, {f"r{number}": "same" for number in range(50)})
    report = await folder.run(dedupe=True, sample=10)
    assert (report.summary.success, report.summary.posts, report.summary.untouched) == (10, 1, 40)
    report = await folder.run(dedupe=True)
    assert (report.summary.success, report.summary.posts) == (40, 0)
    assert Counter(firsts(folder).values())[None] == 1


async def test_parts_share_no_runs(folder: BatchFolder) -> None:
    with pytest.raises(UsageError, match="contradict"):
        await folder.run(dedupe=True, shard="1/2")


async def test_what_a_user_names_is_no_copy(folder: BatchFolder) -> None:
    with pytest.raises(UsageError, match="contradict"):
        await folder.run(dedupe=True, user="crm-{query}")
    assert (await folder.run(dedupe=True, user="crm")).summary.posts == 3


async def test_other_columns_count_too(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server)
    folder.data.write_text("id,query,customer\na,one,x\nb,one,y\nc,one,x\n", encoding="utf-8")
    report = await folder.run(dedupe=True)
    assert (report.summary.posts, firsts(folder)) == (2, {"a": None, "b": None, "c": "a"})


async def test_an_answer_that_misses_the_schema_fails_its_copies(folder: BatchFolder) -> None:
    schema = folder.path / "schema.json"
    schema.write_text(json.dumps({"properties": {"query": {"enum": ["two", "three"]}}}))
    report = await folder.run(dedupe=True, expect=schema)
    assert (report.summary.success, report.summary.invalid, report.summary.failed) == (3, 1, 2)


async def test_unknown_rows_are_looked_up_themselves(folder: BatchFolder) -> None:
    folder.server.faults(rows={"b": ["cut_after_accept"]})
    await folder.run(ids=_list(folder, "b"), settle=0.1)  # found on the server
    report = await folder.run(dedupe=True)
    assert (report.exit_status, report.summary.posts) == (0, 2)
    assert firsts(folder) == {"a": "b", "b": None, "c": "b", "d": None, "e": "d", "f": None}


def _list(folder: BatchFolder, *ids: str) -> Path:
    path = folder.path / "ids.txt"
    path.write_text("\n".join(ids))
    return path


async def test_an_app_that_takes_the_id_has_no_equal_rows(folder: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dify_batch.input.bound.BoundForm.takes", lambda _, name: name == "id")
    report = await folder.run(dedupe=True)
    assert (report.summary.posts, report.summary.copied) == (6, 0)
    assert "nothing_equal" in [notice.code for notice in report.summary.warnings]


async def test_the_page_says_whose_run_it_was(folder: BatchFolder) -> None:
    await folder.run(dedupe=True)
    assert "copy of" in collect([folder.output]).names


async def test_a_first_whose_file_has_gone_holds_up_nobody(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server)
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    rows = {"1": "b.txt", "2": "a.txt", "3": "a.txt", "4": "b.txt"}
    folder.data.write_text("id,doc\n" + "".join(f"{name},{file}\n" for name, file in rows.items()), encoding="utf-8")

    def gone(row: SettledRow) -> None:
        if row.id == "1":
            (tmp_path / "a.txt").unlink()

    settings = folder.settings(api_key="app-files", dedupe=True, keep_order=True, concurrency=1)
    report = await run_batch(settings, on_row=gone)
    assert result_ids(folder.output) == ["1", "4"]
    assert (report.summary.success, report.summary.running, report.summary.failed) == (2, 0, 2)
