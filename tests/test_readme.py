"""Each command of the README is typed as it stands there, in an empty folder; and what it shows is true."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.simulator import Config, SimulatorProcess
from tests.support import harness

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = shutil.which("sh") or "sh"


def blocks(kind: str, text: str = README) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [body for found, body in every if found == kind]


def commands() -> list[str]:
    return [line for block in blocks("console") for line in block.splitlines()]


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(Config(latency=0.02)) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a person has after `git clone`, with `dify-batch` and a `uv` that runs it on the PATH."""
    where = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", where / "examples")
    shutil.copy(ROOT / ".env.example", where)
    harness.write_csv(where / "data.csv", 6)
    own = f"{shlex.quote(sys.executable)} -m dify_batch"
    for name, text in (
        ("dify-batch", f'exec {own} "$@"'),
        ("uv", f'[ "$1 $2" = "run dify-batch" ] || exit 99\nshift 2\nexec {own} "$@"'),
    ):
        path = where / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return where


def type_in(line: str, folder: Path, server: SimulatorProcess, **more: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    env = harness.environment(server.base_url, key="app-demo", PATH=path, PYTHONPATH=str(ROOT), **more)
    return subprocess.run(
        [SHELL, "-c", line],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=harness.LIMIT,
        stdin=subprocess.DEVNULL,
    )


def test_the_second_command_is_the_test_command() -> None:
    assert [line.split("#")[0].strip() for line in commands()[:2]][1] == "uv run pytest"


def test_every_command_does_what_is_said(server: SimulatorProcess, folder: Path) -> None:
    """All in their order. One row fails when the rest is run, which is what the part on failed rows is about."""
    server.faults({"rows": {"r5": ["failed"]}})
    demo, tests, *others = commands()
    assert tests.startswith("uv run pytest")
    assert type_in(demo, folder, server).returncode == 0
    for path in folder.glob("results.jsonl*"):
        path.unlink()
    statuses = {}
    for line in others:
        done = type_in(line, folder, server)
        assert "Traceback" not in done.stderr
        statuses[line.split("#")[0].strip()] = done.returncode
    rest = "dify-batch -i data.csv -o results.jsonl"
    assert {line: status for line, status in statuses.items() if status} == {rest: 1}
    assert list(statuses).index(f"{rest} --limit 3") < list(statuses).index(rest)
    assert len(harness.places(folder / "results.jsonl").done) == 6
    executions = server.state(runs=False)["executions"]
    assert executions == {f"r{number}": 2 if number == 5 else 1 for number in range(1, 7)}
    for name in ("table.csv", "report.html", ".env"):
        assert (folder / name).exists()


def test_commands_within_the_text_work_too(server: SimulatorProcess, folder: Path) -> None:
    inline = re.findall(r"(?<!`)`(dify-batch [^`\n]+)`(?!`)", README)
    assert inline
    for line in inline:
        assert type_in(line, folder, server).returncode == 0, line


def test_the_result_line_has_the_keys_that_the_command_writes(server: SimulatorProcess, folder: Path) -> None:
    (csv_in,) = blocks("csv")
    (line,) = blocks("json")
    (folder / "one.csv").write_text(csv_in, encoding="utf-8")
    done = type_in("dify-batch -i one.csv -o one.jsonl --no-bom", folder, server)
    assert done.returncode == 0, done.stderr
    shown, written = json.loads(line), json.loads((folder / "one.jsonl").read_text(encoding="utf-8"))
    assert list(shown) == list(written)
    for key in ("id", "status", "inputs", "outputs", "retry_count", "total_tokens", "total_steps"):
        assert shown[key] == written[key], key


def test_the_summary_is_as_printed(server: SimulatorProcess, folder: Path) -> None:
    (shown,) = blocks("")
    done = type_in("dify-batch --demo -i examples/questions.csv -o summary.jsonl", folder, server)
    without_time = re.compile(r"\d+(\.\d+)? m?s$|\d+(\.\d+)? s(?= and)", re.MULTILINE)
    printed = without_time.sub("TIME", done.stderr).replace("summary.jsonl", "results.jsonl")
    assert printed == without_time.sub("TIME", shown)


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 130
