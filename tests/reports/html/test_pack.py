"""Rows as blocks of text."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.reports.html import pack
from dify_batch.reports.html.pack import FIELD, NAME_DIGITS, ROW, Packer, clean, digits, sample, script_json, unpacked

texts = st.text(max_size=60)
values = st.one_of(texts, st.integers(), st.booleans(), st.none(), st.lists(texts, max_size=3))


def read(block: str, names: list[str]) -> list[list[tuple[str, str, str]]]:
    """The rows of a block: (kind, name, value) of each field. Written by the rules of the module's head."""
    rows = []
    for row in unpacked(block).split(ROW):
        fields = []
        for item in row.split(FIELD):
            rest = item[1:].lstrip(NAME_DIGITS)
            number = 0
            for digit in item[1 : len(item) - len(rest)]:
                number = number * len(NAME_DIGITS) + NAME_DIGITS.index(digit)
            fields.append((item[0], names[number], rest))
        rows.append(fields)
    return rows


@given(st.lists(st.tuples(texts, st.dictionaries(texts, values, max_size=3)), min_size=1, max_size=8))
def test_what_was_packed_comes_out(rows: list[tuple[str, dict[str, Any]]]) -> None:
    packer = Packer()
    for row_id, outputs in rows:
        assert packer.add({"id": f"i{row_id}"}, {"id": row_id}, outputs) is None
    block = packer.flush()
    assert block is not None
    found = read(block, list(packer.names))
    assert len(found) == len(rows)
    for (row_id, outputs), fields in zip(rows, found, strict=True):
        expected = [(pack.ABOUT, "id", clean(f"i{row_id}")), (pack.INPUT, "id", clean(row_id))]
        for name, value in outputs.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            expected.append((pack.OUTPUT if isinstance(value, str) else pack.OUTPUT_JSON, name, clean(text)))
        assert fields == expected
    assert packer.flush() is None


def test_a_block_ends_where_it_is_full() -> None:
    packer = Packer()
    assert packer.add({"id": "a"}, None, {"t": "x" * 90_000}) is None
    blocks = [packer.add({"id": "a"}, None, {f"{n}": "x" * 90_000 for n in range(12)})]
    assert blocks[0] is not None
    assert packer.flush() is None


@pytest.mark.parametrize("number", [0, 1, 11, 12, 143, 144, 1727, 1728, 5000])
def test_numbers_of_names(number: int) -> None:
    value = 0
    for digit in digits(number):
        value = value * len(NAME_DIGITS) + NAME_DIGITS.index(digit)
    assert value == number


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("line\nbreak\ttab\r", "line\nbreak\ttab\r"),
        ("\x00\x1d\x1e\x0e\x7f", "␀␝␞␎␡"),
        ("日本 </script>", "日本 </script>"),
        ("x" * (pack.CELL + 1), "x" * pack.CELL + "… (cut: it has 100,001 characters)"),
    ],
)
def test_values_are_shown_as_they_are_but_for_control_characters(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_a_lone_surrogate_does_not_break_the_page() -> None:
    assert unpacked(pack.packed("a\ud800b")) == "a?b"
    assert script_json("a\ud800b") == '"a?b"'


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_sample_is_as_large_as_the_room_and_even(count: int, room: int) -> None:
    taken = list(sample(count, room))
    assert len(taken) == count
    assert sum(taken) == min(count, room)
    if 0 < room < count:
        places = [number for number, yes in enumerate(taken) if yes]
        gaps = {after - before for before, after in pairwise(places)}
        assert max(gaps, default=0) - min(gaps, default=0) <= 1


@given(st.recursive(values, lambda inner: st.lists(inner, max_size=3)))
def test_json_in_a_script_is_that_json_and_no_markup(value: Any) -> None:
    text = script_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == json.loads(json.dumps(value).encode("utf-8", "replace").decode())
