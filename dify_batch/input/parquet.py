"""Parquet as JSON lines: values with types, read group by group into a temporary file.

Needs the extra: dify-batch[parquet]. Dates and times become ISO 8601 text, decimals plain digits as text, NaN null.
"""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

from dify_batch.errors import UsageError
from dify_batch.input.opening import spooled

_ROWS = 1000  # rows converted at once: a few MB of usual texts


class NoParquet(ValueError):
    """It cannot be read; the message says why."""


def copy_parquet(file: BinaryIO, name: str) -> BinaryIO:
    """The rows as a temporary file of JSON lines.

    Raises:
        NoParquet: it is broken, or holds what JSON cannot.
        UsageError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UsageError(
            f"{name} is Parquet, and what reads it is not installed",
            hint='install it: pip install "dify-batch[parquet]", or write the table as CSV or JSON lines',
            code="usage_invalid_flag",
        ) from None
    file.seek(0)

    def fill(spool: BinaryIO) -> None:
        encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain).encode
        for batch in ParquetFile(file).iter_batches(_ROWS):
            for row in batch.to_pylist():
                line = encode({key: _finite(value) for key, value in row.items()})
                spool.write(line.encode("utf-8", "surrogatepass") + b"\n")

    try:
        return spooled(fill, name, "copied")
    except (ArrowException, ValueError, TypeError) as error:
        raise NoParquet(f"it cannot be read ({str(error).splitlines()[0][:150] if str(error) else error!r})") from None


def _finite(value: Any) -> Any:
    """A value without NaN and infinities, which no JSON has: null stands for a missing number in many tables."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"a value of type {type(value).__name__} has no place in JSON; leave the column out")
