"""Which inputs the results are answers to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.ledger import formats
from dify_batch.ledger.answered import Answered, changed, mark, meaning
from dify_batch.outcomes import RunRef, RunResult

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INPUTS = st.dictionaries(
    TEXTS, st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())
)


def line(row_id: str, inputs: dict[str, Any], outputs: dict[str, Any] | None = None) -> bytes:
    result = RunResult(RunRef("run", "task"), "succeeded", outputs or {})
    return formats.result_line(row_id, inputs, result, retry_count=0, now=0.0)[:-1]


def add(answered: Answered, row_id: str, text: bytes) -> None:
    found, inputs = formats.glance(text)
    assert found == row_id
    if inputs is not None:
        answered.add(mark(row_id, inputs))


@given(INPUTS, INPUTS)
def test_the_same_inputs_are_known_at_a_glance_and_others_are_not(mine: dict[str, Any], other: dict[str, Any]) -> None:
    answered = Answered()
    for number in range(50):
        add(answered, f"r{number}", line(f"r{number}", {"n": number}))
    add(answered, "a", line("a", mine, {"inputs": 1, "outputs": 2}))
    assert answered.has("a", mine)
    assert answered.has("r7", {"n": 7})
    assert not answered.has("r7", {"n": 8})
    assert answered.has("a", other) == (formats.json_line(mine) == formats.json_line(other))
    assert not answered.has("b", mine)


def test_inputs_that_look_like_the_line_around_them_are_looked_at_more_closely() -> None:
    inputs = {"x": {"a": 1, "outputs": 2, "b": 3}}
    answered = Answered()
    add(answered, "a", line("a", inputs))
    assert not answered.has("a", inputs)
    assert changed({"a": meaning(inputs)}, [(line("a", inputs), 0)]) == []
    assert changed({"a": meaning({"x": 5})}, [(line("a", inputs), 0)]) == ["a"]


UPLOADED = {"type": "image", "transfer_method": "local_file", "upload_file_id": "u-1"}
REMOTE = {"type": "image", "transfer_method": "remote_url", "url": "http://x/a.png"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"n": "5"}, {"n": 5}, True),
        ({"n": "5"}, {"n": 5.0}, True),
        ({"n": "true"}, {"n": True}, True),
        ({"n": "x", "m": ""}, {"n": "x"}, True),
        ({"n": "x", "m": None}, {"n": "x", "m": []}, True),
        ({"f": UPLOADED}, {"f": UPLOADED | {"upload_file_id": "u-2"}}, True),
        ({"f": REMOTE}, {"f": REMOTE | {"url": "http://x/b.png"}}, False),
        ({"n": "5"}, {"n": 6}, False),
        ({"n": "x"}, {"n": "X"}, False),
        ({"n": "x"}, {"m": "x"}, False),
        ({"n": ["a", "b"]}, {"n": ["b", "a"]}, False),
    ],
)
def test_inputs_are_compared_as_dify_would_take_them(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    assert (meaning(one) == meaning(other)) == same
