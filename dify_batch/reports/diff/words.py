"""What has changed between two texts, word by word. Pure."""

from __future__ import annotations

import difflib
import re
from typing import Literal, TypeAlias

Piece: TypeAlias = tuple[Literal["=", "-", "+"], str]
"""A part of the texts: in both, only in the first, only in the second."""

# Chinese, Japanese and Korean have no blanks between words: each character is one.
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|\s+|.", re.S
)
_WORK = 4_000_000  # tokens of one times tokens of the other: a second or so; above that only the ends are compared
_KEEP = 24  # characters of unchanged text that are shown on each side of a change


def diff_words(a: str, b: str) -> list[Piece]:
    """The pieces in order: all but "+" make `a`, all but "-" make `b`."""
    left, right = _TOKEN.findall(a), _TOKEN.findall(b)
    pieces: list[Piece] = []

    def put(kind: Literal["=", "-", "+"], text: str) -> None:
        if not text:
            return
        if pieces and pieces[-1][0] == kind:
            pieces[-1] = (kind, pieces[-1][1] + text)
        else:
            pieces.append((kind, text))

    head = 0
    while head < min(len(left), len(right)) and left[head] == right[head]:
        head += 1
    tail = 0
    while tail < min(len(left), len(right)) - head and left[-1 - tail] == right[-1 - tail]:
        tail += 1
    put("=", "".join(left[:head]))
    x, y = left[head : len(left) - tail], right[head : len(right) - tail]
    if len(x) * len(y) > _WORK:
        put("-", "".join(x))
        put("+", "".join(y))
    else:
        for op, i, j, k, m in difflib.SequenceMatcher(None, x, y, autojunk=False).get_opcodes():
            if op == "equal":
                put("=", "".join(x[i:j]))
            else:
                put("-", "".join(x[i:j]))
                put("+", "".join(y[k:m]))
    put("=", "".join(left[len(left) - tail :]))
    return pieces


def marked(pieces: list[Piece]) -> str:
    """As one line, as `git diff --word-diff` writes it: [-gone-] {+new+}; long stretches without a change are cut."""
    parts = []
    for number, (kind, text) in enumerate(pieces):
        if kind == "=":
            parts.append(_cut(text, first=number == 0, last=number == len(pieces) - 1))
        else:
            parts.append(f"[-{text}-]" if kind == "-" else f"{{+{text}+}}")
    return "".join(parts)


def _cut(text: str, *, first: bool, last: bool) -> str:
    head = "" if first else text[:_KEEP]
    tail = "" if last else text[len(text) - _KEEP :]
    return text if (first and last) or len(text) <= len(head) + len(tail) + 3 else f"{head}…{tail}"
