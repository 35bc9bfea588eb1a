"""What a text from elsewhere may not show, and how long it may be."""

from __future__ import annotations

import time

import pytest

from dify_batch.masking import LONGEST, heard, mask, mask_all, reason

KEY = "app-very-secret"


@pytest.mark.parametrize(
    ("text", "hidden", "shown"),
    [
        (f"key {KEY} used", KEY, "key ******** used"),
        ("token app-Zz99Yy88Xx77Ww66", "app-Zz99Yy88Xx77Ww66", "token app-********"),
        ("Authorization: Bearer abc.def", "abc.def", "Authorization: ********"),
        ("{'authorization': 'Bearer s3cret', 'a': 1}", "s3cret", "{'authorization': '********', 'a': 1}"),
        ('{"Authorization": "Basic czpz"}', "czpz", '{"Authorization": "********"}'),
        ("(b'Authorization', b'Bearer s3cret')", "s3cret", "(b'Authorization', b'********')"),
        ("sent bearer s3cret now", "s3cret", "sent bearer ******** now"),
        ("GET http://me:pa:ss@host/v1", "pa:ss", "GET http://***@host/v1"),
    ],
)
def test_secrets_are_masked(text: str, hidden: str, shown: str) -> None:
    assert mask(text, KEY) == shown
    assert hidden not in mask(text, KEY)


@pytest.mark.parametrize("text", ["app-demo", "http://host/v1?mail=a@b.c", "the app-store", "authorization failed"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text, KEY) == text


def test_masking_a_json_value_keeps_it_json() -> None:
    value = {"message": f'authorization: {KEY}"x', "n": [1, None, (f"{KEY}",)], "ok": True}
    assert mask_all(value, KEY) == {
        "message": 'authorization: ********"x',
        "n": [1, None, ["********"]],
        "ok": True,
    }


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("app-Zz99Yy88Xx77", "app-********"),
        ("dfoa_Ab12Cd34Ef", "dfoa_********"),
        ("dfoe_Ab12Cd34Ef", "dfoe_********"),
        ("sk-Ab12Cd34Ef", "sk-********"),
        ("sk-proj-Ab12_Cd34-Ef", "sk-********"),
    ],
)
def test_whatever_looks_like_a_key(token: str, shown: str) -> None:
    assert mask(f'Incorrect API key provided: "{token}".') == f'Incorrect API key provided: "{shown}".'


@pytest.mark.parametrize("text", ["a task-12345678 failed", "sk-learn", "mydfoa_12345678"])
def test_what_only_resembles_a_key(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "authorization:" + " " * 150_000 + "x",
        "authorization" + "'" * 150_000,
        "bearer " * 40_000,
        "://" * 100_000,
        "://" + "a" * 300_000,
        "app-" * 100_000,
        "sk-" + "a" * 300_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    mask(text, KEY)
    assert time.process_time() - began < 2.0  # quadratic, it took minutes


def test_a_long_text_is_cut_before_it_is_looked_at() -> None:
    assert heard("x" * 10_000_000) == "x" * LONGEST + "…"
    assert heard("short") == "short"


@pytest.mark.parametrize("shown", range(5, len(KEY)))
def test_no_part_of_the_key_is_left_where_a_text_is_cut(shown: int) -> None:
    text = "y" * (20 - shown) + KEY + "z" * 100
    assert heard(text, KEY, width=20) == "y" * (20 - shown) + "…"


def test_a_reason_is_one_short_line() -> None:
    assert reason(f"HTTP 500:\n  {KEY}\x1b[31m refused\r\n", KEY) == "HTTP 500: ******** refused"
    assert len(reason("word " * 1000)) == 200
