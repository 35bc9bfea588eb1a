"""Takes secrets out of texts, and makes texts from elsewhere short. Pure.

A server may quote a request, key included, in an error; whatever it says passes here before anything else looks at it
or writes it down. Patterns are linear: each repeats one class of characters, and what may stand between two parts of a
match has an upper bound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dify_batch.text import one_line

MASK = "********"

LONGEST = 8192
"""Characters of a text from elsewhere that are looked at. A traceback of a failed node fits; 10 MB would take seconds
for each place that handles it."""

LONGEST_REASON = 200
"""Characters of a reason: one line of a terminal, or two."""

# Authorization in a header dump, a repr or JSON: scheme and token.
_AUTHORIZATION = re.compile(
    r"""(authorization["']?[ \t]{0,4}[:=,][ \t]{0,4}(?:b(?=["']))?["']?[ \t]{0,4})"""
    r"""(?:(?:bearer|basic)[ \t]{1,4})?[^\s"',}]+""",
    re.I,
)
_BEARER = re.compile(r"\b(bearer[ \t]{1,4})[^\s\"',}]+", re.I)
# Keys of apps, tokens of accounts, keys of model providers.
_KEYS = re.compile(r"\b(?:(app-|sk-)[A-Za-z0-9_-]{8,}|(dfo[ae]_)[A-Za-z0-9_-]+)")
# user:password@ of a URL; the names and passwords that anybody has are shorter than the bound.
_URL_USER = re.compile(r"(?<=://)[^/?#\s\"'@]{0,300}@")


def mask(text: str, key: str = "") -> str:
    """The text without the key, Authorization values, whatever looks like a key or token, and credentials in URLs."""
    if key:
        text = text.replace(key, MASK)
    text = _KEYS.sub(lambda found: (found[1] or found[2]) + MASK, text)
    text = _AUTHORIZATION.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    return _URL_USER.sub("***@", text)


def mask_all(value: Any, key: str = "") -> Any:
    """`mask` for each text inside a JSON value; masking JSON itself could break it."""
    if isinstance(value, str):
        return mask(value, key)
    if isinstance(value, Mapping):
        return {name: mask_all(item, key) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_all(item, key) for item in value]
    return value


def heard(text: str, key: str = "", width: int = LONGEST) -> str:
    """A text from elsewhere, cut and masked; no part of the key is left where it was cut."""
    if len(text) > width:
        text = text[:width]
        for size in range(min(len(key) - 1, width), 3, -1):  # three letters of a key tell nothing
            if text.endswith(key[:size]):
                text = text[:-size]
                break
        return mask(text, key) + "…"
    return mask(text, key)


def reason(text: str, key: str = "", width: int = LONGEST_REASON) -> str:
    """A text from elsewhere as a reason: masked, one line, at most `width` characters."""
    return one_line(heard(text, key), width)


class Secret:
    """A text that does not show itself: str, repr and format give asterisks, `reveal()` the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret('********')" if self._text else "Secret('')"

    def __str__(self) -> str:
        return "********" if self._text else ""

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))
