"""Whose results an output holds, and whether they are answers to the rows as they are now."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dify_batch.batch import elsewhere
from dify_batch.dify import results as told
from dify_batch.errors import Exit, ServerError, UsageError
from dify_batch.reports.export import export
from dify_batch.reports.status import status_report
from dify_batch.simulator import Simulator
from tests.support.batchfolder import QUICK, BatchFolder, codes
from tests.support.harness import places, results

CONFIG = QUICK


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(CONFIG) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path, server: Simulator) -> BatchFolder:
    return BatchFolder(tmp_path, server)


# ------------------------------------------------------------ one app on one server


async def test_the_journal_says_whose_results_they_are(folder: BatchFolder) -> None:
    await folder.run(limit=1, delimiter=",", retry_policy="strict")
    head = folder.journal()[0]
    assert head["server"] == folder.server.base_url.removeprefix("http://")
    assert head["app"]
    assert head["app_mode"] == "workflow"
    assert len(head["key"]) == 8
    assert head["again"][:2] == ["--initial-retry-delay", "0.05"]
    assert "strict" in head["again"]
    assert b"app-echo" not in (folder.path / "results.jsonl.journal").read_bytes()


async def test_another_server_stops_before_anything_is_sent(folder: BatchFolder, tmp_path: Path) -> None:
    await folder.run(limit=3)
    with Simulator(CONFIG) as other:
        for retry in (False, True):
            with pytest.raises(UsageError) as caught:
                await folder.run(base_url=other.base_url, retry=retry)
            assert (caught.value.code, caught.value.exit_status) == ("other_app", Exit.USAGE)
            assert "--allow-other-app" in str(caught.value.hint)
        assert other.state(runs=False)["executions"] == {}
        allowed = await folder.run(base_url=other.base_url, allow_other_app=True)
        assert (allowed.exit_status, allowed.summary.success) == (0, 7)
        assert "other_app" in codes(allowed)
        both = await folder.run(base_url=other.base_url)
        assert both.exit_status == 0
    assert (await folder.run()).exit_status == 0


async def test_another_server_does_not_even_get_the_key(folder: BatchFolder) -> None:
    """Whoever is at that address is asked nothing: the output itself tells that it is another one."""
    await folder.run(limit=3)
    for more in ({"base_url": "http://127.0.0.1:9/v1"}, {"demo": True}):
        with pytest.raises(UsageError) as caught:
            await asyncio.wait_for(folder.run(**more), 10)
        assert caught.value.code == "other_app"


async def test_overwrite_begins_with_whatever_app_there_is(folder: BatchFolder) -> None:
    await folder.run(limit=3)
    with Simulator(CONFIG) as other:
        assert (await folder.run(base_url=other.base_url, overwrite=True)).summary.success == 10


async def test_demo_and_real_results_never_stand_in_one_file(folder: BatchFolder) -> None:
    await folder.run(limit=1)
    for allowed in (False, True):
        with pytest.raises(UsageError, match="the demo") as caught:
            await folder.run(demo=True, allow_other_app=allowed)
        assert caught.value.code == "other_app"
    demo = {"output": folder.path / "demo.jsonl", "demo": True}
    assert (await folder.run(**demo, limit=2)).summary.success == 2
    assert (await folder.run(**demo)).summary.success == 8
    with pytest.raises(UsageError, match="a real server"):
        await folder.run(output=folder.path / "demo.jsonl")


async def test_an_output_of_an_earlier_version_goes_on(folder: BatchFolder) -> None:
    """Its journal does not say whose results they are."""
    await folder.run(limit=4)
    path = folder.path / "results.jsonl.journal"
    own = {"server", "app", "app_mode", "key", "salt", "again", "input_path", "workflow_id"}
    old = [{name: value for name, value in record.items() if name not in own} for record in folder.journal()]
    path.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in old), encoding="utf-8")
    report = await folder.run()
    assert (report.exit_status, report.summary.done_before, report.summary.success) == (0, 4, 6)
    assert set(folder.executions().values()) == {1}


# ------------------------------------------------------------ rows that have changed


async def test_rows_that_have_changed_are_named_and_not_sent(folder: BatchFolder) -> None:
    await folder.run()
    assert codes(await folder.run()) == []
    folder.change("r3", "another question")
    folder.change("r7", "and another")
    for dry in (True, False):
        report = await folder.run(dry_run=dry)
        assert codes(report) == ["rows_changed"]
        message = report.summary.warnings[0].message
        assert "2 rows have changed" in message
        assert "r3, r7" in message
        assert "--rerun-changed" in message
        assert report.summary.posts == 0
    assert report.exit_status == 0
    assert report.summary.as_dict()["warnings"] == [{"code": "rows_changed", "message": message}]


async def test_rerun_changed_keeps_the_old_lines_and_leaves_one_an_id(folder: BatchFolder) -> None:
    await folder.run()
    before = {line["id"]: line for line in results(folder.output)}
    folder.change("r3", "another question")
    report = await folder.run(rerun_changed=True)
    assert (report.exit_status, report.summary.success, report.summary.done_before) == (0, 1, 9)
    assert folder.answers()["r3"] == "another question"
    assert len(results(folder.output)) == 10
    assert folder.output.read_bytes().startswith(b"\xef\xbb\xbf{")
    assert [json.loads(line) for line in folder.superseded.read_text().splitlines()] == [before["r3"]]
    assert {line["id"]: line["retry_count"] for line in results(folder.output)}["r3"] == 1
    assert places(folder.output).done == {f"r{number}" for number in range(1, 11)}
    assert codes(await folder.run(rerun_changed=True)) == []
    assert folder.executions() == {f"r{number}": 1 + (number == 3) for number in range(1, 11)}


async def test_rerun_changed_sends_new_rows_too_and_obeys_the_limit(folder: BatchFolder) -> None:
    await folder.run(limit=5)
    for row in ("r1", "r2", "r3"):
        folder.change(row, "another question")
    plan = (await folder.run(rerun_changed=True, dry_run=True)).plan
    assert plan is not None
    assert (plan.to_run, plan.done) == (8, 2)
    assert not folder.superseded.exists()
    await folder.run(rerun_changed=True, limit=2)
    assert sum(query == "another question" for query in folder.answers().values()) == 2
    assert (await folder.run(rerun_changed=True)).exit_status == 0
    assert len(results(folder.output)) == 10
    assert sum(query == "another question" for query in folder.answers().values()) == 3


async def test_a_crash_before_the_changed_row_has_its_new_result_loses_nothing(folder: BatchFolder) -> None:
    await folder.run()
    folder.change("r3", "another question")
    folder.server.faults(rows={"r3": ["rejected"]})
    report = await folder.run(rerun_changed=True)
    assert (report.exit_status, report.summary.failed) == (1, 1)
    assert places(folder.output).retry == {"r3"}
    assert len(folder.superseded.read_text().splitlines()) == 1
    assert (await folder.run(retry=True)).exit_status == 0
    assert folder.answers()["r3"] == "another question"


async def test_a_changed_form_or_spelling_is_no_change_of_a_row(folder: BatchFolder) -> None:
    """Without the form cells are sent as text; numbers that were numbers are then texts of the same meaning."""
    await folder.run()
    assert codes(await folder.run(preflight=False)) == []


async def test_rows_that_have_gone_are_counted_and_stay(folder: BatchFolder) -> None:
    await folder.run()
    lines = folder.data.read_text().splitlines()
    folder.data.write_text("\n".join(lines[:-2]) + "\n")
    report = await folder.run()
    assert codes(report) == ["rows_gone"]
    assert "2 results" in report.summary.warnings[0].message
    assert "r9, r10" in report.summary.warnings[0].message
    assert (report.exit_status, report.summary.rows) == (0, 8)
    assert len(results(folder.output)) == 10


async def test_more_than_one_version_is_told(folder: BatchFolder) -> None:
    await folder.run()
    assert all(line["workflow_id"] for line in results(folder.output))
    text = folder.output.read_bytes()
    version = results(folder.output)[0]["workflow_id"].encode()
    folder.output.write_bytes(text.replace(version, b"3b1f0d4e-7c2a-4e57-9f0b-2d6c8a1e5f90", 3))
    for dry in (True, False):
        report = await folder.run(dry_run=dry)
        assert codes(report) == ["several_versions"]
        assert version.decode() in report.summary.warnings[0].message


# ------------------------------------------------------------ what is done is known, or nothing is sent


ROW = '{"id": "r1", "status": "success", "inputs": {"id": "r1", "query": "question r1"}, "outputs": {}}'
FOREIGN: dict[str, str | bytes] = {
    "array": f"[{ROW}]\n",
    "array without an end": f"[{ROW}]",
    "pretty": json.dumps(json.loads(ROW), indent=2) + "\n",
    "utf-16": (ROW + "\n").encode("utf-16"),
    "failed": ROW.replace("success", "failed") + "\n",
    "status unknown": ROW.replace("success", "fine") + "\n",
    "no status": '{"id": "r1", "outputs": {}}\n',
    "a csv": "id,query\nr1,x\n",
    "an image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe\xfd",
    "no end": "precious notes",
    "someone's": '{"name": "x", "id": 5}\n',
    "mixed": ROW + "\n" + "not json\n",
    "a fraction as an id": ROW.replace('"r1", "status"', '1.5, "status"') + "\n",
}


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
async def test_a_line_that_cannot_be_read_as_ours_stops_before_sending(
    folder: BatchFolder, name: str, journal: bool
) -> None:
    data = FOREIGN[name]
    raw = data if isinstance(data, bytes) else data.encode()
    folder.output.write_bytes(raw)
    if journal:
        (folder.path / "results.jsonl.journal").write_bytes(b'{"event":"batch","batch":"b"}\n')
    for more in ({}, {"retry": True}, {"dry_run": True}):
        with pytest.raises(UsageError, match=r"results\.jsonl, line \d+: not a result") as caught:
            await folder.run(**more)
        assert caught.value.exit_status == Exit.USAGE
        assert "--overwrite" in str(caught.value.hint)
    assert folder.output.read_bytes() == raw
    assert folder.executions() == {}
    assert (await folder.run(overwrite=True)).summary.success == 10


async def test_ids_that_another_program_made_numbers_are_ids(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server)
    folder.data.write_text("id,query\n1,one\n2,two\n3,three\n")
    line = {"status": "success", "inputs": {"id": 1, "query": "one"}, "outputs": {}}
    folder.output.write_text("".join(json.dumps({"id": number} | line) + "\n" for number in (1, 2)))
    report = await folder.run()
    assert (report.summary.done_before, report.summary.success) == (2, 1)
    assert folder.executions() == {"3": 1}


# ------------------------------------------------------------ a done row asked for again


async def test_a_done_id_in_retry_waits_and_is_told(folder: BatchFolder) -> None:
    await folder.run()
    folder.retry.write_text("r4\n")
    report = await folder.run()
    assert (report.exit_status, report.summary.posts) == (1, 0)
    assert codes(report) == ["done_in_retry"]
    assert "r4" in report.summary.warnings[0].message
    assert report.error is not None
    assert "--retry" in str(report.error.hint)
    assert folder.retry.read_text(encoding="utf-8-sig").split() == ["r4"]
    again = await folder.run(retry=True)
    assert (again.exit_status, again.summary.success) == (0, 1)
    assert not folder.retry.exists()
    assert folder.executions()["r4"] == 2
    assert len(folder.superseded.read_text().splitlines()) == 1
    assert len(results(folder.output)) == 10


async def test_a_done_id_that_is_not_in_the_input_stays_in_retry(folder: BatchFolder) -> None:
    await folder.run()
    lines = folder.data.read_text().splitlines()
    folder.data.write_text("\n".join(lines[:-1]) + "\n")
    folder.retry.write_text("r10\n")
    report = await folder.run(retry=True)
    assert report.summary.posts == 0
    assert set(codes(report)) == {"rows_gone", "unknown_in_retry"}
    assert folder.retry.read_text(encoding="utf-8-sig").split() == ["r10"]
    assert len(results(folder.output)) == 10


async def test_a_deleted_result_is_fetched_again_and_how_to_run_it_anew_is_told(folder: BatchFolder) -> None:
    await folder.run()
    lines = folder.output.read_bytes().splitlines(keepends=True)
    folder.output.write_bytes(b"".join(lines[:-1]))
    report = await folder.run()
    assert (report.exit_status, report.summary.posts) == (0, 0)
    assert codes(report) == ["missing_results"]
    assert "to run a row again" in report.summary.warnings[0].message
    assert len(results(folder.output)) == 10


# ------------------------------------------------------------ odd answers


async def test_a_plain_rerun_says_what_waits(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r3": ["failed"]})
    await folder.run()
    report = await folder.run()
    assert report.exit_status == 1
    assert report.error is not None
    assert report.error.code == "rows_failed"
    assert any(step.strip().endswith("--retry") for step in report.next_steps)


async def test_the_name_of_the_same_results_does_not_matter(folder: BatchFolder) -> None:
    await folder.run(limit=4)
    link = folder.path / "other.jsonl"
    link.symlink_to(folder.output)
    report = await folder.run(output=link)
    assert (report.summary.done_before, report.summary.success) == (4, 6)
    assert not (folder.path / "other.jsonl.journal").exists()
    assert set(folder.executions().values()) == {1}


# ------------------------------------------------------------ failed rows, mended and fed back


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx"])
async def test_the_table_of_failed_rows_is_an_input_as_it_stands(folder: BatchFolder, suffix: str) -> None:
    folder.server.faults(rows={"r3": ["failed"], "r5": ["rejected"]})
    await folder.run()
    bad = folder.path / f"bad{suffix}"
    assert export(folder.output, bad, failed=True).rows == 2
    report = await folder.run(input=str(bad), retry=True)
    assert (report.exit_status, report.summary.success) == (0, 2)
    assert codes(report) == []
    by_id = {line["id"]: line["inputs"] for line in results(folder.output)}
    assert by_id["r3"] == {"id": "r3", "query": "question r3"}
    assert not folder.retry.exists()
    elsewhere = await folder.run(input=str(bad), output=folder.path / "second.jsonl")
    assert (elsewhere.exit_status, elsewhere.summary.success) == (0, 2)


# ------------------------------------------------------------ answers that no file can hold


async def test_numbers_that_json_has_not_are_told_and_written_as_texts(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = told.run_result

    def odd(data: Any, ref: Any) -> Any:
        found = real(data, ref)
        return dataclasses.replace(
            found, outputs={**found.outputs, "x": [float("nan"), float("inf")]}, finished_at=10**13
        )

    monkeypatch.setattr(told, "run_result", odd)
    report = await folder.run(limit=2)
    assert (report.exit_status, report.summary.success) == (0, 2)
    assert codes(report) == ["not_finite"]
    assert "r1, r2" in report.summary.warnings[0].message
    lines = [json.loads(line, parse_constant=refuse) for line in folder.output.read_text("utf-8-sig").splitlines()]
    assert [line["outputs"]["x"] for line in lines] == [["NaN", "Infinity"]] * 2
    assert all(line["executed_at"].startswith("20") for line in lines)
    assert (await folder.run()).exit_status == 0


def refuse(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


# ------------------------------------------------------------ rows without an id of their own


async def test_rows_that_are_left_out_are_no_rows_to_retry(folder: BatchFolder) -> None:
    folder.data.write_text("id,query\nr1,one\n,two\nr1,three\nr2,four\n")
    report = await folder.run(skip_invalid=True)
    assert (report.exit_status, report.summary.success, report.summary.failed) == (1, 2, 2)
    assert report.error is not None
    assert "--retry" not in f"{report.error.hint} {report.next_steps}"
    assert "correct" in str(report.error.hint)
    text = status_report(folder.output).text()
    assert "2 rows of the input could not be read in the last batch" in text
    assert "Nothing left to do" not in text
    assert "--retry" not in text


# ------------------------------------------------------------ a copy that was gone on with elsewhere


def copy_of(folder: BatchFolder, name: str) -> BatchFolder:
    """The same files in another folder, as a backup or a second machine has them."""
    other = folder.path / name
    other.mkdir()
    for path in list(folder.path.iterdir()):
        if path.is_file():
            shutil.copy2(path, other / path.name)
    data = (other / "data.csv").read_text()
    found = BatchFolder(other, folder.server)
    found.data.write_text(data)
    return found


async def test_a_journal_that_was_continued_elsewhere_stops_the_batch(folder: BatchFolder) -> None:
    await folder.run(limit=3)
    copy = copy_of(folder, "copy")
    assert (await copy.run(limit=4)).summary.success == 4
    for more in ({}, {"retry": True}, {"dry_run": True}):
        with pytest.raises(UsageError, match="a copy of it was gone on with elsewhere") as caught:
            await folder.run(**more)
        assert (caught.value.code, caught.value.exit_status) == ("other_app", Exit.USAGE)
        assert "4 runs" in caught.value.message
    assert sum(folder.executions().values()) == 7
    assert (await copy.run()).summary.success == 3, "the newest copy goes on"
    assert set(folder.executions().values()) == {1}
    allowed = await folder.run(allow_other_app=True)
    assert allowed.exit_status == 0


@pytest.mark.parametrize("first_look", [0.2, 60.0])
async def test_copies_that_are_begun_in_the_same_moment_notice_each_other(
    folder: BatchFolder, first_look: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While rows run, or at the end of a short batch."""
    monkeypatch.setattr(elsewhere, "_FIRST_LOOK", first_look)
    await folder.run(limit=2)
    copy = copy_of(folder, "copy")
    folder.server.configure(latency=0.4)
    reports = await asyncio.gather(*(one.run(concurrency=1, mode="streaming") for one in (folder, copy)))
    for report in reports:
        assert report.error is not None
        assert (report.error.code, report.exit_status) == ("batch_stopped", 1)
        assert "a copy of this output is run elsewhere" in report.error.message
        assert (report.summary.untouched > 0) == (first_look < 1)
    for one in (folder, copy):
        with pytest.raises(UsageError, match="a copy of it was gone on with elsewhere"):
            await one.run()
    assert (await copy.run(allow_other_app=True)).exit_status == 0


async def test_outputs_of_their_own_on_one_app_do_not_disturb_each_other(folder: BatchFolder) -> None:
    other = folder.path / "other.jsonl"
    for _ in range(2):
        await folder.run(limit=3)
        await folder.run(limit=3, output=other)
    assert (await folder.run()).exit_status == 0
    assert (await folder.run(overwrite=True, limit=2)).summary.success == 2
    assert (await folder.run(limit=2)).summary.success == 2


async def test_a_killed_invocation_of_this_output_is_known(folder: BatchFolder) -> None:
    """Its head stands in the journal before its first request leaves."""
    await folder.run(limit=3)
    journal = folder.path / "results.jsonl.journal"
    ended = [line for line in journal.read_bytes().splitlines(keepends=True) if b'"event":"end"' not in line]
    journal.write_bytes(b"".join(ended))
    assert (await folder.run()).summary.success == 7


async def test_a_log_that_is_not_to_be_had_holds_nobody_up(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await folder.run(limit=3)
    await copy_of(folder, "copy").run(limit=4)

    async def closed(*_: object, **__: object) -> None:
        raise ServerError("no log here")

    monkeypatch.setattr("dify_batch.dify.client.DifyClient.logs", closed)
    assert (await folder.run()).exit_status == 0
