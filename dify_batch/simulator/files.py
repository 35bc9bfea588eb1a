"""Uploads: POST /v1/files/upload, what a run makes of the file mappings in its inputs (dify-wire 20), and the signed
links to them: GET /files/{id}/file-preview, read in Dify's source and not seen."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from . import wire
from .inputs import FileResolver, InputError
from .means import Means
from .wire import Answer, Refusal

MEGABYTE = 1024 * 1024
DOCUMENT_LIMIT, IMAGE_LIMIT, AUDIO_LIMIT, VIDEO_LIMIT = 15, 10, 50, 100  # megabytes, as in GET /parameters
NO_USER = "DEFAULT-USER"  # whom an upload without `user` belongs to (dify-wire 20e)
TENANT = wire.derived_id("tenant")
_KINDS = {"image": "image", "audio": "audio", "video": "video"}
TOO_LARGE = wire.refuse(413, "file_too_large", "")
WRONG_TYPE = wire.refuse(415, "unsupported_file_type", "File type not allowed.")
_OTHER_TYPE = "Detected file type does not match the specified type. Please verify the file."


@dataclass(frozen=True, slots=True)
class Upload:
    """One stored file."""

    id: str
    name: str
    size: int
    mime_type: str
    user: str
    created_at: int
    content: bytes = field(repr=False)

    @property
    def extension(self) -> str:
        return self.name.rpartition(".")[2].lower() if "." in self.name else ""

    @property
    def kind(self) -> str:
        """Dify's type of it: document, image, audio, video."""
        return _KINDS.get(self.mime_type.split("/")[0], "document")

    def link(self, means: Means, base: str) -> str:
        """A signed, expiring URL."""
        now, nonce = str(int(means.now())), means.chance.token(16)
        sign = _signature(self.id, now, nonce).replace("=", "%3D")
        return f"{base}files/{self.id}/file-preview?timestamp={now}&nonce={nonce}&sign={sign}"


def _signature(file_id: str, timestamp: str, nonce: str) -> str:
    return wire.derived_id(file_id, timestamp, nonce) + "="


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body. filename None: a plain field."""

    name: str
    filename: str | None
    content_type: str | None
    content: bytes


class FileStore:
    """The uploaded files."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._uploads: dict[str, Upload] = {}

    def __len__(self) -> int:
        return len(self._uploads)

    def upload(
        self, app_key: str, parts: list[Part], base: str, owner: str | None = None, by: str | None = None
    ) -> Answer:
        """The answer to an upload: 201, each time a new id. Raises Refusal.

        owner: whose file it is, in place of the body's `user`; by: their id, where that is an account.
        """
        files = [part for part in parts if part.filename is not None]
        if not any(part.name == "file" for part in files):
            raise Refusal(wire.refuse(400, "no_file_uploaded", "Please upload your file."))
        if len(files) > 1:
            raise Refusal(wire.refuse(400, "too_many_files", "Only one file is allowed."))
        part = files[0]
        if not part.filename:
            raise Refusal(wire.refuse(400, "filename_not_exists_error", "The specified filename does not exist."))
        if not part.content_type:
            raise Refusal(WRONG_TYPE)
        if re.search(r'[/\\:*?"<>|]', part.filename):
            raise Refusal(wire.refuse(400, "invalid_param", "Filename contains invalid characters"))
        user = owner or next((p.content.decode(errors="replace") for p in parts if p.name == "user"), "") or NO_USER
        now = int(self._means.now())
        size = len(part.content)
        file = Upload(self._means.new_id(), part.filename, size, part.content_type, user, now, part.content)
        limit = {"image": IMAGE_LIMIT, "audio": AUDIO_LIMIT, "video": VIDEO_LIMIT}.get(file.kind, DOCUMENT_LIMIT)
        if file.size > limit * MEGABYTE:
            raise Refusal(TOO_LARGE)
        self._uploads[file.id] = file
        fields = {
            "id": file.id,
            "reference": None,
            "name": file.name,
            "size": file.size,
            "extension": file.extension,
            "mime_type": file.mime_type,
            "created_by": by or wire.derived_id("end_user", app_key, user),
            "created_at": now,
            "preview_url": None,
            "source_url": file.link(self._means, base),
            "original_url": None,
            "user_id": None,
            "tenant_id": TENANT,
            "conversation_id": None,
            "file_key": None,
        }
        return wire.answer_json(fields, 201)

    def preview(self, file_id: str, query: Mapping[str, str], lifetime: float) -> Answer:
        """What a signed link is answered with. lifetime: seconds (FILES_ACCESS_TIMEOUT)."""
        signed = [query.get(name, "") for name in ("timestamp", "nonce", "sign")]
        if not all(signed):
            return wire.answer_json({"content": "Invalid request."}, 400)
        timestamp, nonce, sign = signed
        file = self._uploads.get(file_id)
        late = not timestamp.isdecimal() or int(self._means.now()) - int(timestamp) > lifetime
        if file is None or late or sign != _signature(file_id, timestamp, nonce):
            return wire.refuse(404, "not_found", "File not found or signature is invalid")
        return Answer(200, file.content, file.mime_type)

    def resolver(self, user: str, base: str) -> FileResolver:
        """Turns a file mapping of an input into the file, if this user may use it. base: the server's URL."""

        def resolve(mapping: object) -> dict[str, Any]:
            assert isinstance(mapping, dict)  # checked against the form before
            method = mapping.get("transfer_method")
            if method is None:
                raise InputError("transfer_method is required in file mapping")
            if method == "remote_url":
                return _remote(str(mapping.get("url", "")), str(mapping.get("type") or "document"))
            file_id = str(mapping.get("upload_file_id"))
            if not wire.is_uuid(file_id):
                raise InputError("Invalid upload file id format")
            file = self._uploads.get(file_id)
            if file is None or file.user != user:
                raise InputError("Invalid upload file")
            if mapping.get("type") not in (None, "custom", file.kind):
                raise InputError(_OTHER_TYPE)
            record = base64.b64encode(f'{{"record_id":"{file.id}"}}'.encode()).decode()
            extension = f".{file.extension}" if file.extension else ""
            return _file(
                file.kind, "local_file", "", f"dify-file-ref:{record}", file.name, extension, file.mime_type, file.size
            ) | {"related_id": file.id, "url": file.link(self._means, base)}

        return resolve


def _remote(url: str, kind: str) -> dict[str, Any]:
    """A remote file. Dify fetches its head here; the simulator fetches nothing and gives size -1."""
    name = urlsplit(url).path.rpartition("/")[2]
    extension = f".{name.rpartition('.')[2]}" if "." in name else ""
    mime = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return _file(kind, "remote_url", url, None, name, extension, mime, -1) | {"related_id": None, "url": url}


def _file(
    kind: str, method: str, url: str, reference: str | None, name: str, extension: str, mime: str, size: int
) -> dict[str, Any]:
    return {
        "dify_model_identity": "__dify__file__",
        "id": None,
        "type": kind,
        "transfer_method": method,
        "remote_url": url,
        "reference": reference,
        "filename": name,
        "extension": extension,
        "mime_type": mime,
        "size": size,
    }


def multipart(content_type: str, body: bytes) -> list[Part]:
    """The parts of a multipart/form-data body; none if it is not one."""
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    if not content_type.lower().startswith("multipart/form-data") or found is None:
        return []
    parts = []
    for piece in body.split(b"--" + found.group(1).encode())[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = {}
        for line in head.decode(errors="replace").split("\r\n"):
            field, _, value = line.partition(":")
            headers[field.strip().lower()] = value.strip()
        disposition = headers.get("content-disposition", "")
        name = re.search(r'\bname="([^"]*)"', disposition)
        filename = re.search(r'\bfilename="([^"]*)"', disposition)
        parts.append(
            Part(
                name.group(1) if name else "",
                filename.group(1) if filename else None,
                headers.get("content-type"),
                content.removesuffix(b"\r\n"),
            )
        )
    return parts
