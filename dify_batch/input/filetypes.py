"""Kinds of files by their extension, what a variable allows of them, and how large they may be. Pure."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FILE_TYPES = ("document", "image", "audio", "video", "custom")

# Dify's own table (its api/constants: IMAGE_, VIDEO_, AUDIO_, DOCUMENT_EXTENSIONS). Of the documents, those of an
# installation with ETL_TYPE=Unstructured are here too: whether they are turned on, the server alone knows.
_IMAGE = "jpg jpeg png webp gif svg"
_VIDEO = "mp4 mov mpeg webm"
_AUDIO = "mp3 m4a wav amr mpga"
_DOCUMENT = "txt markdown md mdx pdf html htm xlsx xls docx csv vtt properties doc eml msg pptx ppt xml epub"
_TYPE_OF = {
    ext: type_
    for type_, names in (("image", _IMAGE), ("video", _VIDEO), ("audio", _AUDIO), ("document", _DOCUMENT))
    for ext in names.split()
}
_LIMIT_OF = {"image": "image_file_size_limit", "video": "video_file_size_limit", "audio": "audio_file_size_limit"}
MEGABYTE = 1024 * 1024  # the limits of /parameters are in these


@dataclass(frozen=True, slots=True)
class FileRules:
    """What a variable (or the app) allows; empty means anything.

    Attributes:
        types: of FILE_TYPES.
        extensions: lower case, with the dot; they matter for the type "custom" only.
        methods: "local_file", "remote_url".
        most: highest number of files; 0 for no limit. That number itself is allowed (dify-wire 20z).
        limits: `system_parameters` of GET /parameters; sizes in megabytes.
    """

    types: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    most: int = 0
    limits: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, body: Mapping[str, Any], limits: Mapping[str, Any], most: int) -> FileRules:
        """From the `allowed_file_*` keys of a form entry or of `file_upload`."""
        return cls(
            types=_texts(body.get("allowed_file_types")),
            extensions=tuple("." + ext.lower().lstrip(".") for ext in _texts(body.get("allowed_file_extensions"))),
            methods=_texts(body.get("allowed_file_upload_methods")),
            most=most,
            limits=limits,
        )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


# An instance of its own: the module's functions also read the system's lists, and would decide otherwise elsewhere.
_MIME = mimetypes.MimeTypes()
_OFFICE = "application/vnd.openxmlformats-officedocument."
for _mime_type, _suffix in (  # not in the list of every supported Python
    ("audio/aac", ".aac"),
    ("audio/flac", ".flac"),
    ("audio/mp4", ".m4a"),
    ("audio/ogg", ".ogg"),
    ("image/heic", ".heic"),
    ("image/webp", ".webp"),
    ("text/markdown", ".md"),
    (_OFFICE + "wordprocessingml.document", ".docx"),
    (_OFFICE + "spreadsheetml.sheet", ".xlsx"),
    (_OFFICE + "presentationml.presentation", ".pptx"),
):
    _MIME.add_type(_mime_type, _suffix)


def mime_type(suffix: str) -> str | None:
    """The media type of an extension with its dot."""
    return _MIME.guess_type("file" + suffix.lower())[0]


def detect_type(extension: str) -> str | None:
    """One of FILE_TYPES by extension (with or without the dot, any case), None if it tells nothing.

    Dify looks at its table first and at the Content-Type then (standardize_file_type).
    """
    ext = extension.lower().lstrip(".")
    known = _TYPE_OF.get(ext)
    if known is None and ext:
        major = (mime_type("." + ext) or "").split("/")[0]
        known = major if major in ("image", "audio", "video") else None
    return known


def choose_type(extension: str, rules: FileRules, *, strict: bool) -> str | None:
    """The `type` to declare for an extension, None if the rules do not allow such a file.

    The service API compares the declared type with the one that it detects (dify-wire 20zd), so the detected one
    is declared wherever it is allowed. `strict` False is for URLs: the server looks at what the URL answers, so an
    extension that tells nothing refuses nothing.
    """
    detected = detect_type(extension)
    allowed = rules.types
    if detected is not None and (not allowed or detected in allowed):
        return detected
    custom = "custom" in allowed
    if custom and extension.lower() in rules.extensions:
        return "custom"
    if detected is None and not allowed:
        return "document"
    if detected is None and not strict:
        return "document" if "document" in allowed else allowed[0]
    return None  # what the server does not know is no document to it: it compares (dify-wire 20zd)


def size_limit(extension: str, limits: Mapping[str, Any]) -> int | None:
    """Most bytes that an upload of this extension may have, None if the server did not say (dify-wire 20k, 20l)."""
    known = _TYPE_OF.get(extension.lower().lstrip("."), "document")
    megabytes = limits.get(_LIMIT_OF.get(known, "file_size_limit"))
    if isinstance(megabytes, bool) or not isinstance(megabytes, (int, float)):
        return None
    return int(megabytes * MEGABYTE)
