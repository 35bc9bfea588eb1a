"""One batch over several worker processes, from beginning to end: what `--workers` calls."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shlex
from collections.abc import Sequence

from dify_batch.addressing import check_certificates
from dify_batch.batch.control import Control
from dify_batch.batch.ending import closing_error, waiting
from dify_batch.batch.expectation import read_expectation
from dify_batch.batch.frame import Frame
from dify_batch.batch.invocation import BatchReport
from dify_batch.batch.plan import make_plan, rest
from dify_batch.batch.share import share_of
from dify_batch.batch.surface import open_target
from dify_batch.errors import DifyBatchError
from dify_batch.ids import IN_INPUT, IdIndex, Shard
from dify_batch.input.rows import RowSource
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.lock import OutputLock
from dify_batch.ledger.place import require_output
from dify_batch.ledger.setaside import set_aside
from dify_batch.ledger.shards import parts_of, require_same_parts, shard_path
from dify_batch.ledger.state import read_state
from dify_batch.reports.nextsteps import Call, Left, steps
from dify_batch.scale.coordinator import Coordinator
from dify_batch.scale.survey import Survey, count_rows, survey
from dify_batch.scale.whole import PartRun, whole
from dify_batch.seams import REAL, Clock, Seams
from dify_batch.settings import Settings
from dify_batch.summary import Stats, Summary

PARTS_EACH = 4
"""Parts for each worker: so that the last ones to end are short."""


async def run_workers(
    settings: Settings, *, control: Control | None = None, stats: Stats | None = None, seams: Seams = REAL
) -> BatchReport:
    """As `run_batch`, over `settings.workers` processes of this machine. Raises what that raises."""
    assert settings.workers is not None
    control = control or Control()
    stats = stats or Stats(clock=seams.clock)
    disk = Disk()
    control.watch_over(asyncio.current_task())
    paths = require_output(settings.output, settings.input, overwrite=settings.overwrite)
    if settings.expect is not None:
        read_expectation(settings.expect)  # each worker reads it, too
    shards = _shards(settings)
    for shard in shards:
        require_output(shard_path(settings.output, shard), settings.input, overwrite=settings.overwrite)
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
                    )
                )
            )
        )
        if not settings.dry_run:
            lock = OutputLock(paths.lock, disk)
            lock.acquire()
            stack.callback(lock.release)
        check_certificates(settings.base_url, os.environ)
        target = await stack.enter_async_context(open_target(settings, None, seams))
        frame = Frame(target, share_of(settings), control, stats, source, paths, seams, disk)
        budget = settings.max_tokens is not None or settings.max_cost is not None
        found = await survey(frame, shards, with_use=budget)
        stats.rows = sum(part.rows for part in found.parts) + found.left_out
        stats.left_out, stats.to_run = found.left_out, found.to_run
        stats.done_before = sum(part.done for part in found.parts)
        runs = [PartRun(part) for part in found.parts]
        if settings.dry_run:
            plan = make_plan(
                found.index,
                frame.target,
                frame.share,
                to_run=found.to_run,
                copies=0,
                first=list(found.first),
                warnings=tuple(stats.notices),
            )
            return BatchReport(whole(runs, stats.summary(), left_out=found.left_out), plan=plan)
        if control.signal_error is not None:
            return BatchReport(whole(runs, stats.summary(), left_out=found.left_out), control.signal_error)
        if settings.overwrite:
            _set_all_aside([Paths.of(shard_path(settings.output, shard)) for shard in shards], disk, seams.clock)
        return await _run(frame, found)


def _set_all_aside(parts: Sequence[Paths], disk: Disk, clock: Clock) -> None:
    """All of them or none: a worker of a coordinator that was killed may still be writing one. Raises OutputLocked."""
    with contextlib.ExitStack() as stack:
        for part in parts:
            lock = OutputLock(part.lock, disk)
            lock.acquire()
            stack.callback(lock.release)
        for part in parts:
            set_aside(part, disk, clock)


async def _run(frame: Frame, found: Survey) -> BatchReport:
    settings, stats = frame.settings, frame.stats
    environment = {
        **os.environ,
        "DIFY_API_KEY": settings.api_key.reveal(),
        "DIFY_API_BASE_URL": settings.base_url,
    }
    coordinator = Coordinator(frame, found, environment=environment)
    frame.control.attach(coordinator)
    try:
        await coordinator.run()
    finally:
        frame.control.detach()
    coordinator.show()
    await frame.seams.threads.run(lambda: _look_again(settings, coordinator.runs, found))
    summary = whole(coordinator.runs, stats.summary(), left_out=found.left_out)
    if settings.sample is not None or settings.limit is not None:
        left = await frame.seams.threads.run(lambda: rest(settings.output, frame.share, summary.untouched))
        summary = dataclasses.replace(summary, rest=left)
    error = closing_error(
        coordinator.error, summary, results=settings.results, source=settings.input, left_out=found.left_out
    )
    return BatchReport(summary, error, next_steps=_next(settings, summary, error, found), parts=len(found.parts))


def _shards(settings: Settings) -> Sequence[Shard]:
    """The parts of the output: as many as it has, or some for each worker. Raises UsageError."""
    there = parts_of(settings.output)
    of = there[0].of if there else PARTS_EACH * (settings.workers or 1)
    require_same_parts(settings.output, Shard(of, 1))
    return [Shard(of, number) for number in range(1, of + 1)]


def _look_again(settings: Settings, runs: Sequence[PartRun], found: Survey) -> None:
    """Where parts stand by their files that were begun and have not come to an end."""
    for run in runs:
        shard = run.before.shard
        path = shard_path(settings.output, shard)
        if run.summary is not None or not Paths.of(path).journal.exists():
            continue
        index = IdIndex()
        for row_id in found.index.ids(IN_INPUT):
            if row_id in shard:
                index.add(row_id, IN_INPUT)
        state = read_state(Paths.of(path), index)
        run.after = count_rows([shard], [(shard, state)], index, None, retry=False)[0]


def _next(settings: Settings, summary: Summary, error: DifyBatchError | None, found: Survey) -> tuple[str, ...]:
    """Sentences that say what to type next."""
    if error is not None and error.code not in (
        *("rows_failed", "not_finished", "interrupted", "terminated", "batch_stopped"),
    ):
        return ()  # the error's own hint says what to do
    first = next((run.shard for run in found.parts), None)
    call = Call(settings.input, str(settings.output), settings.again(), str(settings.output))
    left = Left(
        to_retry=waiting(summary, left_out=found.left_out, asked=0),
        under_way=summary.running,
        untouched=0 if settings.retry else summary.untouched,
    )
    lines = [line for step in steps(call, left) for line in step.two_lines()]
    if summary.paused and first is not None:
        lines.append(f"rows that wait for a person: dify-batch status {settings.output} names them")
    if not lines:
        merge = shlex.join(["dify-batch", "merge", str(settings.output), "-o", "all.jsonl"])
        lines = [f"one file of all {first.of if first is not None else ''} parts:", f"    {merge}"]
    return tuple(lines)
