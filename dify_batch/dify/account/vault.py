"""Where tokens are kept: the system's keyring where there is one (the extra `keyring`), else a private file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dify_batch.dify.account.hosts import locked, read_yaml, write_yaml
from dify_batch.ledger.disk import Disk

SERVICE = "dify-batch"


class Vault(Protocol):
    """Tokens by host."""

    def get(self, host: str) -> str | None: ...
    def put(self, host: str, token: str) -> None: ...
    def remove(self, host: str) -> None: ...


class FileVault:
    """`tokens.yml` beside `hosts.yml`, which only its owner may read. Raises as `HostsFile` does."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.path: Path = folder / "tokens.yml"
        self._disk = disk or Disk()

    def get(self, host: str) -> str | None:
        token = self._tokens().get(host)
        return token if isinstance(token, str) and token else None

    def put(self, host: str, token: str) -> None:
        with locked(self.path, self._disk):
            self._write({**self._tokens(), host: token})

    def remove(self, host: str) -> None:
        if not self.path.exists():
            return
        with locked(self.path, self._disk):
            self._write({name: token for name, token in self._tokens().items() if name != host})

    def _tokens(self) -> Mapping[str, Any]:
        tokens = read_yaml(self.path).get("tokens")
        return tokens if isinstance(tokens, dict) else {}

    def _write(self, tokens: Mapping[str, Any]) -> None:
        write_yaml(self.path, {"tokens": dict(tokens)}, self._disk)


class KeyringVault:
    """The system's keyring. Any error of it is a `LockedOut`."""

    def __init__(self, keyring: Any) -> None:
        self._keyring = keyring

    def get(self, host: str) -> str | None:
        try:
            token = self._keyring.get_password(SERVICE, host)
        except Exception as error:  # each backend has errors of its own
            raise LockedOut(str(error)) from error
        return token if isinstance(token, str) else None

    def put(self, host: str, token: str) -> None:
        try:
            self._keyring.set_password(SERVICE, host, token)
        except Exception as error:
            raise LockedOut(type(error).__name__) from error  # its text might hold what was to be stored

    def remove(self, host: str) -> None:
        try:
            if self._keyring.get_password(SERVICE, host) is not None:
                self._keyring.delete_password(SERVICE, host)
        except Exception as error:
            raise LockedOut(str(error)) from error


class LockedOut(Exception):
    """The keyring is there and does not open."""


class Tokens:
    """Both together: the keyring first, and the file where it is absent or locked.

    `note` says, after a `put`, why a token is in a file; None where it is in the keyring.
    """

    def __init__(self, file: FileVault, keyring: KeyringVault | None) -> None:
        self._file = file
        self._keyring = keyring
        self.note: str | None = None

    def get(self, host: str) -> str | None:
        if self._keyring is not None:
            try:
                if token := self._keyring.get(host):
                    return token
            except LockedOut:
                pass
        return self._file.get(host)

    def put(self, host: str, token: str) -> None:
        self.note = f"no keyring of the system can be used; the token is in {self._file.path}, for your eyes only"
        if self._keyring is not None:
            try:
                self._keyring.put(host, token)
            except LockedOut as error:
                self.note = f"the keyring does not open ({error}); the token is in {self._file.path}"
            else:
                self.note = None
                self._file.remove(host)
                return
        self._file.put(host, token)

    def remove(self, host: str) -> None:
        """From both: it may have been in either."""
        if self._keyring is not None:
            with contextlib.suppress(LockedOut):
                self._keyring.remove(host)
        self._file.remove(host)


def system_keyring() -> KeyringVault | None:
    """The keyring that this system has, None without the extra or a backend that stores anything."""
    try:
        import keyring
    except ImportError:
        return None
    try:
        usable = keyring.get_keyring().priority > 0
    except Exception:  # noqa: BLE001 - a backend that fails to say what it is stores nothing either
        return None
    return KeyringVault(keyring) if usable else None
