"""The log: its lines, its levels, and what it never shows."""

from __future__ import annotations

import gc
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dify_batch.cli.logs import Formatter, Logs, console_level
from dify_batch.errors import UsageError
from dify_batch.settings import Secret, Settings

KEY = "app-Ab12Cd34Ef56Gh78Ij90Kl12"
log = logging.getLogger("dify_batch.test")


def settings(**values: Any) -> Settings:
    return Settings(input="a.csv", output=Path("b.jsonl"), api_key=Secret(KEY), **values)


def record(message: str, row: str | None = None, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("dify_batch", logging.WARNING, "", 0, message, None, info)
    made.created = 1795309323.0
    if row is not None:
        made.row = row
    return made


def raised() -> Exception:
    try:
        raise RuntimeError(f"no route with {KEY}")
    except RuntimeError as error:
        return error


def test_a_line_of_text() -> None:
    assert Formatter("text").format(record("slow", "c-12")) == "2026-11-22T01:02:03Z WARNING [row c-12] slow"
    assert Formatter("text").format(record("slow")) == "2026-11-22T01:02:03Z WARNING slow"


def test_a_line_of_json() -> None:
    line = Formatter("json").format(record('say "no"\nplease', "c-12"))
    assert "\n" not in line
    assert list(json.loads(line).items()) == [
        ("time", "2026-11-22T01:02:03Z"),
        ("level", "WARNING"),
        ("row", "c-12"),
        ("message", 'say "no"\nplease'),
    ]
    assert "row" not in json.loads(Formatter("json").format(record("x")))


def test_one_record_is_one_line_without_control_characters() -> None:
    line = Formatter("text").format(record("a\r\nb\x1b[31mred\u202e", "r\n1"))
    assert line.endswith("[row r\\n1] a\\r\\nb\\x1b[31mred\\u202e")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_is_masked_and_can_be_left_out(log_format: str) -> None:
    whole = Formatter(log_format, KEY).format(record("failed", error=raised()))
    assert "Traceback" in whole
    assert "RuntimeError: no route with ********" in whole
    assert KEY not in whole
    assert "Traceback" not in Formatter(log_format, KEY, tracebacks=False).format(record("x", error=raised()))


@pytest.mark.parametrize(
    ("values", "level"),
    [
        ({}, logging.WARNING),
        ({"quiet": True}, logging.ERROR),
        ({"verbose": 1}, logging.INFO),
        ({"verbose": 2}, logging.DEBUG),
        ({"verbose": 5}, logging.DEBUG),
    ],
)
def test_levels(values: dict[str, Any], level: int) -> None:
    assert console_level(settings(**values)) == level


def test_standard_error_and_the_file_have_levels_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "batch.log"
    with Logs(settings(quiet=True, log_file=file)):
        log.debug("a detail")
        log.info("started", extra={"row": "c-1"})
        log.error("key %s", KEY)
    assert re.fullmatch(r"\S+Z ERROR key \*{8}\n", capsys.readouterr().err)
    assert re.fullmatch(r"\S+Z INFO \[row c-1\] started\n\S+Z ERROR key \*{8}\n", file.read_text())
    with Logs(settings(verbose=1, log_file=file)):
        log.debug("a detail")
    assert "DEBUG a detail" in file.read_text()
    assert file.read_text().count("started") == 1  # appended to
    assert capsys.readouterr().err == ""


def test_with_json_nothing_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Logs(settings(json=True)):
        log.error("bad")
        logging.getLogger("asyncio").error("Task exception was never retrieved")
    assert capsys.readouterr() == ("", "")


def test_records_of_other_libraries_go_to_the_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "batch.log"
    with Logs(settings(log_file=file)):
        logging.getLogger("asyncio").error("never retrieved", exc_info=raised())
    assert "never retrieved\nTraceback" in file.read_text()
    assert KEY not in file.read_text()
    assert capsys.readouterr().err == ""


def test_an_exception_goes_to_the_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "batch.log"
    with Logs(settings(log_file=file)) as logs:
        logs.trace("unexpected error", raised())
    assert "ERROR unexpected error\nTraceback" in file.read_text()
    assert capsys.readouterr().err == ""
    with Logs(settings()) as logs:
        logs.trace("unexpected error", raised())
    assert capsys.readouterr().err == ""


class FailsWhenCollected:
    def __del__(self) -> None:
        raise ValueError("in the destructor")


def test_an_exception_in_a_destructor_goes_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "batch.log"
    before = sys.unraisablehook
    with Logs(settings(log_file=file)):
        FailsWhenCollected()
        gc.collect()
    assert sys.unraisablehook is before
    assert "ValueError: in the destructor" in file.read_text()
    assert capsys.readouterr().err == ""


def test_lines_go_where_the_display_wants_them(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with Logs(settings()) as logs:
        assert logs.console is not None
        logs.console.write = lines.append
        log.warning("above the bar")
    assert [line.split(" ", 1)[1] for line in lines] == ["WARNING above the bar"]
    assert capsys.readouterr().err == ""


def fails(error: Exception) -> Callable[[str], None]:
    def write(_: str) -> None:
        raise error

    return write


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_closed_terminal_is_no_error(error: Exception) -> None:
    with Logs(settings()) as logs:
        assert logs.console is not None
        logs.console.write = fails(error)
        log.error("nobody reads this")


@pytest.mark.parametrize(("verbose", "shown"), [(0, ["c-1", "c-3"]), (1, ["c-1", "c-2", "c-3"])])
def test_failures_that_are_alike_are_one_line_unless_all_are_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verbose: int, shown: list[str]
) -> None:
    file = tmp_path / "batch.log"
    with Logs(settings(verbose=verbose, log_file=file)):
        log.warning("run_failed: limit of 200 at c-1", extra={"row": "c-1"})
        log.warning("run_failed: limit of 300 at c-2", extra={"row": "c-2"})
        log.warning("run_failed: another", extra={"row": "c-3"})
        log.warning("of no row")
        log.warning("of no row")
    text = capsys.readouterr().err
    assert re.findall(r"\[row (\S+)\]", text) == shown
    assert text.count("of no row") == 2
    assert file.read_text().count("WARNING") == 5


def test_all_is_as_before_afterwards() -> None:
    ours, root = logging.getLogger("dify_batch"), logging.getLogger()
    before = (ours.level, ours.propagate, list(ours.handlers), list(root.handlers))
    with Logs(settings()):
        assert ours.handlers
    assert (ours.level, ours.propagate, list(ours.handlers), list(root.handlers)) == before


def test_a_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    file = tmp_path / "no" / "batch.log"
    with pytest.raises(UsageError) as caught:
        Logs(settings(log_file=file))
    assert caught.value.message == f'--log-file: "{file}" cannot be opened: No such file or directory'
