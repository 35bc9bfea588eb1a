"""Results as a table: its columns, its rows, its target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dify_batch.errors import StorageError, UsageError
from dify_batch.ledger.formats import json_line
from dify_batch.reports.export import export
from tests.support.result_tables import JOURNAL, put, read_csv, read_xlsx, result, table

FIXED = ["workflow_run_id", "executed_at", "retry_count", "elapsed_time", "total_tokens", "total_steps"]
FIXED += ["total_price", "currency"]


# ---------------------------------------------------------------- columns


def test_columns_come_in_order_and_from_all_lines(tmp_path: Path) -> None:
    output = put(
        tmp_path,
        [
            result("a", {"q": "1"}, {"answer": "x"}),
            result("b", {"lang": "de"}, {"score": 0.5}, status="partial-success"),
        ],
    )
    report = export(output, tmp_path / "t.csv")
    header = ["id", "status", "error", "q", "lang", "answer", "score", *FIXED]
    assert list(report.columns) == header
    first, second = read_csv(tmp_path / "t.csv")
    assert list(first) == header
    assert first == dict.fromkeys(header, "") | {
        "id": "a",
        "status": "success",
        "q": "1",
        "answer": "x",
        "workflow_run_id": "run-a",
        "executed_at": "2026-11-22T02:00:00Z",
        "retry_count": "0",
        "elapsed_time": "1.5",
        "total_tokens": "7",
        "total_steps": "3",
    }
    assert (second["status"], second["lang"], second["score"], second["q"]) == ("partial-success", "de", "0.5", "")
    assert (report.rows, report.results, report.failed, report.left_out, report.notes) == (2, 2, 0, 0, ())


def test_names_get_a_prefix_only_where_they_clash(tmp_path: Path) -> None:
    row = result("a", {"text": "in", "status": "s", "only": "o"}, {"text": "out", "id": 5, "inputs.text": "odd"})
    (cells,) = table(tmp_path, row)
    assert (cells["text"], cells["only"], cells["inputs.status"], cells["outputs.id"]) == ("out", "o", "s", "5")
    assert cells["inputs.text"] == "odd"
    assert cells["inputs.inputs.text"] == "in"
    assert "inputs.id" not in cells


def test_an_input_id_that_is_not_the_rows_id_is_kept(tmp_path: Path) -> None:
    (cells,) = table(tmp_path, result("a", {"id": "other"}, {}))
    assert (cells["id"], cells["inputs.id"]) == ("a", "other")


def test_nested_values_are_json(tmp_path: Path) -> None:
    nested = {"a": [1, None, "ü"], "b": {"c": True}}
    (cells,) = table(tmp_path, result("a", {}, {"deep": nested, "yes": True, "nothing": None}))
    assert json.loads(cells["deep"]) == nested
    assert "ü" in cells["deep"]
    assert (cells["yes"], cells["nothing"]) == ("true", "")


def test_outputs_that_are_no_object(tmp_path: Path) -> None:
    (cells,) = table(tmp_path, result("a", {"q": "x"}, None))
    assert (cells["id"], cells["q"]) == ("a", "x")


# ---------------------------------------------------------------- failed rows


def test_failed_rows_come_last_with_their_error(tmp_path: Path) -> None:
    output = put(tmp_path, [result("a", {"q": "1"}, {"answer": "x"})], JOURNAL)
    report = export(output, tmp_path / "t.csv")
    rows = read_csv(tmp_path / "t.csv")
    assert [row["id"] for row in rows] == ["a", "f", "u"]
    assert [row["status"] for row in rows] == ["success", "failed", "unknown"]
    assert [row["error"] for row in rows] == ["", "run_failed: =boom()", "outcome_unknown: closed log"]
    assert [row["workflow_run_id"] for row in rows] == ["run-a", "run-f", ""]
    assert (report.rows, report.results, report.failed, report.left_out) == (3, 1, 2, 1)
    assert "3 rows (2 of them failed)" in report.text()
    assert "1 row paused or in flight" in report.text()
    json.dumps(report.as_dict())


def test_a_batch_of_which_every_row_failed(tmp_path: Path) -> None:
    output = put(tmp_path, [], JOURNAL)
    output.unlink()
    report = export(output, tmp_path / "t.xlsx")
    rows = [row[:2] for row in read_xlsx(tmp_path / "t.xlsx")[1:]]
    assert rows == [["a", "failed"], ["f", "failed"], ["u", "unknown"]]
    assert report.results == 0


def test_a_torn_line_and_a_foreign_one_are_left_out_and_named(tmp_path: Path) -> None:
    output = put(tmp_path, [result("a", {}, {"x": 1})])
    with output.open("ab") as file:
        file.write(b"not json\n" + json_line(result("b", {}, {"x": 2})) + b'{"id": "c", "st')
    report = export(output, tmp_path / "t.csv")
    assert [row["id"] for row in read_csv(tmp_path / "t.csv")] == ["a", "b"]
    assert report.notes == (f"{output}, line 2: not a result, left out",)


# ---------------------------------------------------------------- targets


def test_the_target_is_replaced_and_the_results_stay(tmp_path: Path) -> None:
    output = put(tmp_path, [result("a", {}, {"x": 1})])
    before = output.read_bytes()
    export(put(tmp_path, [result("a", {}, {"x": 2})]), tmp_path / "t.csv")
    output.write_bytes(before)
    export(output, tmp_path / "t.csv")
    assert read_csv(tmp_path / "t.csv")[0]["x"] == "1"
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.jsonl", "results.jsonl.journal", "t.csv"]


def test_a_file_of_the_batch_is_no_target(tmp_path: Path) -> None:
    odd = put(tmp_path, [result("a", {}, {})]).rename(tmp_path / "results.csv")
    (tmp_path / "link.csv").symlink_to(odd)
    (tmp_path / "hard.csv").hardlink_to(odd)
    before = odd.read_bytes()
    for name in ("results.csv", "link.csv", "hard.csv"):
        with pytest.raises(UsageError, match="file of the batch itself"):
            export(odd, tmp_path / name)
    assert odd.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("t.txt", "written as .csv, .xlsx, .parquet or .db"),
        ("t", "written as .csv, .xlsx, .parquet or .db"),
        ("nowhere/t.csv", "there is no folder"),
        ("folder.csv", "is a folder"),
    ],
)
def test_targets_that_cannot_be(tmp_path: Path, target: str, words: str) -> None:
    output = put(tmp_path, [result("a", {}, {})])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=words) as error:
        export(output, tmp_path / target)
    assert error.value.hint


def test_no_such_batch(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no batch of that name"):
        export(tmp_path / "nothing.jsonl", tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    output = put(tmp_path, [result("a", {}, {})])
    (tmp_path / "t.csv").write_text("old")
    monkeypatch.setattr("dify_batch.ledger.disk.Disk.sync", full)
    with pytest.raises(StorageError, match="No space left"):
        export(output, tmp_path / "t.csv", force=True)
    assert (tmp_path / "t.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.jsonl", "results.jsonl.journal", "t.csv"]


def test_a_file_that_holds_no_results(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("id,query\n1,a\n")
    with pytest.raises(StorageError, match="is no results file"):
        export(tmp_path / "data.csv", tmp_path / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_a_folder_that_may_not_be_written(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    output = put(tmp_path, [result("a", {}, {})])
    with monkeypatch.context() as patch:  # every way of changing a folder
        patch.setattr(Path, "unlink", refuse)
        patch.setattr(Path, "open", _open_to_read(refuse))
        patch.setattr("dify_batch.ledger.disk.os.open", refuse)
        with pytest.raises(StorageError, match=f"{name} cannot be written: Read-only file system"):
            export(output, tmp_path / name)


def _open_to_read(refuse: Any) -> Any:
    real = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        return refuse() if "w" in mode else real(self, mode, *args, **more)

    return opened


def test_a_price_in_several_currencies_is_one_cell(tmp_path: Path) -> None:
    (row,) = table(tmp_path, result("a", {}, {}, total_price=None, currency=None, prices={"USD": "1", "EUR": "0.5"}))
    assert (row["total_price"], row["currency"]) == ("0.50 EUR + 1.00 USD", "")
