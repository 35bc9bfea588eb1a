"""Inputs as people really have them: each kind of trouble from the field, and its neighbours."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dify_batch.errors import UsageError
from dify_batch.ids import DONE, RETRY, IdIndex
from dify_batch.input.form import Form
from tests.support.inputs import ECHO, Came, comes_to

NO_FORM = Form.absent()


@pytest.fixture
def see(tmp_path: Path) -> Any:
    def see(content: str | bytes, name: str = "rows.csv", **more: Any) -> Came:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return comes_to(path, **more)

    return see


# ------------------------------------------------------------- numbers: a cure never changes what they say


@pytest.mark.parametrize(
    ("cell", "cure"),
    [
        ("1,234", "write 1234, or 1.234 if the comma is the decimal mark"),
        ("-1,234", "write -1234, or -1.234 if the comma is the decimal mark"),
        ("$1,234", "write 1234, or 1.234 if the comma is the decimal mark"),
        ("1.234 €", "write 1.234, or 1234 if the point parts the thousands"),
        ("1,5", "use a point: 1.5"),
        ("12,34", "use a point: 12.34"),
        ("0,123", "use a point: 0.123"),
        ("1,234,567", "write 1234567"),
        ("12,34,567", "write 1234567"),
        ("1.234.567", "write 1234567"),
        ("1.234,50", "write 1234.50"),
        ("1,234.50", "write 1234.50"),
        ("1 234", "write 1234"),
        ("1\u00a0234", "write 1234"),
        ("1\u202f234,5", "write 1234.5"),
        ("1'234.5", "write 1234.5"),
        ("12%", "write 12, or 0.12 if the workflow takes a fraction"),
        ("1,5 %", "write 1.5, or 0.015 if the workflow takes a fraction"),
        ("$5", "write 5"),
        ("EUR 5,20", "write 5.20"),
        ("(7)", "if the parentheses stand for a minus, write -7"),
        ("\u22127", "write -7"),
        ("7-", "write -7"),
        ("１２", "write 12"),
        ("1_000", "write 1000"),
        ("1e3", "Dify takes no exponent, write the digits out"),
    ],
)
def test_a_number_in_another_writing_gets_a_cure(see: Any, cell: str, cure: str) -> None:
    came = see(f'id,query,n\n1,a,"{cell}"\n')
    assert came.error.endswith(f"{json.dumps(cell, ensure_ascii=not cell.isprintable())} is not a number; {cure}")


@pytest.mark.parametrize(
    "cell", ["abc", "NaN", "5k", "5 Mio", "5 MIO", "1/2", "10:30", "2024-01-31", "1,2,3", "--5", "-"]
)
def test_what_can_be_read_in_no_way_gets_no_cure(see: Any, cell: str) -> None:
    assert see(f'id,query,n\n1,a,"{cell}"\n').error.endswith(f'"{cell}" is not a number')


# ------------------------------------------------------------- ids


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_header_that_comes_again_is_no_row(see: Any, mark: str) -> None:
    came = see(f"id,query\n1,a\n{mark}id,query\n2,b\n")
    assert came.error == "line 3: the header stands here again; remove the line"


def test_a_row_that_is_called_like_the_id_column_is_a_row(see: Any) -> None:
    assert [row["id"] for row in see("id,query\nid,a\nID,query\n").sent] == ["id", "ID"]


PAIRS = [
    ("M\u00fcller", "Mu\u0308ller"),
    ("Poup\u00e9e", "Poupe\u0301e"),
    ("a", "a\u00a0"),
    ("a", "\u200ba"),
    ("a b", "a\u00a0b"),
    ("a b", "a  b"),
    ("ab", "a\u00adb"),
    ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
]


@pytest.mark.parametrize(("known", "new"), PAIRS)
@pytest.mark.parametrize("flag", [DONE, RETRY])
def test_an_id_that_looks_like_a_known_one_stops(see: Any, known: str, new: str, flag: int) -> None:
    for there, comes in ((known, new), (new, known)):
        index = IdIndex()
        index.add(there, flag)
        came = see(f'id,query\n"{comes}",a\nb,b\n', index=index)
        assert came.kinds == {"alike_id": 1}
        assert f"{json.dumps(comes)} looks the same as {json.dumps(there)} that the output knows" in came.error
        assert came.error.startswith("line 2, ")


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_ids_of_a_file_that_look_the_same_stop(see: Any, one: str, other: str) -> None:
    came = see(f'id,query\nb,a\n"{one}",b\n"{other}",c\n')
    assert came.kinds == {"alike_id": 1}
    assert "--allow-other-ids" in came.error


def test_ids_stay_exact_otherwise(see: Any) -> None:
    ids = ["a", "A", "a.", "ａ", "1", "01", "①", "क्‍ष", "क्ष", "M\u00fcller", "Muller"]
    index = IdIndex()
    for id_ in ("Mu\u0308ller", "M\u00fcller"):  # both known: whoever made them meant them
        index.add(id_, DONE)
    came = see("id,query\n" + "".join(f"{id_},x\n" for id_ in ids), index=index)
    assert [row["id"] for row in came.sent] == ids


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u200b", "\u00a0\u200b "])
def test_an_id_that_cannot_be_seen_is_blank(see: Any, blank: str) -> None:
    came = see(f"id,q\n{blank},x\n", form=NO_FORM)
    assert came.kinds == {"blank_id": 1}
    assert "U+" in came.error


def test_ids_that_a_spreadsheet_has_shortened_are_warned_of(see: Any) -> None:
    came = see("id,query\n1.23457E+11,a\n1.23458E+11,b\n3E+5,c\nE+11,d\n")
    assert len(came.sent) == 4
    assert ["2 ids look like a long number that a spreadsheet has shortened" in text for text in came.warnings] == [
        True
    ]


def test_names_in_another_unicode_form_are_the_same_names(see: Any) -> None:
    form = Form.from_parameters(
        {"user_input_form": [{"select": {"variable": "gr\u00f6\u00dfe", "label": "x", "options": ["\u00e9", "b"]}}]}
    )
    assert see("id,gro\u0308\u00dfe\n1,b\n", form=form).sent == [{"id": "1", "gr\u00f6\u00dfe": "b"}]
    error = see("id,gr\u00f6\u00dfe\n1,e\u0301\n", form=form).error
    assert 'differs from the option in what cannot be seen ("e\\u0301"); copy the option out of the form' in error


# ------------------------------------------------------------- files that are no table


XLSX = b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00[Content_Types].xml"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04\x14\0\0\0\0\0data.csv" + b"\0" * 30, "this is a zip archive; unzip it first"),
        (b"BZh91AY&SY" + b"\0" * 30, "this is bzip2; bunzip2 it first"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 30, "this is zstd"),
        (b"\xfd7zXZ\0" + b"\0" * 30, "this is xz"),
        (b"PK\x03\x04\x14\0\x06\0[Content_Types].xml word/document.xml" + b"\0" * 9, "a document of a word processor"),
        (b"%PDF-1.7\n%\xe2\xe3", "this is a PDF"),
        (b"<!DOCTYPE html>\n<html><head></head>\n", "this is a web page"),
        (b"\xef\xbb\xbf\n <HTML><body>", "this is a web page"),
        (b"<!-- saved --><html>", "this is a web page"),
        (b'<?xml version="1.0"?><rows/>', "this is XML"),
        (b"{\\rtf1\\ansi id,query}", "this is rich text"),
        (b"SQLite format 3\0" + b"\0" * 30, "this is an SQLite database"),
        (b'[{"id":"1","query":"a"}]\n', "this is a JSON array; write one object a line: jq -c '.[]' rows.csv > "),
        (b'[\n  {"id": 1}\n]\n', "this is a JSON array"),
        (b"\xef\xbb\xbf[]", "this is a JSON array"),
        (b'{\n  "id": 1\n}\n', "this is JSON over several lines; write one object a line: jq -c . rows.csv"),
        ('[{"id":"1"}]'.encode("utf-16"), "this is a JSON array"),
    ],
)
@pytest.mark.parametrize("encoding", [None, "cp1252", "utf-16"])
def test_the_first_bytes_tell_what_is_no_table(see: Any, content: bytes, says: str, encoding: str | None) -> None:
    came = see(content, encoding=encoding)
    assert came.kinds == {"not_a_table": 1}
    assert says in came.error


@pytest.mark.parametrize("name", ["lines.json", "lines.txt", "lines.csv", "lines"])
def test_lines_of_objects_are_json_lines_whatever_the_name(see: Any, name: str) -> None:
    came = see('{"id":"1","query":"a"}\n{"id":"2","query":"b"}\n', name)
    assert [row["query"] for row in came.sent] == ["a", "b"]


def test_rows_within_one_object_are_told_the_way_out(see: Any) -> None:
    error = see('{"page": 1, "data": [{"id": 1, "query": "a"}]}\n', "rows.json").error
    assert 'if the rows are under "data": jq -c \'.["data"][]\' FILE > rows.jsonl' in error


@pytest.mark.parametrize("content", ["BZh,query\n1,a\n", "[id],query\n1,a\n", "{id},query\n1,a\n", "<id>,query\n1,a\n"])
def test_a_header_that_begins_oddly_is_a_header(see: Any, content: str) -> None:
    assert len(see(content).sent) == 1


def test_who_names_a_delimiter_has_a_table(see: Any) -> None:
    assert len(see('{"id";query\n1;a\n', delimiter=";").sent) == 1


@pytest.mark.parametrize(
    ("text", "name", "rows"),
    [
        ("id,query\n1,a\n2,b\n", "rows.csv.gz", 2),
        ("id,query\n1,a\n", "rows.csv", 1),
        ('{"id": 1, "query": "a"}\n', "rows.jsonl.gz", 1),
    ],
)
def test_gzip_is_unpacked(see: Any, text: str, name: str, rows: int) -> None:
    assert len(see(gzip.compress(text.encode()), name).sent) == rows


def test_gzip_of_what_is_no_table_is_told(see: Any) -> None:
    assert "this is gzip; gunzip it first" in see(gzip.compress(gzip.compress(b"id\n1\n")), "rows.csv.gz").error
    tar = b"rows.csv".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 300
    assert "this is a tar archive" in see(gzip.compress(tar), "rows.csv.gz").error


# ------------------------------------------------------------- lines above the header


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "Report 2024\nGenerated by X\n\nid,query,lang\n1,a,en\n2,b,de\n",
            "line 1 has 1 cell and all 3 rows from line 4 on 3: is line 4 the header? Remove the lines above",
        ),
        (
            "Report 2024,,\nGenerated by X,,\n,,\nid,query,lang\n1,a,en\n2,b,de\n",
            "line 1 has 1 cell that holds something and all 3 rows from line 4 on 3: is line 4 the header?",
        ),
        (
            "Name,Report,,\nDate,2024,,\nid,query,lang,n\n" + "".join(f"{n},a,en,1\n" for n in range(9)),
            "line 1 has 2 cells that hold something and all 10 rows from line 3 on 4: is line 3 the header?",
        ),
        (
            "# exported\nid,query,lang\n1,a,en\n",
            "line 1 has 1 cell and all 2 rows from line 2 on 3: is line 2 the header? Remove the line above",
        ),
        ("id,query\n1,a,b\n2,c,d\n", "line 1 has 2 cells and all 2 rows from line 2 on 3"),
        ("id,query,n,flag\n1,a\n2,c\n", "line 1 has 4 cells and all 2 rows from line 2 on 2: the header names more"),
    ],
)
def test_where_all_rows_have_one_width_the_header_is_wrong(see: Any, content: str, says: str) -> None:
    came = see(content, form=NO_FORM)
    assert came.kinds == {"header": 1}
    assert says in came.error


@pytest.mark.parametrize(
    "content", ["id,query\n1,a\n2,b\n3,c,d\n4,e,f\n", "id,query,n\n1,a,1\n2,b\n", "id,query\n1,a,x\n2,b\n3,c,x\n"]
)
def test_where_some_rows_fit_the_header_these_rows_are_wrong(see: Any, content: str) -> None:
    assert set(see(content, form=NO_FORM).kinds) <= {"long_row", "short_row"}


def test_one_column_is_said_in_the_singular(see: Any) -> None:
    assert "the header has 1 column:" in see("id\n1\n2,x\n3\n").error


# ------------------------------------------------------------- encodings


@pytest.mark.parametrize(
    ("content", "encoding", "says"),
    [
        ("id,city\n1,Zürich\n2,Kraków\n", "cp1252", "the file is UTF-8, not CP1252 (its bytes are); leave --enc"),
        ("id,city\n1,Zürich\n", "latin-1", "the file is UTF-8, not LATIN-1 (its bytes are); leave --encoding out"),
        ("id,city\n1,Zürich\n", "mac-roman", "the file is UTF-8, not MAC-ROMAN"),
        ("id,city\n1,東京都新宿区西新宿\n", "shift_jis", "the file is UTF-8, not SHIFT_JIS"),
        ("id,city\n1,東京都新宿区西新宿京\n", "gb18030", "the file is UTF-8, not GB18030"),
        ("\ufeffid,q\n1,a\n", "cp1252", "the file is UTF-8 (its byte order mark says so); leave --encoding out"),
        ("\ufeffid,q\n1,a\n", "shift_jis", "the file is UTF-8 (its byte order mark says so); leave --encoding out"),
        ("\ufeffid,q\n1,a\n", "utf-16", "the file is UTF-8 (its byte order mark says so); leave --encoding out"),
        ("id,q\n1,a\n".encode("utf-16"), "cp1252", "the file is UTF-16 (its byte order mark says so); write --enc"),
        ("id,q\n1,a\n".encode("utf-32"), "utf-16", "the file is UTF-32 (its byte order mark says so)"),
        ("id,q\n1,a\n".encode("utf-16"), "utf-32", "the file is UTF-16 (its byte order mark says so)"),
        ("id,q\n1,ab\n", "utf-16-le", "the file is plain ASCII, not UTF-16-LE (its bytes are); leave --encoding out"),
        ("id,q\n1,ab\n", "utf-16", "the file is plain ASCII, not UTF-16 (its bytes are); leave --encoding out"),
        ("id,q\n1,it\u2019s\n".encode("cp1252"), "latin-1", "the file is hardly LATIN-1: bytes from 0x80 to 0x9F"),
        ("id,q\n1,5 \u20ac\n".encode("cp1252"), "iso8859-15", "the file is hardly ISO8859-15"),
        ("id,q\n1,é\n", "utf-32-be", "the file is UTF-8, not UTF-32-BE"),
        ("id,q\n1,ab\n", "cp037", "the file is plain ASCII, not CP037"),
        ("id,q\n1,ab\n".encode("utf-16-be"), "utf-16-le", "the file is UTF-16-BE, not UTF-16-LE; write --encoding"),
        ("id,q\n1,ab\n".encode("utf-16-le"), "utf-16-be", "the file is UTF-16-LE, not UTF-16-BE; write --encoding"),
        ("\ufeff\ufeffid,q\n1,a\n", None, "the name of column 1 contains U+FEFF, a second byte order mark"),
        ("id,q\u200b\n1,a\n", None, "the name of column 2 contains U+200B, which cannot be seen"),
        ("id,q\x07\n1,a\n", None, "the name of column 2 contains U+0007, which cannot be seen"),
    ],
)
def test_a_wrong_encoding_is_told_and_nothing_garbled_is_sent(
    see: Any, content: str | bytes, encoding: str | None, says: str
) -> None:
    came = see(content, encoding=encoding, form=NO_FORM)
    assert says in came.error


def test_the_encoding_is_told_alone(see: Any) -> None:
    came = see("id,stadt\n1,Zürich\n1,Köln\n", encoding="cp1252")  # query is missing, an id is repeated
    assert came.kinds == {"encoding": 1}


def test_far_down_in_a_file_too(see: Any) -> None:
    content = "id,city\n" + "".join(f"{number},plain\n" for number in range(60_000)) + "x,Zürich\n"
    assert "the file is UTF-8, not CP1252" in see(content, encoding="cp1252", form=NO_FORM).error


@pytest.mark.parametrize(
    ("text", "codec", "label"),
    [
        ("id,city\n1,Zürich\n", "cp1252", "cp1252"),
        ("id,city\n1,Zürich\n2,plain\n", "latin-1", "latin-1"),
        ("id,city\n1,plain\n", "utf-8", "cp1252"),  # ASCII is the same in both
        ("id,city\n1,東京\n", "shift_jis", "shift_jis"),
        ("id,city\n1,联通\n", "gb18030", "gb18030"),
        ("id,city\n1,Zürich\n", "utf-16-le", "utf-16-le"),
        ("id,city\n1,Zürich\n", "cp037", "cp037"),
        ("id,city\n1,东京\n", "utf-16", "utf-16-le"),
        ("id,می‌خواهم\n1,a\n", "utf-8", None),  # a joiner within a word of Persian means something
    ],
)
def test_a_right_encoding_is_read(see: Any, text: str, codec: str, label: str | None) -> None:
    came = see(text.encode(codec), encoding=label, form=NO_FORM)
    assert came.error == ""
    assert list(came.sent[0].values())[1] == text.split("\n")[1].partition(",")[2]


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("東京都", "cp932"),
        ("①髙橋", "cp932"),
        ("お問い合わせ", "cp932"),
        ("ｶﾌﾞｼｷ会社", "cp932"),
        ("你好世界", "gb18030"),
        ("臺灣大學", "big5"),
        ("안녕하세요", "cp949"),
        ("Привет мир", "cp1251"),
        ("Привет мир", "koi8-r"),
        ("Καλημέρα κόσμε", "cp1253"),
        ("مرحبا بالعالم", "cp1256"),
        ("สวัสดีชาวโลก", "cp874"),
        ("Café", "cp1252"),
        ("“quoted” – it’s", "cp1252"),
        ("łódź", "cp1250"),
        ("Příliš žluťoučký", "cp1250"),
    ],
)
def test_the_probable_encoding_is_told_by_the_letters_of_its_language(see: Any, text: str, codec: str) -> None:
    error = see(f"id,q\n1,{text}\n".encode(codec), form=NO_FORM).error
    assert f"it may be {codec} (" in error
    assert f"try --encoding {codec} with --dry-run" in error


def test_several_probable_encodings_are_named_with_how_they_read_it(see: Any) -> None:
    error = see("id,q\n1,שלום עולם\n".encode("cp1255"), form=NO_FORM).error
    assert 'cp1255 ("שלום")' in error
    assert ", or " in error


# ------------------------------------------------------------- what a spreadsheet leaves behind


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("id,query,,\r\n1,hello,,\r\n2,x,,\r\n", 2),
        ("id,query\r\n1,hello\r\n2,x\r\n,\r\n,\r\n,\r\n", 2),
        ("id,query\r\n1,hello,,\r\n2,x\r\n", 2),
        ("id,query,\n1,a\n2,b,\n", 2),
        ("id,query\n1,a, ,\n , \n", 1),
    ],
)
def test_cells_of_nothing_beyond_the_table_are_passed_over_with_a_note(see: Any, content: str, rows: int) -> None:
    came = see(content)
    assert (came.error, len(came.sent)) == ("", rows)
    assert ["as a spreadsheet leaves" in warning for warning in came.warnings] == [True]


def test_a_surplus_cell_that_holds_something_is_an_error(see: Any) -> None:
    assert see("id,query\n1,a\n2,b,,c\n3,d\n").kinds == {"long_row": 1}
    error = see("id,query,,\n1,a,,\n2,b,,c\n").error
    assert error == 'line 3, row id "2": column 4 has no name, and holds "c" here; name it, or empty the cell'
    assert see("id,,query\n1,,a\n").kinds == {"header": 1}


def test_missing_cells_at_the_end_are_empty_where_all_are_optional(see: Any) -> None:
    came = see("id,query,language,n\n1,a,en,5\n2,b\n3,c,de\n")
    assert [sorted(row) for row in came.sent] == [
        ["id", "language", "n", "query"],
        ["id", "query"],
        ["id", "language", "query"],
    ]
    assert any("2 rows end before the last columns (first on line 3)" in warning for warning in came.warnings)
    assert see("id,language,query\n1,en,a\n2,de\n3,fr,b\n").kinds == {"short_row": 1}  # query is required
    assert see("id,a,b\n1,x,y\n2,z\n3,x,y\n", form=NO_FORM).kinds == {"short_row": 1}  # nobody knows
    assert see("id,query,n\n1,a,1\n2,b").kinds == {"short_row": 1}  # perhaps it is still being written


def test_errors_of_a_spreadsheet_are_warned_of(see: Any) -> None:
    came = see("id,query\n1,#REF!\n2,#N/A\n3,fine\n4,#VALUE!\n5,#NAME?\n6,#DIV/0!\n")
    assert len(came.sent) == 6
    [warning] = came.warnings
    assert 'column "query": 5 cells are an error of a spreadsheet, such as #REF! on line 2' in warning


@pytest.mark.parametrize("value", ["#BEZUG!", "#NV", "#¡REF!", "#ССЫЛКА!", "#SPILL!", "Err:502"])
@pytest.mark.parametrize("codec", [None, "utf-16"])
def test_in_other_languages_and_encodings_too(see: Any, value: str, codec: str | None) -> None:
    came = see(f"id,query\n1,{value}\n".encode(codec or "utf-8"), encoding=codec)
    assert [value in warning for warning in came.warnings] == [True]


def test_text_with_a_hash_is_text(see: Any) -> None:
    assert see("id,query\n1,# title\n2,say #REF! please\n3,#1\n").warnings == ()


# ------------------------------------------------------------- blanks beside quotes


def test_blanks_beside_quotes_are_told(see: Any) -> None:
    error = see('id, query\n1, "a, b"\n2, "c"\n', form=NO_FORM).error
    assert 'a blank stands before the quote of "\\"a"; remove it' in error
    assert see('id,q\n1,"a" \n', form=NO_FORM).error == "line 2: a blank stands after the closing quote; remove it"
    assert see('id,q,r\n1,"a" ,x\n', form=NO_FORM).error == "line 2: a blank stands after the closing quote; remove it"
    error = see('id,q\n1,"a\nb"\t\n', form=NO_FORM).error
    assert error == "line 2: on line 3 a blank stands after the closing quote; remove it"
    assert 'is written ""' in see('id,q\n1,"a"b \n', form=NO_FORM).error


@pytest.mark.parametrize("cell", ["“a, b”", "„a, b“", "«a, b»", "'a, b'", "‘a, b’"])
def test_other_quotes_are_told(see: Any, cell: str) -> None:
    error = see(f"id,q\n1,{cell}\n2,c\n", form=NO_FORM).error
    assert f'{cell[0]} is no quote of CSV; write " before and after the cell' in error


@pytest.mark.parametrize("row", ["1,it's, and more", "1,a, b's"])
def test_an_apostrophe_is_no_quote(see: Any, row: str) -> None:
    assert "put the cell that holds the delimiter in double quotes" in see(f"id,q\n{row}\n2,c\n", form=NO_FORM).error


def test_quotes_with_a_backslash_are_told(see: Any) -> None:
    error = see('id,q\n1,"say \\"a\\" b"\n', form=NO_FORM).error
    assert error.endswith('a quote inside quotes is written "", not \\"')


def test_a_cell_that_begins_with_a_blank_and_a_quote_is_warned_of(see: Any) -> None:
    came = see('id, query\n1, "a"\n2, "b"\n3,c\n')
    assert [row["query"] for row in came.sent] == [' "a"', ' "b"', "c"]
    [warning] = came.warnings
    assert 'column "query": 2 cells begin with a blank and a quote, such as " \\"a\\"" on line 2' in warning


# ------------------------------------------------------------- a table without ids


def test_a_table_without_ids_is_told_once(see: Any) -> None:
    came = see("language,query\nen,hello\nen,world\nfr,salut\nen,x\n")
    assert came.kinds == {"no_ids": 1}
    assert 'the ids are taken from the first column, "language", and 2 of them stand there more than once' in came.error
    assert "--id-column" in came.error


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("language,query\nen,a\nen,b\n", {"id_column": "language"}),  # somebody said so
        ("number,query\n1,a\n1,b\n", {}),  # no input of the app: ids that are wrong
    ],
)
def test_repeated_ids_are_told_one_by_one_otherwise(see: Any, content: str, options: dict[str, str]) -> None:
    assert see(content, **options).kinds == {"duplicate_id": 1}


# ------------------------------------------------------------- --user


@pytest.mark.parametrize(
    ("cell", "says"),
    [("x" * 256, "--user has 256 characters for this row"), ("", "--user is empty for this row"), ("a\0b", "NUL")],
)
def test_what_user_makes_of_each_row_is_checked(see: Any, cell: str, says: str) -> None:
    came = see(f"id,query,who\n1,a,short\n2,b,{cell}\n", bound={"user": "{who}"})
    assert says in came.error
    assert 'row id "2"' in came.error


def test_a_user_of_255_characters_is_fine(see: Any) -> None:
    assert len(see(f"id,query,who\n1,a,{'x' * 250}\n2,b,\n", bound={"user": "crm-{who}"}).sent) == 2


@pytest.mark.parametrize(("user", "says"), [("x" * 256, "has 256 characters"), ("", "is empty"), ("a\0b", "NUL")])
def test_a_user_that_is_the_same_for_all_is_checked_once(see: Any, user: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"--user .*{says}"):
        see("id,query\n1,a\n", bound={"user": user})


def test_the_user_of_json_lines(see: Any) -> None:
    lines = '{"id": 1, "query": "a", "who": 7}\n{"id": 2, "query": "b", "who": null}\n{"id": 3, "query": "c"}\n'
    came = see(lines, "rows.jsonl", bound={"user": "{who}"})
    assert came.kinds == {"bad_user": 2}


# ------------------------------------------------------------- nesting


@pytest.mark.parametrize("depth", [201, 490, 600, 975, 985, 100_000])
def test_deep_json_is_refused_by_the_check(see: Any, depth: int) -> None:
    line = '{"id": "1", "query": "a", "deep": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}\n"
    came = see(line, "rows.jsonl")
    assert came.kinds == {"bad_json": 1}
    assert "nested too deeply" in came.error


def test_what_is_not_so_deep_is_sent(see: Any) -> None:
    deep = "[" * 199 + "]" * 199
    lines = [
        f'{{"id": "1", "query": "a", "deep": {deep}}}',
        f'{{"id": "2", "query": "{"[" * 500}"}}',  # within a text they are letters
        f'{{"id": "3", "query": "a \\"{"[" * 500}"}}',
        f'{{"id": "4", "query": "a", "flat": [{", ".join(["[{}]"] * 500)}]}}',
    ]
    assert len(see("\n".join(lines), "rows.jsonl").sent) == 4
    cell = json.dumps({"a": {}}).replace("{}", '{"a":' * 300 + "1" + "}" * 300)
    assert "nested too deeply" in see('id,query,meta\n1,a,"' + cell.replace('"', '""') + '"\n', form=ECHO).error
