"""The command as a process: exit statuses and what is on which channel. The engine is a stub here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dify_batch.cli import channels, signals
from dify_batch.cli.arguments import COMMANDS
from dify_batch.errors import EXIT_OF_CODE, DifyBatchError, StorageError, UsageError
from tests.support.cli_process import CALL, KEY, STUB, environment, error_of, run

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
            "unknown: --concurency",
            "did you mean --concurrency?",
        ),
        ([*CALL, "--retr"], "usage_invalid_flag", "unknown: --retr", "did you mean --retry?"),
        (
            ["data.csv"],
            "usage_invalid_flag",
            f'"data.csv" is no command ({", ".join(COMMANDS)})',
            "the input is given with -i: dify-batch -i data.csv -o results.jsonl",
        ),
        (["-i"], "usage_missing_arg", "-i/--input needs a value after it", None),
        (["--rate", "--json"], "usage_missing_arg", "--rate needs a value after it", None),
        (["-i", "data.csv"], "usage_missing_arg", None, "dify-batch -i data.csv -o results.jsonl"),
        (["--json"], "usage_missing_arg", None, "dify-batch -i data.csv -o results.jsonl"),
        ([*CALL, "--rate", "5"], "usage_invalid_flag", None, "see `dify-batch --help` for --rate"),
        (["status"], "usage_missing_arg", "RESULTS is missing", None),
        (
            ["export", "a.jsonl"],
            "usage_missing_arg",
            "nothing to write",
            "give a table: -o table.csv, or a folder for the files: --files files",
        ),
        (["completion", "fish"], "usage_invalid_flag", None, None),
        ([*CALL, "--retry=yes"], "usage_invalid_flag", None, None),
        ([*CALL, "-Z"], "usage_invalid_flag", "unknown: -Z", None),
        ([*CALL, "--foo"], "usage_invalid_flag", "unknown: --foo", "see `dify-batch --help`"),
        ([*CALL, "--retries", "3"], "usage_invalid_flag", "unknown: --retries", "did you mean --max-retries?"),
        (
            ["status", "a.jsonl", "-q"],
            "usage_invalid_flag",
            "-q is an option of the batch; this command does not have it",
            None,
        ),
        (["-i", "data.csv", "-o", "/dev/null"], "usage_invalid_flag", None, "give a file, such as -o results.jsonl"),
        ([*CALL, "--log-file", "no/folder.log"], "config_invalid_value", None, None),
    ],
)
def test_a_wrong_call(tmp_path: Path, arguments: list[str], code: str, message: str | None, hint: str | None) -> None:
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
    assert done.stderr.startswith("error: no API key: DIFY_API_KEY is not set\n")


def test_a_bad_line_in_dotenv_is_told_on_both_kinds_of_channel(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"TIMEOUT=3\n{KEY}\n")
    error = error_of(run(tmp_path, *CALL, "--json"))
    assert error["message"] == ".env, line 2: not NAME=value"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(tmp_path: Path, shell: str) -> None:
    done = run(tmp_path, "completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "max-outage" in done.stdout


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from dify_batch.cli.main import main; main(['--help']); "
        "heavy = {'httpx', 'aiohttp', 'rich', 'asyncio', 'dotenv', 'shtab', 'logging'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_standard_output_is_an_error(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(tmp_path, "--help", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output cannot be written: ")


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
    assert done.stderr.endswith("Next:\n  dify-batch --retry\nerror: 1 row failed\ntype it again\n")


def test_failed_rows_with_json(tmp_path: Path) -> None:
    done = run(tmp_path, *CALL, "--json", stub="failed")
    error = error_of(done)
    assert error == {
        "code": "rows_failed",
        "message": "1 row failed",
        "hint": "type it again",
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
    assert error["message"].startswith("unexpected error: RuntimeError: oh ********")
    assert "--log-file" in error["hint"]
    done = run(tmp_path, *CALL, "--log-file", "batch.log", stub="crash")
    assert done.returncode == 1
    assert "the traceback is in batch.log" in done.stderr
    log = (tmp_path / "batch.log").read_text()
    assert "Traceback" in log
    assert KEY not in log


def test_an_exception_in_a_forgotten_task_reaches_the_log_file_alone(tmp_path: Path) -> None:
    done = run(tmp_path, *CALL, "--json", "--log-file", "batch.log", stub="forgotten")
    assert (done.returncode, done.stderr) == (0, "")
    assert "never retrieved" in (tmp_path / "batch.log").read_text()


def test_interrupted_outside_the_engine(tmp_path: Path) -> None:
    assert error_of(run(tmp_path, *CALL, "--json", stub="interrupt"))["code"] == "interrupted"


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, STUB, "signals", *CALL, *arguments],
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
    assert re.search(rf"^{number.name}: finishing 0 runs; press Ctrl-C again", err)
    assert err.endswith(f"error: {number.name}\n")


def test_a_second_signal_stops_the_runs(tmp_path: Path) -> None:
    with started(tmp_path, "--retry", "--json") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "drained\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2 * signals.Escalation.ONE_MOMENT)  # it goes on, and the moment is over
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


def test_signals_of_one_moment_are_one() -> None:
    escalation = signals.Escalation()
    moments = [10.0, 10.01, 10.49, 10.5, 10.9, 30.0, 31.0]
    assert [escalation.received(now) for now in moments] == [1, None, None, 2, None, 3, 4]


def test_every_code_ends_with_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    for code, status in EXIT_OF_CODE.items():
        assert channels.fail(DifyBatchError("m", code=code), machine=True) == status
        assert json.loads(capsys.readouterr().err) == {"error": {"code": code, "message": "m"}}


def test_the_text_of_an_error_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    channels.fail(UsageError("line 1\nline 2\x1b[2J", hint="type\tthis"), machine=False)
    assert capsys.readouterr().err == "error: line 1\nline 2\\x1b[2J\ntype\tthis\n"


def test_json_is_ascii_whatever_it_holds() -> None:
    text = channels.to_json({"file": "日本\udcff", "path": Path("a")})
    assert text.isascii()
    assert json.loads(text) == {"file": "日本\udcff", "path": "a"}


def test_a_closed_standard_output_is_no_error() -> None:
    channels.write(None, "text")


def test_output_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

        def fileno(self) -> int:
            raise OSError("no file")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(StorageError):
        channels.write(sys.stdout, "data")
