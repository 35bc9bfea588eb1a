"""The table of flags, and what an error of a value says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch import flags
from dify_batch.errors import UsageError
from dify_batch.flags import BY_DEST, BY_NAME


@given(st.text(max_size=12))
def test_no_text_makes_a_parser_fail_otherwise(text: str) -> None:
    messages = {flag.name: refusal(flag, text) for flag in flags.FLAGS}
    assert all(f'{name}: "{text}" is not ' in message for name, message in messages.items() if message)


def refusal(flag: flags.Flag, text: str) -> str | None:
    try:
        flag.read(text, flag.name)
    except UsageError as error:
        return error.message
    return None


def test_names_are_unique() -> None:
    assert len(BY_DEST) == len(flags.FLAGS)
    assert len(BY_NAME) == sum(len(flag.names) for flag in flags.FLAGS)


def test_shown_defaults_are_the_defaults() -> None:
    for flag in flags.FLAGS:
        if flag.default is not None and flag.action == "value":
            assert flag.read(flag.shown, flag.name) == flag.default, flag.name


def test_an_error_names_the_place_the_value_and_what_is_allowed() -> None:
    with pytest.raises(UsageError) as caught:
        BY_DEST["rate"].read("fast", "DIFY_BATCH_RATE in .env")
    expected = 'DIFY_BATCH_RATE in .env: "fast" is not a rate above 0, such as 5/s, 120/m or 1000/h'
    assert caught.value.message == expected
    assert caught.value.code == "config_invalid_value"
    with pytest.raises(UsageError) as caught:
        BY_DEST["mode"].read("fast", "--mode")
    assert caught.value.message == '--mode: "fast" is not one of auto, streaming, blocking'
    assert caught.value.code == "usage_invalid_flag"
