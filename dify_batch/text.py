"""Words that every room uses: numbers with their nouns, durations, the nearest name, text safe to show. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

MESSAGE_WIDTH = 200  # characters of a message on one line; the journal has it whole

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what moves a terminal's cursor or sets its colour
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # also those that turn the direction
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_VARYING = re.compile(rf"{_UUID}|\b(?=[0-9a-fA-F]*[0-9])[0-9a-fA-F]{{8,}}\b|0x[0-9a-fA-F]+|[0-9]+(?:[.,:][0-9]+)*")


def count(number: int, one: str, many: str | None = None) -> str:
    """A number and what is counted: "1 row", "2,000 rows"; with `many` also a verb: "1 row has", "2 rows have"."""
    return f"{number:,} {plural(number, one, many)}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """The word alone that fits a number; `many` left out is `one` with an s."""
    return one if number == 1 else f"{one}s" if many is None else many


def listed(names: Sequence[str], shown: int = 20) -> str:
    """The first few of some ids or names, safe to show."""
    return ", ".join(one_line(name, 60) for name in names[:shown]) + (", …" if len(names) > shown else "")


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h 20 min`, `2 d 4 h`: never more exact than a person needs."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name that was probably meant, whatever its case; None where none is near enough.

    `cutoff`: how alike they must be, from 0 to 1, as difflib measures it.
    """
    import difflib  # a few ms, and only errors need it

    folded: dict[str, str] = {}
    for other in names:
        folded.setdefault(other.casefold(), other)
    near = difflib.get_close_matches(name.casefold(), folded, 1, cutoff)
    return folded[near[0]] if near else None


def one_line(text: str, width: int = MESSAGE_WIDTH) -> str:
    """Text from elsewhere, safe to show: one line, and no control characters, which could move the cursor."""
    text = _ESCAPE.sub("", text)
    clean = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return clean if len(clean) <= width else clean[: width - 1] + "…"


def printable(text: str, keep: str = "") -> str:
    """The text with control characters (but those in `keep`) as escapes: a server's text may hold any."""
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else repr(match[0])[1:-1], text)


def show(value: object, limit: int = 60) -> str:
    """A value for a message: in double quotes, one line, printable, at most `limit` characters of it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > limit:
        text = text[:limit] + "…"
    if not isinstance(value, str):
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return json.dumps(text, ensure_ascii=not text.isprintable())


def pattern_of(message: str, row_id: str = "") -> str:
    """A message with … in the place of what differs from row to row: its id, other ids, numbers."""
    if len(row_id) > 1 or row_id.isdigit():
        message = re.sub(rf"(?<!\w){re.escape(row_id)}(?!\w)", "…", message)
    return _VARYING.sub("…", message)
