"""One pass over a file's bytes: read at an offset of its own, looked at on the way, and decoded.

So passes do not disturb each other, and a file that is replaced meanwhile stays the one that was opened.
"""

from __future__ import annotations

import io
import os
import re
from array import array
from dataclasses import dataclass, field
from typing import Any, TextIO

BLOCK = 1 << 18  # bytes read at once: large enough that the calls do not show in a profile

_ERRORS = (
    "#REF! #N/A #VALUE! #NAME? #DIV/0! #NULL! #NUM! #SPILL! #CALC! #GETTING_DATA #FIELD! #BLOCKED! #CONNECT! #UNKNOWN! "
    "#NV #BEZUG! #WERT! #ZAHL! #NULL! #ÜBERLAUF! #KALK! #FELD! #NOM? #VALEUR! #NOMBRE! #NUL! #¡REF! #¡VALOR! "
    "#¿NOMBRE? #¡DIV/0! #¡NULO! #¡NUM! #N/D #RIF! #VALORE! #NOME? #VERW! #WAARDE! #NAAM? #GETAL! #LEEG! #ССЫЛКА! "
    "#ЗНАЧ! #ИМЯ? #ДЕЛ/0! #ПУСТО! #ЧИСЛО! #Н/Д Err:502 Err:504 Err:508 Err:509 Err:511 Err:519 Err:520 Err:522"
)
ERROR_VALUES = frozenset(_ERRORS.split())
"""What spreadsheets in English and some other languages write for a formula that cannot be computed."""

_ASCII_ERRORS = sorted(re.escape(error[1:]) for error in ERROR_VALUES if error.isascii() and error[0] == "#")
_C1 = re.compile(b"[\x80-\x9f]")
_MAYBE_ERROR = re.compile(f"#(?:[^ -~]|{'|'.join(_ASCII_ERRORS)})".encode())
"""Found in every block that holds an error value, in any encoding that keeps ASCII; rare elsewhere. It begins with one
letter only, so that the search is as fast as that for a letter."""


class Changed(Exception):
    """A block of the file is not the one that an earlier pass has read."""


@dataclass(slots=True)
class Marks:
    """What a whole pass has read: the hash of each block, which holds for this process only, and the size in bytes."""

    blocks: array[int] = field(default_factory=lambda: array("q"))
    size: int = 0


class RawPass(io.RawIOBase):
    """Reads a descriptor from the start; closing it leaves the descriptor open.

    What it sees becomes true before any text of its block is handed on, so that rows are looked at closely only in
    files that give reason to:

    Attributes:
        nul: a NUL byte.
        errors: perhaps an error value of a spreadsheet.
        quotes: a blank between the delimiter and a quote.
        cut_off: all has been read, and the last byte ends no line: the last record may not be whole.
        beyond: how many bytes beyond ASCII, counted as long as `utf8` is true.
        utf8: all bytes so far are UTF-8 (only looked at where `watch_utf8` is given).
        controls: a byte from 0x80 to 0x9F, which is a control character in the encodings of ISO 8859 (looked at with
            `utf8`).

    Args:
        record: gets the marks of what is read.
        expect: marks of an earlier pass: only what they cover is read, and Changed raised before anything else is
            handed on.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        delimiter: str = ",",
        watch_utf8: bool = False,
        record: Marks | None = None,
        expect: Marks | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._record = record
        self._expect = expect
        self._block = 0
        self._offset = 0
        self._tail = b""
        self._blank_quote = f'{delimiter} "'.encode("utf-8", "surrogatepass")
        self.nul: bool = False
        self.errors: bool = False
        self.quotes: bool = False
        self.cut_off: bool = False
        self._open: bool = False
        self.beyond: int = 0
        self.controls: bool = False
        self._watched = watch_utf8
        self._decoder = _utf8_decoder() if watch_utf8 else None
        self.utf8: bool = watch_utf8

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        expect = self._expect
        wanted = len(buffer) if expect is None else min(len(buffer), expect.size - self._offset)
        data = read_at(self._descriptor, wanted, self._offset)
        self._offset += len(data)
        if expect is not None and wanted and not (data and hash(data) == expect.blocks[self._block]):
            raise Changed
        if data:
            self._block += 1
            if self._record is not None:
                self._record.blocks.append(hash(data))
                self._record.size = self._offset
            self._look(data)
        else:
            self.cut_off = self._open
            if self._decoder is not None:
                self._watch(b"", final=True)
        buffer[: len(data)] = data
        return len(data)

    def _look(self, data: bytes) -> None:
        if b"\0" in data:
            self.nul = True
        seen = self._tail + data  # what is looked for may lie across two blocks
        # Looking for one byte first is fifty times as fast, and most often enough.
        if not self.quotes and b'"' in seen and self._blank_quote in seen:
            self.quotes = True
        if not self.errors and ((b"#" in seen and _MAYBE_ERROR.search(seen)) or (b":" in seen and b"Err:5" in seen)):
            self.errors = True
        self._tail = data[-16:]
        self._open = data[-1] not in b"\r\n"
        if self._watched and not self.controls and _C1.search(data):
            self.controls = True
        if self._decoder is not None:
            self._watch(data)

    def _watch(self, data: bytes, *, final: bool = False) -> None:
        assert self._decoder is not None
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError:
            self.utf8, self._decoder = False, None
        else:
            self.beyond += len(data) - len(text) if not data.isascii() else 0


def _utf8_decoder() -> Any:
    import codecs

    return codecs.getincrementaldecoder("utf-8")()


if hasattr(os, "pread"):
    read_at = os.pread
else:  # Windows: the one offset that a descriptor has there is moved; passes may alternate, and no two threads read

    def read_at(descriptor: int, size: int, offset: int, /) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def text_of(raw: RawPass, encoding: str, newline: str = "") -> TextIO:
    """The decoded text of a pass; undecodable bytes raise UnicodeError (mostly UnicodeDecodeError)."""
    return io.TextIOWrapper(io.BufferedReader(raw, BLOCK), encoding=encoding, newline=newline)
