"""Finding the sign-in to use, for the commands and for the batch: what was named, what the environment has, what is
stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dify_batch.dify.account.hosts import HostsFile
from dify_batch.dify.account.session import (
    DEFAULT_HOST,
    Session,
    config_folder,
    environment_host,
    no_session,
    of_environment,
    of_store,
    read_host,
)
from dify_batch.dify.account.vault import FileVault, Tokens, system_keyring
from dify_batch.errors import UsageError


@dataclass(frozen=True, slots=True)
class Store:
    """What is kept of sign-ins, and the environment, which goes before it."""

    hosts: HostsFile
    tokens: Tokens
    environ: Mapping[str, str]

    @classmethod
    def of(cls, environ: Mapping[str, str], *, keyring: bool = True) -> Store:
        folder = config_folder(environ)
        return cls(HostsFile(folder), Tokens(FileVault(folder), system_keyring() if keyring else None), environ)

    def host(self, given: str | None, *, insecure: bool = False) -> str | None:
        """The host that was typed, or stands in the environment; None where neither names one. Raises UsageError."""
        text = given or environment_host(self.environ)
        if text is None:
            return None
        try:
            return read_host(text, insecure=insecure)
        except UsageError:
            host = read_host(text, insecure=True)
            known = self.hosts.read().entries.get(host)
            if known is not None and known.insecure:  # it was allowed when the person signed in
                return host
            raise

    def session(self, named: str | None) -> Session:
        """The sign-in to use: DIFY_TOKEN, else the stored one. Raises AuthError `not_logged_in`."""
        stored = self.hosts.read()
        name = named or stored.current
        if token := self.environ.get("DIFY_TOKEN", "").strip():
            host = name or DEFAULT_HOST
            return of_environment(token, host, stored.entries.get(host))
        entry = stored.entries.get(name or "")
        kept = self.tokens.get(name) if name is not None and entry is not None else None
        if name is None or entry is None or kept is None:
            raise no_session(name)
        return of_store(name, entry, kept)
