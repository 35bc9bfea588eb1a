"""`dify-batch status`: what became of the rows, from the files alone. Reads only, and needs no key.

It may be called while a batch writes: what reaches the results between two looks is counted as done.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dify_batch.errors import StorageError, UsageError
from dify_batch.ids import DONE, Shard
from dify_batch.ledger import formats
from dify_batch.ledger.lock import holder_of, me
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.shards import outputs_of, part_of
from dify_batch.ledger.spent import figures_of_line, spent
from dify_batch.ledger.state import Phase, RowState, State, lines_of, read_state
from dify_batch.outcomes import OUTPUTS_INVALID
from dify_batch.reports.standing import FailureGroup, Holder, InFlight, LastBatch, Parts, PausedRow, Standing
from dify_batch.reports.status_text import next_steps, text_of
from dify_batch.seams import REAL
from dify_batch.text import pattern_of, plural
from dify_batch.usage import Times, Total, exact_prices

TOP_GROUPS = 10  # more kinds of failure than fit a screen are not read
EXAMPLES = 3  # ids of a group: enough to look one up in Dify's log
TAIL = 1 << 16  # the end of a batch is among the last few lines of its journal


@dataclass(frozen=True, slots=True)
class StatusReport(Standing):
    """Where the rows of one output are, with the words for people."""

    def text(self) -> str:
        """For people; safe to show whatever a server wrote."""
        return text_of(self)


@dataclass(slots=True)
class _Look:
    """What the files of one output, or of one part, say."""

    paths: formats.Paths
    state: State
    used: Total
    times: Times
    partial: int
    holder: Holder | None
    batch: LastBatch | None

    @classmethod
    def at(cls, output: Path) -> _Look:
        paths = formats.Paths.of(output)
        require_batch(paths)
        state = read_state(paths)
        require_results(paths, state)
        used, times = spent(paths, but_results=True), Times()
        partial = _second_look(paths, state, used, times)
        batch = last_batch_of(paths.journal, state.last_batch)
        return cls(paths, state, used, times, partial, writer_of(paths.lock), batch)

    @property
    def running(self) -> bool:
        return self.holder is not None and self.holder.alive is not False

    @property
    def to_retry(self) -> int:
        failed = ((row_id, row) for row_id, row in self.state.rows.items() if row.phase is Phase.FAILED)
        unflushed = sum(1 for row_id, row in failed if row_id not in self.state.retry and not row.flushed)
        return len(self.state.retry) + unflushed


def status_report(output: Path, *, now: float | None = None) -> StatusReport:
    """What the files of `output`, or of its parts, say. `now`: seconds since 1970, for what has expired; the clock if
    left out.

    Raises:
        UsageError: there is no batch of that name.
        StorageError: a file is there and cannot be read, or holds no results.
    """
    outputs = outputs_of(output)
    looks = [_Look.at(path) for path in outputs]
    by_phase: dict[Phase, list[tuple[str, RowState]]] = {phase: [] for phase in Phase}
    used, times = Total(), Times()
    for look in looks:
        used.join(look.used)
        times.join(look.times)
        for row_id, row in look.state.rows.items():
            by_phase[row.phase].append((row_id, row))
    failed = by_phase[Phase.FAILED]
    groups = group_failures(failed)
    unknown = sum(1 for _, row in failed if row.kind == "unknown")
    invalid = sum(1 for _, row in failed if row.code == OUTPUTS_INVALID)
    moment = REAL.clock.wall() if now is None else now
    holders = [look.holder for look in looks if look.holder is not None]
    if outputs != [output] and (whole := writer_of(formats.Paths.of(output).lock)) is not None:
        holders.insert(0, whole)  # whoever has the parts run
    running = any(holder.alive is not False for holder in holders)
    report = StatusReport(
        output=str(output),
        done=sum(look.state.done for look in looks),
        success=sum(look.state.done - look.partial for look in looks),
        partial_success=sum(look.partial for look in looks),
        failed=len(failed) - unknown - invalid,
        invalid=invalid,
        unknown=unknown,
        retry_waiting=sum(_by_hand(look.state) for look in looks),
        to_retry=sum(look.to_retry for look in looks),
        retry_unknown=tuple(i for look in looks for i in look.state.retry if i not in look.state.rows),
        paused=tuple(_paused(row_id, row, moment) for row_id, row in by_phase[Phase.PAUSED]),
        in_flight=tuple(_in_flight(row_id, row) for row_id, row in by_phase[Phase.SENT] + by_phase[Phase.STARTED]),
        held=len(by_phase[Phase.HELD]),
        total_tokens=used.tokens,
        total_price=exact_prices(used.prices),
        queue_time=times.mean_waited,
        run_time=times.mean_worked,
        failures=tuple(groups[:TOP_GROUPS]),
        other_failures=sum(group.count for group in groups[TOP_GROUPS:]),
        batch=whole_batch([look.batch for look in looks if look.batch is not None]),
        holder=next((holder for holder in holders if holder.alive is not False), next(iter(holders), None)),
        warnings=tuple(text for look in looks for text in warnings_of(look.paths, look.state, running=look.running)),
        parts=None if outputs == [output] else _parts(looks),
    )
    return replace(report, next_steps=tuple(next_steps(report, running=running)))


def _by_hand(state: State) -> int:
    return sum(1 for i in state.retry if i not in state.rows or state.rows[i].phase is Phase.FREE)


def _parts(looks: Sequence[_Look]) -> Parts:
    found: list[tuple[Shard, _Look]] = []
    for look in looks:
        shard = part_of(look.paths.results)[1]
        assert shard is not None
        found.append((shard, look))
    numbers = {shard.number for shard, _ in found}
    of = found[0][0].of
    return Parts(
        of=of,
        running=tuple(shard.number for shard, look in found if look.running),
        not_begun=tuple(number for number in range(1, of + 1) if number not in numbers),
        paused_in=next((str(look.paths.results) for _, look in found if _has_paused(look.state)), ""),
    )


def _has_paused(state: State) -> bool:
    return any(row.phase is Phase.PAUSED for row in state.rows.values())


def whole_batch(parts: Sequence[LastBatch]) -> LastBatch | None:
    """The last invocations of all parts as one: begun with the first, ended with the last. It has ended once all
    have, and as the one that did not finish."""
    if len(parts) < 2:
        return parts[0] if parts else None
    newest = max(parts, key=lambda one: one.started_at)
    ends = [one.ended_at for one in parts if one.ended_at is not None]
    return replace(
        newest,
        started_at=min(one.started_at for one in parts),
        ended_at=max(ends) if len(ends) == len(parts) else None,
        reason=next((one.reason for one in parts if one.reason != "finished"), "finished"),
        rows=sum(one.rows or 0 for one in parts),
        untouched=sum(one.untouched or 0 for one in parts),
        left_out=sum(one.left_out for one in parts),
    )


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


def _second_look(paths: formats.Paths, state: State, used: Total, times: Times) -> int:
    """Counts the partial successes, adds what the results used and how long they took, and takes out of the open rows
    what got its result since the first look.

    The journal was read after the results; without this a row done in between would look open.
    """
    partial = 0
    seen_partial: set[str] = set()
    for line, _ in lines_of(paths.results):
        row_id = formats.result_id(line)
        if row_id is None:
            continue
        use, worked, waited = figures_of_line(line)
        used.add(use)
        times.add(worked, waited)
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
    dead = formats.utc(row.dead_since) if row.dead else None
    return InFlight(row_id, row.run_id, formats.utc((row.run_id and row.started_at) or row.sent_at), dead)


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
