"""The page for programs and agents: its loops do what it says, and `dify-batch help agents` prints it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dify_batch.simulator import SimulatorProcess
from tests.support import harness

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "manual" / "agents.md").read_text(encoding="utf-8")
SHELL = shutil.which("sh") or "sh"
LOOPS = {kind: re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) for kind in ("sh", "python")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    harness.write_csv(tmp_path / "data.csv", 4)
    command(tmp_path, f'exec {shlex.quote(sys.executable)} -m dify_batch "$@"')
    return tmp_path


def command(folder: Path, body: str) -> None:
    """What `dify-batch` is; each call leaves its arguments in `calls`."""
    path = folder / "bin" / "dify-batch"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(folder / "calls"))}\n{body}\n')
    path.chmod(0o755)


def loop(kind: str, folder: Path, server: SimulatorProcess, key: str = "app-echo") -> int:
    (script,) = LOOPS[kind]
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    env = harness.environment(server.base_url, key=key, PATH=path, PYTHONPATH=str(ROOT), WAIT="0")
    done = subprocess.run(
        [SHELL, "-c", script] if kind == "sh" else [sys.executable, "-c", script],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=harness.LIMIT,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def ends_with(*codes: tuple[str, int]) -> str:
    """The body of a command that fails so, call by call, and succeeds after that."""
    cases = [
        f"{number}) echo {shlex.quote(json.dumps({'error': {'code': code, 'message': 'said'}}))} >&2; exit {status};;"
        for number, (code, status) in enumerate(codes, 1)
    ]
    return 'n=$(grep -c . "$(dirname "$0")/../calls")\ncase $n in\n' + "\n".join(cases) + "\nesac\necho '{\"rows\": 4}'"


@pytest.mark.parametrize("kind", LOOPS)
def test_failed_rows_are_run_again_once(kind: str, server: SimulatorProcess, folder: Path) -> None:
    server.faults({"rows": {"r2": ["failed"]}})
    assert loop(kind, folder, server) == 0
    assert [line.endswith("--retry") for line in calls(folder)] == [False, True]
    assert len(harness.places(folder / "results.jsonl").done) == 4
    assert server.state(runs=False)["executions"] == {"r1": 1, "r2": 2, "r3": 1, "r4": 1}


@pytest.mark.parametrize("kind", LOOPS)
def test_what_still_fails_ends_the_loop(kind: str, server: SimulatorProcess, folder: Path) -> None:
    server.faults({"rows": {"r2": ["failed"] * 9}})
    assert loop(kind, folder, server) == 1
    assert len(calls(folder)) == 2


@pytest.mark.parametrize("kind", LOOPS)
def test_what_wants_waiting_is_repeated(kind: str, server: SimulatorProcess, folder: Path) -> None:
    codes = [("not_finished", 75), ("output_locked", 75), ("rate_limited", 7), ("network_connection", 1)]
    command(folder, ends_with(*codes, ("rows_failed", 1), ("server_5xx", 1)))
    assert loop(kind, folder, server) == 0
    assert [line.endswith("--retry") for line in calls(folder)] == [False] * 5 + [True] * 2


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize(
    ("code", "status"),
    [("budget_reached", 75), ("auth_expired", 4), ("invalid_rows", 2), ("batch_stopped", 1), ("interrupted", 130)],
)
def test_what_wants_a_person_is_not_repeated(
    code: str, status: int, kind: str, server: SimulatorProcess, folder: Path
) -> None:
    command(folder, ends_with((code, status)))
    assert loop(kind, folder, server) == status
    assert len(calls(folder)) == 1


@pytest.mark.parametrize("kind", LOOPS)
def test_a_wrong_key_is_asked_for_once(kind: str, server: SimulatorProcess, folder: Path) -> None:
    assert loop(kind, folder, server, key="app-nobody") == 4
    assert len(calls(folder)) == 1


def test_help_agents_prints_the_page(tmp_path: Path, server: SimulatorProcess) -> None:
    done = harness.run(tmp_path, harness.environment(server.base_url), "help", "agents")
    assert (done.status, done.out, done.err) == (0, PAGE, "")
