"""Nothing of the person's is replaced: an export writes over what an export wrote, and over nothing else."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from dify_batch.errors import UsageError
from dify_batch.ledger.formats import BOM, json_line
from dify_batch.reports.export import export
from tests.support.result_tables import JOURNAL, put, read_csv, read_xlsx, result

SUFFIXES = (".csv", ".xlsx", ".parquet", ".db", ".sqlite")
TABLE = "id,q\na,one\nf,two\nu,three\np,four\nx,five\n"


def journal_with_input(source: Path | str) -> list[dict[str, Any]]:
    return [JOURNAL[0] | {"input": str(source), "input_path": str(source)}, *JOURNAL[1:]]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(TABLE)
    records = [
        result("a", {"q": "one"}, {"answer": "x", "n": 1}),
        result("b", {"q": "é"}, {"n": 2, "deep": {"y": [1]}}),
    ]
    return put(tmp_path, records, journal_with_input(tmp_path / "rows.csv"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_is_replaced_by_the_next_one(output: Path, suffix: str) -> None:
    target = output.with_name(f"t{suffix}")
    export(output, target)
    first = target.stat().st_ino
    export(output, target)
    assert target.stat().st_ino != first


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "data",
    [
        b"precious",
        b"id,status\n1,2\n",
        b"id,status,error of mine\r\n",
        b"PK\x03\x04",
        b"SQLite format 3\0" + b"\0" * 100,
        b"PAR1",
    ],
)
def test_what_no_export_wrote_stays(output: Path, suffix: str, data: bytes) -> None:
    target = output.with_name(f"t{suffix}")
    target.write_bytes(data)
    with pytest.raises(UsageError, match="no export wrote it") as caught:
        export(output, target)
    assert "--force" in str(caught.value.hint)
    assert target.read_bytes() == data
    export(output, target, force=True)
    assert target.read_bytes() != data


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_is_nobodys(output: Path, suffix: str) -> None:
    target = output.with_name(f"t{suffix}")
    target.write_bytes(b"")
    export(output, target)
    assert target.stat().st_size


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("failed", [False, True])
def test_the_input_is_never_replaced(output: Path, force: bool, failed: bool) -> None:
    rows = output.with_name("rows.csv")
    alias = output.with_name("alias.csv")
    alias.symlink_to(rows)
    for target in (rows, alias):
        with pytest.raises(UsageError, match="is the input of the batch"):
            export(output, target, force=force, failed=failed)
    assert rows.read_text() == TABLE


def test_the_input_of_an_earlier_invocation_is_the_input_too(output: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("id,q\n")
    with (tmp_path / "results.jsonl.journal").open("ab") as file:
        file.write(json_line(JOURNAL[0] | {"input_path": str(other)}, compact=True))
    for target in (other, tmp_path / "rows.csv"):
        with pytest.raises(UsageError, match="is the input of the batch"):
            export(output, target, force=True)


@pytest.mark.skipif(os.name != "posix", reason="named pipes are those of POSIX")
def test_a_pipe_is_no_target(output: Path) -> None:
    os.mkfifo(output.with_name("t.csv"))
    with pytest.raises(UsageError, match="is a pipe"):
        export(output, output.with_name("t.csv"), force=True)


# ------------------------------------------------------------ parquet and SQLite


def test_parquet_has_a_type_for_each_column(tmp_path: Path) -> None:
    records = [
        result("a", {"q": "é"}, {"n": 1, "f": 1, "mixed": 1, "yes": True, "deep": [1], "big": 2**70, "none": None}),
        result("b", {"q": "\ud800"}, {"n": None, "f": 0.5, "mixed": "x", "yes": False, "deep": {}, "big": 1}),
    ]
    target = tmp_path / "t.parquet"
    report = export(put(tmp_path, records, JOURNAL), target)
    found = pyarrow.parquet.read_table(target)
    assert found.column_names == list(report.columns)
    types = {field.name: str(field.type) for field in found.schema}
    wanted = {"n": "int64", "f": "double", "mixed": "string", "yes": "bool", "deep": "string", "big": "string"}
    assert wanted.items() <= types.items()
    rows = found.to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "f", "u"]
    assert (rows[0]["n"], rows[0]["f"], rows[0]["mixed"], rows[0]["big"]) == (1, 1.0, "1", str(2**70))
    assert rows[1]["q"] == "\\ud800"
    assert json.loads(rows[0]["deep"]) == [1]
    assert rows[2]["error"] == "run_failed: =boom()"


def test_a_database_can_be_asked(tmp_path: Path) -> None:
    records = [
        result("a", {"q": 'say "hi"', "Q": "other case"}, {"n": 1, "deep": {"y": [1]}, "yes": True, "big": 2**70}),
        result("b", {"q": "\0\ud800"}, {"n": 2.5, 'odd "name"': "x"}),
    ]
    export(put(tmp_path, records, JOURNAL), tmp_path / "t.db")
    base = sqlite3.connect(tmp_path / "t.db")
    ask = base.execute
    assert ask("SELECT id, n FROM rows WHERE status = 'success' ORDER BY id").fetchall() == [("a", 1), ("b", 2.5)]
    assert ask("SELECT json_extract(deep, '$.y[0]'), yes, big FROM rows WHERE id = 'a'").fetchone() == (
        1,
        1,
        str(2**70),
    )
    assert ask("SELECT \"Q_2\" FROM rows WHERE id = 'a'").fetchone() == ("other case",)
    assert ask('SELECT "odd ""name""" FROM rows WHERE id = \'b\'').fetchone() == ("x",)
    assert ask("SELECT id, status FROM failures ORDER BY id").fetchall() == [("f", "failed"), ("u", "unknown")]
    indexes = {row[0] for row in ask("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert indexes == {"rows_id", "rows_status", "failures_id", "failures_status"}
    base.close()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_thousands_of_rows_in_any_format(tmp_path: Path, suffix: str) -> None:
    output = put(tmp_path, [result(f"r{number}", {"q": "x"}, {"n": number}) for number in range(11_000)])
    report = export(output, tmp_path / f"t{suffix}")
    assert report.rows == 11_000


# ------------------------------------------------------------ --failed


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".jsonl"])
def test_the_failed_rows_with_their_inputs(output: Path, suffix: str) -> None:
    target = output.with_name(f"bad{suffix}")
    for _ in range(2):  # and what it wrote it replaces
        report = export(output, target, failed=True)
    assert report.columns == ("id", "q", "_status", "_code", "_reason", "_run_id", "_time", "_node", "_outputs")
    assert (report.rows, report.failed, report.results) == (2, 2, 0)
    if suffix == ".csv":
        first, second = read_csv(target)
        assert list(first.values())[:6] == ["f", "two", "failed", "run_failed", "'=boom()", "run-f"]
        assert (second["id"], second["q"], second["_status"]) == ("u", "three", "unknown")
    elif suffix == ".xlsx":
        assert read_xlsx(target)[1][:3] == ["f", "two", "failed"]
    elif suffix == ".jsonl":
        lines = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
        assert lines[0] == {
            "id": "f",
            "q": "two",
            "_status": "failed",
            "_code": "run_failed",
            "_reason": "=boom()",
            "_run_id": "run-f",
        }


def test_when_and_from_where_an_input_was_read(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_bytes("query;key\nzwö;f\neins;a\n".encode("cp1252"))
    flags = ["--delimiter", ";", "--encoding", "cp1252", "--id-column", "key", "--retry-policy", "strict"]
    head = JOURNAL[0] | {"input_path": str(table), "again": flags}
    failed = {
        "event": "failed",
        "id": "f",
        "kind": "invalid",
        "code": "c",
        "message": "m",
        "at": "2026-11-22T02:00:00.000Z",
    }
    output = put(tmp_path, [], [head, failed])
    export(output, tmp_path / "bad.csv", failed=True)
    (row,) = read_csv(tmp_path / "bad.csv")
    assert row == {
        "query": "zwö", "key": "f", "_status": "invalid", "_code": "c", "_reason": "m", "_run_id": "",
        "_time": "2026-11-22T02:00:00.000Z", "_node": "", "_outputs": "",
    }  # fmt: skip


def test_rows_that_have_gone_from_the_input_are_told(output: Path) -> None:
    output.with_name("rows.csv").write_text("id,q\nu,three\n")
    report = export(output, output.with_name("bad.csv"), failed=True)
    assert [row["id"] for row in read_csv(output.with_name("bad.csv"))] == ["u", "f"]
    assert "1 row is not in" in report.notes[0]


def test_an_input_that_is_not_to_be_had(output: Path, tmp_path: Path) -> None:
    output.with_name("rows.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(UsageError) as caught:
        export(output, tmp_path / "bad.csv", failed=True)
    assert "--input" in str(caught.value.hint)
    assert not (tmp_path / "bad.csv").exists()
    assert export(output, tmp_path / "bad.csv", failed=True, source=str(tmp_path / "moved.csv")).rows == 2
    piped = put(tmp_path, [], journal_with_input("-"))
    with pytest.raises(UsageError, match="standard input"):
        export(piped, tmp_path / "t.csv", failed=True)


def test_an_output_without_failures(tmp_path: Path) -> None:
    output = put(tmp_path, [result("a", {}, {})])
    with pytest.raises(UsageError, match="no row has failed"):
        export(output, tmp_path / "bad.csv", failed=True)
    assert not (tmp_path / "bad.csv").exists()


def test_results_are_json_lines_already(output: Path) -> None:
    with pytest.raises(UsageError, match="JSON lines as they are"):
        export(output, output.with_name("t.jsonl"))


def test_bytes_of_a_csv_begin_with_the_mark(output: Path) -> None:
    export(output, output.with_name("bad.csv"), failed=True)
    assert output.with_name("bad.csv").read_bytes().startswith(BOM)
