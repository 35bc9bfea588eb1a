"""Files as inputs: from a cell to what Dify takes, checked before anything is uploaded.

A cell names local files (paths) and remote ones (http and https URLs), separated by new lines or `|`. A local file
stays a `LocalFile` inside the inputs until just before the run: an upload belongs to the `user` that made it
(dify-wire 20u), and that is known only then.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from dify_batch.input.filetypes import MEGABYTE, FileRules, choose_type, mime_type, size_limit
from dify_batch.text import show

_URL = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: one is a drive of Windows
_SEPARATOR = re.compile(r"[\n\r|]")


class FileRefused(ValueError):
    """A cell does not name files that Dify will take. `kind` is the Problem's kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine that is uploaded before the run.

    Attributes:
        path: where it is, the base folder already joined.
        type: one of FILE_TYPES.
    """

    path: Path
    type: str

    @property
    def name(self) -> str:
        """The file name for the upload."""
        return self.path.name

    @property
    def mime_type(self) -> str:
        """Never empty: a part without Content-Type is refused with 415 (dify-wire 20g)."""
        return mime_type(self.path.suffix) or "application/octet-stream"


@dataclass(slots=True)
class Inputs:
    """What one run is given. Nobody changes it once it is made (frozen, it would take twice as long to make).

    Attributes:
        values: the request's `inputs`; may hold LocalFile, alone or in lists.
        files: the request's own `files` list (older image workflows), or None to leave it out.
        has_local: whether a LocalFile is anywhere in it, so that uploads come first.
    """

    values: dict[str, Any]
    files: list[Any] | None = None
    has_local: bool = False


class FilePlace:
    """Where the files of cells are. `base`: where relative paths begin. `root`: the folder below which they must be,
    symbolic links followed: a table from somebody else must not send what else is on this machine."""

    def __init__(self, base: Path, root: Path | None = None) -> None:
        self.base = base
        self.root: Path = base if root is None else root
        self._real = os.path.realpath(self.root)

    def holds(self, path: Path) -> bool:
        """Whether a path leads to something below the root."""
        real = os.path.realpath(path)
        return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)


def resolve(cell: Any, rules: FileRules, place: FilePlace) -> list[Any]:
    """The files that a cell names: LocalFile, or Dify's mapping of a remote file.

    Args:
        cell: text; from JSONL also a list of texts, or Dify's own mapping ({"transfer_method": …}), or a list of those.
        place: where the files are.

    Raises:
        FileRefused: a file is missing, is a folder, is too large, is not allowed, or there are too many.
    """
    items: list[Any] = []
    for part in cell if isinstance(cell, list) else [cell]:
        if isinstance(part, str):
            items += [piece for piece in map(str.strip, _SEPARATOR.split(part)) if piece]
        else:
            items.append(part)
    if rules.most and len(items) > rules.most:
        allowed = "one is" if rules.most == 1 else f"{rules.most} are"
        raise FileRefused("too_many_files", f"it names {len(items)} files; at most {allowed} allowed")
    return [_resolve_one(item, rules, place) for item in items]


def _resolve_one(item: Any, rules: FileRules, place: FilePlace) -> Any:
    if isinstance(item, Mapping):
        return _mapping(item, rules)
    if not isinstance(item, str):
        raise FileRefused("bad_file", f"{show(item)} is neither a path nor a URL")
    if "\0" in item:
        raise FileRefused("bad_file", f"{show(item)} contains a NUL character; remove it")
    if _URL.match(item):
        return _remote(item, rules)
    if _SCHEME.match(item):
        raise FileRefused("bad_file", f"{show(item)}: only http and https URLs and local paths can be used")
    return _local(item, rules, place)


def _mapping(item: Mapping[str, Any], rules: FileRules) -> dict[str, Any]:
    method = item.get("transfer_method")
    needed = {"local_file": "upload_file_id", "remote_url": "url"}.get(str(method))
    if needed is None:
        raise FileRefused("bad_file", f'{show(dict(item))}: "transfer_method" must be "local_file" or "remote_url"')
    if not isinstance(item.get(needed), str) or not item[needed]:
        raise FileRefused("bad_file", f'{show(dict(item))}: with {show(method)} it needs "{needed}"')
    _check_method(str(method), rules)
    return dict(item)


def _check_method(method: str, rules: FileRules) -> None:
    if rules.methods and method not in rules.methods:
        what, other = (
            ("uploads of local files", "write an http or https URL")
            if method == "local_file"
            else ("URLs", "download the file and write its path")
        )
        raise FileRefused("file_method", f"the app does not allow {what} here; {other}")


def _allowed(rules: FileRules) -> str:
    names = [name for name in rules.types if name != "custom"]
    if "custom" in rules.types:
        names += rules.extensions
    return ", ".join(names) or "nothing"


def _remote(url: str, rules: FileRules) -> dict[str, Any]:
    _check_method("remote_url", rules)
    try:
        extension = PurePosixPath(urlsplit(url).path).suffix
    except ValueError:
        raise FileRefused("bad_file", f"{show(url)} is not a valid URL") from None
    type_ = choose_type(extension, rules, strict=False)
    if type_ is None:
        raise FileRefused("file_type", f"{show(url)}: {extension} is not allowed here; allowed are {_allowed(rules)}")
    return _typed({"transfer_method": "remote_url", "url": url}, type_)


def _local(text: str, rules: FileRules, place: FilePlace) -> LocalFile:
    _check_method("local_file", rules)
    path = place.base / text
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileRefused(
            "no_file",
            f"there is no file {show(str(path), 200)}; {_several(text) or RELATIVE}",
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileRefused("no_file", f"{show(str(path), 200)} cannot be read: {reason}") from None
    if not place.holds(path):
        raise FileRefused(
            "outside",
            f"{show(text)} is not below the folder {show(str(place.root), 200)}; "
            f"add --files-root {shlex.quote(os.path.dirname(os.path.realpath(path)))} if it may be sent",
        )
    if stat.S_ISDIR(info.st_mode):
        raise FileRefused("bad_file", f"{show(str(path), 200)} is a folder; name a file in it")
    if not stat.S_ISREG(info.st_mode):
        raise FileRefused("bad_file", f"{show(str(path), 200)} is a device or a pipe; name a file")
    if not os.access(path, os.R_OK):
        raise FileRefused("no_file", f"{show(str(path), 200)} cannot be read: Permission denied")
    if "\\" in path.name:
        # 400 "Filename contains invalid characters" (dify-wire 20o)
        raise FileRefused("bad_file", f"{show(path.name)}: Dify allows no backslash in a file name; rename it")
    type_ = choose_type(path.suffix, rules, strict=True)
    if type_ is None:
        what = path.suffix or "a file without extension"
        raise FileRefused("file_type", f"{show(text)}: {what} is not allowed here; allowed are {_allowed(rules)}")
    limit = size_limit(path.suffix, rules.limits)
    if limit is not None and info.st_size > limit:
        raise FileRefused(
            "file_too_large",
            f"{show(text)} has {info.st_size} bytes; the server takes at most {limit} ({limit // MEGABYTE} MB)",
        )
    return LocalFile(path, type_)


RELATIVE = "relative paths begin at the input file's folder"


def _several(text: str) -> str:
    """A hint where a cell seems to name several files in another way than ours."""
    if text.startswith("[") or text.endswith("]"):
        return "a cell names several files with | or a new line between them, not as a JSON list"
    if ";" in text or "," in text:
        return "a cell names several files with | or a new line between them"
    return ""


def _typed(mapping: dict[str, Any], type_: str) -> dict[str, Any]:
    # Dify takes a missing type for "custom" and then does not compare it with the one that it detects
    # (dify-wire 20zf), while a written "custom" is refused by versions that compare.
    return mapping if type_ == "custom" else {"type": type_, **mapping}


def find_local(values: Mapping[str, Any], files: Sequence[Any] | None = None) -> list[LocalFile]:
    """The local files in a run's inputs and `files`, each once, in order."""
    found: dict[LocalFile, None] = {}
    for value in [*values.values(), files]:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, LocalFile):
                found[item] = None
    return list(found)


def with_uploads(inputs: Inputs, ids: Mapping[LocalFile, str]) -> Inputs:
    """The inputs with each local file replaced by its upload.

    Args:
        ids: LocalFile → `id` of the answer of POST /files/upload, made with the run's `user`.

    Raises:
        KeyError: a local file has no id.
    """

    def replaced(value: Any) -> Any:
        if isinstance(value, LocalFile):
            return _typed({"transfer_method": "local_file", "upload_file_id": ids[value]}, value.type)
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return value

    return Inputs(
        values={key: replaced(value) for key, value in inputs.values.items()},
        files=replaced(inputs.files),
    )


def described(value: Any) -> Any:
    """A value with each local file shown by its path: for a plan, and for a result whose upload is not known."""
    if isinstance(value, LocalFile):
        return {"type": value.type, "transfer_method": "local_file", "path": str(value.path)}
    if isinstance(value, dict):
        return {key: described(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [described(inner) for inner in value]
    return value
