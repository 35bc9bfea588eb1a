"""How the value of a flag is read and checked: text to value, or ValueError with what is allowed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dify_batch.ids import Shard

MAX_CONCURRENCY = 4096  # each run in flight holds a socket; above this a process meets its usual limits first


@dataclass(frozen=True, slots=True)
class Failures:
    """The value of `--max-failures`: a count of rows, or a percentage of the rows to run."""

    count: int | None = None
    percent: float | None = None

    def limit(self, rows: int) -> int:
        """How many failed rows stop a batch of `rows` rows: at least 1."""
        if self.count is not None:
            return max(1, self.count)
        return max(1, math.ceil(rows * (self.percent or 0.0) / 100))

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{self.percent:g}%"


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds of the units that durations and rates are given in."""
_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_RATE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*/\s*([smh])", re.ASCII)


def _number(text: str, allowed: str, *, least: float = 0.0, above: bool = False) -> float:
    """A plain decimal number: `nan`, `inf`, signs and exponents are refused, as they are mistakes here."""
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(allowed)
    value = float(text)
    if math.isinf(value) or value < least or (above and value <= least):
        raise ValueError(allowed)
    return value


def parse_seconds(text: str) -> float:
    """`2.5` → 2.5 seconds, 0 or more."""
    return _number(text, "a number of seconds, 0 or more, such as 2.5")


def parse_timeout(text: str) -> float:
    """`300` → 300.0 seconds, more than 0."""
    return _number(text, "a number of seconds above 0, such as 300", above=True)


def parse_count(text: str) -> int:
    """`3` → 3, a whole number of 0 or more."""
    if not re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
        raise ValueError("a whole number, 0 or more, such as 3")
    return int(text)


def parse_shard(text: str) -> Shard:
    """`3/16` → the third of sixteen parts."""
    from dify_batch.ids import Shard

    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text.strip(), re.ASCII)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError("a part and how many there are, such as 3/16: the third of sixteen")
    return Shard(int(match[2]), int(match[1]))


MAX_WORKERS = 256  # processes of one machine


def parse_workers(text: str) -> int:
    """`4` → 4 (1 to 256)."""
    if not re.fullmatch(r"\d{1,3}", text.strip(), re.ASCII) or not 1 <= int(text) <= MAX_WORKERS:
        raise ValueError(f"a whole number from 1 to {MAX_WORKERS}")
    return int(text)


def parse_positive(text: str) -> int:
    """`100` → 100, a whole number of 1 or more."""
    if not re.fullmatch(r"\d{1,12}", text.strip(), re.ASCII) or int(text) == 0:
        raise ValueError("a whole number, 1 or more, such as 100")
    return int(text)


def parse_concurrency(text: str) -> int | Literal["auto"]:
    """`5` → 5 (1 to 4096), or `auto`."""
    text = text.strip()
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= MAX_CONCURRENCY:
        raise ValueError(f"a whole number from 1 to {MAX_CONCURRENCY}, or auto")
    return int(text)


def parse_duration(text: str) -> float:
    """`90`, `90s`, `15m`, `1h`, `1h30m`, `2d` → seconds, more than 0."""
    text = text.strip()
    match = _DURATION.fullmatch(text)
    if text and match:
        value = sum(float(part) * unit for part, unit in zip(match.groups("0"), (86400, 3600, 60, 1), strict=True))
    elif _NUMBER.fullmatch(text):
        value = float(text)
    else:
        value = 0.0
    if value <= 0 or math.isinf(value):
        raise ValueError("a duration above 0, such as 90, 90s, 15m, 1h30m or 2d")
    return value


def parse_cost(text: str) -> Decimal:
    """`2.50` → an amount of money above 0."""
    if not _NUMBER.fullmatch(text.strip()) or not (value := Decimal(text.strip())):
        raise ValueError("an amount above 0, such as 2.50")
    return value


def parse_duration_or_auto(text: str) -> float | None:
    """A duration as above, or `auto` → None: the engine finds it."""
    try:
        return None if text.strip() == "auto" else parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def parse_urls(text: str) -> tuple[str, ...]:
    """One or several URLs with blanks between them; what they mean is checked by what uses them."""
    urls = tuple(text.split())
    if not urls or not all(re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", url) for url in urls):
        raise ValueError("a URL such as https://example.com/hook or mailto://...")
    return urls


def parse_metrics(text: str) -> int | Path:
    """A port, or a file for node_exporter, which reads no others than .prom."""
    text = text.strip()
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 65535:
        return int(text)
    if not text.endswith(".prom") or text.startswith("."):
        raise ValueError("a port from 1 to 65535, or a file whose name ends with .prom")
    return Path(text)


def parse_rate(text: str) -> float:
    """`5/s`, `120/m`, `1000/h` → starts per second, more than 0."""
    match = _RATE.fullmatch(text.strip())
    value = float(match[1]) / UNITS[match[2]] if match else 0.0
    if value <= 0 or math.isinf(value):
        raise ValueError("a rate above 0, such as 5/s, 120/m or 1000/h")
    return value


def parse_failures(text: str) -> Failures:
    """`10` → ten rows; `5%` → five in a hundred of the rows to run. At least 1, at most 100%."""
    text, allowed = (
        text.strip(),
        "a number of rows, 1 or more, such as 10, or a percentage up to 100%, such as 5%",
    )
    if text.endswith("%"):
        percent = _number(text[:-1], allowed, above=True)
        if percent > 100:
            raise ValueError(allowed)
        return Failures(percent=percent)
    try:
        return Failures(count=parse_positive(text))
    except ValueError:
        raise ValueError(allowed) from None


_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
"""Words for delimiters that a shell, or an editor, does not let through easily."""


def parse_delimiter(text: str) -> str:
    r"""One character, or `tab` (`\t`), `comma`, `semicolon`, `pipe`; the quote and line ends cannot separate cells."""
    mark = _DELIMITERS.get(text.strip().lower(), text)
    if len(mark) != 1 or mark in '"\r\n\0\ufeff' or "\ud800" <= mark <= "\udfff":
        raise ValueError('one character other than a quote, such as ";" or "|", or tab, comma, semicolon or pipe')
    return mark


_NO_TEXT = frozenset({"unicode_escape", "raw_unicode_escape", "utf_7", "idna", "punycode", "undefined"})
"""Codecs for text that are no encodings of files: they turn plain letters into others, or into lone surrogates."""


def parse_encoding(text: str) -> str:
    """The name of an encoding of text files that Python knows, as given."""
    import codecs

    name = text.strip()
    try:
        known = codecs.lookup(name).name.replace("-", "_") not in _NO_TEXT
        "".encode(name)  # str.encode refuses codecs that are no text encodings, such as base64
    except (LookupError, ValueError):
        known = False
    if not known:
        raise ValueError("an encoding of text files known here, such as utf-8, utf-16, cp1252, shift_jis or gb18030")
    return name


def parse_pair(text: str) -> tuple[str, str]:
    """`name=value`; the value may hold more of =, and be empty."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ValueError("name=value")
    return name.strip(), value


def parse_rename(text: str) -> tuple[str, str]:
    """`column=variable`, without blanks around them; the last = parts them, as variables have none."""
    name, sign, value = text.rpartition("=")
    if not sign or not name.strip() or not value.strip():
        raise ValueError("column=variable")
    return name.strip(), value.strip()


def parse_sheet(text: str) -> str:
    """The name of a sheet, as given: it may have blanks around it."""
    if not text.strip():
        raise ValueError("the name of a sheet")
    return text


def parse_name(text: str) -> str:
    """The name of a column, without blanks around it."""
    if not text.strip():
        raise ValueError("the name of a column")
    return text.strip()
