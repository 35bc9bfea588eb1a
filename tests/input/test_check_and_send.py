"""Whatever the bytes: the sending pass gives exactly the rows that the check took, with the same inputs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from dify_batch.errors import DifyBatchError
from dify_batch.ids import IN_INPUT, INVALID, IdIndex
from dify_batch.input.check import check, valid_rows
from dify_batch.input.files import Inputs
from dify_batch.input.form import Form
from dify_batch.input.records import Problem
from dify_batch.input.rows import RowSource
from tests.support.inputs import ECHO

CELLS = st.sampled_from(
    ["a", "b", "c", "1", "", " ", '"x"', ' "y"', "#REF!", "1,5", "é", "a\u00a0", "\u200b", '"p\nq"']
)
LINES = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=8)
HEADERS = st.sampled_from(["id,query", "id,query,n", "id,query,,", "query,id", "id", "id,language,query", "Report"])
TABLES = st.tuples(HEADERS, LINES, st.sampled_from(["\n", "\r\n"]), st.booleans()).map(
    lambda parts: (parts[2].join([parts[0], *parts[1]]) + (parts[2] if parts[3] else "")).encode()
)
PIECES = st.lists(st.sampled_from([b"id,query\n", b"1,a\n", b"\xff", b'"', b"\0", b'{"id":1}\n', b",", b"\n", b"x"]))


@settings(deadline=None)
@given(
    st.one_of(TABLES, PIECES.map(b"".join)),
    st.sampled_from([None, "cp1252", "latin-1", "shift_jis", "utf-16"]),
    st.sampled_from([ECHO, Form.absent()]),
    st.sampled_from(["rows.csv", "rows.jsonl"]),
)
@example(b"id,query\n1,a\n2,b", None, ECHO, "rows.csv")
@example(b"id,query,n\n1,a\n", None, ECHO, "rows.csv")
def test_what_is_checked_is_sent(content: bytes, encoding: str | None, form: Form, name: str) -> None:
    index = IdIndex()
    looked: dict[str, Inputs] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        with RowSource.open(str(path), encoding=encoding) as source:
            bound = form.bind(source.header, id_column=source.id_column, base_dir=source.base_dir, typed=source.typed)
            report = check(source, bound, index, look=looked.__setitem__)
            try:
                report.raise_if_any(skip_invalid=True)
            except DifyBatchError:
                return
            sent = {item[0].id: item[1] for item in valid_rows(source, bound, index) if not isinstance(item, Problem)}
    assert sent == looked
    assert set(sent) == {id_ for id_ in index.ids(IN_INPUT) if not index.has(id_, INVALID)}
    assert report.rows == index.count(IN_INPUT)
