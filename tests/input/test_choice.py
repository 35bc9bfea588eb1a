"""Which rows: --ids and --sample; constants and renamed columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dify_batch.errors import UsageError
from dify_batch.ids import DONE, IN_INPUT, INVALID, OPEN, IdIndex, id_hash
from dify_batch.input.check import check, valid_rows
from dify_batch.input.choice import choose, read_ids
from dify_batch.input.form import Form
from dify_batch.input.records import Problem
from dify_batch.input.rows import RowSource
from tests.support.inputs import ECHO, Came, comes_to


def index_of(count: int, *, invalid: int = 0) -> IdIndex:
    index = IdIndex()
    for number in range(count):
        index.add(f"row-{number}", IN_INPUT | (INVALID if number < invalid else 0))
    index.add("gone", 0)
    return index


def test_a_sample_is_the_same_whatever_the_order_and_grows_with_its_size() -> None:
    ten, _ = choose(index_of(100), ids=None, sample=10, name="rows.csv")
    turned = IdIndex()
    for number in reversed(range(100)):
        turned.add(f"row-{number}", IN_INPUT)
    assert choose(turned, ids=None, sample=10, name="rows.csv")[0] == ten
    twenty, _ = choose(index_of(100), ids=None, sample=20, name="rows.csv")
    assert ten is not None
    assert twenty is not None
    assert len(ten) == 10
    assert ten < twenty
    rest = {f"row-{number}" for number in range(100)} - ten
    assert max(map(id_hash, ten)) < min(map(id_hash, rest))


def test_a_sample_takes_rows_that_can_be_sent() -> None:
    chosen, _ = choose(index_of(20, invalid=15), ids=None, sample=5, name="rows.csv")
    assert set(chosen or ()) == {f"row-{number}" for number in range(15, 20)}


def test_more_than_there_are() -> None:
    with pytest.raises(UsageError, match=r"--sample 21: rows\.csv has 20 rows to draw from"):
        choose(index_of(20), ids=None, sample=21, name="rows.csv")
    with pytest.raises(UsageError, match=r"--sample 3: rows\.csv has 2 rows to draw from"):
        choose(index_of(20), ids=frozenset({"row-1", "row-2"}), sample=3, name="rows.csv")


def test_a_list_of_ids() -> None:
    chosen, warning = choose(index_of(5), ids=frozenset({"row-1", "row-3", "x", "gone"}), sample=None, name="rows.csv")
    assert set(chosen or ()) == {"row-1", "row-3"}
    assert warning == '--ids: 2 ids are not in rows.csv, such as "gone", "x"'
    assert choose(index_of(5), ids=None, sample=None, name="rows.csv") == (None, None)
    with pytest.raises(UsageError, match=r"--ids: none of 1 id is in rows\.csv"):
        choose(index_of(5), ids=frozenset({"x"}), sample=None, name="rows.csv")


def test_how_the_list_may_look(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\r\n b c \nd")
    assert read_ids(path) == {"a", "b c", "d"}
    for content in (b"", b"\n\n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="--ids: "):
            read_ids(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_ids(tmp_path)


def test_rows_that_are_not_chosen_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,n,query\n1,1,a\n2,x,b\n3,3,c\n4,y,d\n5,5,e\n")
    index = IdIndex()
    with RowSource.open(str(path)) as source:
        bound = ECHO.bind(source.header, id_column="id", base_dir=tmp_path)
        check(source, bound, index).raise_if_any(skip_invalid=True)
        found = list(valid_rows(source, bound, index, frozenset({"2", "5"})))
    assert [item.id if isinstance(item, Problem) else item[0].id for item in found] == ["2", "5"]


def test_rows_with_a_barred_flag_are_passed_over_but_not_what_stands_twice(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,n,query\n1,1,a\n2,x,b\n3,3,c\n1,1,a\n5,5,e\n")
    index = IdIndex()
    with RowSource.open(str(path)) as source:
        bound = ECHO.bind(source.header, id_column="id", base_dir=tmp_path)
        check(source, bound, index).raise_if_any(skip_invalid=True)
        for row_id in ("1", "2", "3"):
            index.add(row_id, DONE)
        found = list(valid_rows(source, bound, index, barred=DONE | OPEN))
    assert [(item.kind, item.id) if isinstance(item, Problem) else item[0].id for item in found] == [
        ("duplicate_id", "1"),
        "5",
    ]


# ------------------------------------------------------------- --set and --map


@pytest.fixture
def see(tmp_path: Path) -> Any:
    def see(content: str, name: str = "rows.csv", *, form: Form = ECHO, **bound: Any) -> Came:
        (tmp_path / name).write_text(content)
        return comes_to(tmp_path / name, form=form, bound=bound)

    return see


def test_a_constant_is_given_to_each_row_as_its_type(see: Any) -> None:
    came = see("id,query\n1,a\n2,b\n", constants={"n": "5", "flag": "yes", "meta": '{"a": 1}', "tone": "formal"})
    given = {"n": 5, "flag": True, "meta": {"a": 1}, "tone": "formal"}
    assert came.sent == [{"id": "1", "query": "a", **given}, {"id": "2", "query": "b", **given}]


def test_a_constant_from_python_has_a_type(see: Any) -> None:
    came = see("id,query\n1,a\n", constants={"n": 0, "flag": False, "meta": {"a": 1}})
    assert came.sent == [{"id": "1", "query": "a", "n": 0, "flag": False, "meta": {"a": 1}}]
    with pytest.raises(UsageError, match="--set language=7: 7 is not text"):
        see("id,query\n1,a\n", constants={"language": 7})


def test_a_constant_stands_for_a_required_column(see: Any) -> None:
    assert see("id\n1\n", constants={"query": "always"}).sent == [{"id": "1", "query": "always"}]
    line = '{"id": 1}\n'
    assert see(line, "rows.jsonl", constants={"query": "x", "meta": "{}"}).sent == [
        {"id": "1", "query": "x", "meta": {}}
    ]


def test_without_a_form_a_constant_is_text(see: Any) -> None:
    assert see("id,a\n1,x\n", form=Form.absent(), constants={"b": "5"}).sent == [{"id": "1", "b": "5", "a": "x"}]


@pytest.mark.parametrize(
    ("constants", "says"),
    [
        ({"n": "abc"}, '--set n=abc: "abc" is not a number'),
        ({"tone": "angry"}, '--set tone=angry: "angry" is not an option'),
        ({"tune": "formal"}, '--set tune=formal: the app has no input "tune"'),
        ({"language": ""}, "--set language= has no value"),
        ({"id": "7"}, "--set id=7: the key id holds the row's id"),
    ],
)
def test_a_constant_that_cannot_be(see: Any, constants: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        see("id,query\n1,a\n", constants=constants)
    assert caught.value.message.startswith(says)


def test_a_constant_beside_a_column_of_its_name(see: Any) -> None:
    assert see("id,query\n1,a\n", constants={"query": "x"}).kinds == {"double_column": 1}
    assert see('{"id": 1, "query": "a"}\n', "rows.jsonl", constants={"query": "x"}).kinds == {"double_key": 1}


def test_a_column_stands_for_an_input_of_another_name(see: Any) -> None:
    came = see("id,frage,Zahl\n1,a,7\n", renames={"frage": "query", "Zahl": "n"})
    assert came.sent == [{"id": "1", "query": "a", "n": 7}]
    assert came.warnings == ()
    came = see('{"id": 1, "frage": "a"}\n', "rows.jsonl", renames={"frage": "query"})
    assert came.sent == [{"id": "1", "query": "a"}]
    came = see("id,a,b\n1,x,y\n", form=Form.absent(), renames={"a": "c"})
    assert came.sent == [{"id": "1", "b": "y", "c": "x"}]


def test_problems_name_the_column_of_the_file(see: Any) -> None:
    assert 'column "Zahl"' in see("id,query,Zahl\n1,a,x\n", renames={"Zahl": "n"}).error


@pytest.mark.parametrize(
    ("renames", "says", "hint"),
    [
        ({"frag": "query"}, '--map frag=query: the input has no column "frag"', 'did you mean "frage"?'),
        ({"frage": "quary"}, '--map frage=quary: the app has no input "quary"', 'did you mean "query"?'),
    ],
)
def test_a_column_that_cannot_be_renamed(see: Any, renames: dict[str, str], says: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        see("id,frage\n1,a\n", renames=renames)
    assert (caught.value.message, caught.value.hint) == (says, hint)


def test_two_columns_for_one_input(see: Any) -> None:
    assert see("id,query,frage\n1,a,b\n", renames={"frage": "query"}).kinds == {"double_column": 1}
