"""Ids: how they are read wherever they stand, which look alike, their fixed hash, and what is known of each.

What is known is one dict from id to a small int of bit flags: the ints below 256 are shared by the interpreter, so an
id costs its text and one dict slot (about 100 bytes for a short id).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

MAX_ID = 1000
"""Longest id in characters: an id is repeated in four files and in every message about its row."""

ID_SPACE = " \t\r\n\v\f"
"""Stripped from both ends of an id, so that ids of a hand-edited `.retry` still match."""

_NOT_IN_ID = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
"""Control characters and everything that some reader takes for the end of a line: `.retry` has one id a line.
A byte order mark within a file (of files put one after the other) is stripped there too. Lone surrogates cannot be
written as UTF-8."""

INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
"""Characters without ink or width, for a class of a pattern. Within a word of Persian or Hindi, or within an emoji,
U+200C and U+200D mean something; at its ends they do not."""

_BLANKS = re.compile(r"\s+")  # \s knows the no-break and the ideographic space
_ENDS = re.compile(rf"^[\s{INVISIBLE}]+|[\s{INVISIBLE}]+$")
_NO_INK = re.compile("[\u00ad\u200b\u2060\ufeff]")  # never needed within a word


def read_id(value: Any) -> str | None:
    """The id as text, by one rule for inputs, results and lists of ids: text without ASCII white space around it, and
    whole numbers (programs that rewrite JSON turn "1" into 1). None of anything else."""
    if isinstance(value, str):
        return value.strip(ID_SPACE)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def id_fault(id_: str) -> tuple[str, str] | None:
    """Why an id, as `read_id` gives it, cannot be used: ("blank_id" or "bad_id", what is wrong). None if it can."""
    if not id_:
        return "blank_id", "the id is blank"
    if len(id_) > MAX_ID:
        return "bad_id", f"the id has {len(id_)} characters; at most {MAX_ID} are allowed"
    if id_.isprintable():
        return None
    if not _ENDS.sub("", id_):
        codes = ", ".join(f"U+{ord(char):04X}" for char in dict.fromkeys(id_[:5]))
        return "blank_id", f"the id holds only what cannot be seen ({codes})"
    bad = _NOT_IN_ID.search(id_)
    return None if bad is None else ("bad_id", f"contains U+{ord(bad.group()):04X}, which no id may have")


def looks(id_: str) -> str:
    """An id as the eye sees it: ids of which this is the same differ only in what cannot be seen (the Unicode form of
    an accent, kinds and numbers of blanks, characters without width)."""
    # Whatever has no ink is not printable to Python, nor is any blank but the plain one.
    if id_.isprintable() and "  " not in id_ and unicodedata.is_normalized("NFC", id_):
        return id_
    seen = _BLANKS.sub(" ", _NO_INK.sub("", _ENDS.sub("", id_)))
    return unicodedata.normalize("NFC", seen)


def id_hash(id_: str) -> int:
    """A fixed hash of an id: the first 8 bytes of the BLAKE2b digest (of 8 bytes) of its UTF-8, big-endian.

    The same for ever, on every machine: shards and samples go by it.
    """
    digest = hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def shard_of(id_: str, shards: int) -> int:
    """Which of `shards` parts, from 1, an id belongs to: its hash modulo their number, plus 1."""
    return id_hash(id_) % shards + 1


_IN_TRACE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_TRACE = 128


def trace_id(batch: str, row_id: str, attempt: int) -> str:
    """The X-Trace-Id of a request: batch, row and attempt, in letters, digits, `_` and `-`, at most 128. An id with
    anything else in it, or a longer one, stands there as its hash of 16 hexadecimal digits."""
    row = row_id if _IN_TRACE.fullmatch(row_id) else f"{id_hash(row_id):016x}"
    return f"{batch}-{row}-{attempt}"[-_LONGEST_TRACE:]


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One of the parts of a batch: `number` of `of`, from 1. It holds the ids whose hash falls into it."""

    of: int
    number: int

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and id_hash(id_) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """As it stands in the names of files and batches."""
        return f"{self.number}of{self.of}"


IN_INPUT = 1
"""The input file has a row of this id."""
DONE = 2
"""The results hold it."""
RETRY = 4
"""It is in `.retry`."""
OPEN = 8
"""A run of it is known, or may exist."""
PAUSED = 16
"""It is in `.paused`."""
INVALID = 32
"""Its row does not pass the checks."""
SELECTED = 64
"""This invocation works on it."""
SEEN = 128
"""The reading pass under way has met it (see `check.valid_rows`); of no meaning between passes."""

_ALL = 255


class IdIndex:
    """Bit flags by id. An id that was never added has no flags (0) and is not contained."""

    __slots__ = ("_flags",)

    def __init__(self) -> None:
        self._flags: dict[str, int] = {}

    def flags(self, id_: str) -> int:
        """All flags of an id, 0 if it is unknown."""
        return self._flags.get(id_, 0)

    def add(self, id_: str, flag: int) -> None:
        """Set one or more flags of an id, which is added if it is unknown."""
        self._flags[id_] = self._flags.get(id_, 0) | flag

    def remove(self, id_: str, flag: int) -> None:
        """Clear one or more flags of an id; the id stays contained. An unknown id stays unknown."""
        old = self._flags.get(id_)
        if old is not None:
            self._flags[id_] = old & ~flag & _ALL

    def has(self, id_: str, flag: int) -> bool:
        """Whether an id has any of the given flags."""
        return bool(self._flags.get(id_, 0) & flag)

    def done(self) -> Callable[[str], int]:
        """Whether an id is DONE, as a function: for the reading of a journal of millions of lines."""
        get = self._flags.get
        return lambda id_: get(id_, 0) & DONE

    def count(self, flag: int) -> int:
        """How many ids have any of the given flags."""
        return sum(1 for flags in self._flags.values() if flags & flag)

    def count_both(self, flag: int, other: int) -> int:
        """How many ids have any of the given flags, and any of the others."""
        return sum(1 for flags in self._flags.values() if flags & flag and flags & other)

    def ids(self, flag: int) -> Iterator[str]:
        """The ids that have any of the given flags, in the order in which they were first added.

        Flags of known ids may change meanwhile; no id may be added.
        """
        return (id_ for id_, flags in self._flags.items() if flags & flag)

    def containing(self, part: str) -> list[str]:
        """The ids that hold a text."""
        return [id_ for id_ in self._flags if part in id_]

    def unusual(self) -> list[str]:
        """The ids that may look like another one: few as a rule, so that most need no second look."""
        return [id_ for id_ in self._flags if not id_.isascii() or "  " in id_]

    def clear(self, flag: int) -> None:
        """Clear flags of all ids."""
        keep = ~flag & _ALL
        table = self._flags
        for id_, flags in table.items():
            if flags & flag:
                table[id_] = flags & keep  # an existing key: the dict does not change size

    def first(self, id_: str, flag: int) -> bool:
        """Set a flag and say whether it was clear before: one look-up for the reading passes."""
        table = self._flags
        old = table.get(id_, 0)
        if old & flag:
            return False
        table[id_] = old | flag
        return True

    def __len__(self) -> int:
        return len(self._flags)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._flags


def parse_ids(data: bytes) -> list[str]:
    """The ids of a file, one a line, each once, in order. People edit it: blank lines, CRLF, no BOM are all fine.

    A file that is not UTF-8 raises UnicodeDecodeError, whose `object` is the file without its byte order mark: an id
    read wrongly would be a row never replayed.
    """
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogatepass")
    lines = (line.strip(" \t\r\ufeff") for line in text.split("\n"))
    return list(dict.fromkeys(line for line in lines if line))
