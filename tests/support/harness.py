"""Real processes of the command against a simulator, and the check that every row is in exactly one place."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dify_batch.ids import DONE, IdIndex
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.state import Phase, State, read_state

# Enough for any single command of the tests; a hang is a failure, not a wait for ever.
LIMIT = 120.0


class Server(Protocol):
    """What the tests need of a simulator, in this process or another."""

    @property
    def base_url(self) -> str: ...
    def state(self, runs: bool = True) -> dict[str, Any]: ...


def until(condition: Callable[[], bool], what: str) -> None:
    """Polls until something is so, for at most 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def write_csv(path: Path, rows: int, *, prefix: str = "r") -> list[str]:
    """A CSV of id and query; gives the ids."""
    ids = [f"{prefix}{number}" for number in range(1, rows + 1)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "query"])
        writer.writerows((row_id, f"question {row_id}") for row_id in ids)
    return ids


def environment(base_url: str, key: str = "app-echo", **more: str) -> dict[str, str]:
    """The environment of a command: this process's without settings of its own, and the simulator's address."""
    own = ("DIFY_", "TIMEOUT", "MAX_RETR", "INITIAL_RETRY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return kept | {"DIFY_API_KEY": key, "DIFY_API_BASE_URL": base_url, "PYTHONUNBUFFERED": "1"} | more


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "dify_batch", *map(str, arguments)]


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The summary of --json, from whichever channel has it."""
        text = self.out if self.out.strip() else self.err.strip().splitlines()[-1]
        found = json.loads(text)
        summary: dict[str, Any] = found.get("summary", found)
        return summary

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.err.strip().splitlines()[-1])["error"]
        return error


def run(folder: Path, env: Mapping[str, str], *arguments: str | Path, timeout: float = LIMIT) -> Ran:
    """Runs `dify-batch` in a folder and waits for its end."""
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Places:
    """Where the rows of an output are, by its files alone."""

    done: frozenset[str]
    retry: frozenset[str]
    paused: frozenset[str]
    running: frozenset[str]
    state: State


def places(output: Path) -> Places:
    """Reads the files of an output and checks what must always hold of them."""
    paths = Paths.of(output)
    index = IdIndex()
    state = read_state(paths, index)
    done = Counter(result_ids(output))
    assert [row_id for row_id, count in done.items() if count > 1] == []
    assert state.bad_lines == []
    for line in results(output):  # the apps of the simulator give back what they were given
        answer = line["outputs"].get("query", "x")
        if answer.strip("x"):  # a megabyte of x is the fault "big_event"
            assert answer == line["inputs"]["query"], "a row has another row's result"
    by_phase = {phase: {i for i, row in state.rows.items() if row.phase is phase} for phase in Phase}
    retry = set(state.retry) | by_phase[Phase.FAILED]
    running = by_phase[Phase.SENT] | by_phase[Phase.STARTED] | by_phase[Phase.HELD]
    found = Places(frozenset(done), frozenset(retry), frozenset(by_phase[Phase.PAUSED]), frozenset(running), state)
    sets = (found.done, found.retry, found.paused, found.running)
    assert sum(map(len, sets)) == len(frozenset().union(*sets)), "a row is in two places"
    assert set(index.ids(DONE)) == found.done
    return found


def results(output: Path) -> list[dict[str, Any]]:
    """The lines of the results."""
    if not output.exists():
        return []
    text = output.read_text(encoding="utf-8-sig")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def result_ids(output: Path) -> list[str]:
    return [line["id"] for line in results(output)]


def executed_more_than_once(server: Server, except_for: Iterable[str] = ()) -> dict[str, int]:
    """Rows that the server executed twice or more, apart from those that may be."""
    allowed = set(except_for)
    executions: dict[str, int] = server.state(runs=False)["executions"]
    return {row_id: count for row_id, count in executions.items() if count > 1 and row_id not in allowed}
