"""`dify-batch merge`: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dify_batch.errors import UsageError
from dify_batch.ids import Shard, shard_of
from dify_batch.ledger.formats import BOM
from dify_batch.ledger.shards import shard_path
from dify_batch.scale.merge import merge
from tests.support.cli_process import error_of, run
from tests.support.harness import result_ids, results

OF = 3
IDS = [f"r{number}" for number in range(1, 13)]


def line(row_id: str) -> str:
    record = {"id": row_id, "status": "success", "inputs": {"id": row_id}, "outputs": {"answer": "ä\u2028"}}
    return json.dumps(record, ensure_ascii=False).replace("\u2028", "\\u2028")


def journal(app: str = "echo", **more: Any) -> str:
    return json.dumps({"event": "batch", "batch": "b", "input": "data.csv", "server": "s/v1", "app": app} | more)


def part(folder: Path, number: int) -> Path:
    return shard_path(folder / "results.jsonl", Shard(OF, number))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three parts of twelve rows; the table has them backwards."""
    for number in range(1, OF + 1):
        ids = [row_id for row_id in IDS if shard_of(row_id, OF) == number]
        part(tmp_path, number).write_bytes(BOM + "".join(f"{line(i)}\n" for i in ids).encode())
        Path(f"{part(tmp_path, number)}.journal").write_text(
            journal(input_path=str(tmp_path / "data.csv"), again=["--delimiter", ";"]) + "\n"
        )
    rows = "".join(f"{row_id};x\n" for row_id in reversed(IDS))
    (tmp_path / "data.csv").write_text(f"id;query\n{rows}")
    return tmp_path


def test_one_file_of_all_parts(folder: Path) -> None:
    report = merge(folder / "results.jsonl", folder / "all.jsonl")
    assert (report.results, report.parts, report.without) == (12, 3, {})
    assert sorted(result_ids(folder / "all.jsonl")) == sorted(IDS)
    data = (folder / "all.jsonl").read_bytes()
    assert data.startswith(BOM)
    assert data.count(BOM) == 1
    written = {record["id"]: record for record in results(folder / "all.jsonl")}
    assert written["r1"]["outputs"] == {"answer": "ä\u2028"}


def test_in_the_order_of_the_table_and_rows_that_have_gone_last(folder: Path) -> None:
    table = (folder / "data.csv").read_text().replace("r3;x\n", "")
    (folder / "data.csv").write_text(table)
    report = merge(folder / "results.jsonl", folder / "all.jsonl", keep_order=True, bom=False)
    assert result_ids(folder / "all.jsonl") == [row_id for row_id in reversed(IDS) if row_id != "r3"] + ["r3"]
    assert report.gone == 1
    assert not (folder / "all.jsonl").read_bytes().startswith(BOM)


def test_a_table_that_has_moved(folder: Path) -> None:
    (folder / "data.csv").rename(folder / "moved.csv")
    with pytest.raises(UsageError) as caught:
        merge(folder / "results.jsonl", folder / "all.jsonl", keep_order=True)
    assert "--input" in (caught.value.hint or "")
    assert not (folder / "all.jsonl").exists()
    merge(folder / "results.jsonl", folder / "all.jsonl", keep_order=True, source=str(folder / "moved.csv"))
    assert result_ids(folder / "all.jsonl") == list(reversed(IDS))


def test_a_part_that_is_missing_is_named(folder: Path) -> None:
    part(folder, 2).unlink()
    Path(f"{part(folder, 2)}.journal").unlink()
    with pytest.raises(UsageError, match="1 part is missing of 3: 2/3"):
        merge(folder / "results.jsonl", folder / "all.jsonl")


def test_a_part_without_results_is_none_that_is_missing(folder: Path) -> None:
    rows = len(result_ids(part(folder, 2)))
    part(folder, 2).unlink()
    assert merge(folder / "results.jsonl", folder / "all.jsonl").results == 12 - rows


@pytest.mark.parametrize("into", [1, 2])
def test_an_id_that_stands_twice_is_refused(folder: Path, into: int) -> None:
    row_id = next(i for i in IDS if shard_of(i, OF) == 1)
    with part(folder, into).open("a") as file:
        file.write(line(row_id) + "\n")
    with pytest.raises(UsageError, match=f"{row_id} stands twice"):
        merge(folder / "results.jsonl", folder / "all.jsonl")
    assert not (folder / "all.jsonl").exists()


def test_a_row_in_a_part_that_is_not_its_own_is_refused(folder: Path) -> None:
    stranger = next(f"s{n}" for n in range(99) if shard_of(f"s{n}", OF) == 2)
    with part(folder, 1).open("a") as file:
        file.write(line(stranger) + "\n")
    with pytest.raises(UsageError, match="belongs to another part"):
        merge(folder / "results.jsonl", folder / "all.jsonl")


def test_several_apps_are_refused_unless_allowed(folder: Path) -> None:
    with Path(f"{part(folder, 2)}.journal").open("a") as file:
        file.write(journal("another") + "\n")
    with pytest.raises(UsageError) as caught:
        merge(folder / "results.jsonl", folder / "all.jsonl")
    assert caught.value.code == "other_app"
    assert merge(folder / "results.jsonl", folder / "all.jsonl", allow_other_app=True).results == 12


def test_rows_without_a_result_are_counted(folder: Path) -> None:
    record = {"event": "failed", "id": "x", "kind": "failed", "code": "run_failed", "message": "no", "at": "2025"}
    with Path(f"{part(folder, 2)}.journal").open("a") as file:
        file.write(json.dumps(record, separators=(",", ":")) + "\n")
    report = merge(folder / "results.jsonl", folder / "all.jsonl")
    assert report.without == {"failed": 1}
    assert "1 row has no result and is not in it: 1 failed" in report.text()


@pytest.mark.parametrize("name", ["results.jsonl", "results.1of3.jsonl", "results.1of3.jsonl.journal", "own.jsonl"])
def test_nothing_of_a_batch_is_written_over(folder: Path, name: str) -> None:
    (folder / "own.jsonl.journal").write_text(journal() + "\n")
    with pytest.raises(UsageError, match="batch"):
        merge(folder / "results.jsonl", folder / name, force=True)


def test_what_is_there_stays_without_force(folder: Path) -> None:
    (folder / "all.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        merge(folder / "results.jsonl", folder / "all.jsonl")
    assert (folder / "all.jsonl").read_text() == "mine"
    assert merge(folder / "results.jsonl", folder / "all.jsonl", force=True).results == 12


def test_the_command(folder: Path) -> None:
    done = run(folder, "merge", "results.jsonl", "-o", "all.jsonl", "--keep-order", "--json")
    assert json.loads(done.stdout) == {"target": "all.jsonl", "parts": 3, "results": 12, "without": {}, "gone": 0}
    error = error_of(run(folder, "merge", "nothing.jsonl", "-o", "b.jsonl", "--json"))
    assert error["code"] == "usage_invalid_flag"
    error = error_of(run(folder, "merge", "results.jsonl", "-o", "b.jsonl", "--input", "data.csv", "--json"))
    assert "--keep-order" in error["message"]
