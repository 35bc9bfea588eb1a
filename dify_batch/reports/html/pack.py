"""Rows as the page holds them: compressed blocks of text that need no parsing to be searched. Pure.

A block is gzip in base64. Its text is rows divided by ROW, each of fields divided by FIELD. A field is one character
for its kind, the number of its name in NAME_DIGITS, and the value. These are control characters, which a search cannot
hold, so the text of a block is searched as it is; in values they are shown as pictures (␀ for NUL).
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

ROW, FIELD = "\x1d", "\x1e"
ABOUT, INPUT, INPUT_JSON, OUTPUT, OUTPUT_JSON, OTHER, OTHER_JSON = "\x01\x02\x03\x04\x05\x06\x07"
"""The kinds of a field: about the row itself; a text, or JSON, of its inputs, of its outputs, of the outputs in another
file that they are compared with."""
NAME_DIGITS = "\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19"

BLOCK = 1 << 20  # characters: one is unpacked, and looked through, within a frame
CELL = 100_000  # characters of a value; more of one is read in the results
_LEVEL = 4  # of gzip: half the time of 6 for a sixth more bytes

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def clean(text: str) -> str:
    """A value as a field can hold it."""
    if len(text) > CELL:
        text = f"{text[:CELL]}… (cut: it has {len(text):,} characters)"
    return _CONTROL.sub(lambda match: chr(0x2421 if match[0] == "\x7f" else 0x2400 + ord(match[0])), text)


@dataclass(slots=True)
class Packer:
    """Takes rows one after the other, gives the blocks that are full.

    `names`: of all fields, in order. `size`: characters of all rows so far.
    """

    names: dict[str, int] = field(default_factory=dict)
    size: int = 0
    _rows: list[str] = field(default_factory=list)
    _size: int = 0

    def add(
        self,
        about: Mapping[str, str],
        inputs: Mapping[str, Any] | None,
        outputs: Mapping[str, Any] | None,
        others: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Adds a row; a block if it is full with it. `about`: name → text; empty ones are left out."""
        fields = [self._field(ABOUT, name, text) for name, text in about.items() if text]
        fields += [self._value(INPUT, INPUT_JSON, name, value) for name, value in (inputs or {}).items()]
        fields += [self._value(OUTPUT, OUTPUT_JSON, name, value) for name, value in (outputs or {}).items()]
        fields += [self._value(OTHER, OTHER_JSON, name, value) for name, value in (others or {}).items()]
        row = FIELD.join(fields)
        self._rows.append(row)
        self._size += len(row)
        self.size += len(row)
        return self.flush() if self._size >= BLOCK else None

    def flush(self) -> str | None:
        """What has gathered as a block; None where there is nothing."""
        if not self._rows:
            return None
        text = ROW.join(self._rows)
        self._rows, self._size = [], 0
        return packed(text)

    def _value(self, as_text: str, as_json: str, name: str, value: Any) -> str:
        if isinstance(value, str):
            return self._field(as_text, name, value)
        return self._field(as_json, name, json.dumps(value, ensure_ascii=False, default=str))

    def _field(self, kind: str, name: str, text: str) -> str:
        number = self.names.setdefault(name, len(self.names))
        return kind + digits(number) + clean(text)


def digits(number: int) -> str:
    """A number from 0 in NAME_DIGITS, most significant first."""
    text = NAME_DIGITS[number % len(NAME_DIGITS)]
    while number := number // len(NAME_DIGITS):
        text = NAME_DIGITS[number % len(NAME_DIGITS)] + text
    return text


def packed(text: str) -> str:
    """gzip in base64, the same for the same text. A lone surrogate, which UTF-8 cannot hold, becomes "?"."""
    raw = text.encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(raw, _LEVEL, mtime=0)).decode("ascii")


def unpacked(block: str) -> str:
    return gzip.decompress(base64.b64decode(block)).decode()


def sample(count: int, room: int) -> Iterator[bool]:
    """For each of `count` things whether it is among the `room` that are taken, evenly spread; all if there is room."""
    for number in range(count):
        yield count <= room or (number + 1) * room // count > number * room // count


def script_json(value: Any) -> str:
    """JSON that may stand inside a <script>: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return (
        text.encode("utf-8", "replace")
        .decode()
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )
