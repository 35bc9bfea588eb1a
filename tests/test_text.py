"""The words that every room uses."""

from __future__ import annotations

import pytest

from dify_batch import text
from dify_batch.strictjson import json_object


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (59, "59 s"),
        (59.6, "1 min"),
        (420, "7 min"),
        (3599, "1 h"),
        (12000, "3 h 20 min"),
        (86400, "1 d"),
        (100000, "1 d 4 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (2000, ("row",), "2,000 rows"),
        (1, ("row is", "rows are"), "1 row is"),
        (3, ("row is", "rows are"), "3 rows are"),
    ],
)
def test_a_number_and_its_noun(number: int, words: tuple[str, ...], said: str) -> None:
    assert text.count(number, *words) == said


@pytest.mark.parametrize(
    ("name", "names", "near"),
    [
        ("langage", ["language", "text"], "language"),
        ("TEXT", ["text", "Text"], "text"),
        ("Straße", ["STRASSE"], "STRASSE"),
        ("qqq", ["language", "text"], None),
        ("a", [], None),
    ],
)
def test_the_nearest_name(name: str, names: list[str], near: str | None) -> None:
    assert text.nearest(name, names) == near


def test_the_nearest_name_as_strictly_as_asked_for() -> None:
    assert text.nearest("max_retry", ["max_retries"], 0.9) is None
    assert text.nearest("max_retrie", ["max_retries"], 0.9) == "max_retries"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\nb\x1b[31mc\x07", "a bc"),
        ("x" * 300, "x" * 199 + "…"),
        ("\u202eabc", "abc"),
    ],
)
def test_one_line(given: str, shown: str) -> None:
    assert text.one_line(given) == shown


def test_printable_keeps_what_it_is_told_to() -> None:
    assert text.printable("a\tb\nc\x1b", keep="\n\t") == "a\tb\nc\\x1b"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a", '"a"'), ('a"b', '"a\\"b"'), ("é\u200b", '"\\u00e9\\u200b"'), (12, "12"), ("x" * 70, '"' + "x" * 60 + '…"')],
)
def test_show(value: object, shown: str) -> None:
    assert text.show(value) == shown


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"a": NaN, "a": 1}', {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        (b"[1]", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"a": ' + b"9" * 5000 + b"}", None),
    ],
)
def test_an_object_or_nothing(data: str | bytes, found: object) -> None:
    assert json_object(data) == found
