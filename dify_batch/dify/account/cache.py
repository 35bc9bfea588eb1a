"""What is known of apps, for an hour, and which run a form belongs to: one file, which nobody needs.

A cache that is broken, or cannot be written, is no error: the server is asked again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dify_batch.errors import StorageError
from dify_batch.ledger.disk import PRIVATE, Disk
from dify_batch.seams import Clock
from dify_batch.strictjson import json_object

LIFETIME = 3600.0
"""Seconds that an entry counts."""

_FORMS = 200
"""Forms that are remembered; the oldest goes first."""

_ENTRIES = 500


class AppCache:
    """By host and app. An entry has the parts that were asked for: of info, parameters, input_schema; more may come."""

    def __init__(self, folder: Path, clock: Clock, disk: Disk | None = None) -> None:
        self.path: Path = folder / "apps.json"
        self._clock = clock
        self._disk = disk or Disk()

    def get(self, host: str, app_id: str, fields: Sequence[str]) -> dict[str, Any] | None:
        """The parts, None unless all of them are there and younger than an hour."""
        entry = self._read()["apps"].get(_key(host, app_id))
        if not isinstance(entry, dict) or not isinstance(at := entry.get("at"), (int, float)):
            return None
        if not 0 <= self._clock.wall() - at < LIFETIME or any(not isinstance(entry.get(f), dict) for f in fields):
            return None
        return {field: entry[field] for field in fields}

    def put(self, host: str, app_id: str, parts: Mapping[str, Any]) -> None:
        """Adds parts to an entry that still counts, else begins it anew."""
        known = self._read()
        now, key = self._clock.wall(), _key(host, app_id)
        old = known["apps"].pop(key, None)
        young = isinstance(old, dict) and isinstance(old.get("at"), (int, float)) and 0 <= now - old["at"] < LIFETIME
        entry = {**(old if young else {"at": now}), **{name: value for name, value in parts.items() if value}}
        known["apps"][key] = entry
        self._write(known)

    def forget(self, host: str, app_id: str) -> None:
        known = self._read()
        if known["apps"].pop(_key(host, app_id), None) is not None:
            self._write(known)

    def remember_form(self, host: str, token: str, run_id: str) -> None:
        """A paused run, so that it can be resumed by its form's token alone."""
        known = self._read()
        known["forms"][_key(host, token)] = run_id
        self._write(known)

    def run_of_form(self, host: str, token: str) -> str | None:
        run_id = self._read()["forms"].get(_key(host, token))
        return run_id if isinstance(run_id, str) else None

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json_object(self.path.read_bytes()) or {}
        except OSError:
            found = {}
        parts = {name: found.get(name) for name in ("apps", "forms")}
        return {name: part if isinstance(part, dict) else {} for name, part in parts.items()}

    def _write(self, known: Mapping[str, dict[str, Any]]) -> None:
        last = {"apps": _ENTRIES, "forms": _FORMS}
        kept = {name: dict(list(part.items())[-last[name] :]) for name, part in known.items()}
        with contextlib.suppress(OSError, StorageError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._disk.replace(self.path, json.dumps(kept, ensure_ascii=False).encode("utf-8", "replace"), PRIVATE)


def _key(host: str, name: str) -> str:
    return f"{host} {name}"
