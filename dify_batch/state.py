"""What the files say of each row: the journal folded, the results scanned, `.retry` read. Reads only.

Which file is believed: a row in the results is done, whatever else says; for any other row the journal tells;
`.retry` adds the ids that a person wrote into it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from dify_batch import formats
from dify_batch.errors import StorageError
from dify_batch.ids import DONE, OPEN, PAUSED, RETRY, IdIndex
from dify_batch.outcomes import RunRef


class Phase(Enum):
    """Where a row stands that is not done."""

    FREE = "free"  # was sent before, and certainly has no run: like an untouched row, but its POSTs count
    SENT = "sent"  # an intent without an answer: looked up before anything else
    STARTED = "started"  # a run is known, its end is not
    PAUSED = "paused"  # a run waits for a person
    HELD = "held"  # its result lies in the journal until its turn comes (--keep-order)
    FAILED = "failed"  # ended without a result: in `.retry`


@dataclass(slots=True)
class RowState:
    """What the journal knows of one row. Times are seconds since 1970; `posts` counts the POSTs that left."""

    phase: Phase = Phase.FREE
    posts: int = 0
    user: str = ""
    mode: str = "streaming"
    sent_at: float = 0.0
    run_id: str | None = None
    task_id: str | None = None
    started_at: float = 0.0
    kind: str = ""
    code: str = ""
    message: str = ""
    forms: tuple[dict[str, Any], ...] = ()
    line: dict[str, Any] | None = None
    flushed: bool = False  # the failure has reached `.retry`; if it is not there any more, a person took it out

    @property
    def ref(self) -> RunRef | None:
        return RunRef(self.run_id, self.task_id) if self.run_id else None

    def apply(self, record: Mapping[str, Any]) -> None:
        """Folds one journal record into the state. Unknown events change nothing: a newer version may write them."""
        match record["event"]:
            case "sent":
                self.phase = Phase.SENT
                self.posts += 1
                self.user = str(record.get("user", ""))
                self.mode = str(record.get("mode", "streaming"))
                self.sent_at = _time(record)
                self.run_id = self.task_id = None
            case "started":
                self.phase = Phase.STARTED
                self.run_id = str(record["run"])
                self.task_id = record.get("task")
                self.started_at = _time(record)
                self.kind = self.code = self.message = ""
            case "unsent":
                self.phase = self._at_rest()
                self.posts = max(0, self.posts - 1)
            case "refused" | "absent":
                self.phase = self._at_rest()
            case "paused":
                self.phase = Phase.PAUSED
                self.run_id = str(record["run"])
                self.task_id = record.get("task")
                self.forms = tuple(record.get("forms") or ())
                self.started_at = self.started_at or _time(record)
            case "failed":
                self.phase = Phase.FAILED
                self.kind = str(record.get("kind", "failed"))
                self.code = str(record.get("code", ""))
                self.message = str(record.get("message", ""))
                self.run_id = record.get("run") or self.run_id
                self.flushed = False
            case "held":
                self.phase = Phase.HELD
                self.line = record.get("line")
            case "done":
                # Only met where the result line is missing: someone cut the results. The run is known, so it can be
                # fetched again.
                self.run_id = record.get("run") or self.run_id
                self.phase = Phase.STARTED if self.run_id else Phase.FREE
                self.started_at = self.started_at or _time(record)

    def _at_rest(self) -> Phase:
        """Without a run: a row that is replayed is the failed row that it was."""
        return Phase.FAILED if self.kind else Phase.FREE


def _time(record: Mapping[str, Any]) -> float:
    try:
        return formats.from_utc(str(record.get("at", "")))
    except ValueError:
        return 0.0


@dataclass(slots=True)
class State:
    """All that the files of one output say.

    `rows`: the rows that the journal knows and that are not done. `retry`: the ids of `.retry` in its order.
    `missing_results`: rows that the journal calls done and the results do not have.
    """

    index: IdIndex
    rows: dict[str, RowState] = field(default_factory=dict)
    retry: dict[str, None] = field(default_factory=dict)
    results_size: int = 0
    journal_size: int = 0
    done: int = 0
    missing_results: int = 0
    bad_lines: list[str] = field(default_factory=list)
    last_batch: dict[str, Any] | None = None

    def failed_ids(self) -> Iterator[str]:
        return (row_id for row_id, row in self.rows.items() if row.phase is Phase.FAILED)


def read_state(paths: formats.Paths, index: IdIndex | None = None) -> State:
    """Reads the four files of an output. Nothing is written, torn last lines are passed over.

    Raises:
        StorageError: a file is there and cannot be read, or `.retry` is not UTF-8.
    """
    state = State(index if index is not None else IdIndex())
    _read_results(paths.results, state)
    _read_journal(paths.journal, state)
    _read_retry(paths.retry, state)
    for row_id, row in state.rows.items():
        if row.phase is Phase.PAUSED:
            state.index.add(row_id, OPEN | PAUSED)
        elif row.phase in (Phase.SENT, Phase.STARTED, Phase.HELD):
            state.index.add(row_id, OPEN)
        elif row.phase is Phase.FAILED:
            state.index.add(row_id, RETRY)
    for row_id in list(state.retry):
        if state.index.has(row_id, DONE | OPEN):
            del state.retry[row_id]  # written before the row went on; the journal and the results know better
        else:
            state.index.add(row_id, RETRY)
    return state


def lines_of(path: Path) -> Iterator[tuple[bytes, int]]:
    """The whole lines of a file (without their newline) and the offset of each one's end.

    A last line without a newline is given too if it is whole JSON: only its newline was torn off.
    """
    try:
        with path.open("rb", buffering=1 << 20) as file:
            offset = 0
            for raw in file:
                if offset == 0:
                    offset = len(raw)
                    raw = raw.removeprefix(formats.BOM)
                else:
                    offset += len(raw)
                if raw.endswith(b"\n"):
                    yield raw[:-1], offset
                elif formats.parse_any(raw):
                    yield raw, offset
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}", hint=f"look at its permissions: ls -l '{path}'"
        ) from error


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _read_results(path: Path, state: State) -> None:
    index = state.index
    number = 0
    for number, (line, _) in enumerate(lines_of(path), 1):
        row_id = formats.result_id(line)
        if row_id is not None:
            if not index.has(row_id, DONE):
                index.add(row_id, DONE)
                state.done += 1
            else:
                state.bad_lines.append(f"{path}, line {number}: the id {row_id} stands twice")
        elif line.strip():
            state.bad_lines.append(f"{path}, line {number}: not a result")
        if len(state.bad_lines) > 20:
            del state.bad_lines[20:]
    state.results_size = _size(path)


def _read_journal(path: Path, state: State) -> None:
    rows, index = state.rows, state.index
    unflushed: list[RowState] = []
    for line, _ in lines_of(path):
        head = formats.journal_head(line)
        if head is not None:
            row_id = head[1].decode("utf-8", "replace")
            if index.has(row_id, DONE):
                continue  # the results say all that matters of it
        record = formats.parse_journal_line(line)
        if record is None:
            continue
        event = record["event"]
        if event == "batch":
            state.last_batch = record
        elif event == "retry_file":
            for row in unflushed:
                row.flushed = True
            unflushed.clear()
        elif isinstance(row_id := record.get("id"), str) and not index.has(row_id, DONE):
            row = rows.get(row_id)
            if row is None:
                row = rows[row_id] = RowState()
            try:
                row.apply(record)
            except (KeyError, TypeError, ValueError):
                continue
            if event == "done":
                state.missing_results += 1
            elif event == "failed":
                unflushed.append(row)
    state.journal_size = _size(path)


def _read_retry(path: Path, state: State) -> None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}", hint=f"look at its permissions: ls -l '{path}'"
        ) from error
    try:
        ids = formats.parse_retry(data)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise StorageError(
            f"{path}, line {line}: not UTF-8, so its ids cannot be told",
            hint="save it as UTF-8, one id a line",
        ) from error
    state.retry = dict.fromkeys(ids)


def claimed_runs(paths: formats.Paths, users: frozenset[str]) -> dict[str, set[str]]:
    """The runs that rows already claim, by the user they were sent with: {user: {run id, ...}}.

    A second pass over the journal, made only where a look-up needs it (open intents of a killed batch).
    """
    user_of: dict[str, str] = {}
    claimed: dict[str, set[str]] = {user: set() for user in users}
    for line, _ in lines_of(paths.journal):
        record = formats.parse_journal_line(line)
        if record is None or not isinstance(row_id := record.get("id"), str):
            continue
        if record["event"] == "sent":
            user_of[row_id] = str(record.get("user", ""))
            if user_of[row_id] not in users:
                del user_of[row_id]
        elif (run := record.get("run")) and row_id in user_of:
            claimed[user_of[row_id]].add(str(run))
    return claimed
