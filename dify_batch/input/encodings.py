"""Which encoding a file is in: what was asked for, what its bytes say, and what it probably is when they disagree."""

from __future__ import annotations

import codecs

from dify_batch.input.guess import guesses
from dify_batch.input.passes import BLOCK, RawPass, read_at
from dify_batch.input.records import Problem
from dify_batch.text import show

_SAMPLE = 64 * 1024  # bytes around a bad one, for the guess at the encoding

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_UTF8 = ("utf-8", "utf-8-sig")
_LEAVE = "leave --encoding out"

_CHANCE = 8
"""So many characters beyond ASCII of two bytes and more are not valid UTF-8 by chance in a file of Chinese, Japanese
or Korean bytes: for one it happens in about one of ten, as in the well-known example of two Chinese characters."""


def pick_encoding(head: bytes, encoding: str | None) -> tuple[str, Problem | None]:
    """The codec for a file that begins with `head`, or why it cannot be the one asked for (None: UTF-8).

    A byte order mark decides: no text of any other encoding begins with its bytes.
    """
    marked = next((name for mark, name in _BOMS if head.startswith(mark)), None)
    name = "utf-8" if encoding is None else codecs.lookup(encoding).name
    if marked is None and name in _UTF8:
        return "utf-8-sig", _unmarked(head)
    if marked is None:
        return name, _impossible(head, name, str(encoding))
    if name in _UTF8 and marked == "utf-8":
        return "utf-8-sig", None
    if name.startswith(marked) and marked != "utf-8":
        return marked, None  # utf-16-le would hand on the byte order mark as text
    says = f"the file is {marked.upper()} (its byte order mark says so)"
    if encoding is None:
        says = f"the file is {marked.upper()}, not UTF-8 (its byte order mark says so)"
    cure = _LEAVE if marked == "utf-8" else f"add --encoding {marked}"
    if encoding is not None and marked != "utf-8":
        cure = f"write --encoding {marked}"
    return "utf-8-sig", Problem("encoding", f"{says}; {cure}", 1)


def _unmarked(head: bytes) -> Problem | None:
    """Whether a file without a mark is UTF-16 all the same: every other byte of its plain letters is zero."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < max(4, len(head) // 8) or min(even, odd) > max(even, odd) // 8:
        return None  # a few zero bytes are told where they stand
    name = "utf-16-le" if odd > even else "utf-16-be"
    return Problem("encoding", f"the file is {name.upper()} without a byte order mark; add --encoding {name}", 1)


def _impossible(head: bytes, name: str, label: str) -> Problem | None:
    """Why a file without a mark cannot be in a codec whose letters are not those of ASCII."""
    if not head or _keeps_ascii(name):
        return None
    wide = name.startswith(("utf-16", "utf-32"))
    if wide and b"\0" in head:  # its line ends have one
        if not name.endswith(("-le", "-be")):
            return None  # the codec itself asks for the mark
        # Of a letter of ASCII the first byte is zero in big-endian text, and the last one in little-endian.
        size = 4 if "32" in name else 2
        cut = head[: len(head) // size * size]
        first, last = cut[::size].count(0), cut[size - 1 :: size].count(0)
        big = name.endswith("-be")
        if (first > 0 == last and not big) or (last > 0 == first and big):
            other = name[:-2] + ("le" if big else "be")
            return Problem("encoding", f"the file is {other.upper()}, not {label.upper()}; write --encoding {other}", 1)
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    if wide or head.isascii():
        what = "plain ASCII" if head.isascii() else "UTF-8"
        return Problem("encoding", f"the file is {what}, not {label.upper()} (its bytes are); {_LEAVE}", 1)
    return None


def _keeps_ascii(name: str) -> bool:
    plain = 'id,Query;09\t|"a z"\r\n'
    try:
        return plain.encode().decode(name) == plain
    except UnicodeError:
        return False


def watches_utf8(name: str) -> bool:
    """Whether a file in this codec could be UTF-8 in truth without an error to show it."""
    return name not in (*_UTF8, "ascii") and not name.startswith(("utf", "iso2022", "hz"))


def utf8_problem(raw: RawPass, name: str, label: str) -> Problem | None:
    """After a whole pass in another codec: whether the bytes are UTF-8 (or of Windows), so that text was garbled."""
    if name.startswith("iso8859") and raw.controls and not raw.utf8:
        where = "bytes from 0x80 to 0x9F are control characters in it, and are in the file"
        return Problem("encoding", f"the file is hardly {label.upper()}: {where}; try --encoding cp1252 with --dry-run")
    if not raw.utf8 or raw.beyond == 0 or (raw.beyond < _CHANCE and not _single_byte(name)):
        return None
    return Problem("encoding", f"the file is UTF-8, not {label.upper()} (its bytes are); {_LEAVE}")


def _single_byte(name: str) -> bool:
    """Whether the codec reads each byte for itself."""
    try:
        return len(bytes(range(0xC0, 0x100)).decode(name, "replace")) == 0x40
    except UnicodeError:
        return False


def decode_problem(descriptor: int, encoding: str, label: str) -> Problem:
    """Where the first bytes are that `encoding` cannot decode, and what the encoding probably is.

    Args:
        label: the encoding's name as the user knows it.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    line, offset, last = 1, 0, ""
    while True:
        data = read_at(descriptor, BLOCK, offset)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            if "BOM" in error.reason:  # since Python 3.13; before, it is a plain UnicodeError
                return _no_mark(label, line)
            before = error.object[: error.start].decode(encoding, "ignore")
            line += _lines(before, last)
            if not data:  # nothing follows: perhaps not a wrong byte, but a missing one
                message = (
                    f"the file ends within a character of {label.upper()}; if it was cut off, copy it again, "
                    "else say its encoding with --encoding"
                )
                return Problem("encoding", message, line)
            bad = error.object[error.start : error.start + 1].hex().upper()
            begin = max(0, offset + error.start - _SAMPLE // 2)
            sample = read_at(descriptor, _SAMPLE, begin)
            cure = _cure(sample, offset + error.start - begin, label)
            return Problem("encoding", f"byte 0x{bad} is not valid {label.upper()}; {cure}", line)
        except UnicodeError:  # utf-16 and utf-32 without their mark
            return _no_mark(label, line)
        line += _lines(text, last)
        last = text or last
        offset += len(data)
        if not data:
            return Problem("encoding", f"the file is not valid {label.upper()}; say which with --encoding")


def _cure(sample: bytes, bad: int, label: str) -> str:
    """What to type: the encodings that make sense of the sample, each with how it reads the word of the bad byte."""
    found = [guess for guess in guesses(sample, bad) if codecs.lookup(guess.codec) != codecs.lookup(label)]
    if not found:
        return "say which with --encoding"
    first, *others = found
    if not others:
        return f"it may be {first.codec} ({show(first.word)}): try --encoding {first.codec} with --dry-run"
    more = ", ".join(f"{guess.codec} ({show(guess.word)})" for guess in others)
    return f"it may be {first.codec} ({show(first.word)}), or {more}: try --encoding {first.codec} with --dry-run"


def _no_mark(label: str, line: int) -> Problem:
    return Problem("encoding", f"the file has no byte order mark; add --encoding {label}-le, or {label}-be", line)


def _lines(text: str, before: str) -> int:
    number = text.count("\n") + text.count("\r") - text.count("\r\n")
    return number - 1 if text.startswith("\n") and before.endswith("\r") else number
