"""One batch from beginning to end: checks, plan, engine, summary. `run_batch` is what the command line calls, too."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dify_batch.addressing import check_certificates
from dify_batch.batch.control import Control
from dify_batch.batch.ending import summarise
from dify_batch.batch.execution import Execution
from dify_batch.batch.expectation import read_expectation
from dify_batch.batch.frame import Frame
from dify_batch.batch.placed import Placed
from dify_batch.batch.plan import Plan, make_plan
from dify_batch.batch.preparation import Preparation
from dify_batch.batch.share import share_of
from dify_batch.batch.surface import open_target
from dify_batch.errors import DifyBatchError, Exit, UsageError
from dify_batch.input.handed import as_file
from dify_batch.input.rows import RowSource
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.lock import OutputLock
from dify_batch.ledger.place import require_output
from dify_batch.ledger.shards import require_same_parts
from dify_batch.outcomes import SettledRow
from dify_batch.seams import REAL, Seams
from dify_batch.settings import Settings
from dify_batch.summary import Stats, Summary

if TYPE_CHECKING:
    from dify_batch.dify.transport import AnyTransport

# A dry run shows the payloads of so many rows.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How a batch ended. `error` is None where every selected row has a result or is paused.

    `plan` is there for a dry run, which has sent nothing. `next_steps`: sentences that say what to type next. `parts`:
    how many files hold the results, where they are not one.
    """

    summary: Summary
    error: DifyBatchError | None = None
    plan: Plan | None = None
    next_steps: tuple[str, ...] = ()
    parts: int = 0

    @property
    def exit_status(self) -> Exit:
        return Exit.OK if self.error is None else self.error.exit_status


async def run_batch(
    settings: Settings,
    *,
    control: Control | None = None,
    stats: Stats | None = None,
    transport: AnyTransport | None = None,
    seams: Seams = REAL,
    disk: Disk | None = None,
    collect: bool = False,
    rows: Iterable[Mapping[str, Any]] | None = None,
    on_row: Callable[[SettledRow], None] | None = None,
    placed: Placed | None = None,
) -> BatchReport:
    """Runs a batch, or with `settings.dry_run` says what it would do.

    `rows`: in place of a file: dictionaries of input → value, each with its `id`; `settings.input` is "-" then.
    `on_row`: called in the event loop for each row as it settles, perhaps before its result is safe on the disk. What
    it raises is logged, and stops nothing.
    `placed`: what a coordinator says that has placed one part of a batch here.
    `collect`: only what earlier invocations left under way is followed to its end; nothing is sent.

    `transport`, `seams`, `disk`: what stands in for the network, the time, chance, threads, and the files that are
    written; those of this machine if left out.

    What stopped it, rows that failed included, is in the report's `error`. Cancelling it is like a crash: what runs
    goes on on the server, is in the journal, and is collected by the next invocation.

    Raises:
        UsageError, InvalidInput: a setting or the input is wrong; nothing was sent.
        AuthError, AppError: the key or the app will not do; nothing was sent.
        ConnectionFailed, ServerError, RateLimited: the server stayed away from the beginning.
        OutputLocked: another process writes this output.
        StorageError: a file of the batch cannot be read or opened.
    """
    if settings.workers is not None:
        raise UsageError("workers are started by run_workers, or by the command", code="usage_invalid_flag")
    control = control or Control()
    stats = stats or Stats(clock=seams.clock)
    disk = disk or Disk()
    paths = require_output(settings.results, settings.input, overwrite=settings.overwrite)
    expectation = None if settings.expect is None else read_expectation(settings.expect)
    require_same_parts(settings.output, settings.shard)
    control.watch_over(asyncio.current_task())
    if rows is not None and settings.input != "-":
        raise UsageError("rows are given, and an input too", hint='with rows: Settings(input="-", ...)')
    handed = None if rows is None else as_file(rows)
    async with contextlib.AsyncExitStack() as stack:
        source = stack.enter_context(
            await control.unless_halted(
                seams.threads.run_forlorn(
                    lambda: RowSource.open(
                        settings.input,
                        encoding=settings.encoding,
                        delimiter=settings.delimiter,
                        id_column=settings.id_column,
                        sheet=settings.sheet,
                        stdin=handed,
                    )
                )
            )
        )
        if not settings.dry_run:
            lock = OutputLock(paths.lock, disk)
            lock.acquire()
            stack.callback(lock.release)
        check_certificates(settings.base_url, os.environ)
        target = await stack.enter_async_context(open_target(settings, transport, seams, simulated=placed is None))
        share = share_of(settings, placed)
        frame = Frame(target, share, control, stats, source, paths, seams, disk, expectation, placed)
        prepared = await Preparation(frame, collect=collect).run()
        if frame.settings.dry_run:
            first = [work for work, _ in zip(prepared.selection.new_rows(), range(_SHOWN), strict=False)]
            plan = make_plan(
                prepared.index,
                frame.target,
                frame.share,
                to_run=prepared.to_run,
                copies=len(prepared.selection.shared.copies),
                first=first,
                warnings=tuple(stats.notices),
            )
            return BatchReport(summarise(stats, prepared.index, prepared.state), plan=plan)
        if control.signal_error is not None:
            return BatchReport(summarise(stats, prepared.index, prepared.state), control.signal_error)
        summary, error, steps = await Execution(frame, prepared, on_row).run()
        return BatchReport(summary, error, next_steps=steps)
