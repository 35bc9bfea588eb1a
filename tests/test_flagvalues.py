"""The values of flags: text to value, or what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch import flagvalues
from dify_batch.flagvalues import Failures


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (flagvalues.parse_duration, "90", 90.0),
        (flagvalues.parse_duration, "90s", 90.0),
        (flagvalues.parse_duration, "15m", 900.0),
        (flagvalues.parse_duration, "1h", 3600.0),
        (flagvalues.parse_duration, "1h30m", 5400.0),
        (flagvalues.parse_duration, "2d", 172800.0),
        (flagvalues.parse_duration, " 0.5s ", 0.5),
        (flagvalues.parse_rate, "5/s", 5.0),
        (flagvalues.parse_rate, "120/m", 2.0),
        (flagvalues.parse_rate, "1800/h", 0.5),
        (flagvalues.parse_rate, "0.5 / s", 0.5),
        (flagvalues.parse_concurrency, "1", 1),
        (flagvalues.parse_concurrency, "4096", 4096),
        (flagvalues.parse_concurrency, "auto", "auto"),
        (flagvalues.parse_failures, "10", Failures(count=10)),
        (flagvalues.parse_failures, "5%", Failures(percent=5.0)),
        (flagvalues.parse_failures, "0.5%", Failures(percent=0.5)),
        (flagvalues.parse_seconds, "0", 0.0),
        (flagvalues.parse_seconds, "2.5", 2.5),
        (flagvalues.parse_seconds, ".5", 0.5),
        (flagvalues.parse_timeout, "300", 300.0),
        (flagvalues.parse_count, "0", 0),
        (flagvalues.parse_positive, "7", 7),
        (flagvalues.parse_cost, " 2.50 ", Decimal("2.50")),
        (flagvalues.parse_delimiter, ";", ";"),
        (flagvalues.parse_delimiter, "tab", "\t"),
        (flagvalues.parse_delimiter, "\\t", "\t"),
        (flagvalues.parse_encoding, "shift_jis", "shift_jis"),
        (flagvalues.parse_name, " email ", "email"),
    ],
)
def test_values(parse: Callable[[str], Any], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (flagvalues.parse_duration, ["", "0", "0s", "-5", "5x", "1m1h", "1h 30m", "nan", "inf", "1e3", "h", "٣"]),
        (flagvalues.parse_rate, ["", "5", "0/s", "5/d", "/s", "-1/s", "inf/s", "5/sec", "5//s", "1e9/s"]),
        (flagvalues.parse_concurrency, ["", "0", "4097", "99999", "-1", "2.5", "Auto", "five", "٣"]),
        (flagvalues.parse_failures, ["", "0", "0%", "101%", "-5%", "5 percent", "%", "nan%", "1.5"]),
        (flagvalues.parse_seconds, ["", "-1", "nan", "inf", "1e3", "5s", "1,5", "+1", "1_0"]),
        (flagvalues.parse_timeout, ["", "0", "0.0", "-1", "inf"]),
        (flagvalues.parse_count, ["", "-1", "1.0", "1_0", "9999999999"]),
        (flagvalues.parse_positive, ["", "0", "-1", "00"]),
        (flagvalues.parse_cost, ["", "0", "0.0", "-1", "1e3", "2 USD", "nan", "٣"]),
        (flagvalues.parse_delimiter, ["", ";;", '"', "\n", "\0"]),
        (flagvalues.parse_encoding, ["", "utf-9", "base64", "hex", "utf\0"]),
        (flagvalues.parse_name, ["", "  "]),
    ],
)
def test_refused(parse: Callable[[str], Any], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValueError):
            parse(text)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_a_duration_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    assert flagvalues.parse_duration(text) == days * 86400 + hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize(
    ("failures", "rows", "limit"),
    [
        (Failures(count=10), 5, 10),
        (Failures(percent=5.0), 200, 10),
        (Failures(percent=5.0), 201, 11),
        (Failures(percent=1.0), 3, 1),
        (Failures(percent=100.0), 0, 1),
    ],
)
def test_how_many_failures_stop_a_batch(failures: Failures, rows: int, limit: int) -> None:
    assert failures.limit(rows) == limit


def test_failures_as_text() -> None:
    assert (str(Failures(count=10)), str(Failures(percent=2.5))) == ("10", "2.5%")
