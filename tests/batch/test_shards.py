"""Batches in parts against the simulator: every row once, in its part, and each way to look at all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.engine.slots import looks_own
from dify_batch.errors import UsageError
from dify_batch.ids import Shard, shard_of
from dify_batch.ledger.shards import shard_path
from dify_batch.reports.diff.report import diff
from dify_batch.reports.export import export
from dify_batch.reports.html.report import write_report
from dify_batch.reports.rowstory import row_story
from dify_batch.reports.status import status_report
from dify_batch.scale.merge import merge
from dify_batch.simulator import Simulator
from tests.support.batchfolder import QUICK, BatchFolder
from tests.support.harness import places, result_ids

OF = 3


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(QUICK) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path, server: Simulator) -> BatchFolder:
    return BatchFolder(tmp_path, server, rows=24)


def part(folder: BatchFolder, number: int) -> Path:
    return shard_path(folder.output, Shard(OF, number))


async def run_all(folder: BatchFolder) -> None:
    reports = await asyncio.gather(*(folder.run(shard=f"{number}/{OF}") for number in range(1, OF + 1)))
    assert [report.exit_status for report in reports] == [0] * OF
    assert sum(report.summary.rows for report in reports) == 24


async def test_each_row_runs_once_in_the_part_of_its_hash(folder: BatchFolder) -> None:
    await run_all(folder)
    for number in range(1, OF + 1):
        ids = result_ids(part(folder, number))
        assert ids
        assert {shard_of(row_id, OF) for row_id in ids} == {number}
    assert folder.executions() == {f"r{number}": 1 for number in range(1, 25)}
    assert not folder.output.exists()
    again = await folder.run(shard=f"1/{OF}")
    assert (again.exit_status, again.summary.posts, again.summary.untouched) == (0, 0, 0)


async def test_the_user_holds_the_part_and_64_random_bits(folder: BatchFolder) -> None:
    await folder.run(shard=f"2/{OF}", limit=OF)
    users = {run["user"] for run in folder.server.state()["runs"]}
    assert users
    for user in users:
        assert looks_own(user)
        batch = user.removeprefix("dify-batch-").rpartition("-")[0]
        digits, _, name = batch.partition("s")
        assert name == f"2of{OF}"
        assert len(digits) == 8 + 6 + 16  # the time, the output's tag, 64 random bits


async def test_a_part_looks_at_its_own_rows_alone_and_the_table_is_checked_whole(folder: BatchFolder) -> None:
    folder.data.write_text(folder.data.read_text() + "r1,twice\n")
    for number in range(1, OF + 1):
        with pytest.raises(UsageError, match="already stands"):
            await folder.run(shard=f"{number}/{OF}")
    reports = [await folder.run(shard=f"{n}/{OF}", skip_invalid=True) for n in range(1, OF + 1)]
    assert sum(report.summary.failed for report in reports) == 1, "a row of no part is the first one's"
    assert sum(report.summary.success for report in reports) == 24


async def test_sample_and_limit_are_of_the_whole(folder: BatchFolder) -> None:
    for number in range(1, OF + 1):
        await folder.run(shard=f"{number}/{OF}", sample=7)
    assert sum(len(result_ids(part(folder, number))) for number in range(1, OF + 1)) == 7
    for number in range(1, OF + 1):
        await folder.run(shard=f"{number}/{OF}", limit=4)
    assert sum(len(result_ids(part(folder, number))) for number in range(1, OF + 1)) == 11


async def test_another_number_is_refused_and_nothing_is_sent(folder: BatchFolder) -> None:
    await folder.run(shard=f"1/{OF}", limit=OF)
    before = folder.executions()
    for wrong in ({"shard": "1/4"}, {}, {"output": part(folder, 1)}):
        with pytest.raises(UsageError) as caught:
            await folder.run(**wrong)
        assert caught.value.exit_status == 2
    assert folder.executions() == before


async def test_a_retry_is_of_one_part(folder: BatchFolder, server: Simulator) -> None:
    server.faults({"rows": {"r5": ["failed"]}})
    number = shard_of("r5", OF)
    report = await folder.run(shard=f"{number}/{OF}")
    assert report.summary.failed == 1
    assert f"{part(folder, number)}.retry" in " ".join(report.next_steps)
    assert f"--shard {number}/{OF}" in " ".join(report.next_steps)
    assert (await folder.run(shard=f"{number}/{OF}", retry=True)).exit_status == 0
    assert "r5" in places(part(folder, number)).done


async def test_status_export_report_and_diff_take_all_parts(folder: BatchFolder, tmp_path: Path) -> None:
    await run_all(folder)
    status = status_report(folder.output)
    assert (status.done, status.parts and status.parts.of) == (24, OF)
    assert "Nothing left to do. For one file: dify-batch merge" in status.text()
    assert "done" in row_story(folder.output, "r7").text()
    assert export(folder.output, tmp_path / "table.csv").results == 24
    assert write_report([folder.output], tmp_path / "page.html", now=0.0).rows == 24
    merge(folder.output, tmp_path / "all.jsonl")
    assert diff(folder.output, tmp_path / "all.jsonl").kinds["same"] == 24
    assert diff(tmp_path / "all.jsonl", folder.output).kinds["same"] == 24


async def test_status_tells_which_parts_have_not_begun(folder: BatchFolder, server: Simulator) -> None:
    server.faults({"rows": {"r5": ["failed"]}})
    number = shard_of("r5", OF)
    await folder.run(shard=f"{number}/{OF}")
    status = status_report(folder.output)
    assert status.parts is not None
    assert status.parts.not_begun == tuple(n for n in range(1, OF + 1) if n != number)
    assert f"--shard I/{OF}" in status.text()
    assert status.failed == 1
    assert export(folder.output, folder.path / "failed.csv", failed=True).failed == 1
