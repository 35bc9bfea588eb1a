"""The input file: what is read, in which order, and that nothing is garbled."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dify_batch.errors import DifyBatchError, UsageError
from dify_batch.ids import ID_SPACE, IdIndex
from dify_batch.input.bound import BoundForm
from dify_batch.input.check import check
from dify_batch.input.form import Form
from dify_batch.input.records import Problem, Row
from dify_batch.input.rows import RowSource


@contextmanager
def source(content: bytes | str, **options: Any) -> Iterator[RowSource]:
    data = content.encode() if isinstance(content, str) else content
    with RowSource.open("-", stdin=io.BytesIO(data), **options) as opened:
        yield opened


def read(content: bytes | str, **options: Any) -> list[Row | Problem]:
    with source(content, **options) as opened:
        return list(opened)


def bound(opened: RowSource) -> BoundForm:
    return Form.absent().bind(opened.header, id_column=opened.id_column, base_dir=opened.base_dir, typed=opened.typed)


def jsonl(tmp_path: Path, text: str) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_rows_have_number_line_id_and_values() -> None:
    rows = read('id,text\n1,"a\nb"\n\n  \n 2 ,c\n')
    assert rows == [
        Row(1, 2, "1", {"id": "1", "text": "a\nb"}),
        Row(2, 6, "2", {"id": "2", "text": "c"}),
    ]


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        (None, "utf-8"),
        (None, "utf-8-sig"),
        ("utf-8", "utf-8-sig"),
        ("UTF8", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("cp1252", "cp1252"),
        ("shift_jis", "shift_jis"),
    ],
)
def test_encodings(encoding: str | None, codec: str) -> None:
    word = "テスト" if codec == "shift_jis" else "Café"
    rows = read(f'"id",text\r\n1,{word}\r\n'.encode(codec), encoding=encoding)
    assert rows == [Row(1, 2, "1", {"id": "1", "text": word})]


@pytest.mark.parametrize(
    ("delimiter", "mark"),
    [(None, ","), (";", ";"), ("tab", "\t"), ("TAB", "\t"), ("\\t", "\t"), ("\t", "\t"), ("|", "|"), ("€", "€")],
)
def test_delimiters(delimiter: str | None, mark: str) -> None:
    assert read(f'id{mark}a\n1{mark}"x{mark}y"\n', delimiter=delimiter) == [
        Row(1, 2, "1", {"id": "1", "a": f"x{mark}y"})
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_line_numbers(end: str) -> None:
    rows = read(end.join(["id,a", "1,x", "", '2,"y', 'z"', "3,w"]))
    assert [(row.id, row.line) for row in rows] == [("1", 2), ("2", 4), ("3", 6)]
    assert isinstance(rows[1], Row)
    assert rows[1].values["a"] == f"y{end}z"


def test_id_is_the_first_column_whatever_its_name() -> None:
    with source("customer,text\nc-1,a\n") as opened:
        assert (opened.header, opened.id_column) == (("customer", "text"), "customer")
        assert list(opened) == [Row(1, 2, "c-1", {"customer": "c-1", "text": "a"})]


def test_id_column_can_be_another() -> None:
    with source(" text , id \na, 7\n", id_column="id") as opened:
        assert opened.header == ("text", "id")
        assert list(opened) == [Row(1, 2, "7", {"text": "a", "id": "7"})]


def test_several_passes_do_not_disturb_each_other() -> None:
    with source("id\n1\n2\n3\n") as opened:
        one, other = iter(opened), iter(opened)
        pairs = list(zip(one, other, strict=True))
        assert len(pairs) == 3
        assert all(left == right for left, right in pairs)


def test_a_row_problem_does_not_end_the_pass_and_a_fatal_one_does() -> None:
    items = read('id,a\n1\n2,x\n2\n3,"a"b\n4,y\n')
    assert [item.kind if isinstance(item, Problem) else item.id for item in items] == [
        "short_row",
        "2",
        "short_row",
        "stray_text",
    ]


def test_cells_swallowed_by_an_open_quote_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dify_batch.input.rows.FIELD_LIMIT", 1000)
    old = csv.field_size_limit()
    try:
        items = read('id,a\n1,x\n2,"y\n' + "3,z\n" * 1000)
    finally:
        csv.field_size_limit(old)
    assert [item.line for item in items] == [2, 3]
    assert isinstance(items[1], Problem)
    assert items[1].kind == "field_too_large"


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("id,a\n" + "".join(f"{n},{'x' * 50}\n" for n in range(40_000)))
    with RowSource.open(str(path)) as opened:
        tracemalloc.start()
        try:
            assert sum(1 for _ in opened) == 40_000
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1_500_000 < path.stat().st_size


def test_changed_says_whether_the_file_is_another(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("id\n1\n")
    with RowSource.open(str(path)) as opened:
        assert not opened.changed()
        with path.open("a") as file:
            file.write("2\n")
        assert opened.changed()
    with RowSource.open(str(path)) as opened:
        other = tmp_path / "other.csv"
        other.write_text("id\n1\n3\n")
        os.replace(other, path)
        assert opened.changed()
        assert [row.id for row in opened] == ["1", "2"]  # what was opened is what is read
        path.unlink()
        assert opened.changed()


def test_a_pipe_is_read_once_and_iterated_often(tmp_path: Path) -> None:
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("id\n1\n",), daemon=True)
    writer.start()
    with RowSource.open(str(path)) as opened:
        writer.join(10)
        assert [list(opened), list(opened)] == [[Row(1, 2, "1", {"id": "1"})]] * 2
        assert not opened.changed()
        assert opened.base_dir == tmp_path


def test_standard_input_has_the_working_directory_as_base() -> None:
    with source("id\n1\n") as opened:
        assert (opened.name, opened.base_dir) == ("standard input", Path.cwd())


def test_json_lines(tmp_path: Path) -> None:
    path = jsonl(tmp_path, '\ufeff{"id": 7, "n": 1.5, "o": {"a": [null]}}\r\n\n{"id": " b ", "other": "\\u2028é"}')
    with RowSource.open(path) as opened:
        assert opened.typed
        assert (opened.header, opened.id_column) == (("id", "n", "o"), "id")
        assert list(opened) == [
            Row(1, 1, "7", {"id": "7", "n": 1.5, "o": {"a": [None]}}),
            Row(2, 3, "b", {"id": "b", "other": "\u2028é"}),
        ]


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ('{"id": "a", "n": 1}\n', "utf-8"),
        ('\ufeff\r\n  { "id": "a", "n": 1}\n', "utf-8"),
        ('\ufeff{"id": "a", "n": 1}\n', "utf-16-le"),
    ],
)
def test_json_lines_from_a_pipe_are_known_by_their_beginning(text: str, codec: str) -> None:
    with source(text.encode(codec), encoding=None if codec == "utf-8" else "utf-16") as opened:
        assert opened.typed
        (row,) = opened
    assert isinstance(row, Row)
    assert row.values == {"id": "a", "n": 1}


def test_a_csv_from_a_pipe_that_begins_with_a_brace_is_csv() -> None:
    with source("{id},q\n1,a\n") as opened:
        assert (opened.typed, opened.header) == (False, ("{id}", "q"))
    with source('{"id";q\n1;a\n', delimiter=";") as opened:  # who names a delimiter has a CSV
        assert not opened.typed


def test_json_lines_ids_under_another_key(tmp_path: Path) -> None:
    with RowSource.open(jsonl(tmp_path, '{"key": "a"}\n'), id_column="key") as opened:
        assert list(opened) == [Row(1, 1, "a", {"key": "a"})]


# anything

# Names with characters that cannot be seen are refused (test_bad_inputs).
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zl", "Zp"]), min_size=1, max_size=8)
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(deadline=None)
@given(
    header=st.lists(NAMES.map(str.strip).filter(bool), max_size=3, unique=True),
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=5),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(",;\t|"),
    codec=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_round_trip(header: list[str], rows: list[list[str]], quoting: Any, end: str, mark: str, codec: str) -> None:
    header = ["id", *(name for name in header if name != "id")]
    if quoting == csv.QUOTE_MINIMAL and end == "\n":
        # csv.writer leaves a lone \r unquoted when lines end with \n, and so writes other rows than it is given
        rows = [[cell.replace("\r", "\n") for cell in row] for row in rows]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark, quoting=quoting, lineterminator=end)
    writer.writerow(header)
    expected = []
    for number, row in enumerate(rows, 1):
        cells = [f"r{number}", *row[: len(header) - 1]]
        writer.writerow(cells)
        expected.append(dict(zip(header, cells, strict=True)))
    text = out.getvalue()
    items = read(text.encode(codec), delimiter=mark, encoding=codec if codec == "utf-16" else None)
    if len(header) == 1:
        assert [item.id for item in items] == [values["id"] for values in expected]
    else:
        assert [item.values if isinstance(item, Row) else item for item in items] == expected


def rows_are_sound(opened: RowSource) -> None:
    """Every row is complete and clean, whatever the file."""
    for item in opened:
        if isinstance(item, Row):
            assert item.id
            assert item.id == item.id.strip(ID_SPACE)
            assert "\n" not in item.id
            assert item.values[opened.id_column] == item.id
            if not opened.typed:
                assert tuple(item.values) == opened.header
                assert all(isinstance(cell, str) and "\0" not in cell for cell in item.values.values())
        else:
            assert str(item)
            json.dumps(item.as_dict()).encode()


PIECES = st.sampled_from([b"id", b",", b"\n", b"\r", b'"', b";", b" ", b"\0", b"\xff", b"\xc3\xa9", b"a", b"1", b"\t"])


@settings(deadline=None)
@given(
    st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=40).map(b"".join)),
    st.sampled_from([None, "cp1252", "utf-16", "utf-16-le", "shift_jis", "utf-32", "ascii"]),
)
@example(b"id\n\xef\xbb\xbf", None)
@example(b"\xff\xfe", "utf-16-le")
@example(b"id,a\r\r\n1,\xc3", None)
def test_any_bytes_give_rows_or_problems(data: bytes, encoding: str | None) -> None:
    try:
        with source(data, encoding=encoding) as opened:
            rows_are_sound(opened)
            rows_are_sound(opened)
            check(opened, bound(opened), IdIndex()).raise_if_any()
    except DifyBatchError as error:
        error.message.encode()


JSON_PIECES = st.sampled_from(
    ["{", "}", '"id"', ":", "1", ",", "\n", '"', "[", "]", '"a"', "\\ud800", "NaN", "1e999", " "]
)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=60), st.lists(JSON_PIECES, max_size=30).map("".join).map(str.encode)))
@example(b'{"id":"\\ud800"}')
@example(b"\x1f\x8b")  # gzip, cut off
@example(b"PAR1")
@example(b"PK\x03\x04xl/")
@example(b'{"id":1,"a":"\\ud800"}')
def test_any_bytes_as_json_lines(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.jsonl")
        path.write_bytes(data)
        try:
            with RowSource.open(str(path)) as opened:
                rows_are_sound(opened)
                check(opened, bound(opened), IdIndex()).raise_if_any()
        except DifyBatchError as error:
            error.message.encode()


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=3),
            st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
            max_size=3,
        ),
        max_size=4,
    )
)
def test_json_lines_round_trip(objects: list[dict[str, Any]]) -> None:
    wanted = [{**values, "id": f"r{number}"} for number, values in enumerate(objects)]
    with tempfile.TemporaryDirectory() as folder:
        path = jsonl(Path(folder), "".join(json.dumps(values) + "\n" for values in wanted) or "\n")
        with RowSource.open(path) as opened:
            assert [item.values for item in opened if isinstance(item, Row)] == wanted


def test_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        RowSource.open("-")


def test_standard_input_that_cannot_be_read(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(UsageError, match=r"standard input cannot be copied .*: Input/output error"):
        RowSource.open("-", stdin=Broken())
