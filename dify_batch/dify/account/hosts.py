"""`hosts.yml`: which servers a person is signed in to, as whom, and in which workspace. No token is in it.

    schema: 1
    current: https://cloud.dify.ai
    hosts:
      https://cloud.dify.ai:
        kind: account            # or external, for an external single sign-on
        email: someone@example.com
        workspace: {id: …, name: …}
        workspaces: [{id: …, name: …, role: …}, …]
        expires_at: 2026-12-06T00:46:31+00:00
        shape: A
        insecure: false          # http:// to another host than this machine was allowed

It is read without a lock, and replaced in one step under one, so that two processes lose nothing of each other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import yaml

from dify_batch.dify.account.shapes import SHAPES, Shape
from dify_batch.errors import DifyBatchError, StorageError
from dify_batch.ledger.disk import PRIVATE, Disk

SCHEMA = 1
FOLDER = 0o700  # what is in it names accounts and servers


@dataclass(frozen=True, slots=True)
class Workspace:
    id: str
    name: str = ""
    role: str = ""

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Workspace:
        return cls(str(entry.get("id") or ""), str(entry.get("name") or ""), str(entry.get("role") or ""))

    def as_dict(self) -> dict[str, str]:
        return {"id": self.id, "name": self.name, "role": self.role}


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of a sign-in. `expires_at`: ISO 8601, None where it is not known."""

    kind: str
    email: str
    workspace: Workspace | None = None
    workspaces: tuple[Workspace, ...] = ()
    expires_at: str | None = None
    shape: Shape | None = None
    insecure: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "email": self.email,
            "workspace": None if self.workspace is None else self.workspace.as_dict(),
            "workspaces": [each.as_dict() for each in self.workspaces],
            "expires_at": self.expires_at,
            "shape": self.shape,
            "insecure": self.insecure,
        }


@dataclass(frozen=True, slots=True)
class Hosts:
    """All of the file. Names that another version has put there are kept."""

    current: str | None = None
    entries: Mapping[str, Host] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    def with_host(self, name: str, host: Host, *, current: bool = True) -> Hosts:
        return replace(self, current=name if current else self.current, entries={**self.entries, name: host})

    def without(self, name: str) -> Hosts:
        left = {each: host for each, host in self.entries.items() if each != name}
        current = next(iter(left), None) if self.current == name else self.current
        return replace(self, current=current, entries=left)

    def as_dict(self) -> dict[str, Any]:
        hosts = {name: host.as_dict() for name, host in self.entries.items()}
        return {**self.others, "schema": SCHEMA, "current": self.current, "hosts": hosts}


class HostsFile:
    """The file, in a folder of its own that is made when something is written."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.path: Path = folder / "hosts.yml"
        self._disk = disk or Disk()

    def read(self) -> Hosts:
        """{} where there is none.

        Raises:
            DifyBatchError: `config_broken`, it cannot be read; `config_schema_unsupported`, a newer version wrote it.
        """
        return _hosts(read_yaml(self.path), self.path)

    def change(self, change: Callable[[Hosts], Hosts]) -> Hosts:
        """Reads, changes and replaces the file while no other process does. Raises as `read`, and StorageError."""
        with locked(self.path, self._disk):
            hosts = change(self.read())
            write_yaml(self.path, hosts.as_dict(), self._disk)
            return hosts


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, {} where there is none. Raises DifyBatchError `config_broken`, which names it and
    shows nothing of it."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise _broken(path, "it is no YAML" + (f", line {mark.line + 1}" if mark is not None else "")) from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _broken(path, "it holds no mapping")
    return {str(key): value for key, value in found.items()}


def write_yaml(path: Path, value: Mapping[str, Any], disk: Disk) -> None:
    """Replaces a private file in one step. Raises StorageError."""
    text = yaml.safe_dump(dict(value), allow_unicode=True, sort_keys=False)
    try:
        disk.replace(path, text.encode(), PRIVATE)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}", hint="set DIFY_CONFIG_DIR") from None


def locked(path: Path, disk: Disk) -> Any:
    """The lock that writers of a file hold. Raises StorageError where its folder cannot be made."""
    try:
        path.parent.mkdir(mode=FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent} cannot be made: {error.strerror}", hint="set DIFY_CONFIG_DIR") from None
    return disk.lock(path.with_name(f".{path.name}.lock"))


def _broken(path: Path, why: str) -> DifyBatchError:
    hint = "correct it, or delete it and sign in again: dify-batch auth login"
    return DifyBatchError(f"{path} cannot be read: {why}", code="config_broken", hint=hint)


def _hosts(found: Mapping[str, Any], path: Path) -> Hosts:
    schema = found.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise DifyBatchError(
            f"{path} was written by a newer version (schema {schema})",
            code="config_schema_unsupported",
            hint="update dify-batch, or set DIFY_CONFIG_DIR to another folder",
        )
    entries = found.get("hosts") or {}
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise _broken(path, "hosts is no mapping of hosts")
    current = found.get("current")
    others = {key: value for key, value in found.items() if key not in ("schema", "current", "hosts")}
    known = {str(name): _host(entry) for name, entry in entries.items()}
    return Hosts(current if current in known else next(iter(known), None), known, others)


def _host(entry: Mapping[str, Any]) -> Host:
    space, spaces, shape, until = (entry.get(name) for name in ("workspace", "workspaces", "shape", "expires_at"))
    return Host(
        kind="external" if entry.get("kind") == "external" else "account",
        email=str(entry.get("email") or ""),
        workspace=Workspace.read(space) if isinstance(space, dict) and space.get("id") else None,
        workspaces=tuple(Workspace.read(each) for each in spaces or () if isinstance(each, dict)),
        expires_at=None if until is None else str(until),
        shape=cast(Shape, shape) if shape in SHAPES else None,
        insecure=entry.get("insecure") is True,
    )
