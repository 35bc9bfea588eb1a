"""The command as a process: exit statuses and what is on which channel. The engine is a stub here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dify_batch import cli
from dify_batch.errors import EXIT_OF_CODE, DifyBatchError, StorageError, UsageError

KEY = "app-Ab12Cd34Ef56Gh78Ij90Kl12"
CALL = ["-i", "data.csv", "-o", "results.jsonl"]

# An engine that does what its first argument says; `ends` is how a batch can end.
STUB = """
import asyncio, logging, os, sys, types
from dataclasses import dataclass
from dify_batch.errors import *
from dify_batch.summary import Stats, Summary

kind = sys.argv.pop(1)
batch = types.ModuleType("dify_batch.batch")


@dataclass
class Report:
    summary: Summary
    error: object = None
    plan: object = None
    next_steps: tuple = ()

    @property
    def exit_status(self):
        return Exit.OK if self.error is None else self.error.exit_status


class Plan:
    def as_dict(self):
        return {"rows": 2, "key": os.environ["DIFY_API_KEY"]}

    def text(self):
        return "2 rows to run"


class Control:
    def __init__(self):
        self.drained, self.calls = asyncio.Event(), []
        self.stopped = asyncio.Event()

    def drain(self, name):
        self.calls.append(name)
        self.drained.set()

    def stop(self):
        self.calls.append("stop")
        self.stopped.set()

    def abandon(self):
        self.calls.append("abandon")


async def run_batch(settings, *, control, stats):
    log = logging.getLogger("dify_batch")
    key = settings.api_key.reveal()
    if kind == "ok":
        log.warning("careful with %s", key)
        return Report(Summary(rows=2, success=2, posts=2))
    if kind == "failed":
        stats.failures["run_failed", f"node says {key}"] += 1
        error = DifyBatchError("1 row failed.", code="rows_failed", hint="Type it again.", http_status=200)
        return Report(Summary(rows=2, success=1, failed=1), error, None, ("dify-batch --retry",))
    if kind == "plan":
        return Report(Summary(rows=2), None, Plan())
    if kind == "locked":
        raise OutputLocked("results.jsonl is in use.")
    if kind == "crash":
        raise RuntimeError(f"oh {key}\\x1b[31m")
    if kind == "noise":
        async def lost():
            raise ValueError("never retrieved")
        task = asyncio.ensure_future(lost())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        import gc
        gc.collect()
        return Report(Summary(rows=1, success=1))
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "signals":
        print("ready", flush=True)
        await control.drained.wait()
        print("drained", flush=True)
        if settings.retry:
            await control.stopped.wait()
        code = "interrupted" if control.calls[0] == "SIGINT" else "terminated"
        return Report(Summary(rows=1, running=1), DifyBatchError(",".join(control.calls), code=code))
    raise AssertionError(kind)


batch.run_batch, batch.Control = run_batch, Control
sys.modules["dify_batch.batch"] = batch
for name, function in (("status", "status_report"), ("export", "export")):
    module = types.ModuleType("dify_batch." + name)

    def handler(*paths):
        shown = types.SimpleNamespace()
        shown.as_dict = lambda: {"paths": [str(path) for path in paths]}
        shown.text = lambda: " ".join(str(path) for path in paths) + "\\n"
        return shown

    setattr(module, function, handler)
    sys.modules["dify_batch." + name] = module

from dify_batch.cli import main

sys.exit(main())
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DIFY_", "PYTHON"))}
    return {**kept, "DIFY_API_KEY": KEY, "COLUMNS": "100", **more}


def run(
    folder: Path, *arguments: str, stub: str | None = None, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; with `stub` the engine is the stub and does what the word says."""
    command = [sys.executable, "-c", STUB, stub] if stub else [sys.executable, "-m", "dify_batch"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
        **({"capture_output": True} | options),
    )
    for channel in (done.stdout, done.stderr):
        assert KEY not in (channel or "")
        assert "Traceback" not in (channel or "")
        assert "\x1b" not in (channel or "")
    return done


def error_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The error object, once it is certain that the channels are those of a failure with --json."""
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    envelope = json.loads(done.stderr)
    assert set(envelope) <= {"error", "summary"}
    assert done.returncode == EXIT_OF_CODE[envelope["error"]["code"]]
    return dict(envelope["error"])


# ------------------------------------------------------------ without an engine


def test_alone_it_shows_a_short_usage_with_the_demo(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--demo" in done.stderr
    assert len(done.stderr.splitlines()) < 12


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [(["--help"], "usage: dify-batch -i"), (["-h"], "usage: dify-batch -i"), (["--version"], "dify-batch ")],
)
def test_help_and_version_are_data(tmp_path: Path, arguments: list[str], begins: str) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (
            ["--concurency", "5"],
            "usage_invalid_flag",
            "Unknown: --concurency.",
            "Did you mean --concurrency?",
        ),
        ([*CALL, "--retr"], "usage_invalid_flag", "Unknown: --retr.", "Did you mean --retry?"),
        (
            ["data.csv"],
            "usage_invalid_flag",
            '"data.csv" is no command (status, export, completion).',
            "The input is given with -i: dify-batch -i data.csv -o results.jsonl",
        ),
        (["-i"], "usage_missing_arg", "-i/--input needs a value after it.", None),
        (["--rate", "--json"], "usage_missing_arg", "--rate needs a value after it.", None),
        (["-i", "data.csv"], "usage_missing_arg", None, "dify-batch -i data.csv -o results.jsonl"),
        (["--json"], "usage_missing_arg", None, "dify-batch -i data.csv -o results.jsonl"),
        ([*CALL, "--rate", "5"], "usage_invalid_flag", None, "See `dify-batch --help` for --rate."),
        (["status"], "usage_missing_arg", "RESULTS is missing.", None),
        (["export", "a.jsonl"], "usage_missing_arg", "-o/--output is missing.", None),
        (["completion", "fish"], "usage_invalid_flag", None, None),
        ([*CALL, "--retry=yes"], "usage_invalid_flag", None, None),
        ([*CALL, "-Z"], "usage_invalid_flag", "Unknown: -Z.", None),
        ([*CALL, "--log-file", "no/folder.log"], "config_invalid_value", None, None),
    ],
)
def test_a_wrong_call(
    tmp_path: Path, arguments: list[str], code: str, message: str | None, hint: str | None
) -> None:
    error = error_of(run(tmp_path, *arguments, "--json"))
    assert error["code"] == code
    assert message in (None, error["message"])
    assert hint in (None, error["hint"])
    done = run(tmp_path, *[word for word in arguments if word != "--json"] or ["-v"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


def test_without_a_key(tmp_path: Path) -> None:
    env = environment()
    del env["DIFY_API_KEY"]
    assert error_of(run(tmp_path, *CALL, "--json", env=env))["code"] == "not_logged_in"
    done = run(tmp_path, *CALL, env=env)
    assert done.returncode == 4
    assert done.stderr.startswith("error: No API key: DIFY_API_KEY is not set.\n")


def test_a_bad_line_in_dotenv_is_told_on_both_kinds_of_channel(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"TIMEOUT=3\n{KEY}\n")
    error = error_of(run(tmp_path, *CALL, "--json"))
    assert error["message"] == ".env, line 2: not NAME=value."


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(tmp_path: Path, shell: str) -> None:
    done = run(tmp_path, "completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "max-outage" in done.stdout


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from dify_batch.cli import main; main(['--help']); "
        "print(sorted({'httpx', 'aiohttp', 'rich', 'asyncio', 'dotenv', 'shtab', 'logging'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_standard_output_is_an_error(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(tmp_path, "--help", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Standard output cannot be written: ")


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    read, written = os.pipe()
    os.close(read)
    try:
        done = run(tmp_path, "--help", capture_output=False, stdout=written, stderr=subprocess.PIPE)
    finally:
        os.close(written)
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------ with the stub


def test_success(tmp_path: Path) -> None:
    done = run(tmp_path, *CALL, stub="ok")
    assert (done.returncode, done.stdout) == (0, "")
    assert "WARNING careful with ********\n" in done.stderr
    assert "2 rows: 2 success\n" in done.stderr


def test_success_with_json(tmp_path: Path) -> None:
    done = run(tmp_path, *CALL, "--json", "-v", stub="ok")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    summary = json.loads(done.stdout)
    assert list(summary)[:4] == ["rows", "done_before", "success", "partial_success"]
    assert (summary["rows"], summary["success"]) == (2, 2)


def test_quiet_success_says_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, *CALL, "-q", stub="ok")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("more", [[], ["-q"]])
def test_failed_rows(tmp_path: Path, more: list[str]) -> None:
    done = run(tmp_path, *CALL, *more, stub="failed")
    assert (done.returncode, done.stdout) == (1, "")
    assert "1 x run_failed: node says ********" in done.stderr
    assert done.stderr.endswith("Next:\n  dify-batch --retry\nerror: 1 row failed.\nType it again.\n")


def test_failed_rows_with_json(tmp_path: Path) -> None:
    done = run(tmp_path, *CALL, "--json", stub="failed")
    error = error_of(done)
    assert error == {
        "code": "rows_failed",
        "message": "1 row failed.",
        "hint": "Type it again.",
        "http_status": 200,
    }
    assert json.loads(done.stderr)["summary"]["failed"] == 1


def test_a_plan_is_data(tmp_path: Path) -> None:
    done = run(tmp_path, *CALL, "--dry-run", stub="plan")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 rows to run\n", "")
    done = run(tmp_path, *CALL, "--dry-run", "--json", stub="plan")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"rows": 2, "key": "********"}


def test_an_error_before_the_batch_begins(tmp_path: Path) -> None:
    done = run(tmp_path, *CALL, "--json", stub="locked")
    assert error_of(done)["code"] == "output_locked"
    assert "summary" not in json.loads(done.stderr)
    assert done.returncode == 75


def test_the_unexpected_shows_no_traceback(tmp_path: Path) -> None:
    error = error_of(run(tmp_path, *CALL, "--json", stub="crash"))
    assert error["code"] == "unknown"
    assert error["message"].startswith("Unexpected error: RuntimeError: oh ********")
    assert "--log-file" in error["hint"]
    done = run(tmp_path, *CALL, "--log-file", "batch.log", stub="crash")
    assert done.returncode == 1
    assert "The traceback is in batch.log." in done.stderr
    log = (tmp_path / "batch.log").read_text()
    assert "Traceback" in log
    assert KEY not in log


def test_an_exception_in_a_forgotten_task_reaches_the_log_file_alone(tmp_path: Path) -> None:
    done = run(tmp_path, *CALL, "--json", "--log-file", "batch.log", stub="noise")
    assert (done.returncode, done.stderr) == (0, "")
    assert "never retrieved" in (tmp_path / "batch.log").read_text()


def test_interrupted_outside_the_engine(tmp_path: Path) -> None:
    assert error_of(run(tmp_path, *CALL, "--json", stub="interrupt"))["code"] == "interrupted"


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STUB, "signals", *CALL, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_drains(tmp_path: Path, number: signal.Signals, status: int) -> None:
    with started(tmp_path) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, "drained\n")
    assert re.search(rf"^{number.name}: taking no more rows, finishing 0 runs; press Ctrl-C again", err)
    assert err.endswith(f"error: {number.name}\n")


def test_signals_of_one_moment_are_one_and_a_later_one_stops(tmp_path: Path) -> None:
    with started(tmp_path, "--retry", "--json") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "drained\n"
        process.send_signal(signal.SIGINT)  # what `uv run` forwards
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.6)  # it is not over, and half a second is
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert json.loads(err)["error"] == {"code": "interrupted", "message": "SIGINT,stop"}


@pytest.mark.parametrize(
    ("arguments", "text", "paths"),
    [
        (["status", "r.jsonl"], "r.jsonl\n", ["r.jsonl"]),
        (["export", "r.jsonl", "-o", "r.csv"], "r.jsonl r.csv\n", ["r.jsonl", "r.csv"]),
    ],
)
def test_commands(tmp_path: Path, arguments: list[str], text: str, paths: list[str]) -> None:
    done = run(tmp_path, *arguments, stub="ok")
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")
    done = run(tmp_path, *arguments, "--json", stub="ok")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, {"paths": paths}, "")


# ------------------------------------------------------------ in this process


def test_every_code_ends_with_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    for code, status in EXIT_OF_CODE.items():
        assert cli.fail(DifyBatchError("m", code=code), machine=True) == status
        assert json.loads(capsys.readouterr().err) == {"error": {"code": code, "message": "m"}}


def test_the_text_of_an_error_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    cli.fail(UsageError("line 1\nline 2\x1b[2J", hint="type\tthis"), machine=False)
    assert capsys.readouterr().err == "error: line 1\nline 2\\x1b[2J\ntype\tthis\n"


def test_json_is_ascii_whatever_it_holds() -> None:
    text = cli.to_json({"file": "日本\udcff", "path": Path("a")})
    assert text.isascii()
    assert json.loads(text) == {"file": "日本\udcff", "path": "a"}


def test_a_closed_standard_output_is_no_error() -> None:
    cli.write(None, "text")


def test_output_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

        def fileno(self) -> int:
            raise OSError("no file")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(StorageError):
        cli.write(sys.stdout, "data")
