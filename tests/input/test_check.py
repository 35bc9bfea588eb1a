"""The check of a whole input, and the sending pass that follows its rules."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dify_batch.errors import InvalidInput
from dify_batch.ids import DONE, IN_INPUT, INVALID, SEEN, IdIndex
from dify_batch.input.bound import BoundForm
from dify_batch.input.check import CheckReport, check, valid_rows
from dify_batch.input.files import Inputs
from dify_batch.input.form import Form
from dify_batch.input.records import Problem, Row
from dify_batch.input.rows import RowSource
from dify_batch.summary import Notice


@contextmanager
def source(content: str) -> Iterator[RowSource]:
    with RowSource.open("-", stdin=io.BytesIO(content.encode())) as opened:
        yield opened


def bound(opened: RowSource) -> BoundForm:
    return Form.absent().bind(opened.header, id_column=opened.id_column, base_dir=opened.base_dir)


BAD = "id,a\n1,x\n2\n1,again\n,blank\n3,y\n2,second\n4,z,more\n"


def run_check(content: str) -> tuple[CheckReport, IdIndex]:
    index = IdIndex()
    index.add("3", DONE)
    index.add("old", IN_INPUT | INVALID | DONE)
    with source(content) as opened:
        return check(opened, bound(opened), index), index


def test_check_counts_and_marks() -> None:
    report, index = run_check(BAD)
    assert (report.rows, report.invalid) == (4, 5)
    assert report.counts == {"short_row": 1, "duplicate_id": 2, "blank_id": 1, "long_row": 1}
    assert list(index.ids(IN_INPUT)) == ["3", "1", "2", "4"]
    assert list(index.ids(INVALID)) == ["2", "4"]
    assert index.flags("3") == DONE | IN_INPUT
    assert index.flags("old") == DONE
    assert not report.stopped


def test_check_names_the_line_of_the_first() -> None:
    report, _ = run_check(BAD)
    said = [str(problem) for problem in report.first if problem.kind == "duplicate_id"]
    assert said == [
        'line 4, column "id", row id "1": this id already stands on line 2; every row needs its own id',
        'line 7, column "id", row id "2": this id already stands on line 3; every row needs its own id',
    ]


def test_check_raises_with_a_code_for_scripts_and_a_hint() -> None:
    report, _ = run_check(BAD)
    with pytest.raises(InvalidInput) as caught:
        report.raise_if_any()
    error = caught.value.as_dict()
    assert error["code"] == "invalid_csv"
    assert "--skip-invalid" in error["hint"]
    assert error["problems"][0] == {
        "kind": "short_row",
        "message": "the row has 1 cell; the header has 2 columns: add the missing 1",
        "line": 3,
        "id": "2",
    }
    json.dumps(error)
    report.raise_if_any(skip_invalid=True)


def test_a_problem_of_the_whole_file_cannot_be_skipped() -> None:
    report, _ = run_check('id,a\n1,x\n2,"open\n')
    assert report.stopped
    with pytest.raises(InvalidInput, match="never closed"):
        report.raise_if_any(skip_invalid=True)


def test_problems_of_the_form_alone_have_their_own_code() -> None:
    form = Form.from_parameters({"user_input_form": [{"number": {"variable": "n", "label": "n", "required": False}}]})
    with source("id,n\n1,x\n") as opened, pytest.raises(InvalidInput) as caught:
        check(opened, form.bind(opened.header, id_column="id", base_dir=Path()), IdIndex()).raise_if_any()
    assert caught.value.code == "invalid_rows"


def test_a_header_without_rows_is_a_warning() -> None:
    report, index = run_check("id,a\n")
    assert report.warnings == (Notice("no_rows", "standard input has a header and no rows"),)
    report.raise_if_any()
    assert index.count(IN_INPUT) == 0


def test_the_sending_pass_leaves_out_what_the_check_refused() -> None:
    index = IdIndex()
    with source(BAD) as opened:
        form = bound(opened)
        check(opened, form, index)
        for _ in range(2):  # the flag of the pass is cleared each time
            items = list(valid_rows(opened, form, index))
            sent = [item[0].id for item in items if not isinstance(item, Problem)]
            assert sent == ["1", "3"]
            assert [item.kind for item in items if isinstance(item, Problem)] == [
                "short_row",
                "duplicate_id",
                "blank_id",
                "duplicate_id",
                "long_row",
            ]
        assert list(index.ids(IN_INPUT)) == ["1", "2", "3", "4"]
        assert index.has("1", SEEN)


def test_the_sending_pass_gives_the_inputs() -> None:
    with source("id,a\n1,x\n") as opened:
        assert list(valid_rows(opened, bound(opened), IdIndex())) == [
            (Row(1, 2, "1", {"id": "1", "a": "x"}), Inputs({"id": "1", "a": "x"}))
        ]
