"""The error values of a workbook's cells (#REF!, #DIV/0!, ...), which its reader gives as empty ones.

An empty cell in place of a broken formula would be a changed value, so they are read from the file itself: .xlsx and
.ods are zip archives of XML. Only files that have any are parsed.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator
from typing import IO, BinaryIO
from xml.etree import ElementTree

_CELL = re.compile(r"([A-Z]+)([0-9]+)")
_BLOCK = 1 << 20

_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_CALC = "{urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def error_cells(file: BinaryIO, sheet: str) -> dict[tuple[int, int], str]:
    """(row, column), both from 0, of each cell of a sheet that is an error, with its name. {} of other formats."""
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
            if "xl/workbook.xml" in names:
                path = _sheet_path(archive, sheet)
                return dict(_of_xlsx(archive, path)) if path in names and _has(archive, path, b't="e"') else {}
            if "content.xml" in names and _has(archive, "content.xml", b'value-type="error"'):
                return dict(_of_ods(archive, sheet))
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, NotImplementedError, RuntimeError):
        return {}  # what the reader could open stands; this only adds to it
    return {}


def _has(archive: zipfile.ZipFile, path: str, mark: bytes) -> bool:
    with archive.open(path) as stream:
        tail = b""
        while block := stream.read(_BLOCK):
            if mark in tail + block:
                return True
            tail = block[-len(mark) :]
    return False


def _sheet_path(archive: zipfile.ZipFile, sheet: str) -> str:
    """The file of a sheet of .xlsx: workbook → relation → target."""
    book = ElementTree.fromstring(archive.read("xl/workbook.xml"))  # noqa: S314 - expat bounds entities; it is the user's file
    relation = next(
        (found.get(_RELATION) for found in book.iter() if found.tag.endswith("}sheet") and found.get("name") == sheet),
        None,
    )
    relations = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))  # noqa: S314
    target = next((found.get("Target") for found in relations if found.get("Id") == relation), None) or ""
    return posixpath.normpath(posixpath.join("xl", target)).lstrip("/")


def _ended(stream: IO[bytes]) -> Iterator[ElementTree.Element]:
    for _, element in ElementTree.iterparse(stream):  # noqa: S314
        yield element


def _of_xlsx(archive: zipfile.ZipFile, path: str) -> Iterator[tuple[tuple[int, int], str]]:
    with archive.open(path) as stream:
        for element in _ended(stream):
            if element.tag.endswith("}c"):
                place = _CELL.fullmatch(element.get("r") or "")
                if element.get("t") == "e" and place is not None:
                    column = 0
                    for letter in place[1]:
                        column = column * 26 + ord(letter) - 64
                    value = next((part.text for part in element if part.tag.endswith("}v")), None)
                    yield (int(place[2]) - 1, column - 1), value or "#ERROR!"
            elif element.tag.endswith("}row"):
                element.clear()


def _of_ods(archive: zipfile.ZipFile, sheet: str) -> Iterator[tuple[tuple[int, int], str]]:
    with archive.open("content.xml") as stream:
        rows: list[tuple[int, list[tuple[int, str]]]] = []
        for element in _ended(stream):
            if element.tag == f"{_TABLE}table-row":
                found, column = [], 0
                for cell in element:
                    times = int(cell.get(f"{_TABLE}number-columns-repeated") or 1)
                    if cell.get(f"{_CALC}value-type") == "error":
                        text = "".join("".join(part.itertext()) for part in cell.iter(f"{_TEXT}p"))
                        found.append((column, text or "#ERROR!"))
                    column += times
                rows.append((int(element.get(f"{_TABLE}number-rows-repeated") or 1), found))
                element.clear()
            elif element.tag == f"{_TABLE}table":
                if element.get(f"{_TABLE}name") == sheet:
                    number = 0
                    for times, found in rows:
                        for column, text in found:
                            yield (number, column), text
                        number += times
                rows = []
