"""What counts as the same."""

from __future__ import annotations

from typing import Any

import pytest

from dify_batch.reports.diff.compare import MISSING, Change, changes, same, same_inputs

DEEP: Any = []
for _ in range(500):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "verdict"),
    [
        (1, 1.0, 0, True),
        (10**20, 1e20, 0, True),
        (1, 2, 0, False),
        (0.1 + 0.2, 0.3, 0, False),
        (0.7, 0.6, 0.1, True),
        (0.71, 0.6, 0.1, False),
        (100, 101, 1, True),
        (1, True, 0, False),
        (0, None, 0, False),
        (None, None, 0, True),
        ("1", 1, 0, False),
        ("a", "a ", 0, False),
        ({"a": 1, "b": [1, 2]}, {"b": [1, 2.0], "a": 1}, 0, True),
        ({"a": 1}, {"a": 1, "b": None}, 0, False),
        ([1, 2], [2, 1], 0, False),
        ([1.0], [1.05], 0.1, True),
        ('{"a": 1,"b":2}', '{"b": 2, "a": 1.0}', 0, True),
        ('{"a": 1}', {"a": 1}, 0, True),
        ("{not json", "{not json", 0, True),
        ("[1, 2", "[1,2", 0, False),
        (MISSING, MISSING, 0, True),
        (MISSING, None, 0, False),
        (DEEP, DEEP, 0, True),
    ],
)
def test_values(a: object, b: object, tolerance: float, verdict: bool) -> None:
    assert same(a, b, tolerance) is verdict
    assert same(b, a, tolerance) is verdict


def record(outputs: object, status: str = "success", **inputs: object) -> dict[str, Any]:
    return {"id": "r", "status": status, "inputs": {"id": "r", **inputs}, "outputs": outputs}


def test_changes_are_told_by_field_in_their_order() -> None:
    a = record({"x": 1, "y": "old", "gone": None, "z": 1})
    b = record({"y": "new", "x": 1, "z": 1, "more": 2}, "partial-success")
    assert changes(a, b) == [
        Change("status", "success", "partial-success"),
        Change("y", "old", "new"),
        Change("gone", None, MISSING),
        Change("more", MISSING, 2),
    ]


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        (record('{"x": 1}'), record({"x": 1}), []),
        (record("text"), record("text"), []),
        (record(None), record({}), [Change("outputs", None, MISSING)]),
    ],
)
def test_outputs_that_are_no_object(a: dict[str, Any], b: dict[str, Any], found: list[Change]) -> None:
    assert changes(a, b) == found


def test_the_id_is_no_input_unless_it_is_a_column_of_its_own() -> None:
    assert same_inputs(record({}, q="x"), {"id": "r", "inputs": {"q": "x"}})
    assert not same_inputs(record({}, q="x"), record({}, q="y"))
    assert not same_inputs({"id": "r", "inputs": {"id": "1"}}, {"id": "r", "inputs": {"id": "2"}})


def test_the_names_of_an_answer_are_no_change() -> None:
    a: dict[str, Any] = {"outputs": {"answer": "yes", "conversation_id": "c1", "message_id": "m1"}}
    b: dict[str, Any] = {"outputs": {"answer": "yes", "conversation_id": "c2", "message_id": "m2"}}
    assert changes(a, b) == []
    b["outputs"]["answer"] = "no"
    assert changes(a, b) == [Change("answer", "yes", "no")]
    own = {"outputs": {"message_id": "m1"}}, {"outputs": {"message_id": "m2"}}
    assert [change.field for change in changes(*own)] == ["message_id"], "a workflow's own output is one like any other"
