"""JSON lines to rows: one object a line, its id under a key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dify_batch.ids import read_id
from dify_batch.input.passes import RawPass, text_of
from dify_batch.input.records import Problem, Row, id_problem
from dify_batch.strictjson import NotJson, parse, sendable
from dify_batch.text import show

LINE_LIMIT = 128 * 1024 * 1024
"""Most characters of one line: twice the longest CSV cell, so that a file without line ends is not read into memory."""


def jsonl_rows(raw: RawPass, encoding: str, id_key: str) -> Iterator[Row | Problem]:
    """The rows and problems of a file. At most one problem a record; a fatal one is the last.

    Raises:
        UnicodeError: as `text_of`.
    """
    number = line = 0
    text = text_of(raw, encoding, newline="\n")  # JSON lines end with \n; \r before it is white space
    with text:
        while True:
            record = text.readline(LINE_LIMIT)
            if not record:
                break
            line += 1
            if len(record) >= LINE_LIMIT and not record.endswith("\n"):
                limit = LINE_LIMIT >> 20
                yield Problem(
                    "field_too_large",
                    f"the line has more than {limit} Mi characters; write one object a line",
                    line,
                )
                return
            record = record.strip()
            if record:
                number += 1
                yield _row(record, number, line, id_key)
    if not number:
        yield Problem("empty_file", "the file is empty; it must hold one JSON object a line", 1)


def _objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values[:3])


def _row(record: str, number: int, line: int, id_key: str) -> Row | Problem:
    try:
        values = parse(record)
    except NotJson as error:
        cure = "; write one JSON object a line" if "breaks" in str(error) else ""
        return Problem("bad_json", f"{error}{cure}", line)
    if not isinstance(values, dict):
        return Problem("bad_json", f"{show(values)} is not an object; write one JSON object a line", line)
    if "\\" in record and not all(map(sendable, values)):
        return Problem("bad_json", "a key contains half of a surrogate pair; remove it", line)
    if id_key not in values:
        keys = ", ".join(show(key) for key in list(values)[:5]) or "none"
        inner = next((key for key, value in values.items() if isinstance(value, list) and _objects(value)), None)
        cure = (
            f"; if the rows are under {show(inner)}: jq -c '.[{json.dumps(inner)}][]' FILE > rows.jsonl"
            if inner
            else ""
        )
        return Problem("blank_id", f"the object has no key {show(id_key)}; it has {keys}{cure}", line)
    id_ = read_id(values[id_key])
    if id_ is None:
        return Problem("bad_id", f"the id is {show(values[id_key])}; write text or a whole number", line, id_key)
    problem = id_problem(id_, line, id_key)
    if problem is not None:
        return problem
    if "id" in values and id_key != "id":
        message = f"the row's id is taken from {show(id_key)} and goes under the key id, so this one cannot: rename it"
        return Problem("bad_id", message, line, "id", id_)
    values[id_key] = id_
    return Row(number, line, id_, values)
