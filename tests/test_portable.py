"""Nothing dies at import or start where POSIX is not; and the suite is run on each kind of system."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dify_batch.cli.signals import handled
from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import LIMIT, environment, places, until, write_csv
from tests.support.portable import no_signals

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "tests.support.portable"]
PATHS = {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def loop_without_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("add_signal_handler", "remove_signal_handler"):
        monkeypatch.setattr(asyncio.SelectorEventLoop, name, no_signals)


def call(folder: Path, *arguments: str, base_url: str = "") -> subprocess.CompletedProcess[str]:
    env = environment(base_url, **PATHS)
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def test_no_module_needs_posix_to_be_imported(tmp_path: Path) -> None:
    code = "from tests.support.portable import *; take_away(); print(import_all())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment("", **PATHS),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 200


def test_a_batch_needs_nothing_of_posix(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 3)
    for _ in range(2):
        done = call(tmp_path, "--demo", "-i", "data.csv", "-o", "results.jsonl", "--json", "--log-file", "batch.log")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["rows"] == 3
    status = call(tmp_path, "status", "results.jsonl")
    assert (status.returncode, status.stderr) == (0, "")
    assert len(places(tmp_path / "results.jsonl").done) == 3


@pytest.mark.skipif(os.name != "posix", reason="there a signal goes to a whole console")
def test_ctrl_c_drains_without_signals_in_the_event_loop(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 20)
    flags = ("-i", "data.csv", "-o", "results.jsonl", "--json", "--concurrency", "4")
    with SimulatorProcess(Config(latency=1.5, workers=None, linger_after_finish=0.2)) as server:
        env = environment(server.base_url, **PATHS)
        process = subprocess.Popen([*COMMAND, *flags], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        until(lambda: server.state(runs=False)["running"] == 4, "four runs at once")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert json.loads(err)["summary"]["success"] == 4


async def test_whoever_listens_to_signals_does_without_the_event_loop_s(loop_without_signals: None) -> None:
    heard: list[Any] = []
    before = signal.getsignal(signal.SIGTERM)
    with handled(("SIGTERM", "SIGOFNOSYSTEM"), heard.append):
        signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            while not heard:
                await asyncio.sleep(0)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before


def test_one_place_alone_asks_the_event_loop_for_signals() -> None:
    """Where it has none, that place does without; the simulator stands apart and has its own."""
    package = ROOT / "dify_batch"
    files = [path for path in package.rglob("*.py") if "add_signal_handler" in path.read_text(encoding="utf-8")]
    names = {path.relative_to(package).as_posix() for path in files}
    assert names == {"cli/signals.py", "simulator/__main__.py"}


@pytest.mark.skipif(os.name != "posix", reason="a signal that Windows has not")
def test_the_simulator_ends_in_order_without_them(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from tests.support.portable import no_signals; "
        "asyncio.SelectorEventLoop.add_signal_handler = no_signals; "
        "from dify_batch.simulator.__main__ import main; sys.exit(main([]))"
    )
    env = environment("", **PATHS)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "base_url" in json.loads(process.stdout.readline())
    process.terminate()
    assert process.wait(LIMIT) == 0
    process.stdout.close()


def test_the_suite_is_run_on_each_kind_of_system() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    systems = {"ubuntu-latest", "windows-latest", "macos-latest"}
    found = {job["runs-on"] for job in jobs.values()} | {
        system for job in jobs.values() for system in job["strategy"]["matrix"].get("system", ())
    }
    assert found >= systems
    run = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    assert "uv run pytest" in run
