"""An input that changes while it is read: each row that is sent is the row that was checked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dify_batch.errors import InputChanged
from dify_batch.ids import INVALID, IdIndex
from dify_batch.input.check import check, valid_rows
from dify_batch.input.form import Form
from dify_batch.input.records import Problem
from dify_batch.input.rows import RowSource
from tests.support.inputs import ECHO, recorded_form

FILES = recorded_form("19b-parameters-W5")


class Reading:
    """A file that has been checked, and is read to be sent."""

    def __init__(self, path: Path, form: Form, *, skip_invalid: bool = False) -> None:
        self.source = RowSource.open(str(path))
        self.index = IdIndex()
        self.bound = form.bind(
            self.source.header,
            id_column=self.source.id_column,
            base_dir=self.source.base_dir,
            typed=self.source.typed,
        )
        check(self.source, self.bound, self.index).raise_if_any(skip_invalid=skip_invalid)

    def sent(self) -> Iterator[str]:
        for item in valid_rows(self.source, self.bound, self.index):
            yield f"!{item.id}" if isinstance(item, Problem) else item[0].id


Read = Callable[..., Reading]


@pytest.fixture
def read() -> Iterator[Read]:
    """Opens and checks a file, and closes it when the test has ended."""
    with contextlib.ExitStack() as opened:

        def open_(path: Path, form: Form, **more: bool) -> Reading:
            reading = Reading(path, form, **more)
            opened.callback(reading.source.close)
            return reading

        yield open_


def write(path: Path, rows: int, *, change: dict[int, str] | None = None) -> None:
    """In place, as an editor or a program that appends does: the inode stays."""
    lines = [f"{number},question {number}\n" for number in range(1, rows + 1)]
    for number, text in (change or {}).items():
        lines[number - 1] = text
    with path.open("r+" if path.exists() else "w") as file:
        file.write("id,query\n" + "".join(lines))
        file.truncate()


def take(reading: Reading) -> list[str]:
    """What is sent until it is noticed."""
    taken: list[str] = []
    with pytest.raises(InputChanged) as caught:
        taken.extend(reading.sent())  # what came before the error is in it
    assert caught.value.exit_status == 75
    return taken


@pytest.mark.parametrize(
    "change",
    [
        {50_000: "50000,another question\n"},
        {50_000: "x,question 50000\n"},
        {50_000: ""},
        {50_000: "50000,question 50000\nnew,question\n"},
        {50_000: "50000,\n"},
        {50_000: "50000,a,b,c\n"},
    ],
    ids=["other cell", "other id", "gone", "new before the next", "not valid any more", "too long"],
)
def test_a_row_that_changes_is_not_sent(read: Read, tmp_path: Path, change: dict[int, str]) -> None:
    path = tmp_path / "rows.csv"
    write(path, 60_000)
    reading = read(path, ECHO)
    write(path, 60_000, change=change)
    taken = take(reading)
    assert 10_000 < len(taken) < 50_000  # what stands in blocks of the file before it
    assert taken == [str(number) for number in range(1, len(taken) + 1)]


def test_a_row_that_changes_after_some_were_sent(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, 60_000)
    reading = read(path, ECHO)
    rows = reading.sent()
    assert next(rows) == "1"
    write(path, 60_000, change={59_999: "59999,another question\n"})
    taken = ["1"]
    with pytest.raises(InputChanged, match=r"rows.csv was changed while the batch ran, .* from line \d+ on"):
        taken.extend(rows)
    assert taken == [str(number) for number in range(1, len(taken) + 1)]
    assert 10_000 < len(taken) < 59_999


def test_rows_that_are_appended_are_not_sent(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, 3)
    reading = read(path, ECHO)
    write(path, 5)
    assert take(reading) == ["1", "2", "3"]


def test_rows_that_are_cut_off_are_told(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, 5)
    reading = read(path, ECHO)
    write(path, 3)
    assert take(reading) == []


def test_a_half_written_last_line_is_not_sent(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,query\n1,a\n2,what is the capi")
    reading = read(path, ECHO)
    rows = reading.sent()
    assert next(rows) == "1"
    with path.open("a") as file:
        file.write("tal of France?\n3,b\n")
    with pytest.raises(InputChanged, match="is not what was checked from line 3 on"):
        list(rows)


def test_a_last_line_without_its_end_is_sent_where_nobody_writes(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,query\n1,a\n2,b")
    assert list(read(path, ECHO).sent()) == ["1", "2"]


def test_what_stands_above_the_appended_rows_is_sent_however_long_it_goes_on(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, 60_000)
    reading = read(path, ECHO)
    taken: list[str] = []

    def writing() -> None:
        with path.open("a") as file:
            for row_id in reading.sent():
                taken.append(row_id)
                file.write(f"late-{row_id},question\n")

    with pytest.raises(InputChanged):
        writing()
    assert taken == [str(number) for number in range(1, 60_001)]


def test_json_lines_too(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1, "query": "a"}\n{"id": 2, "query": "b"}\n')
    reading = read(path, ECHO)
    path.write_text('{"id": 1, "query": "a"}\n{"id": 2, "query": "c"}\n')
    assert take(reading) == []


def test_a_file_that_is_replaced_is_read_to_its_end_as_it_was(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, 3)
    reading = read(path, ECHO)
    write(tmp_path / "new.csv", 9)
    os.replace(tmp_path / "new.csv", path)
    assert take(reading) == ["1", "2", "3"]


def test_a_named_file_that_goes_fails_its_row_alone(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,doc\n1,a.txt\n2,b.txt\n3,a.txt\n")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x")
    reading = read(path, FILES)
    (tmp_path / "b.txt").unlink()
    assert list(reading.sent()) == ["1", "!2", "3"]
    assert reading.index.has("2", INVALID)


def test_a_row_that_did_not_pass_is_not_sent_though_it_would_now(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,doc\n1,a.txt\n2,b.txt\n3,a.txt\n")
    (tmp_path / "a.txt").write_text("x")
    reading = read(path, FILES, skip_invalid=True)
    (tmp_path / "b.txt").write_text("x")
    assert list(reading.sent()) == ["1", "!2", "3"]
