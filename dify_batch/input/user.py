"""Dify's `user` out of --user: a text that may name columns, as in crm-{customer}."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_USER = 255
"""Most characters: with one more the server answers 500, from a column of its database (dify-wire 07f)."""

_COLUMN = re.compile(r"\{([^{}]+)\}")


class UserTemplate:
    """The value of --user. `columns`: those that it names, in order."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: tuple[Any, ...] = tuple(dict.fromkeys(_COLUMN.findall(text)))

    def fill(self, cells: Mapping[str, Any]) -> str:
        """The user of a row. Text stands as it is, any other value of JSON lines as JSON; null and what is not there as
        nothing."""
        return _COLUMN.sub(lambda match: _text(cells.get(match[1])), self.text) if self.columns else self.text

    def fault(self, cells: Mapping[str, Any]) -> str | None:
        """Why Dify would not take the user of a row; None if it would."""
        return user_fault(self.fill(cells))


def user_fault(user: str) -> str | None:
    """Why Dify would not take a user made from a row's cells; None if it would."""
    if not user.strip():
        return "--user is empty for this row, and Dify needs one; fill in the column, or put text around it"
    if len(user) > MAX_USER:
        return f"--user has {len(user)} characters for this row; Dify takes at most {MAX_USER}"
    if "\0" in user:
        return "--user contains a NUL character for this row; remove it"
    try:
        user.encode("utf-8")
    except UnicodeEncodeError:
        return "--user contains half of a surrogate pair for this row; remove it"
    return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
