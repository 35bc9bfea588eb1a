"""How a batch as a whole came out: its summary, its error, what to type next. Pure."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from dify_batch.errors import DifyBatchError
from dify_batch.ids import DONE, IN_INPUT, RETRY, SELECTED, IdIndex
from dify_batch.ledger.state import Phase, State
from dify_batch.outcomes import OUTPUTS_INVALID
from dify_batch.reports.nextsteps import Call, Left, steps
from dify_batch.summary import PAUSED_SHOWN, PausedRun, Stats, Summary
from dify_batch.text import count


def summarise(stats: Stats, index: IdIndex, state: State, *, on_disk: bool = False) -> Summary:
    """The summary at the end, from what the files say, so that each row is in exactly one state.

    `on_disk`: also which rows failed this time is taken from the state, as not all that was counted was written.
    """
    paused_rows: list[PausedRun] = []
    done = sum(1 for row_id in index.ids(IN_INPUT) if index.has(row_id, DONE))
    paused = running = failed = invalid = unknown = 0
    for row_id, row in state.rows.items():
        if index.has(row_id, IN_INPUT):
            if row.phase is Phase.PAUSED:
                paused += 1
                if paused <= PAUSED_SHOWN:
                    paused_rows.append(PausedRun(row_id, row.run_id))
            running += row.phase in (Phase.SENT, Phase.STARTED, Phase.HELD)
            if row.phase is Phase.FAILED and index.has(row_id, SELECTED):
                unknown += row.kind == "unknown"
                invalid += row.code == OUTPUTS_INVALID
                failed += row.kind != "unknown" and row.code != OUTPUTS_INVALID
    waiting = sum(1 for row_id in index.ids(IN_INPUT) if index.has(row_id, RETRY) and not index.has(row_id, DONE))
    live = stats.summary()
    if not on_disk:
        failed, invalid, unknown = stats.failed, stats.invalid, stats.unknown
    fresh = max(0, done - stats.done_before)
    partial = min(live.partial_success, fresh)
    return dataclasses.replace(
        live,
        done_before=done - fresh,
        success=fresh - partial,
        partial_success=partial,
        failed=failed + stats.left_out,
        invalid=invalid,
        unknown=unknown,
        paused=paused,
        running=running,
        paused_rows=tuple(paused_rows),
        retry_waiting=max(0, waiting - failed - invalid - unknown),
        untouched=max(0, live.rows - stats.left_out - done - paused - running - waiting),
    )


# After these errors the same command goes on; any other wants something else first.
_GO_ON = frozenset({"rows_failed", "not_finished", "interrupted", "terminated", "batch_stopped"})


def closing_error(
    error: DifyBatchError | None, summary: Summary, *, results: Path, source: str, left_out: int = 0, asked: int = 0
) -> DifyBatchError | None:
    """The error that a batch ends with: what stopped it, else failed rows, else runs that still go on. `source`: its
    input."""
    if error is not None and not (error.code == "not_finished" and not summary.untouched and not summary.running):
        return error
    failed = summary.failed + summary.invalid + summary.unknown
    in_retry = waiting(summary, left_out=left_out, asked=asked)
    if failed:
        hint = f"dify-batch status {results} tells why; "
        if in_retry:
            hint += "run them again with --retry"
        else:
            hint = f"they have no id of their own: correct them in {source}"
        return DifyBatchError(
            f"{failed} of {count(summary.rows, 'row')} {'has' if failed == 1 else 'have'} no result",
            code="rows_failed",
            hint=hint,
        )
    if in_retry:
        return DifyBatchError(
            f"{count(in_retry, 'row waits', 'rows wait')} in {results}.retry",
            code="rows_failed",
            hint=f"dify-batch status {results} tells why; run them again with --retry",
        )
    if summary.running:
        return DifyBatchError(
            f"{count(summary.running, 'run goes', 'runs go')} on on the server",
            code="not_finished",
            hint="run the same command again later: it collects them",
        )
    return None


def next_steps(
    summary: Summary,
    call: Call,
    error: DifyBatchError | None,
    *,
    retries: bool,
    part_of: int | None = None,
    left_out: int = 0,
    asked: int = 0,
    dead: int = 0,
) -> tuple[str, ...]:
    """Sentences that say what to type next. `retries`: it was called with --retry; `part_of`: how many parts the output
    has, if it is one of them. `asked`: done rows that wait in `.retry`, as a person put them there;
    `dead`: runs that are probably dead."""
    if error is not None and error.code not in _GO_ON:
        return ()  # the error's own hint says what to do
    left = Left(
        to_retry=waiting(summary, left_out=left_out, asked=asked),
        to_answer=summary.paused,
        under_way=summary.running,
        dead=dead,
        untouched=0 if retries else summary.untouched,
        see_why=True,
    )
    found = [line for step in steps(call, left) for line in step.two_lines()]
    if left_out:
        rows = count(left_out, "row has", "rows have")
        found.append(f"{rows} no id of its own: correct the input, and run the same command again")
    if part_of is not None and not found:
        merge = shlex.join(["dify-batch", "merge", call.output, "-o", "all.jsonl"])
        found += [f"once all {part_of} parts have run, one file of them:", f"    {merge}"]
    return tuple(found)


def waiting(summary: Summary, *, left_out: int, asked: int) -> int:
    """How many rows wait in `.retry`."""
    return summary.failed + summary.invalid + summary.unknown + summary.retry_waiting - left_out + asked
