"""Dify's user out of --user and a row's cells."""

from __future__ import annotations

import pytest

from dify_batch.input.user import UserTemplate, user_fault


@pytest.mark.parametrize(
    ("template", "cells", "user"),
    [
        ("crm-{customer}-{id}", {"customer": "Ö", "id": 7}, "crm-Ö-7"),
        ("nightly", {}, "nightly"),
        ("{a}{a}", {"a": "x"}, "xx"),
        ("{a} {b}", {"a": True, "b": None}, "true "),
        ("{gone}", {}, ""),
        ("{a}", {"a": {"b": "ü"}}, '{"b": "ü"}'),
        ("{a}", {"a": "{b}", "b": "no"}, "{b}"),
    ],
)
def test_a_user_of_columns(template: str, cells: dict[str, object], user: str) -> None:
    assert UserTemplate(template).fill(cells) == user


def test_the_columns_that_a_template_names() -> None:
    assert UserTemplate("crm-{customer}-{id}-{customer}").columns == ("customer", "id")


@pytest.mark.parametrize(
    ("user", "says"),
    [("x" * 256, "256 characters"), ("  ", "empty"), ("", "empty"), ("a\0b", "NUL"), ("a\ud800", "surrogate")],
)
def test_users_that_dify_does_not_take(user: str, says: str) -> None:
    assert says in str(user_fault(user))
    assert user_fault("x" * 255) is None
