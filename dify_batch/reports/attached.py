"""Which files the outputs of a row point to, and the names that they get in a folder. Pure.

A file is an object as Dify gives it (`dify_model_identity` is `__dify__file__`) [20r, 20s], or a signed link of Dify
within a text, as tools write them. Nothing that a server or a table says leads out of the folder: each name is made of
harmless characters, and is one part of a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

_IDENTITY = "__dify__file__"
_LINK = re.compile(
    r"(?:\[([^\[\]\n]{1,200})\]\()?"  # the name, where the link is Markdown's
    r"((?:https?://[^\s()<>\"'\]/]{1,300}(?:/[\w.-]{1,100}){0,4}?)?"
    r"/files/(?:tools/)?[0-9a-f-]{36}(?:\.\w{1,20}|/(?:file|image)-preview)\?[^\s()<>\"'\]]{1,1000})"
)

LIST = "files.jsonl"
"""The list of the files in a folder; no row's folder has its name."""

_LONGEST = 120
"""Bytes of a name: systems take 255, and a part that is under way has a longer name."""

_HARMLESS = "._- +,@=()"
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows


@dataclass(frozen=True, slots=True)
class Attached:
    """A file of a row. `output`: where it stands, as in `docs.0`. `url`: as the server gave it, which may be without a
    host. `size`: bytes, None where the server told none."""

    row: str
    output: str
    name: str
    url: str
    size: int | None
    media: str

    @property
    def source(self) -> str:
        """The link without its signature: what stays the same while a link is signed anew."""
        return self.url.partition("?")[0] if is_signed(self.url) else self.url


def is_signed(url: str) -> bool:
    """Whether it is a link of Dify's own, good for some minutes."""
    return "sign=" in url and _LINK.search(url) is not None


def attached(row: str, outputs: Any) -> list[Attached]:
    """The files of one row, each once, in their order, with names that differ (in whatever case)."""
    found: dict[str, Attached] = {}
    for file in (*_objects(row, outputs, ()), *_links(row, outputs, ())):
        found.setdefault(_what(file.url), file)
    taken: set[str] = set()
    return [_named(file, taken) for file in found.values()]


def _what(url: str) -> str:
    """What tells one file of a row from another: a text may have the path alone of a link that an object has whole."""
    with contextlib.suppress(ValueError):
        return urlsplit(url).path if is_signed(url) else url
    return url


def _named(file: Attached, taken: set[str]) -> Attached:
    stem, dot, extension = file.name.rpartition(".")
    name, number = file.name, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}{dot}{extension}" if stem else f"{file.name}-{number}"
    taken.add(name.casefold())
    return Attached(file.row, file.output, name, file.url, file.size, file.media)


def _objects(row: str, value: Any, way: tuple[str, ...]) -> Iterator[Attached]:
    if isinstance(value, Mapping):
        url = _url_of(value)
        if url is not None:
            size, media = value.get("size"), value.get("mime_type")
            known = isinstance(size, int) and not isinstance(size, bool) and size >= 0
            yield Attached(
                row,
                ".".join(way),
                safe_name(str(value.get("filename") or _last_part(url)), "file"),
                url,
                size if known else None,
                media if isinstance(media, str) else "",
            )
            return
        for name, inner in value.items():
            yield from _objects(row, inner, (*way, str(name)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _objects(row, inner, (*way, str(number)))


def _url_of(value: Mapping[str, Any]) -> str | None:
    if value.get("dify_model_identity") != _IDENTITY:
        return None
    return next((url for name in ("url", "remote_url") if isinstance(url := value.get(name), str) and url), None)


def _links(row: str, value: Any, way: tuple[str, ...]) -> Iterator[Attached]:
    if isinstance(value, str) and "/files/" in value:
        for label, url in _LINK.findall(value):
            if "sign=" in url:
                last = _last_part(url)
                name = label + os.path.splitext(last)[1] if label and "." not in label else label or last
                yield Attached(row, ".".join(way), safe_name(name, "file"), url, None, "")
    elif isinstance(value, Mapping):
        if _url_of(value) is None:
            for name, inner in value.items():
                yield from _links(row, inner, (*way, str(name)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _links(row, inner, (*way, str(number)))


def _last_part(url: str) -> str:
    """A name for a file that has none: of /files/ID/file-preview the id."""
    parts = [part for part in unquote(url.partition("?")[0]).split("/") if part]
    if len(parts) > 1 and parts[-1] in ("file-preview", "image-preview"):
        return parts[-2]
    return parts[-1] if parts else ""


# ---------------------------------------------------------------- names


def safe_name(text: str, otherwise: str) -> str:
    """One part of a path on any system: no separator, no control character, no leading dot, at most 120 bytes."""
    plain = unicodedata.normalize("NFC", text)
    kept = "".join(c if c in _HARMLESS or unicodedata.category(c)[0] in "LNM" else "_" for c in plain)
    kept = kept.strip(". ")
    if _RESERVED.fullmatch(kept):
        kept = f"_{kept}"
    return _cut(kept) or otherwise


def _cut(name: str) -> str:
    if len(name.encode()) <= _LONGEST:
        return name
    stem, extension = os.path.splitext(name)
    extension = extension if len(extension.encode()) <= 20 else ""
    room = _LONGEST - len(extension.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + extension


def folder_of(row: str, alike: bool) -> str:
    """The name of a row's folder: its id, with a hash where that had to be changed, or where another row's is `alike`
    on a system that knows no capitals."""
    name = safe_name(row, "row")
    if name == row and not alike and name.casefold() != LIST:
        return name
    return f"{name}-{hashlib.blake2b(row.encode(errors='surrogatepass'), digest_size=6).hexdigest()}"
