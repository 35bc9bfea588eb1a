"""One cell to the value that Dify's input type takes, by the rules that Dify checks with (dify-wire §3).

Each converter takes text (CSV) or any JSON value (JSONL). Text is converted; a JSON value must have the type already,
but for numbers written as text. EMPTY stands for a cell that holds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from dify_batch.ids import looks
from dify_batch.input.files import FilePlace, FileRefused, resolve
from dify_batch.input.filetypes import FileRules
from dify_batch.input.numbers import number_of
from dify_batch.strictjson import NotJson, parse, sendable
from dify_batch.text import show


class Empty:
    """The type of EMPTY."""


EMPTY: Final = Empty()

Convert = Callable[[Any], Any]
"""Cell → value, or EMPTY. Raises Refused."""


class Refused(ValueError):
    """A cell that Dify would refuse, or change silently. `kind` is the Problem's kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def check_text(value: str) -> str:
    """The text itself, if it arrives as it is.

    Raises:
        Refused: NUL, which Dify removes silently (dify-wire 22b); a lone surrogate (22d).
    """
    if "\0" in value:
        raise Refused("nul", "it contains a NUL character, which Dify removes silently; remove it")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            what = f"U+{ord(value[error.start]):04X}"
            raise Refused("surrogate", f"it contains half of a surrogate pair, {what}; remove it") from None
    return value


def plain(value: Any) -> Any:
    """A value for which nothing is known: as it is, if it can be sent."""
    if isinstance(value, str):
        return check_text(value)
    if not sendable(value):
        raise Refused("surrogate", "it contains half of a surrogate pair; remove it")
    return value


def text(max_length: int) -> Convert:
    """text-input and paragraph: at most `max_length` characters as Python counts them, 0 for any number.

    Dify's message says "less than 48 characters", and 48 pass (dify-wire 06j, 06k).
    """

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise Refused("not_text", f'{show(value)} is not text; write it in quotes, "{_plain(value)}"')
        if 0 < max_length < len(value):
            raise Refused("too_long", f"it has {len(value)} characters; at most {max_length} are allowed")
        return check_text(value)

    return convert


def _plain(value: Any) -> str:
    return show(value).replace('"', '\\"')


def number(value: Any) -> Any:
    """number: int or float; see `numbers.number_of`. JSON true and lists are refused (dify-wire 06f, 06g)."""
    if isinstance(value, str):
        if not value.strip():
            return EMPTY
        try:
            return number_of(value)
        except ValueError as error:
            raise Refused("not_a_number", str(error)) from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused("not_a_number", f"{show(value)} is not a number")
    return value


def select(options: Sequence[str]) -> Convert:
    """select: exactly one of the options (dify-wire 06l, 06m)."""
    exact = frozenset(options)
    loose = {looks(option.strip()).casefold(): option for option in reversed(options)}

    def convert(value: Any) -> str:
        if isinstance(value, str):
            if value in exact:
                return value
            meant = loose.get(looks(value.strip()).casefold())
            if meant is not None and looks(meant) == looks(value):
                message = f"{show(value)} differs from the option in what cannot be seen ({json.dumps(value[:30])})"
                raise Refused("not_an_option", f"{message}; copy the option out of the form")
            if meant is not None:
                raise Refused("not_an_option", f"{show(value)} is not an option; write it as {show(meant)}")
        allowed = ", ".join(show(option) for option in options[:10]) + (", …" if len(options) > 10 else "")
        raise Refused("not_an_option", f"{show(value)} is not an option; allowed are {allowed}")

    return convert


_BOOLEANS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


def checkbox(value: Any) -> Any:
    """checkbox: a boolean. Dify knows the same words, and takes all others as they are (dify-wire 06r, 06s)."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if not word:
            return EMPTY
        known = _BOOLEANS.get(word)
        if known is not None:
            return known
        raise Refused("not_a_boolean", f"{show(value)} is not a checkbox value; write true or false")
    raise Refused("not_a_boolean", f"{show(value)} is not a boolean; write true or false")


def json_object(value: Any) -> Any:
    """json_object: an object; from CSV its JSON text, which Dify itself refuses (dify-wire 06u, 06w)."""
    return _object(value, from_text=True)


def json_object_typed(value: Any) -> Any:
    """json_object from JSONL: an object, and no text."""
    return _object(value, from_text=False)


def _object(value: Any, *, from_text: bool) -> Any:
    if isinstance(value, str):
        if not value.strip():
            return EMPTY
        if not from_text:
            raise Refused("not_an_object", f"{show(value)} is text; write the object itself, without quotes")
        escaped = "\\u" in value
        try:
            value = parse(value)
        except NotJson as error:
            raise Refused("bad_json_object", str(error)) from None
    else:
        escaped = True
    if not isinstance(value, dict):
        raise Refused("not_an_object", f'{show(value)} is not a JSON object; write {{"key": value}}')
    if escaped or not from_text:
        plain(value)
    return value


def files(rules: FileRules, place: FilePlace, *, single: bool) -> Convert:
    """file (one mapping or LocalFile) and file-list (a list of them); see `files.resolve`."""

    def convert(value: Any) -> Any:
        try:
            found = resolve(value, rules, place)
        except FileRefused as error:
            raise Refused(error.kind, error.message) from None
        if not found:
            return EMPTY
        return found[0] if single else found

    return convert
