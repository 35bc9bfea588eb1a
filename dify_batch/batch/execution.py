"""The work of one invocation: opens the ledger, sets the engine going over what was prepared, and sums up."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable

from dify_batch.batch.elsewhere import Lookout, new_batch_name
from dify_batch.batch.ending import closing_error, next_steps, summarise
from dify_batch.batch.enginesettings import budget_of, first_limit, later_limits, options_of
from dify_batch.batch.frame import Frame
from dify_batch.batch.plan import rest
from dify_batch.batch.preparation import Prepared
from dify_batch.engine.course import RULES_VERSION
from dify_batch.engine.limit import Limit
from dify_batch.engine.runner import Engine
from dify_batch.engine.slots import looks_own
from dify_batch.engine.steps import STUCK
from dify_batch.engine.work import Work
from dify_batch.errors import DifyBatchError, StorageError
from dify_batch.ids import IN_INPUT, RETRY, SELECTED, IdIndex
from dify_batch.ledger.compaction import compact, worth_it
from dify_batch.ledger.held import Held
from dify_batch.ledger.shared import read_shared
from dify_batch.ledger.state import Phase, claimed_runs, read_state
from dify_batch.ledger.store import Ledger, set_aside
from dify_batch.ledger.supersede import supersede
from dify_batch.outcomes import SettledRow
from dify_batch.reports.nextsteps import Call
from dify_batch.summary import Summary

log: logging.Logger = logging.getLogger("dify_batch")


class Execution:
    """`on_row`: told each row as it settles; what it raises is logged, and stops nothing."""

    def __init__(self, frame: Frame, prepared: Prepared, on_row: Callable[[SettledRow], None] | None) -> None:
        self._frame = frame
        self._prepared = prepared
        self._on_row = None if on_row is None else _careful(on_row)
        self._engine: Engine | None = None
        # Told whatever else stopped the batch: a signal may have come first.
        self._unwritten: list[StorageError] = []

    async def run(self) -> tuple[Summary, DifyBatchError | None, tuple[str, ...]]:
        """The summary, what stopped the batch or leaves rows without a result, and what to type next.

        Raises StorageError: a file of the output cannot be opened.
        """
        frame, state = self._frame, self._prepared.state
        settings, threads = frame.settings, frame.seams.threads
        await self._shorten_journal()
        await self._keep_old_lines()
        delays = await threads.run(self._read_claims)
        works = await threads.run(lambda: self._prepared.selection.open_rows(state))
        ledger = Ledger(
            frame.paths,
            state,
            base_url=frame.target.base_url,
            on_error=self._not_written,
            bom=settings.bom,
            disk=frame.disk,
            seams=frame.seams,
            on_row=self._on_row,
        )
        try:
            summary, error = await self._with_ledger(ledger, works, delays)
        except StorageError as storage:
            if self._engine is None:
                raise
            self._engine.stopping.fail(storage)
            self._unwritten.append(storage)
        finally:
            with contextlib.suppress(StorageError):  # it is in `_unwritten` already
                await ledger.close()
        if self._unwritten:
            error = self._unwritten[0]
            summary = await threads.run(self._as_on_disk)
        elif settings.sample is not None or settings.limit is not None:
            summary = await threads.run(lambda: self._with_rest(summary))
        left_out, asked = frame.stats.left_out, self._prepared.asked
        dead = sum(row.dead for row in state.rows.values())
        return (
            summary,
            error,
            next_steps(
                summary,
                Call(settings.input, str(settings.output), settings.again(), str(settings.results)),
                error,
                retries=settings.retry,
                part_of=None if settings.shard is None else settings.shard.of,
                left_out=left_out,
                asked=asked,
                dead=dead,
            ),
        )

    # ---------------------------------------------------------------- before the engine

    async def _shorten_journal(self) -> None:
        """A journal that holds many times what it says is written anew; if that fails, the old one does."""
        frame, state = self._frame, self._prepared.state
        if frame.settings.overwrite or not worth_it(state):
            return
        try:
            await frame.seams.threads.run(lambda: compact(frame.paths, state, frame.disk, own=looks_own))
        except (OSError, StorageError) as error:
            log.warning("%s could not be shortened, which does no harm: %s", frame.paths.journal, error)

    async def _keep_old_lines(self) -> None:
        """What is run again, or begun anew, keeps what it was."""
        frame = self._frame
        if frame.settings.overwrite:
            for name in set_aside(frame.paths, frame.disk, frame.seams.clock):
                log.warning("kept the old file as %s", name)
        if again := self._prepared.again:
            superseded = await frame.seams.threads.run(
                lambda: supersede(frame.paths, again, frame.disk, frame.seams.clock)
            )
            self._prepared.state.drop(superseded)

    def _read_claims(self) -> list[float]:
        """What look-ups have to know of the journal: which runs rows have, and how long runs took to start."""
        state, selection = self._prepared.state, self._prepared.selection
        users = {row.user for row in state.rows.values() if row.phase is Phase.SENT or row.kind == "unknown"}
        own_user = self._frame.settings.user is None
        if not users and own_user:
            return []
        past = claimed_runs(self._frame.paths, lambda user: user in users or not own_user)
        selection.claims = {user: frozenset(runs) for user, runs in past.runs.items()}
        selection.outlived = past.outlived
        return past.delays

    def _not_written(self, error: StorageError) -> None:
        self._unwritten.append(error)
        if self._engine is not None:
            self._engine.stopping.fail(error)
            self._engine.stopping.abandon()

    # ---------------------------------------------------------------- the engine

    async def _with_ledger(
        self, ledger: Ledger, works: list[Work], delays: list[float]
    ) -> tuple[Summary, DifyBatchError | None]:
        frame, prepared = self._frame, self._prepared
        settings, stats = frame.settings, frame.stats
        batch = new_batch_name(prepared.identity, frame.seams, settings.shard)
        ledger.begin(
            batch,
            input=settings.input,
            input_path=_real(settings.input),
            mode=settings.mode,
            policy=settings.retry_policy,
            rules=RULES_VERSION,
            again=settings.again() if frame.placed is None else list(frame.placed.again),
            **prepared.identity.facts(),
        )
        open_works = [work for work in works if prepared.state.rows[work.id].phase is not Phase.HELD]
        engine = self._engine = Engine(
            dataclasses.replace(options_of(settings, frame.share), **frame.target.options),
            frame.client,
            ledger,
            stats,
            frame.seams,
            batch=batch,
            limit=self._limit(),
            permits=None if frame.placed is None else frame.placed.permits,
            new_limit=None if frame.placed is not None else later_limits(frame.share, prepared.fits, frame.seams.clock),
            expectation=frame.expectation,
            budget=await frame.seams.threads.run(lambda: budget_of(frame.share, frame.paths)),
            rows=prepared.selection.new_rows(ledger),
            recovered=open_works,
            repeat=prepared.selection.repeated,
            retry_pass=settings.retry_pass,
            copies=prepared.selection.shared.waiting,
            numbers=await frame.seams.threads.run(prepared.selection.numbers) if settings.keep_order else None,
        )
        if frame.expectation is not None:
            frame.expectation.trusted = prepared.state.done > 0
        self._tell_the_past(engine, works, delays)
        await self._copy_results(engine)
        log.info("batch %s: %d rows to run, %d runs of before to collect", batch, prepared.to_run, len(open_works))
        frame.control.attach(engine)
        timer = self._runtime_timer(engine)
        try:
            await self._watched(engine, batch)
        finally:
            if timer is not None:
                timer.cancel()
            frame.control.detach()
        log.info("%d runs in flight was the limit at the end", engine.health.limit.current)
        frame.warn(*ledger.notices())
        summary = summarise(stats, prepared.index, ledger.state)
        summary = dataclasses.replace(summary, warnings=tuple(stats.notices))
        left_out = stats.left_out
        error = closing_error(
            engine.stopping.error,
            summary,
            results=settings.results,
            source=settings.input,
            left_out=left_out,
            asked=prepared.asked,
        )
        await ledger.flush()
        searched = frame.share.concurrency == "auto" and frame.placed is None
        found = (engine.health.limit.current, engine.modes.current) if searched else None
        counts = summary.counts() | {"left_out": left_out}
        ledger.end(counts, error.code if error is not None else "finished", limit=found)
        return summary, error

    def _limit(self) -> Limit:
        share, clock = self._frame.share, self._frame.seams.clock
        placed = self._frame.placed
        if placed is not None:
            return placed.permits
        mode, before = self._frame.settings.mode, self._prepared.state.last_limit
        return first_limit(share, self._prepared.fits, clock, mode=mode, before=before)

    def _tell_the_past(self, engine: Engine, works: list[Work], delays: list[float]) -> None:
        """What earlier invocations have left: held results, whose run is whose, how long runs took to start."""
        prepared, stats = self._prepared, self._frame.stats
        number_of = {work.id: work.number for work in works}
        held = sorted(
            (number_of[row_id], row_id, row.line)
            for row_id, row in prepared.state.rows.items()
            if row.phase is Phase.HELD and row.line is not None
        )
        for number, row_id, line in held:
            engine.books.held_before(number, row_id, Held.of_journal(line))
            stats.done_before += number > 0
        if (most := self._frame.share.max_failures) is not None:
            engine.stopping.limit_failures(most.limit(prepared.to_run))
        engine.health.expect_delays(delays)
        for row_id, row in prepared.state.rows.items():
            for name in row.ref.names if row.ref is not None else ():
                engine.claims.resume(name, row_id)
            if row.code == STUCK and row.mode == "streaming":
                engine.health.worker_died(row.started_at)
        for runs in prepared.selection.claims.values():
            for run_id in runs:
                engine.claims.resume_settled(run_id)

    async def _copy_results(self, engine: Engine) -> None:
        """--dedupe: rows whose inputs are those of a row that has its result get the same."""
        done, paths, copies = self._prepared.selection.shared.done, self._frame.paths, engine.books.copies
        if not done:
            return
        found = await self._frame.seams.threads.run(lambda: list(read_shared(paths.results, done)))
        for first, answer in found:
            for row_id in done[first]:
                copies.give(row_id, answer.inputs, answer.result, first=answer.first)
        given = {first for first, _ in found}
        copies.orphans.update(row_id for first, ids in done.items() if first not in given for row_id in ids)

    def _runtime_timer(self, engine: Engine) -> asyncio.TimerHandle | None:
        limit = self._frame.settings.max_runtime
        if limit is None:
            return None

        def too_long() -> None:
            if not engine.idle:
                engine.stopping.drain(
                    DifyBatchError(
                        f"--max-runtime of {limit:g} s is over",
                        code="not_finished",
                        hint="run the same command again: it goes on where it stopped",
                    )
                )

        return asyncio.get_running_loop().call_later(limit, too_long)

    async def _watched(self, engine: Engine, batch: str) -> None:
        """The engine's work, while the server's log is watched for a copy of this output that runs elsewhere."""
        frame, state = self._frame, self._prepared.state
        if frame.settings.allow_other_app:
            await engine.run()
            return
        known = {*state.batches, batch}
        lookout = Lookout(frame.client, self._prepared.identity, frame.settings.shard, known, frame.seams.clock)
        watching = asyncio.ensure_future(lookout.watch(engine.stopping.fail))
        try:
            await engine.run()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        # A short batch ends before the first look. Where there was no output before, there is hardly a copy of it.
        ended_well = engine.stopping.error is None
        if state.before and frame.stats.posts and ended_well and (error := await lookout.look()) is not None:
            engine.stopping.fail(error)

    # ---------------------------------------------------------------- after it

    def _with_rest(self, summary: Summary) -> Summary:
        """With what the rows that are left would take: after a pilot."""
        frame = self._frame
        found = rest(frame.settings.results, frame.share, summary.untouched, limit=frame.stats.limit)
        return dataclasses.replace(summary, rest=found)

    def _as_on_disk(self) -> Summary:
        """The summary after a file could not be written: what counts is what the files have."""
        known, index = self._prepared.index, IdIndex()
        for row_id in known.ids(IN_INPUT):
            index.add(row_id, IN_INPUT)
        state = read_state(self._frame.paths, index)
        for row_id in index.ids(RETRY):
            if known.has(row_id, SELECTED):
                index.add(row_id, SELECTED)
        return summarise(self._frame.stats, index, state, on_disk=True)


def _careful(tell: Callable[[SettledRow], None]) -> Callable[[SettledRow], None]:
    """The caller's function, whose errors are no reason to lose sight of a run."""

    def told(row: SettledRow) -> None:
        try:
            tell(row)
        except Exception:
            log.exception("on_row failed", extra={"row": row.id})

    return told


def _real(source: str) -> str:
    """Where the input stands, for whoever must not write over it."""
    return source if source == "-" else os.path.realpath(source)
