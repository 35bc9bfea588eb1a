"""JSON as Dify takes it: no NaN, no infinity, no key twice, no half of a surrogate pair, no nesting without end."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from json import encoder as _json
from typing import Any, NoReturn

MAX_DEPTH = 200
"""Most levels of nesting. Far beyond any table, and far below what Python's stack bears: what the check takes, all that
handles a row later must take as well, however deep the calls around it are."""


class NotJson(ValueError):
    """The text is no JSON; the message says where it breaks, or what it has that JSON has not."""


def _constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is not JSON; leave the key out or write null")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotJson(f"{text[:40]} is too large for a number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise NotJson(f"the key {json.dumps(key[:60])} stands twice in one object")
            seen.add(key)
    return result


_MARKS = re.compile(r'["\\\[\]{}]')
_decoder = json.JSONDecoder(parse_constant=_constant, parse_float=_float, object_pairs_hook=_object)


def parse(text: str) -> Any:
    """The value of a JSON text. NaN, infinities, repeated keys and more than MAX_DEPTH levels are refused, all of which
    the json module takes.

    Raises:
        NotJson: says what is wrong and, where it can, at which character.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(text):
        raise NotJson(f"the JSON is nested too deeply, over {MAX_DEPTH} levels")
    try:
        return _decoder.decode(text)
    except NotJson:
        raise
    except json.JSONDecodeError as error:
        place = f"character {error.colno}"
        if error.lineno > 1:
            place = f"line {error.lineno} of the text, {place}"
        raise NotJson(f"the JSON breaks at {place}: {error.msg}") from None
    except ValueError:  # int() refuses more than 4300 digits
        raise NotJson("the JSON holds an integer of more than 4300 digits") from None


def _too_deep(text: str) -> bool:
    """Counts brackets outside strings, in one pass whatever the text is."""
    depth = 0
    quoted = False
    skip = -1
    for match in _MARKS.finditer(text):
        mark, at = match[0], match.start()
        if at == skip:
            continue
        if mark == "\\":
            skip = at + 1  # what it escapes
        elif mark == '"':
            quoted = not quoted
        elif not quoted:
            depth += 1 if mark in "[{" else -1
            if depth > MAX_DEPTH:
                return True
    return False


def json_object(data: str | bytes) -> dict[str, Any] | None:
    """The object of a JSON text from elsewhere (a server, a file), or None for whatever is none.

    It takes what the json module takes: others' NaN and repeated keys are no reason to lose the rest.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    return value if isinstance(value, dict) else None


def sendable(value: Any) -> bool:
    """Whether a value can be written as UTF-8: a lone surrogate is answered with 400 bad_request (dify-wire 22d)."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def encoder(*, compact: bool = False) -> Callable[[Any], str]:
    """A function from a value to its JSON text, not only ASCII: what json.JSONEncoder gives in half the time, as that
    builds an encoder for each call. `compact`: without blanks.

    It raises ValueError for NaN and infinities, TypeError for what is no JSON value, RecursionError for what has no
    end.
    """
    marks = (",", ":") if compact else (", ", ": ")
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=marks)
    make = getattr(_json, "c_make_encoder", None)
    if make is None:
        return plain.encode
    quote, join = _json.encode_basestring, "".join
    parts = make(None, plain.default, quote, None, marks[1], marks[0], False, False, False)

    def encode(value: Any) -> str:
        return quote(value) if isinstance(value, str) else join(parts(value, 0))

    return encode
