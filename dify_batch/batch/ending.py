"""How a batch as a whole came out: its summary, its error, what to type next. Pure."""

from __future__ import annotations

import dataclasses
import shlex

from dify_batch.errors import DifyBatchError
from dify_batch.ids import DONE, IN_INPUT, RETRY, SELECTED, IdIndex
from dify_batch.ledger.state import Phase, State
from dify_batch.settings import Settings
from dify_batch.summary import Stats, Summary
from dify_batch.text import count


def summarise(stats: Stats, index: IdIndex, state: State, *, on_disk: bool = False) -> Summary:
    """The summary at the end, from what the files say, so that each row is in exactly one state.

    `on_disk`: also which rows failed this time is taken from the state, as not all that was counted was written.
    """
    done = sum(1 for row_id in index.ids(IN_INPUT) if index.has(row_id, DONE))
    paused = running = failed = unknown = 0
    for row_id, row in state.rows.items():
        if index.has(row_id, IN_INPUT):
            paused += row.phase is Phase.PAUSED
            running += row.phase in (Phase.SENT, Phase.STARTED, Phase.HELD)
            if row.phase is Phase.FAILED and index.has(row_id, SELECTED):
                unknown += row.kind == "unknown"
                failed += row.kind != "unknown"
    waiting = sum(1 for row_id in index.ids(IN_INPUT) if index.has(row_id, RETRY) and not index.has(row_id, DONE))
    live = stats.summary()
    if not on_disk:
        failed, unknown = stats.failed, stats.unknown
    fresh = max(0, done - stats.done_before)
    partial = min(live.partial_success, fresh)
    return dataclasses.replace(
        live,
        done_before=done - fresh,
        success=fresh - partial,
        partial_success=partial,
        failed=failed + stats.left_out,
        unknown=unknown,
        paused=paused,
        running=running,
        retry_waiting=max(0, waiting - failed - unknown),
        untouched=max(0, live.rows - stats.left_out - done - paused - running - waiting),
    )


# After these errors the same command goes on; any other wants something else first.
_GO_ON = frozenset({"rows_failed", "not_finished", "interrupted", "terminated", "batch_stopped"})


def closing_error(error: DifyBatchError | None, summary: Summary, settings: Settings) -> DifyBatchError | None:
    """The error that a batch ends with: what stopped it, else failed rows, else runs that still go on."""
    if error is not None and not (error.code == "not_finished" and not summary.untouched and not summary.running):
        return error
    failed = summary.failed + summary.unknown
    if failed:
        return DifyBatchError(
            f"{failed} of {count(summary.rows, 'row')} {'has' if failed == 1 else 'have'} no result",
            code="rows_failed",
            hint=f"dify-batch status {settings.output} tells why; run them again with --retry",
        )
    if summary.running:
        return DifyBatchError(
            f"{count(summary.running, 'run goes', 'runs go')} on on the server",
            code="not_finished",
            hint="run the same command again later: it collects them",
        )
    return None


def next_steps(
    summary: Summary, settings: Settings, error: DifyBatchError | None, *, left_out: int = 0
) -> tuple[str, ...]:
    """Sentences that say what to type next."""
    output = shlex.quote(str(settings.output))
    again = f"dify-batch -i {shlex.quote(settings.input)} -o {output}"
    if settings.demo:
        again = again.replace("dify-batch", "dify-batch --demo", 1)
    if error is not None and error.code not in _GO_ON:
        return ()  # the error's own hint says what to do
    steps = []
    to_retry = summary.failed + summary.unknown + summary.retry_waiting - left_out
    if to_retry:
        steps.append(f"{count(to_retry, 'row is', 'rows are')} in {settings.output}.retry; to see why:")
        steps.append(f"    dify-batch status {output}")
        steps.append("Run what failed again:")
        steps.append(f"    {again} --retry")
    if summary.paused:
        waits = count(summary.paused, "row waits", "rows wait")
        steps.append(f"{waits} for a person: {settings.output}.paused says how to answer. Then:")
        steps.append(f"    {again}")
    if summary.running:
        steps.append(
            f"{count(summary.running, 'run goes', 'runs go')} on on the server. To collect what they give, later:"
        )
        steps.append(f"    {again}")
    if summary.untouched and not settings.retry:
        steps.append(f"{count(summary.untouched, 'row has', 'rows have')} not been sent yet. To go on:")
        steps.append(f"    {again}")
    return tuple(steps)
