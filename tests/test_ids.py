"""The index of ids: the flags, and what they cost."""

from __future__ import annotations

import hashlib
import re
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dify_batch.ids import (
    DONE,
    IN_INPUT,
    INVALID,
    OPEN,
    PAUSED,
    RETRY,
    SEEN,
    SELECTED,
    IdIndex,
    id_hash,
    read_id,
    shard_of,
    trace_id,
)

FLAGS = (IN_INPUT, DONE, RETRY, OPEN, PAUSED, INVALID, SELECTED, SEEN)


def test_flags_are_single_bits_below_256() -> None:
    assert sorted(FLAGS) == [1 << n for n in range(8)]


def test_unknown_id_has_no_flags_and_is_not_added_by_asking() -> None:
    index = IdIndex()
    index.remove("a", DONE)
    assert (index.flags("a"), index.has("a", DONE), "a" in index, len(index)) == (0, False, False, 0)


def test_has_and_count_take_several_flags_as_any_of_them() -> None:
    index = IdIndex()
    index.add("a", DONE)
    index.add("b", RETRY | IN_INPUT)
    index.add("c", PAUSED)
    assert index.count(DONE | RETRY) == 2
    assert list(index.ids(DONE | RETRY)) == ["a", "b"]
    assert index.has("b", IN_INPUT | OPEN)
    assert not index.has("c", DONE | RETRY)


def test_first_tells_whether_the_flag_is_new() -> None:
    index = IdIndex()
    assert index.first("a", SEEN)
    assert not index.first("a", SEEN)
    index.clear(SEEN)
    assert index.first("a", SEEN)


def test_flags_may_change_while_ids_are_listed() -> None:
    index = IdIndex()
    for id_ in "abc":
        index.add(id_, RETRY)
    for id_ in index.ids(RETRY):
        index.remove(id_, RETRY)
    assert index.count(RETRY) == 0
    assert len(index) == 3


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "remove", "clear"]), st.sampled_from("abc"), st.sampled_from(FLAGS)),
        max_size=40,
    )
)
def test_behaves_as_sets_of_flags(steps: list[tuple[str, str, int]]) -> None:
    index, model = IdIndex(), dict[str, set[int]]()
    for step, id_, flag in steps:
        if step == "add":
            index.add(id_, flag)
            model.setdefault(id_, set()).add(flag)
        elif step == "remove":
            index.remove(id_, flag)
            model.get(id_, set()).discard(flag)
        else:
            index.clear(flag)
            for flags in model.values():
                flags.discard(flag)
    assert len(index) == len(model)
    for id_ in "abc":
        assert index.flags(id_) == sum(model.get(id_, ()))
        assert (id_ in index) == (id_ in model)
    for flag in FLAGS:
        assert list(index.ids(flag)) == [id_ for id_, flags in model.items() if flag in flags]
        assert index.count(flag) == sum(flag in flags for flags in model.values())


def test_an_id_costs_its_text_and_one_slot() -> None:
    number = 150_000
    tracemalloc.start()
    try:
        index = IdIndex()
        for n in range(number):
            index.add(f"row-{n:07d}", IN_INPUT)
            index.add(f"row-{n:07d}", DONE)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == number
    assert used / number < 115  # a million ids in 110 MiB


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        ("a", "a"),
        (" a \n", "a"),
        (7, "7"),
        (-7, "-7"),
        (True, None),
        (1.0, None),
        (None, None),
        (["a"], None),
        ("", ""),
    ],
)
def test_ids_are_read_by_one_rule(value: object, id_: str | None) -> None:
    assert read_id(value) == id_


def test_the_hash_of_an_id_is_the_same_for_ever() -> None:
    hashed = {"row-1": 6660314193839645915, "": id_hash(""), "Müller": id_hash("Müller")}
    assert id_hash("row-1") == hashed["row-1"] == int.from_bytes(hashlib.blake2b(b"row-1", digest_size=8).digest())
    assert len(set(hashed.values())) == 3
    assert id_hash("\ud800")  # a lone surrogate, out of a hand-edited file, is no reason to die


@pytest.mark.parametrize("shards", [1, 2, 7, 16])
def test_shards_are_even_and_each_id_is_in_one(shards: int) -> None:
    counts = Counter(shard_of(f"row-{number}", shards) for number in range(20_000))
    assert set(counts) == set(range(1, shards + 1))
    assert max(counts.values()) < 20_000 / shards * 1.1


def test_a_trace_id_names_batch_row_and_attempt() -> None:
    assert trace_id("6929a1b2c3d4", "order-17_b", 2) == "6929a1b2c3d4-order-17_b-2"
    odd = [trace_id("b", row_id, 1) for row_id in ("Ü 1", "ü 1", "a/b", "x" * 65, "x" * 66, "1\u2028", "")]
    assert len(set(odd)) == len(odd)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,128}", one) for one in odd)


@given(st.text(max_size=1000), st.integers(1, 10**6), st.text("0123456789abcdef", max_size=200))
def test_a_trace_id_has_only_what_dify_takes(row_id: str, attempt: int, batch: str) -> None:
    found = trace_id(batch, row_id, attempt)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", found)
    assert found.endswith(f"-{attempt}")
