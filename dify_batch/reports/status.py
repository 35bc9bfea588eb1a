"""`dify-batch status`: what became of the rows, from the files alone. Reads only, and needs no key.

It may be called while a batch writes: what reaches the results between two looks is counted as done.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dify_batch.errors import StorageError, UsageError
from dify_batch.ids import DONE
from dify_batch.ledger import formats
from dify_batch.ledger.lock import holder_of, me
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.spent import spent, use_of_line
from dify_batch.ledger.state import Phase, RowState, State, lines_of, read_state
from dify_batch.reports.standing import FailureGroup, Holder, InFlight, LastBatch, PausedRow, Standing
from dify_batch.reports.status_text import next_steps, text_of
from dify_batch.seams import REAL
from dify_batch.text import pattern_of, plural
from dify_batch.usage import Total, exact_prices

TOP_GROUPS = 10  # more kinds of failure than fit a screen are not read
EXAMPLES = 3  # ids of a group: enough to look one up in Dify's log
TAIL = 1 << 16  # the end of a batch is among the last few lines of its journal


@dataclass(frozen=True, slots=True)
class StatusReport(Standing):
    """Where the rows of one output are, with the words for people."""

    def text(self) -> str:
        """For people; safe to show whatever a server wrote."""
        return text_of(self)


def status_report(output: Path, *, now: float | None = None) -> StatusReport:
    """What the files of `output` say. `now`: seconds since 1970, for what has expired; the clock if left out.

    Raises:
        UsageError: there is no batch of that name.
        StorageError: a file is there and cannot be read, or holds no results.
    """
    paths = formats.Paths.of(output)
    require_batch(paths)
    state = read_state(paths)
    require_results(paths, state)
    used = spent(paths, but_results=True)
    partial = _second_look(paths, state, used)
    holder = writer_of(paths.lock)
    running = holder is not None and holder.alive is not False
    by_phase: dict[Phase, list[tuple[str, RowState]]] = {phase: [] for phase in Phase}
    for row_id, row in state.rows.items():
        by_phase[row.phase].append((row_id, row))
    failed = by_phase[Phase.FAILED]
    groups = group_failures(failed)
    unknown = sum(1 for _, row in failed if row.kind == "unknown")
    by_hand = [i for i in state.retry if i not in state.rows or state.rows[i].phase is Phase.FREE]
    moment = REAL.clock.wall() if now is None else now
    left = len(state.retry) + sum(1 for row_id, row in failed if row_id not in state.retry and not row.flushed)
    report = StatusReport(
        output=str(output),
        done=state.done,
        success=state.done - partial,
        partial_success=partial,
        failed=len(failed) - unknown,
        unknown=unknown,
        retry_waiting=len(by_hand),
        to_retry=left,
        retry_unknown=tuple(row_id for row_id in state.retry if row_id not in state.rows),
        paused=tuple(_paused(row_id, row, moment) for row_id, row in by_phase[Phase.PAUSED]),
        in_flight=tuple(_in_flight(row_id, row) for row_id, row in by_phase[Phase.SENT] + by_phase[Phase.STARTED]),
        held=len(by_phase[Phase.HELD]),
        total_tokens=used.tokens,
        total_price=exact_prices(used.prices),
        failures=tuple(groups[:TOP_GROUPS]),
        other_failures=sum(group.count for group in groups[TOP_GROUPS:]),
        batch=last_batch_of(paths.journal, state.last_batch),
        holder=holder,
        warnings=warnings_of(paths, state, running=running),
    )
    return replace(report, next_steps=tuple(next_steps(report, running=running)))


def require_batch(paths: formats.Paths) -> None:
    """Raises UsageError where an output has neither results nor a journal, or is no file."""
    if paths.results.is_dir():
        raise UsageError(
            f"{paths.results} is a folder, not the results of a batch",
            hint=f"give the -o of the batch, such as {paths.results / 'results.jsonl'}",
            code="usage_invalid_flag",
        )
    if paths.results.exists() and not paths.results.is_file():  # reading it might wait, or go on, for ever
        raise UsageError(
            f"{paths.results} is no regular file, so not the results of a batch",
            hint="give the -o of the batch, such as results.jsonl",
            code="usage_invalid_flag",
        )
    if not any(path.exists() for path in paths.data):
        near = sorted(path.name[: -len(".journal")] for path in paths.results.parent.glob("*.journal"))[:5]
        hint = f"batches in {paths.results.parent}: {', '.join(near)}" if near else "give the -o of the batch"
        raise UsageError(f"{paths.results}: there is no batch of that name", hint=hint, code="usage_invalid_flag")


def require_results(paths: formats.Paths, state: State) -> None:
    """Raises StorageError for a file that holds no result and stands alone: it is not what was meant."""
    alone = not any(path.exists() for path in paths.data if path != paths.results)
    if alone and not state.done and state.results_size > len(formats.BOM):
        raise StorageError(
            f"{paths.results} is no results file: none of its lines is a result, and no journal is beside it",
            hint="give the -o of the batch, such as results.jsonl",
        )


_PARTIAL = re.compile(rb'\s*\{"id": ?"(?:[^"\\]|\\.)*", ?"status": ?"partial-success"')


def _second_look(paths: formats.Paths, state: State, used: Total) -> int:
    """Counts the partial successes, adds what the results used, and takes out of the open rows what got its result
    since the first look.

    The journal was read after the results; without this a row done in between would look open.
    """
    partial = 0
    seen_partial: set[str] = set()
    for line, _ in lines_of(paths.results):
        row_id = formats.result_id(line)
        if row_id is None:
            continue
        used.add(use_of_line(line))
        if not state.index.has(row_id, DONE):
            state.index.add(row_id, DONE)
            state.done += 1
            state.rows.pop(row_id, None)
            state.retry.pop(row_id, None)
        if _PARTIAL.match(line) and row_id not in seen_partial:
            seen_partial.add(row_id)
            partial += 1
    return partial


def group_failures(failed: Iterable[tuple[str, RowState]]) -> list[FailureGroup]:
    """Failed rows by kind, code and pattern of their message, the largest group first."""
    groups: dict[tuple[str, str, str], tuple[list[str], list[int], str]] = {}
    nodes: dict[tuple[str, str, str], Counter[str]] = {}
    same: dict[tuple[str, str, str], bool] = {}
    for row_id, row in failed:
        key = (row.kind, row.code, pattern_of(row.message, row_id))
        examples, count, message = groups.setdefault(key, ([], [0], row.message))
        count[0] += 1
        if row.node is not None:
            nodes.setdefault(key, Counter())[str(row.node)] += 1
        same[key] = same.get(key, True) and row.message == message
        if len(examples) < EXAMPLES:
            examples.append(row_id)
    found = [
        FailureGroup(
            key[0],
            key[1],
            message if same[key] else key[2],
            count[0],
            tuple(examples),
            tuple(name for name, _ in nodes.get(key, Counter()).most_common(EXAMPLES)),
        )
        for key, (examples, count, message) in groups.items()
    ]
    return sorted(found, key=lambda group: -group.count)


def _paused(row_id: str, row: RowState, now: float) -> PausedRow:
    ends = [str(form["expires_at"]) for form in row.forms if form.get("expires_at")]
    past = 0
    for end in ends:
        try:
            past += formats.from_utc(end) <= now
        except ValueError:
            continue  # a time that cannot be read is no reason to call a form expired
    expired = bool(row.forms) and past == len(row.forms)
    return PausedRow(row_id, row.run_id, row.forms, max(ends, default=None), expired)


def _in_flight(row_id: str, row: RowState) -> InFlight:
    return InFlight(row_id, row.run_id, formats.utc((row.run_id and row.started_at) or row.sent_at))


def writer_of(path: Path) -> Holder | None:
    """Who is named in the lock file. Never locks it: a batch that starts at this moment must not be turned away."""
    named = holder_of(path)
    if named is None:
        return None
    pid, host = named["pid"], named["host"]
    if host != me()["host"] or os.name == "nt":  # there a signal of 0 would end it
        return Holder(pid, host, None)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Holder(pid, host, False)
    except OSError:
        pass  # it is there, and another user's
    return Holder(pid, host, True)


def last_batch_of(journal: Path, record: dict[str, Any] | None) -> LastBatch | None:
    if record is None:
        return None
    end = _end_record(journal)
    found = LastBatch(str(record.get("at", "")), str(record.get("input", "")), demo=record.get("demo") is True)
    found = replace(found, again=tuple(record.get("again") or (["--demo"] if found.demo else [])))
    if end is None:
        return found
    summary = end.get("summary")
    numbers = summary if isinstance(summary, dict) else {}
    return replace(
        found,
        ended_at=str(end.get("at", "")),
        reason=str(end.get("reason", "")),
        rows=numbers.get("rows"),
        untouched=numbers.get("untouched"),
        left_out=int(numbers.get("left_out", 0)),
    )


def _end_record(journal: Path) -> dict[str, Any] | None:
    """The `end` record of the last batch, or None if it goes on or was killed."""
    try:
        with journal.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            tail = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(tail):
        if line.startswith(b'{"event":"batch"'):
            return None
        if line.startswith(b'{"event":"end"'):
            return journal_record(line)
    return None


def warnings_of(paths: formats.Paths, state: State, *, running: bool) -> tuple[str, ...]:
    found = list(state.bad_lines)
    if running:
        return tuple(found)  # what is not yet in the results may be on its way there
    if state.missing_results:
        have = plural(state.missing_results, "row has its", "rows have their")
        found.append(
            f"{state.missing_results:,} {have} result according to the journal and not in {paths.results}: "
            "the next batch fetches what is missing from the server"
        )
    if not paths.journal.exists():
        found.append(f"{paths.journal} is missing: why rows failed, and what runs on the server, cannot be told")
    return tuple(found)
