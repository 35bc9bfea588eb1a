"""Every way in which an input can be wrong, and the exact words that its user reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dify_batch.errors import InvalidInput, UsageError
from dify_batch.ids import IdIndex
from dify_batch.input.check import check
from dify_batch.input.form import Form
from dify_batch.input.rows import RowSource

WIRE = Path(__file__).parent.parent / "wire"


def form(exchange: str) -> Form:
    recorded = json.loads((WIRE / f"{exchange}.json").read_text(encoding="utf-8"))
    return Form.from_parameters(json.loads(recorded["response"]["body"]))


ECHO = "19-parameters-W1"
FILES = "19b-parameters-W5"


@dataclass(frozen=True)
class Case:
    name: str
    content: bytes | str | None
    message: str
    file: str = "data.csv"
    options: Mapping[str, Any] = field(default_factory=dict)
    form: str | None = None
    files_column: str | None = None
    others: Mapping[str, bytes] = field(default_factory=dict)
    """Files beside the input."""


def said(case: Case, folder: Path) -> str:
    """The message and the hint, with the folder's name replaced; problems after the summary line only."""
    path = folder / case.file
    if case.content is not None:
        content = case.content.encode() if isinstance(case.content, str) else case.content
        path.write_bytes(content)
    for name, data in case.others.items():
        (folder / name).write_bytes(data)
    try:
        with RowSource.open(str(path), **case.options) as source:
            app = Form.absent() if case.form is None else form(case.form)
            bound = app.bind(
                source.header,
                id_column=source.id_column,
                files_column=case.files_column,
                base_dir=source.base_dir,
                typed=source.typed,
            )
            check(source, bound, IdIndex()).raise_if_any()
    except InvalidInput as error:
        head, _, rest = error.message.partition("\n")
        assert head.startswith(f"{path}: ")
        return rest.replace(str(folder), "DIR").removeprefix("  ").replace("\n  ", "\n")
    except UsageError as error:
        return f"{error.message}\n{error.hint}".replace(str(folder), "DIR")
    return "nothing is wrong"


def lines(*objects: str) -> str:
    return "".join(text + "\n" for text in objects)


def cell(name: str, column: str, written: str, says: str) -> Case:
    """One cell that does not fit its input."""
    content = f"id,query,{column}\n1,a,{written}\n"
    return Case(name, content, f'line 2, column "{column}", row id "1": {says}', form=ECHO)


def json_value(name: str, key: str, written: str, says: str) -> Case:
    """One value of JSON lines that does not."""
    content = lines(f'{{"id": 1, "query": "", "{key}": {written}}}')
    return Case(name, content, f'line 1, column "{key}", row id "1": {says}', file="data.jsonl", form=ECHO)


def file_cell(name: str, written: str, says: str, others: Mapping[str, bytes] | None = None) -> Case:
    """One cell that names no file as it should."""
    content, message = f"id,doc\n1,{written}\n", f'line 2, column "doc", row id "1": {says}'
    return Case(name, content, message, form=FILES, others=others or {})


AGAIN = "this id already stands on line 2; every row needs its own id"

# fmt: off
CASES = [
    # the file
    Case("missing file", None,
         'there is no file "DIR/data.csv"\n'
         "correct the path after --input"),
    Case("folder", None,
         '"DIR" is a folder\n'
         "name a CSV file in it after --input", file=""),
    Case("no bytes", b"",
         "line 1: the file is empty; its first line must name the columns"),
    Case("only a byte order mark", b"\xef\xbb\xbf",
         "line 1: the file is empty; its first line must name the columns"),
    Case("only blank lines", "\n  \n\r\n",
         "line 1: the file is empty; its first line must name the columns"),
    Case("id column unknown", "Id,query\n1,a\n",
         'DIR/data.csv has no column "id"; it has "Id", "query"\n'
         'did you mean --id-column "Id"?', options={"id_column": "id"}),
    Case("unknown encoding", "id\n1\n",
         '--encoding: "latin-99" is not '
         "an encoding of text files known here, such as utf-8, utf-16, cp1252, shift_jis or gb18030\n"
         "see `dify-batch --help` for --encoding",
         options={"encoding": "latin-99"}),
    Case("encoding of bytes", "id\n1\n",
         '--encoding: "base64" is not '
         "an encoding of text files known here, such as utf-8, utf-16, cp1252, shift_jis or gb18030\n"
         "see `dify-batch --help` for --encoding",
         options={"encoding": "base64"}),
    Case("encoding that is none of files", "id\n1\n",
         '--encoding: "unicode_escape" is not '
         "an encoding of text files known here, such as utf-8, utf-16, cp1252, shift_jis or gb18030\n"
         "see `dify-batch --help` for --encoding",
         options={"encoding": "unicode_escape"}),
    Case("long delimiter", "id\n1\n",
         '--delimiter: "::" is not '
         'one character other than a quote, such as ";" or "|", or tab, comma, semicolon or pipe\n'
         "see `dify-batch --help` for --delimiter", options={"delimiter": "::"}),
    Case("quote as delimiter", "id\n1\n",
         '--delimiter: """ is not '
         'one character other than a quote, such as ";" or "|", or tab, comma, semicolon or pipe\n'
         "see `dify-batch --help` for --delimiter", options={"delimiter": '"'}),
    Case("empty delimiter", "id\n1\n",
         '--delimiter: "" is not '
         'one character other than a quote, such as ";" or "|", or tab, comma, semicolon or pipe\n'
         "see `dify-batch --help` for --delimiter", options={"delimiter": ""}),
    # encodings
    Case("utf-16 by its mark", "id,query\n1,a\n".encode("utf-16"),
         "line 1: the file is UTF-16, not UTF-8 (its byte order mark says so); add --encoding "
         "utf-16"),
    Case("utf-32 by its mark", "id,query\n1,a\n".encode("utf-32"),
         "line 1: the file is UTF-32, not UTF-8 (its byte order mark says so); add --encoding "
         "utf-32"),
    Case("utf-16 without a mark that is asked for", "id,query\n1,a\n".encode("utf-16-le"),
         "line 1: the file has no byte order mark; add --encoding utf-16-le, or utf-16-be",
         options={"encoding": "utf-16"}),
    Case("utf-16 without a mark", "id,query\n1,a\n".encode("utf-16-le"),
         "line 1: the file is UTF-16-LE without a byte order mark; add --encoding utf-16-le"),
    Case("utf-16 without a mark, the other way round", "id,query\n1,a\n".encode("utf-16-be"),
         "line 1: the file is UTF-16-BE without a byte order mark; add --encoding utf-16-be"),
    Case("latin letter", "id,query\n1,a\n2,Café\n".encode("cp1252"),
         'line 3: byte 0xE9 is not valid UTF-8; it may be cp1252 ("Café"): try --encoding cp1252 with '
         "--dry-run"),
    Case("cut in a letter", "id,query\n1,é".encode()[:-1],
         "line 2: the file ends within a character of UTF-8; if it was cut off, copy it again, "
         "else say its encoding with --encoding"),
    Case("ascii only", "id,query\n1,é\n",
         "line 2: byte 0xC3 is not valid ASCII; it may be utf-8 (\"é\"): try --encoding utf-8 "
         "with --dry-run", options={"encoding": "ascii"}),
    # delimiters and header
    Case("semicolons", "id;query\n1;a\n",
         'line 1: the header is one column, "id;query"; it looks separated by \';\': add --delimiter'
         " ';'"),
    Case("tabs", "id\tquery\n1\ta\n",
         'line 1: the header is one column, "id\\tquery"; it looks separated by tab: add '
         "--delimiter tab"),
    Case("bars", "id|query\n1|a\n",
         'line 1: the header is one column, "id|query"; it looks separated by \'|\': add --delimiter'
         " '|'"),
    Case("commas after all", "id,query\n1,a\n",
         'line 1: the header is one column, "id,query"; it looks separated by \',\': add --delimiter'
         " ','", options={"delimiter": ";"}),
    Case("note to Excel", "sep=;\nid;query\n1;a\n",
         'line 1: the line "sep=;" is a note to Excel; remove it, the next line is the header',
         options={"delimiter": ";"}),
    Case("column without a name", "id,,query\n1,2,3\n",
         "line 1: column 2 has no name; name it, or remove the column"),
    Case("comma at the end of the header", "id,query,\n1,2,\n", "nothing is wrong"),
    Case("column twice", "id,query,query\n1,2,3\n",
         'line 1, column "query": columns 2 and 3 have the same name; rename one'),
    Case("first column is not the one called id", "name,id\na,1\n",
         'line 1, column "id": the row\'s id is taken from column "name" and goes under the key id,'
         ' so this one cannot: add --id-column id, or --id-column "name" and rename this one'),
    Case("column id beside the id column", "name,id\na,1\n",
         'line 1, column "id": the row\'s id is taken from column "name" and goes under the key id,'
         " so this one cannot: rename it", options={"id_column": "name"}),
    # quotes
    Case("quote never closed", 'id,query\n1,a\n2,"b\n3,c\n',
         "line 3: a double quote that begins in this row is never closed; close it, or write it as"
         ' ""'),
    Case("quote never closed in the header", 'id,"query\n1,a\n',
         "line 1: a double quote that begins in this row is never closed; close it, or write it as"
         ' ""'),
    Case("text after a quote", 'id,query\n1,"a"b\n',
         'line 2: there is text after a closing double quote; a quote inside quotes is written ""'),
    Case("text after a quote, lines below", 'id,query\n1,"a\nb"c\n2,d\n',
         "line 2: on line 3 there is text after a closing double quote; a quote inside quotes is "
         'written ""'),
    # rows
    Case("short row", "id,query,n\n1,a,1\n2,b\n",
         'line 3, row id "2": the row has 2 cells; the header has 3 columns: add the missing 1'),
    Case("long row", "id,query\n1,a\n2,b, and c\n",
         'line 3, row id "2": the row has 3 cells; the header has 2 columns: put the cell that '
         "holds the delimiter in double quotes"),
    Case("short row over several lines", 'id,query,n\n"1","a\nb\nc"\n',
         'line 2, row id "1": the row has 2 cells, up to line 4; the header has 3 columns: add the'
         " missing 1"),
    Case("blank id", "id,query\n ,a\n",
         'line 2, column "id": the id is blank; every row needs its own id'),
    Case("row of commas", "id,query\n1,a\n,\n", "nothing is wrong"),
    Case("quoted empty cell", 'id\n1\n""\n',
         'line 3, column "id": the id is blank; every row needs its own id'),
    Case("same id", "id,query\n1,a\n2,b\n1,c\n",
         'line 4, column "id", row id "1": this id already stands on line 2; every row needs its '
         "own id"),
    Case("same id after spaces are gone", "id,query\nx,a\n x ,b\n",
         'line 3, column "id", row id "x": this id already stands on line 2; every row needs its '
         "own id"),
    Case("id with a new line", 'id,query\n"a\nb",1\n',
         'line 2, column "id": the id "a\\nb" contains U+000A, which no id may have; remove it'),
    Case("id with an escape", "id,query\na\x1bb,1\n",
         'line 2, column "id": the id "a\\u001bb" contains U+001B, which no id may have; remove it'),
    Case("files put one after the other", "id,query\n1,a\n\ufeffid,query\n2,b\n",
         "line 3: the header stands here again; remove the line"),
    Case("long id", f"id,query\n{'x' * 1001},1\n",
         'line 2, column "id": the id has 1001 characters; at most 1000 are allowed'),
    Case("NUL", "id,query\n1,a\n2,b\0c\n",
         'line 3, column "query", row id "2": it contains a NUL character, which Dify removes '
         "silently; remove it"),
    Case("NUL in the header", "id,que\0ry\n1,a\n",
         'line 1, column "que\\u0000ry": the name of column 2 contains NUL; if the file is UTF-16, '
         "add --encoding utf-16"),
    Case("many problems", "id,query\n" + "1,a\n" * 24,
         "".join(f'line {n}, column "id", row id "1": {AGAIN}\n' for n in range(3, 23))
         + "… and 3 more\nin all: duplicate_id 23"),
    # JSON lines
    Case("no lines", "\n\n",
         "line 1: the file is empty; it must hold one JSON object a line", file="data.jsonl"),
    Case("broken JSON", lines('{"id": 1, "query": "a"}', '{"id": 2, "query": "b}'),
         "line 2: the JSON breaks at character 20: Unterminated string starting at; write one JSON"
         " object a line", file="data.jsonl"),
    Case("list", lines('["id", 1]'),
         'line 1: ["id", 1] is not an object; write one JSON object a line', file="data.jsonl"),
    Case("CSV in JSON lines", lines("id,query", "1,a"),
         "line 1: the JSON breaks at character 1: Expecting value; write one JSON object a line\n"
         "line 2: the JSON breaks at character 2: Extra data; write one JSON object a line\n"
         "in all: bad_json 2", file="data.ndjson"),
    Case("no id", lines('{"name": 1}'),
         'line 1: the object has no key "id"; it has "name"', file="data.jsonl"),
    Case("blank id of JSON", lines('{"id": ""}'),
         'line 1, column "id": the id is blank; every row needs its own id', file="data.jsonl"),
    Case("id true", lines('{"id": true}'),
         'line 1, column "id": the id is true; write text or a whole number', file="data.jsonl"),
    Case("id 1.5", lines('{"id": 1.5}'),
         'line 1, column "id": the id is 1.5; write text or a whole number', file="data.jsonl"),
    Case("ids 1 and text 1", lines('{"id": 1}', '{"id": "1"}'),
         'line 2, column "id", row id "1": this id already stands on line 1; every row needs its '
         "own id", file="data.jsonl"),
    Case("NaN", lines('{"id": 1, "n": NaN}'),
         "line 1: NaN is not JSON; leave the key out or write null", file="data.jsonl"),
    Case("huge float", lines('{"id": 1, "n": 1e999}'),
         "line 1: 1e999 is too large for a number", file="data.jsonl"),
    Case("key twice", lines('{"id": 1, "n": 1, "n": 2}'),
         'line 1: the key "n" stands twice in one object', file="data.jsonl"),
    Case("nested too deeply", lines('{"id": 1, "n": ' + "[" * 99999 + "]" * 99999 + "}"),
         "line 1: the JSON is nested too deeply, over 200 levels", file="data.jsonl"),
    Case("half a surrogate pair", lines('{"id": 1, "q": "\\ud83d"}'),
         'line 1, column "q", row id "1": it contains half of a surrogate pair, U+D83D; remove it',
         file="data.jsonl"),
    Case("half a surrogate pair as id", lines('{"id": "a\\ud83d"}'),
         'line 1, column "id": the id "a\\ud83d" contains U+D83D, which no id may have; remove it', file="data.jsonl"),
    Case("half a surrogate pair in a key", lines('{"id": 1, "\\ud83d": 1}'),
         "line 1: a key contains half of a surrogate pair; remove it", file="data.jsonl"),
    Case("key id beside the id key", lines('{"key": 1, "id": 2}'),
         'line 1, column "id", row id "1": the row\'s id is taken from "key" and goes under the key'
         " id, so this one cannot: rename it", file="data.jsonl", options={"id_column": "key"}),
    Case("latin letter in JSON", '{"id": 1, "q": "Café"}\n'.encode("cp1252"),
         'line 1: byte 0xE9 is not valid UTF-8; it may be cp1252 ("Café"): try --encoding cp1252 with '
         "--dry-run", file="data.jsonl"),
    # the form
    Case("required column missing", "id,text\n1,a\n",
         'line 1, column "query": the app requires the input "query", and no column has this name:'
         ' add it; there are "id", "text"', form=ECHO),
    Case("required column nearly there", "id,Quary\n1,a\n",
         'line 1, column "query": the app requires the input "query", and no column has this name:'
         ' rename column "Quary" to it', form=ECHO),
    Case("two columns for one input", "id,query,Query\n1,a,b\n",
         'line 1, column "Query": columns "query" and "Query" both stand for the input "query"; '
         "remove or rename one", form=ECHO),
    Case("required cell empty", "id,query\n1,a\n2,\n",
         'line 3, column "query", row id "2": the input is required and is empty; fill it in', form=ECHO),
    cell("text too long", "language", "x" * 49,
         "it has 49 characters; at most 48 are allowed"),
    cell("no number", "n", "abc", '"abc" is not a number'),
    cell("decimal comma", "n", '"1,5"', '"1,5" is not a number; use a point: 1.5'),
    cell("exponent", "n", "1e3", '"1e3" is not a number; Dify takes no exponent, write the digits out'),
    cell("not a number", "n", "NaN", '"NaN" is not a number'),
    Case("number too large", f"id,query,n\n1,a,{'9' * 400}.0\n",
         'line 2, column "n", row id "1": '
         '"999999999999999999999999999999999999999999999999999999999999…" is too large for a '
         "number", form=ECHO),
    cell("no option", "tone", "angry", '"angry" is not an option; allowed are "formal", "casual", "neutral"'),
    cell("option in another case", "tone", "Formal", '"Formal" is not an option; write it as "formal"'),
    cell("option with a blank", "tone", "casual ", '"casual " is not an option; write it as "casual"'),
    cell("no checkbox", "flag", "maybe", '"maybe" is not a checkbox value; write true or false'),
    cell("broken JSON cell", "meta", '"{""a"" 1}"', "the JSON breaks at character 6: Expecting ':' delimiter"),
    cell("list for an object", "meta", "[1]", '[1] is not a JSON object; write {"key": value}'),
    cell("surrogate in an object", "meta", '"{""a"": ""\\ud83d""}"', "it contains half of a surrogate pair; remove it"),
    Case("several cells", "id,query,n,flag\n1,,x,y\n",
         'line 2, column "query", row id "1": the input is required and is empty; fill it in\n'
         'line 2, column "n", row id "1": "x" is not a number\n'
         'line 2, column "flag", row id "1": "y" is not a checkbox value; write true or false\n'
         "in all: not_a_boolean 1, not_a_number 1, required 1", form=ECHO),
    Case("number for a text", lines('{"id": 1, "query": 12}'),
         'line 1, column "query", row id "1": 12 is not text; write it in quotes, "12"',
         file="data.jsonl", form=ECHO),
    Case("null for a required text", lines('{"id": 1, "query": null}'),
         'line 1, column "query", row id "1": the input is required and is empty; write "" for an '
         "empty text", file="data.jsonl", form=ECHO),
    Case("required key missing", lines('{"id": 1}'),
         'line 1, column "query", row id "1": the input is required and is missing; write "" for '
         "an empty text", file="data.jsonl", form=ECHO),
    json_value("list for a number", "n", "[1]", "[1] is not a number"),
    json_value("true for a number", "n", "true", "true is not a number"),
    json_value("text for an object", "meta", '"{}"', '"{}" is text; write the object itself, without quotes'),
    json_value("number for a checkbox", "flag", "7", "7 is not a boolean; write true or false"),
    Case("name and label", lines('{"id": 1, "query": "a", "Query": "b"}'),
         'line 1, column "Query", row id "1": "Query" and "query" both stand for the input '
         '"query"; remove one', file="data.jsonl", form=ECHO),
    # files
    file_cell("file not there", "a.txt",
         'there is no file "DIR/a.txt"; relative paths begin at the input file\'s folder'),
    file_cell("file is a folder", ".", '"DIR" is a folder; name a file in it'),
    file_cell("file of a wrong kind", "a.mp4",
         '"a.mp4": .mp4 is not allowed here; allowed are document, image, .txt, .csv, .md', others={"a.mp4": b"x"}),
    file_cell("file without extension", "LICENSE",
         '"LICENSE": a file without extension is not allowed here; allowed are document, image, .txt, .csv, .md',
         others={"LICENSE": b"x"}),
    file_cell("two files for one", "a.txt|b.txt", "it names 2 files; at most one is allowed"),
    Case("too many files", 'id,doc,docs\n1,a.txt,"a.txt\na.txt\na.txt\na.txt"\n',
         'line 2, column "docs", row id "1": it names 4 files; at most 3 are allowed',
         form=FILES, others={"a.txt": b""}),
    file_cell("image too large", "a.png",
         '"a.png" has 10485761 bytes; the server takes at most 10485760 (10 MB)',
         others={"a.png": bytes(10 * 1024 * 1024 + 1)}),
    file_cell("ftp", "ftp://host/a.txt", '"ftp://host/a.txt": only http and https URLs and local paths can be used'),
    file_cell("video by URL", "http://host/a.mp4?x=1",
         '"http://host/a.mp4?x=1": .mp4 is not allowed here; allowed are document, image, .txt, .csv, .md'),
    file_cell("backslash in a file name", "a\\b.txt",
         '"a\\\\b.txt": Dify allows no backslash in a file name; rename it', others={"a\\b.txt": b""}),
    Case("mapping without id", lines('{"id": 1, "doc": {"transfer_method": "local_file"}}'),
         'line 1, column "doc", row id "1": {"transfer_method": "local_file"}: with "local_file" '
         'it needs "upload_file_id"', file="data.jsonl", form=FILES),
    Case("mapping without method", lines('{"id": 1, "doc": {"url": "http://host/a"}}'),
         'line 1, column "doc", row id "1": {"url": "http://host/a"}: "transfer_method" must be '
         '"local_file" or "remote_url"', file="data.jsonl", form=FILES),
    Case("number for a file", lines('{"id": 1, "doc": 5}'),
         'line 1, column "doc", row id "1": 5 is neither a path nor a URL', file="data.jsonl", form=FILES),
    Case("no files column", "id,doc\n1,http://host/a.txt\n",
         'line 1, column "images": there is no column "images" for the files; it has "id", "doc"',
         form=FILES, files_column="images"),
    Case("files column with a missing file", "id,doc,images\n1,http://host/a.txt,b.png\n",
         'line 2, column "images", row id "1": there is no file "DIR/b.png"; relative paths begin '
         "at the input file's folder", form=FILES, files_column="images"),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_message(case: Case, tmp_path: Path) -> None:
    assert said(case, tmp_path) == case.message
