"""What the files say of each row: the journal folded, the results scanned, `.retry` read. Reads only.

Which file is believed: a row in the results is done, whatever else says; for any other row the journal tells;
`.retry` adds the ids that a person wrote into it.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dify_batch.errors import StorageError
from dify_batch.ids import DONE, OPEN, PAUSED, RETRY, IdIndex, parse_ids
from dify_batch.ledger import formats
from dify_batch.ledger.answered import Answered, mark
from dify_batch.ledger.appendfile import whole_length
from dify_batch.ledger.identity import Identity
from dify_batch.ledger.records import journal_record, paused_row
from dify_batch.ledger.retryfile import Stamp, stamp_of, torn_id
from dify_batch.ledger.rowstate import Phase as Phase
from dify_batch.ledger.rowstate import RowState as RowState
from dify_batch.ledger.rowstate import event_time

# Start delays older than so many starts say nothing of the queue of today.
DELAYS_KEPT = 200


@dataclass(slots=True)
class State:
    """All that the files of one output say.

    `rows`: the rows that the journal (or `.paused`) knows and that are not done. `retry`: the ids of `.retry` in its
    order; `retry_stamp`: which state of the file that was; `retry_seen`: all that stood in it; `retry_stale`: it has
    ids that do not belong there any more. `missing_results`: rows that the journal calls done and the results do not
    have. `bad_lines`: what is wrong with the results; `strange`: those of them that cannot be read as a result of ours,
    so that it is not known what is done. `versions`: how many results each version of the workflow gave. `asked`: ids
    in `.retry` that have a result, as a person put them there to have them run again. `before`: what earlier
    invocations addressed; `sources`: the inputs that they read; `batches`: their names. `journal_size`: bytes of the
    journal, `journal_spare`: those of lines that the results have made superfluous. `last_limit`: where
    --concurrency auto stood at the end of the last invocation that used it, and in which mode.
    """

    index: IdIndex
    rows: dict[str, RowState] = field(default_factory=dict)
    retry: dict[str, None] = field(default_factory=dict)
    retry_stamp: Stamp | None = None
    retry_seen: frozenset[str] = frozenset()
    retry_stale: bool = False
    results_size: int = 0
    done: int = 0
    missing_results: int = 0
    bad_lines: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    answered: Answered = field(default_factory=Answered)
    asked: set[str] = field(default_factory=set)
    before: list[Identity] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)
    batches: set[str] = field(default_factory=set)
    last_batch: dict[str, Any] | None = None
    last_limit: tuple[int, str] | None = None
    journal_size: int = 0
    journal_spare: int = 0

    def drop(self, superseded: Mapping[str, int]) -> None:
        """The lines of these rows ({id: POSTs of before}) have gone from the results: they are to be run again."""
        for row_id, posts in superseded.items():
            self.index.remove(row_id, DONE)
            self.rows[row_id] = RowState(posts=posts)
            self.asked.discard(row_id)
        self.done -= len(superseded)

    def failed_ids(self) -> Iterator[str]:
        return (row_id for row_id, row in self.rows.items() if row.phase is Phase.FAILED)


def read_state(paths: formats.Paths, index: IdIndex | None = None) -> State:
    """Reads the four files of an output. Nothing is written, torn last lines are passed over.

    Raises:
        StorageError: a file is there and cannot be read, or `.retry` is not UTF-8.
    """
    state = State(index if index is not None else IdIndex())
    _read_results(paths.results, state)
    raw_retry = _retry_bytes(paths.retry, state)
    # A torn last id may end within a character; it is parted off once the journal tells the rows that failed.
    there = (line.decode("utf-8", "replace") for line in raw_retry.removeprefix(formats.BOM).split(b"\n"))
    state.asked = {row_id for line in there if state.index.has(row_id := line.strip(" \t\r\ufeff"), DONE)}
    _read_journal(paths.journal, state)
    _read_paused(paths.paused, state)
    _read_retry(paths.retry, raw_retry, state)
    for row_id, row in state.rows.items():
        state.missing_results += row.cut
        if row.phase is Phase.PAUSED:
            state.index.add(row_id, OPEN | PAUSED)
        elif row.phase in (Phase.SENT, Phase.STARTED, Phase.HELD):
            state.index.add(row_id, OPEN)
        elif row.phase is Phase.FAILED:
            state.index.add(row_id, RETRY)
    for row_id in list(state.retry):
        if row_id in state.asked:
            state.index.add(row_id, RETRY)
        elif state.index.has(row_id, DONE | OPEN):
            del state.retry[row_id]  # written before the row went on; the journal and the results know better
            state.retry_stale = True
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
    index, add, glance, first = state.index, state.answered.add, formats.glance, state.index.first
    versions: dict[bytes, int] = {}
    version: bytes | None = None  # that of the line before: most are of the same
    number = end = 0
    for number, (line, end) in enumerate(lines_of(path), 1):  # noqa: B007 - both are needed after it
        row_id, inputs = glance(line)
        if row_id is not None:
            if first(row_id, DONE):
                if inputs is not None:
                    add(mark(row_id, inputs))
                version = formats.result_version(line, version)
                if version is not None:
                    versions[version] = versions.get(version, 0) + 1
                continue
            state.bad_lines.append(f"{path}, line {number}: the id {row_id} stands twice")
        elif line.strip():
            _note_strange(state, f"{path}, line {number}: not a result")
        if len(state.bad_lines) > 20:
            del state.bad_lines[20:]
    state.done = index.count(DONE)
    state.versions = {name.decode("utf-8", "replace"): times for name, times in versions.items()}
    state.results_size = _size(path)
    if end < state.results_size:
        try:
            whole_length(path)
        except StorageError:  # more than the torn end of a line of ours
            _note_strange(state, f"{path}, line {number + 1}: not a result")
        except OSError:
            pass


def _note_strange(state: State, what: str) -> None:
    if len(state.strange) < 20:
        state.strange.append(what)
        state.bad_lines.append(what)


def _read_journal(path: Path, state: State) -> None:
    rows, index, asked = state.rows, state.index, state.asked
    unflushed: list[RowState] = []
    again: dict[str, RowState] = {}  # what the journal says of those that were asked for although they are done
    in_file: set[str] = set()
    done = index.done()
    size = spare = 0
    shared: bool | None = None  # whether the invocation that is being read was given --user
    for line, size in lines_of(path):  # noqa: B007 - needed after it
        # Of a row that has its result the results say all that matters; most lines of a journal are of such rows.
        parts = line.split(b'"', 8)
        if len(parts) > 8 and parts[1] == b"event" and parts[5] == b"id":
            known = str(parts[7], "utf-8", "replace")
            if done(known) and known not in asked:
                if parts[3] != b"done":
                    spare += len(line)
                continue
        record = journal_record(line)
        if record is None:
            continue
        event = record["event"]
        if event == "batch":
            state.last_batch = record
            shared = "--user" in record["again"] if "again" in record else None
            state.batches.add(record.get("batch", ""))
            state.sources.add(record.get("input_path") or record.get("input", ""))
            identity = Identity.of_record(record)
            if identity not in state.before:
                state.before.append(identity)
        elif event == "end":
            if (limit := record.get("limit")) is not None and limit > 0:
                state.last_limit = limit, record.get("mode", "")
        elif event == "retry_file":
            for row in unflushed:
                row.flushed = True
            unflushed.clear()
            in_file = {row_id for row_id, row in again.items() if row.phase is Phase.FAILED}
        elif isinstance(row_id := record.get("id"), str):
            if not index.has(row_id, DONE):
                row = rows.get(row_id) or rows.setdefault(row_id, RowState())
            elif row_id in asked:
                row = again.setdefault(row_id, RowState())
            else:
                continue
            if event == "superseded":  # the result went out of the results, so that the row runs again
                fresh = RowState(posts=record.get("posts", row.posts))
                (again if row_id in again else rows)[row_id] = fresh
                continue
            try:
                row.apply(record)
            except (KeyError, TypeError, ValueError):
                continue
            if event == "sent":
                row.shared = record.get("shared", shared)
            if row.phase is Phase.FAILED and row_id not in asked:
                unflushed.append(row)
    state.journal_size, state.journal_spare = size, spare
    # What stood in `.retry` when the batch last wrote it stands there because it had failed, not because it was asked
    # for: the process was killed before the file was written again.
    state.asked = asked - in_file


def _read_paused(path: Path, state: State) -> None:
    """Rows that only `.paused` knows, as the journal has been cut or deleted: their runs exist, so they must not be
    sent again. Of any other row the journal knows better."""
    try:
        moment = os.stat(path).st_mtime
    except FileNotFoundError:
        return
    except OSError:
        moment = 0.0  # what keeps the file from being read is told below
    for line, _ in lines_of(path):
        found = paused_row(line)
        if found is None:
            continue
        row_id, run_id, task_id, forms = found
        if row_id in state.rows or state.index.has(row_id, DONE):
            continue
        state.rows[row_id] = RowState(
            Phase.PAUSED, posts=1, sent_at=moment, run_id=run_id, task_id=task_id, started_at=moment, forms=forms
        )


def _retry_bytes(path: Path, state: State) -> bytes:
    state.retry_stamp = stamp_of(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}", hint=f"look at its permissions: ls -l '{path}'"
        ) from error


def _read_retry(path: Path, data: bytes, state: State) -> None:
    if state.retry_stamp is None:
        return
    whole, torn = torn_id(data, state.failed_ids())
    for row_id in torn:
        state.rows[row_id].flushed = False  # no person took it out
    try:
        ids = parse_ids(whole)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise StorageError(
            f"{path}, line {line}: not UTF-8, so its ids cannot be told",
            hint="save it as UTF-8, one id a line",
        ) from error
    state.retry = dict.fromkeys(ids)
    state.retry_seen = frozenset(ids)
    state.retry_stale = whole != data or not ids


class Past(NamedTuple):
    """What look-ups have to know of the journal.

    `runs`: those that rows already claim, by the user they were sent with. `delays`: the newest start delays among them
    (seconds from POST to start; where an older version did not write it, by the times of the records). `outlived`: rows
    after the loss of whose last POST another run of the same mode has started or been answered, so that work was taken
    up since. The order of the records tells it, not their times; a row whose process was killed was lost by the
    beginning of the next one at the latest.
    """

    runs: dict[str, set[str]]
    delays: list[float]
    outlived: frozenset[str]


def claimed_runs(paths: formats.Paths, concerns: Callable[[str], bool]) -> Past:
    """`concerns` says which users matter.

    A second pass over the journal, made only where a look-up needs it (open intents of a killed batch, --user).
    """
    user_of: dict[str, str] = {}
    sent_at: dict[str, float] = {}
    delays: deque[float] = deque(maxlen=DELAYS_KEPT)
    claimed: dict[str, set[str]] = {}
    starts: Counter[str] = Counter()  # by mode
    mode_of: dict[str, str] = {}  # of rows whose run has not started
    # Row -> the mode of its last POST, and the starts of that mode before it was lost; None: it is not lost yet.
    before: dict[str, tuple[str, int | None]] = {}
    for line, _ in lines_of(paths.journal):
        head = formats.journal_head(line)
        if head is not None and head[0] == b"started" and b'"found":true' not in line:
            starts[mode_of.pop(head[1].decode("utf-8", "replace"), "")] += 1
        if head is not None and head[0] != b"sent" and head[1].decode("utf-8", "replace") not in user_of:
            continue
        record = journal_record(line)
        if record is None:
            continue
        if record["event"] == "batch":
            before = {row_id: (mode, starts[mode] if lost is None else lost) for row_id, (mode, lost) in before.items()}
        if not isinstance(row_id := record.get("id"), str):
            continue
        if record["event"] == "sent":
            user_of[row_id] = str(record.get("user", ""))
            mode_of[row_id] = mode = str(record.get("mode", "streaming"))
            if not concerns(user_of[row_id]):
                del user_of[row_id]
            else:
                sent_at[row_id] = event_time(record)
                before[row_id] = mode, None
        elif record["event"] == "lost" and row_id in before:
            before[row_id] = before[row_id][0], starts[before[row_id][0]]
        elif (run := record.get("run")) and row_id in user_of:
            names = claimed.setdefault(user_of[row_id], set())
            names.add(str(run))
            if talk := record.get("conversation"):
                names.add(str(talk))
            before.pop(row_id, None)
            if record["event"] == "started" and not record.get("found") and row_id in sent_at:
                sent = sent_at.pop(row_id)
                delay = record.get("delay")
                delays.append(delay if isinstance(delay, int | float) else max(0.0, event_time(record) - sent))
    outlived = frozenset(row_id for row_id, (mode, lost) in before.items() if lost is not None and starts[mode] > lost)
    return Past(claimed, list(delays), outlived)
