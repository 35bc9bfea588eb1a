"""The account surface's commands in this process, against a simulated server."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dify_batch.cli.main import main
from dify_batch.simulator import Simulator
from dify_batch.simulator.apps import APPS
from tests.support.accounts import sign_in

ECHO, HUMAN, DEMO, FILES = (APPS[key].id for key in ("app-echo", "app-human", "app-demo", "app-files"))
OFF, UNPUBLISHED, CHATFLOW = (APPS[key].id for key in ("app-disabled", "app-unpublished", "app-chat"))


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output, once it is certain that nothing stands on the other channel."""
        assert (self.status, self.err) == (0, ""), self
        assert self.out.endswith("\n")
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, once it is certain that it is all there is."""
        assert self.out == "", self
        assert self.err.count("\n") == 1, self
        found: dict[str, Any] = json.loads(self.err)["error"]
        return found


class AccountCli:
    """`cli("get", "apps")` gives what the command did; no token is in it, ever."""

    def __init__(self, sim: Simulator, folder: Path, patch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.sim = sim
        self.host = sim.base_url.removesuffix("/v1")
        self.folder = folder
        self.patch = patch
        self.token = ""
        self._capsys = capsys
        for name in ("DIFY_TOKEN", "DIFY_HOST", "DIFY_SERVER", "DIFY_WORKSPACE_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("DIFY_CONFIG_DIR", str(folder / "config"))
        patch.setenv("DIFY_CACHE_DIR", str(folder / "cache"))
        patch.setenv("COLUMNS", "120")
        patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")

    def __call__(self, *arguments: str, stdin: str = "") -> Done:
        self.patch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        status = main(list(arguments))
        out, err = self._capsys.readouterr()
        if self.token:
            assert self.token not in out + err
        assert "Traceback" not in out + err
        assert "\x1b" not in out + err
        return Done(status, out, err)

    def login(self, person: str = "", *, label: str = "test") -> str:
        """Signs in with a token, and gives it."""
        self.token = sign_in(self.sim, person, label)
        done = self("auth", "login", "--host", self.host, "--with-token", stdin=self.token + "\n")
        assert done.status == 0, done
        return self.token


def no_waiting(patch: pytest.MonkeyPatch, then: Callable[[], None] = lambda: None) -> list[float]:
    """Repetitions come at once, after `then`; gives the seconds that they would have waited."""
    waits: list[float] = []

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        then()

    patch.setattr("dify_batch.backoff.pause", pause)
    return waits


def apps_of_mode(cli: AccountCli, mode: str) -> Iterator[str]:
    """The ids of apps of one kind."""
    for row in cli("get", "apps", "--mode", mode, "-o", "json").json["data"]:
        yield row["id"]
