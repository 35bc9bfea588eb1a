"""What a file is, told by its first bytes, whatever its name or --encoding says. Pure."""

from __future__ import annotations

import re
from enum import Enum

from dify_batch.strictjson import NotJson, parse

HEAD = 1 << 16  # bytes that are looked at
_LONG_LINE = (
    1 << 14
)  # a first JSON line that is longer than the head cannot be parsed; so much of it is evidence enough


class Kind(Enum):
    """What the first bytes say. `words`: how a message calls it, and the cure."""

    TABLE = ("a table of text", "")
    JSON_LINES = ("JSON lines", "name the file .jsonl")
    WORKBOOK = ("an Excel workbook", "save it as CSV UTF-8")
    OPEN_SHEET = ("an OpenDocument spreadsheet", "save it as CSV UTF-8")
    GZIP = ("gzip", "gunzip it first")
    PARQUET = ("Parquet", "write the table as CSV or JSON lines")
    JSON_ARRAY = ("a JSON array", "write one object a line: jq -c '.[]' FILE > rows.jsonl")
    JSON_OBJECTS = ("JSON over several lines", "write one object a line: jq -c . FILE > rows.jsonl")
    OLD_OFFICE = ("a file of an old Office program", "save it as CSV UTF-8")
    DOCUMENT = ("a document of a word processor or of slides", "save its table as CSV UTF-8")
    ZIP = ("a zip archive", "unzip it first, and name the table in it after --input")
    BZIP2 = ("bzip2", "bunzip2 it first")
    ZSTD = ("zstd", "unpack it first: zstd -d FILE")
    XZ = ("xz", "unpack it first: xz -d FILE")
    SEVEN_ZIP = ("a 7-Zip archive", "unpack it first")
    TAR = ("a tar archive", "unpack it first, and name the table in it after --input")
    PDF = ("a PDF", "export the table as CSV from the program that made it")
    PAGE = (
        "a web page",
        "download the table itself (perhaps the address asks to sign in), or open it in a spreadsheet program and save "
        "it as CSV UTF-8",
    )
    XML = ("XML", "export the table as CSV from the program that made it")
    RTF = ("rich text", "save it as CSV UTF-8 or plain text")
    SQLITE = ("an SQLite database", "export a table: sqlite3 -header -csv FILE 'select * from …' > rows.csv")
    ARROW = ("an Arrow file", "write it as CSV or JSON lines first")
    IMAGE = ("an image", "name a table after --input")
    BINARY = ("no text", "name a table after --input: CSV, JSON lines or a spreadsheet")

    def __init__(self, name: str, cure: str) -> None:
        self.what = name
        self.cure = cure


_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind.OLD_OFFICE),
    (b"\x1f\x8b", Kind.GZIP),
    (b"BZh", Kind.BZIP2),
    (b"\x28\xb5\x2f\xfd", Kind.ZSTD),
    (b"\xfd7zXZ\0", Kind.XZ),
    (b"7z\xbc\xaf\x27\x1c", Kind.SEVEN_ZIP),
    (b"PAR1", Kind.PARQUET),
    (b"%PDF-", Kind.PDF),
    (b"{\\rtf", Kind.RTF),
    (b"SQLite format 3\0", Kind.SQLITE),
    (b"ARROW1", Kind.ARROW),
    (b"FEA1", Kind.ARROW),
    (b"\x89PNG", Kind.IMAGE),
    (b"\xff\xd8\xff", Kind.IMAGE),
    (b"GIF8", Kind.IMAGE),
    (b"\x7fELF", Kind.BINARY),
)
_BZIP = re.compile(rb"BZh[1-9]1AY&SY")

_PAGE = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
_XML = re.compile(rb"\s*<(?:\?xml|!doctype)\b", re.I)
_ARRAY = re.compile(rb'\s*\[(?:\s*[{\]]|\s*\n\s*["\d\[-])')
_OBJECT = re.compile(rb'\s*\{\s*(?:"|\}|$)')
_NO_LETTERS = b"\0\xef\xbb\xbf\xfe\xff"  # byte order marks, and every other byte of UTF-16


def kind_of(head: bytes, *, delimiter_given: bool = False) -> Kind:
    """What a file is that begins with `head` (its first HEAD bytes, or all of it).

    `delimiter_given`: who names a delimiter has a table of text, which may begin with a bracket.
    """
    if head.startswith(b"PK\x03\x04"):
        names = head[:4096]
        if b"opendocument.spreadsheet" in names:
            return Kind.OPEN_SHEET
        if any(name in names for name in (b"word/", b"ppt/", b"opendocument.text", b"opendocument.presentation")):
            return Kind.DOCUMENT
        excel = any(name in names for name in (b"xl/", b"[Content_Types].xml", b"_rels/.rels"))
        return Kind.WORKBOOK if excel else Kind.ZIP
    for magic, kind in _MAGIC:
        if head.startswith(magic) and (kind is not Kind.BZIP2 or _BZIP.match(head)):
            return kind
    if head[257:262] == b"ustar":
        return Kind.TAR
    letters = head.translate(None, _NO_LETTERS)
    if _PAGE.match(letters):
        return Kind.PAGE
    if _XML.match(letters):
        return Kind.XML
    if not delimiter_given:
        if _ARRAY.match(letters):
            return Kind.JSON_ARRAY
        if _OBJECT.match(letters):
            return _objects(letters)
    return Kind.TABLE


def _objects(letters: bytes) -> Kind:
    """A text that begins as a JSON object: one a line, or one over several lines."""
    line, end, _ = letters.lstrip().partition(b"\n")
    if not end and len(letters) >= _LONG_LINE:
        return Kind.JSON_LINES
    try:
        parse(line.decode("utf-8", "replace"))
    except NotJson:
        opened = line.strip()
        # An object that is left open at the end of its line goes on; anything else is a line that is broken.
        return Kind.JSON_OBJECTS if opened in (b"{", b"{}") or opened.endswith((b",", b"{", b"[")) else Kind.JSON_LINES
    return Kind.JSON_LINES
