"""JSON's limit of nesting, counted outside strings; and what is written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.strictjson import MAX_DEPTH, NotJson, encoder, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_what_json_writes_is_read(value: object) -> None:
    assert parse(json.dumps(value)) == value
    assert parse(json.dumps(value, ensure_ascii=False)) == value


@pytest.mark.parametrize("text", ['"{}"', '"\\"{}"', '["\\\\", "{}"]', '{{"{}": 1}}'])
def test_brackets_within_text_do_not_count(text: str) -> None:
    text = text.format("[" * 300)
    assert parse(text) == json.loads(text)


@pytest.mark.parametrize(("depth", "fits"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (1_000_000, False)])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_the_limit(depth: int, fits: bool, left: str, right: str) -> None:
    text = left * depth + ("1" if right == "}" else "") + right * depth
    if fits:
        assert parse(text) == json.loads(text)
    else:
        with pytest.raises(NotJson, match="nested too deeply"):
            parse(text)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert len(parse("[" + ",".join(["[[]]"] * 10_000) + "]")) == 10_000


WRITTEN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(WRITTEN)
def test_what_is_written_is_what_the_json_module_writes(value: object) -> None:
    assert encoder()(value) == json.dumps(value, ensure_ascii=False)
    assert encoder(compact=True)(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_what_is_no_json_is_not_written() -> None:
    for odd in (float("nan"), [float("inf")], {"a": -float("inf")}):
        with pytest.raises(ValueError, match="JSON"):
            encoder()(odd)
    with pytest.raises(TypeError):
        encoder()({"a": object()})
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        encoder()(endless)
