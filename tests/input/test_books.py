"""Workbooks and Parquet as inputs: what a person sees in a cell is what is sent."""

from __future__ import annotations

import datetime as d
import io
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from dify_batch.errors import UsageError
from dify_batch.input.books import cell_text
from dify_batch.input.form import Form
from dify_batch.input.rows import RowSource
from tests.support.inputs import Came, comes_to

NO_FORM = Form.absent()


def book(path: Path, rows: list[list[Any]], *, at: tuple[int, int] = (1, 1), **more: list[list[Any]]) -> Path:
    """A workbook with the sheet Data, and others by name."""
    made = openpyxl.Workbook()
    sheet = made.active
    assert sheet is not None
    sheet.title = "Data"
    for line, row in enumerate(rows, at[0]):
        for column, value in enumerate(row, at[1]):
            sheet.cell(line, column, value)
    for name, others in more.items():
        other = made.create_sheet(name)
        for row in others:
            other.append(row)
    made.save(path)
    return path


ODS = """<?xml version="1.0" encoding="UTF-8"?><office:document-content
xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
xmlns:calcext="urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0"><office:body><office:spreadsheet>
<table:table table:name="Blatt">{rows}</table:table></office:spreadsheet></office:body></office:document-content>"""


def ods(path: Path, *rows: str) -> Path:
    """An OpenDocument sheet of the given cells' XML, a row each."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        lines = "".join(f"<table:table-row>{row}</table:table-row>" for row in rows)
        archive.writestr("content.xml", ODS.replace("{rows}", lines))
        archive.writestr(
            "META-INF/manifest.xml",
            '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>',
        )
    return path


def text(value: str) -> str:
    return f'<table:table-cell office:value-type="string"><text:p>{value}</text:p></table:table-cell>'


def values(came: Came) -> list[list[Any]]:
    assert came.error == ""
    return [list(row.values()) for row in came.sent]


def test_cells_as_a_person_sees_them(tmp_path: Path) -> None:
    path = book(
        tmp_path / "rows.xlsx",
        [
            ["id", "text", "when", "n", "flag"],
            [1, "a\nb", d.date(2024, 1, 31), 0.1 + 0.2, True],
            [2.0, "ü", d.datetime(2024, 1, 31, 10, 5, 7), 1e15, False],
            ["003", None, d.time(10, 5), 1.5, None],
            [4, " x ", d.timedelta(hours=30), -0.0, "1e3"],
        ],
    )
    assert values(comes_to(path, form=NO_FORM)) == [
        ["1", "a\nb", "2024-01-31", "0.3", "TRUE"],
        ["2", "ü", "2024-01-31 10:05:07", "1000000000000000", "FALSE"],
        ["003", "", "10:05:00", "1.5", ""],
        ["4", " x ", "30:00:00", "0", "1e3"],
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e22, "10000000000000000000000"),
        (1.234567890123457e16, "12345678901234600"),
        (1e-7, "0.0000001"),
        (2 / 3, "0.666666666666667"),
        (-12.50, "-12.5"),
        (d.datetime(2024, 1, 31, 10, 5, 7, 250_000), "2024-01-31 10:05:07.250"),
        (d.timedelta(minutes=-90), "-01:30:00"),
        (None, ""),
    ],
)
def test_numbers_and_times(value: object, shown: str) -> None:
    assert cell_text(value) == shown


def test_lines_are_the_rows_of_the_sheet(tmp_path: Path) -> None:
    path = book(tmp_path / "rows.xlsx", [["id", "q"], [1, "a"], [], [3, "b"], [1, "c"]], at=(3, 2))
    came = comes_to(path, form=NO_FORM)
    assert came.error == 'line 7, column "id", row id "1": this id already stands on line 4; every row needs its own id'


def test_short_rows_and_surplus_columns_of_a_sheet(tmp_path: Path) -> None:
    path = book(tmp_path / "rows.xlsx", [["id", "q", "r", None], [1], [2, "a", None, None], [3, "b", "c", None]])
    assert values(comes_to(path, form=NO_FORM)) == [["1", "", ""], ["2", "a", ""], ["3", "b", "c"]]
    path = book(tmp_path / "rows.xlsx", [["Report"], [], ["id", "q", "r"], [1, "a", "b"], [2, "a", "b"]])
    assert "is line 3 the header?" in comes_to(path, form=NO_FORM).error


def test_the_sheet(tmp_path: Path) -> None:
    path = book(tmp_path / "rows.xlsx", [["id"], ["first"]], More=[["id"], ["second"]])
    came = comes_to(path, form=NO_FORM)
    assert values(came) == [["first"]]
    assert came.warnings == (f'{path} has 2 sheets; the first, "Data", is read (see --sheet)',)
    came = comes_to(path, form=NO_FORM, sheet="More")
    assert (values(came), came.warnings) == ([["second"]], ())
    with pytest.raises(UsageError, match='has no sheet "Mor"') as caught:
        comes_to(path, sheet="Mor")
    assert caught.value.hint == 'did you mean --sheet "More"?'


def test_a_hidden_sheet_is_not_the_first(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    made = openpyxl.Workbook()
    assert made.active is not None
    made.active.sheet_state = "hidden"
    made.create_sheet("Shown").append(["id"])
    made["Shown"].append(["a"])
    made.save(path)
    assert values(comes_to(path, form=NO_FORM)) == [["a"]]


def test_errors_of_formulas_are_kept_and_warned_of(tmp_path: Path) -> None:
    path = book(tmp_path / "rows.xlsx", [["id", "q"], [1, "#REF!"], [2, "x"], [3, "#DIV/0!"]], at=(2, 3))
    came = comes_to(path, form=NO_FORM)
    assert values(came) == [["1", "#REF!"], ["2", "x"], ["3", "#DIV/0!"]]
    assert came.warnings[0].startswith('column "q": 2 cells are an error of a spreadsheet, such as #REF! on line 3')


def test_open_document(tmp_path: Path) -> None:
    path = ods(
        tmp_path / "rows.ods",
        text("id") + text("q") + text("when"),
        '<table:table-cell office:value-type="float" office:value="1"/>'
        '<table:table-cell office:value-type="percentage" office:value="0.12"><text:p>12%</text:p></table:table-cell>'
        '<table:table-cell office:value-type="date" office:date-value="2024-01-31"/>',
        text("2") + '<table:table-cell office:value-type="string" office:string-value="" calcext:value-type="error">'
        "<text:p>#DIV/0!</text:p></table:table-cell>"
        '<table:table-cell office:value-type="boolean" office:boolean-value="true"/>',
    )
    came = comes_to(path, form=NO_FORM)
    assert values(came) == [["1", "0.12", "2024-01-31"], ["2", "#DIV/0!", "TRUE"]]
    assert "#DIV/0! on line 3" in came.warnings[0]


def test_a_workbook_from_a_pipe_and_under_any_name(tmp_path: Path) -> None:
    path = book(tmp_path / "rows.csv", [["id"], [1]])
    assert values(comes_to(path, form=NO_FORM)) == [["1"]]
    with RowSource.open("-", stdin=io.BytesIO(path.read_bytes())) as source:
        assert [item.id for item in source] == ["1"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0[Content_Types].xml",
            "this is an Excel workbook, and it cannot be opened",
        ),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600,
            "this is a file of an old Office program, and it cannot be",
        ),
    ],
)
def test_a_broken_workbook_is_told_with_the_cure(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "book.xlsx"
    path.write_bytes(content)
    came = comes_to(path, form=NO_FORM)
    assert came.error.startswith(says)
    assert came.error.endswith("save it as CSV UTF-8")


@pytest.mark.parametrize("options", [{"encoding": "cp1252"}, {"delimiter": ";"}])
def test_what_is_for_text_is_refused_for_a_workbook(tmp_path: Path, options: dict[str, Any]) -> None:
    path = book(tmp_path / "rows.xlsx", [["id"], [1]])
    with pytest.raises(UsageError, match="is for text"):
        comes_to(path, **options)


def test_a_sheet_of_a_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id\n1\n")
    with pytest.raises(UsageError, match="is no workbook"):
        comes_to(tmp_path / "rows.csv", sheet="Data")


# ------------------------------------------------------------- Parquet


def parquet(path: Path, **columns: list[Any]) -> Path:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    write_table(pa.table(columns), path)
    return path


def test_parquet(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "rows.parquet",
        id=[1, 2],
        query=["a", "ü"],
        n=[1.5, float("nan")],
        when=[d.date(2024, 1, 31), None],
        price=[Decimal("12.50"), None],
        tags=[["x", "y"], []],
    )
    came = comes_to(path, form=NO_FORM)
    assert came.sent == [
        {"id": "1", "query": "a", "n": 1.5, "when": "2024-01-31", "price": "12.50", "tags": ["x", "y"]},
        {"id": "2", "query": "ü", "n": None, "when": None, "price": None, "tags": []},
    ]


def test_parquet_against_a_form(tmp_path: Path) -> None:
    came = comes_to(parquet(tmp_path / "rows.parquet", id=["a", "b"], query=["x", "y"], n=[7, None], flag=[True, None]))
    assert came.sent == [{"id": "a", "query": "x", "n": 7, "flag": True}, {"id": "b", "query": "y"}]


def test_broken_parquet_and_bytes_in_it(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1" + b"\0" * 50)
    assert comes_to(tmp_path / "rows.parquet", form=NO_FORM).error.startswith("this is Parquet, and it cannot be read")
    error = comes_to(parquet(tmp_path / "rows.parquet", id=["a"], raw=[b"\xff"]), form=NO_FORM).error
    assert "a value of type bytes has no place in JSON; leave the column out" in error
