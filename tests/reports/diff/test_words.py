"""Word by word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.reports.diff import words
from dify_batch.reports.diff.words import diff_words, marked

texts = st.text(st.sampled_from("ab 日本\n,."), max_size=40)


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        ("", "", ""),
        ("same", "same", "same"),
        ("", "new", "{+new+}"),
        ("old", "", "[-old-]"),
        ("a red fox", "a blue fox", "a [-red-]{+blue+} fox"),
        ("Grüße, Welt", "Grüße, Erde", "Grüße, [-Welt-]{+Erde+}"),
        ("日本語です", "日本語でした", "日本語で[-す-]{+した+}"),
        ("x " * 40 + "end", "x " * 40 + "END", "…" + ("x " * 40)[-24:] + "[-end-]{+END+}"),
    ],
)
def test_what_a_person_reads(a: str, b: str, shown: str) -> None:
    assert marked(diff_words(a, b)) == shown


@given(texts, texts)
def test_the_pieces_make_both_texts(a: str, b: str) -> None:
    pieces = diff_words(a, b)
    assert "".join(text for kind, text in pieces if kind != "+") == a
    assert "".join(text for kind, text in pieces if kind != "-") == b
    assert all(text for _, text in pieces)


@given(texts, texts)
def test_texts_too_large_for_that_are_still_told(a: str, b: str) -> None:
    before = words._WORK
    words._WORK = 0
    try:
        pieces = diff_words(a, b)
    finally:
        words._WORK = before
    assert "".join(text for kind, text in pieces if kind != "+") == a
    assert "".join(text for kind, text in pieces if kind != "-") == b
