"""The formats of the four files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.ids import parse_ids
from dify_batch.ledger import formats
from dify_batch.ledger.formats import BOM, Paths
from dify_batch.ledger.records import journal_record
from dify_batch.outcomes import PausedForm, RunRef, RunResult

REF = RunRef("run-1", "task-1")
RESULT = RunResult(REF, "succeeded", {"answer": "Grüße\u2028"}, None, 1.5, 12, 3, 1_700_000_000)

ids = st.text(st.characters(min_codepoint=0x21, exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1).filter(
    lambda text: "\ufeff" not in text
)


def line(row_id: str = "a", *, inputs: Any = None, result: RunResult = RESULT, now: float = 0.0) -> bytes:
    return formats.result_line(row_id, inputs or {"id": row_id}, result, retry_count=2, now=now)


def test_the_files_stand_beside_the_output() -> None:
    paths = Paths.of(Path("out/results.jsonl"))
    names = [path.name for path in paths.data]
    assert names == [f"results.jsonl{end}" for end in ("", ".retry", ".paused", ".superseded", ".journal")]
    assert paths.lock == Path("out/results.jsonl.lock")


def test_a_result_line_has_its_keys_in_order_and_text_as_it_is() -> None:
    text = line().decode()
    assert list(json.loads(text)) == [
        *("id", "status", "inputs", "outputs", "workflow_run_id", "executed_at", "retry_count"),
        *("elapsed_time", "total_tokens", "total_steps", "task_id", "total_price", "currency", "workflow_id"),
        *("trace_id", "queue_time"),
    ]
    assert "Grüße" in text
    assert text.count("\n") == 1
    assert json.loads(text)["executed_at"] == "2023-11-14T22:13:20Z"
    assert json.loads(text)["status"] == "success"


def test_partial_success_and_a_run_without_an_end() -> None:
    result = RunResult(REF, "partial-succeeded", {}, None, None, None, None, None)
    record = json.loads(line(result=result, now=86_400.0))
    assert (record["status"], record["executed_at"]) == ("partial-success", "1970-01-02T00:00:00Z")


def test_a_lone_surrogate_is_written_as_its_escape() -> None:
    written = line(inputs={"q": "\ud800"})
    assert json.loads(written.decode("utf-8"))["inputs"] == {"q": "\ud800"}


@given(st.binary(max_size=30) | st.builds(lambda row_id: line(row_id=row_id)[:-1], ids))
def test_a_glance_sees_what_a_closer_look_does(text: bytes) -> None:
    assert formats.glance(text)[0] == formats.result_id(text)


@given(row_id=ids)
def test_the_id_of_a_result_is_read_back(row_id: str) -> None:
    assert formats.result_id(line(row_id=row_id)[:-1]) == row_id
    assert formats.result_id(line(row_id=row_id)[:-1] + b"\r") == row_id


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello",
        b"[1]",
        b'{"id": 5}',
        b'{"id": "a", "name": "x"}',
        b'{"id": "a", "status": "failed"}',
        b'{"id": 1.5, "status": "success"}',
        b'{"status": "success"}',
        line()[:-2],
        line()[:40],
        b'{"id": "a", "status": "success", "x": "\0\0\0"}',
        b'{"id": "\xff", "status": "success"}',
        b"[" * 200_000,
    ],
)
def test_what_is_no_whole_result(text: bytes) -> None:
    assert formats.result_id(text) is None


def test_another_spelling_of_a_result_is_read_too() -> None:
    assert formats.result_id(b'{"status": "success", "id": "a"}') == "a"
    assert formats.result_id(b'{"id":"a","status":"partial-success"}') == "a"
    assert formats.result_id(b'{"id": 12, "status": "success"}') == "12"
    assert formats.result_id(BOM + b'{"id": "\\u00e9", "status": "success"}') == "é"


@given(st.lists(ids, unique=True))
def test_retry_ids_are_read_back(row_ids: list[str]) -> None:
    assert parse_ids(formats.retry_bytes(row_ids)) == row_ids


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (BOM, []),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\n\n  \n\tb  \n", ["a", "b"]),
        (BOM + b"a\n" + BOM + b"b", ["a", "b"]),
        (b"b\na\nb\n", ["b", "a"]),
        ("Zeile 1\n行\n".encode(), ["Zeile 1", "行"]),
        (b"a\x0bb\n", ["a\x0bb"]),
    ],
)
def test_retry_as_people_write_it(data: bytes, found: list[str]) -> None:
    assert parse_ids(data) == found


def test_a_paused_record_says_how_to_answer() -> None:
    form = PausedForm("tok", "node", "text", ("yes", "no"), ("comment",), 1_700_000_000)
    record = formats.paused_record("a", REF, formats.forms_shown([form], "http://x/v1", "u-1"))
    assert record["form_token"] == "tok"
    assert record["expires_at"] == "2023-11-14T22:13:20Z"
    assert record["forms"][0]["answer_with"] == "POST http://x/v1/form/human_input/tok"
    assert record["forms"][0]["answer_body"] == {"action": "yes", "inputs": {"comment": ""}, "user": "u-1"}
    assert formats.paused_record("a", REF, [])["form_token"] is None


@pytest.mark.parametrize("moment", [1_700_000_000_000, -1, 0, 10**30, 253_402_300_800])
def test_a_time_that_no_calendar_has_keeps_no_row_from_its_place(moment: int) -> None:
    result = RunResult(REF, "succeeded", {}, finished_at=moment)
    assert json.loads(line(result=result, now=86_400.0))["executed_at"] == "1970-01-02T00:00:00Z"
    (form,) = formats.forms_shown([PausedForm("tok", None, None, (), (), moment)], "http://x/v1", "u")
    assert form["expires_at"] is None


@pytest.mark.parametrize("seconds", [True, "1700000000", None, [1], float("nan"), float("inf")])
def test_what_is_no_time_at_all(seconds: object) -> None:
    assert formats.server_time(seconds) is None


@pytest.mark.parametrize(
    ("value", "written"),
    [(float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"), ([1e400, {"x": 1e400}], None)],
)
@pytest.mark.parametrize("compact", [True, False])
def test_numbers_that_json_has_not_are_written_as_texts(value: Any, written: str | None, compact: bool) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    told: list[bool] = []
    record = {"outputs": {"a": value, "b": 1.5}}
    data = formats.json_line(record, compact=compact, not_finite=lambda: told.append(True))
    outputs = json.loads(data, parse_constant=refuse)["outputs"]
    assert outputs == {"a": written or ["Infinity", {"x": "Infinity"}], "b": 1.5}
    assert told == [True]


@pytest.mark.parametrize("char", ["\u0085", "\u2028", "\u2029"])
@pytest.mark.parametrize("compact", [True, False])
def test_no_reader_takes_a_character_for_the_end_of_a_line(char: str, compact: bool) -> None:
    record = {f"k{char}": f"é{char}\ud800" if compact else f"é{char}"}
    written = formats.json_line(record, compact=compact)
    assert json.loads(written) == record
    assert len(written.decode().splitlines()) == 1


def test_the_version_that_answered_is_read_at_a_glance() -> None:
    result = RunResult(REF, "succeeded", {"workflow_id": "not this"}, workflow_id="v-1")
    assert formats.result_version(line(result=result)[:-1]) == b"v-1"
    assert formats.result_version(line(result=result)[:-1], b"v-1") == b"v-1"
    assert formats.result_version(line(result=result)[:-1], b"v") == b"v-1"
    assert formats.result_version(line()[:-1]) is None
    assert formats.result_version(json.dumps({"id": "a", "workflow_id": "v-2", "queue_time": 1.5}).encode()) == b"v-2"
    odd = line(result=RunResult(REF, "succeeded", {"x": {"workflow_id": "v-3", "y": 1}}))[:-1]
    assert formats.result_version(odd) is None
    assert formats.result_version(json.dumps({"id": "a", "x": {"workflow_id": "v-4"}}).encode()) is None


@given(row_id=ids, event=st.sampled_from(["sent", "retry_file"]))
def test_the_head_of_a_journal_line_agrees_with_the_whole(row_id: str, event: str) -> None:
    text = formats.json_line({"event": event, "id": row_id, "x": 1}, compact=True)
    head = formats.journal_head(text)
    record = journal_record(text)
    assert record is not None
    if "\\" in row_id or '"' in row_id:
        assert head is None
    else:
        assert head is not None
        assert (head[0].decode(), head[1].decode()) == (record["event"], record["id"])


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"5", b'{"id":"a"}', b'{"event":5}', b"\0\0", b"\xff"])
def test_what_is_no_journal_record(text: bytes) -> None:
    assert journal_record(text) is None


@given(st.floats(0, 4e9))
def test_times_are_read_back(seconds: float) -> None:
    assert abs(formats.from_utc(formats.utc(seconds, milliseconds=True)) - seconds) < 0.002
