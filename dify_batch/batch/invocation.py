"""One batch from beginning to end: checks, plan, engine, summary. `run_batch` is what the command line calls, too."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dify_batch.addressing import check_certificates
from dify_batch.batch.belonging import Comparison, identify, notices
from dify_batch.batch.control import Control
from dify_batch.batch.elsewhere import new_batch_name, require_whole_journal
from dify_batch.batch.ending import closing_error, next_steps, summarise
from dify_batch.batch.openfiles import lowered, room
from dify_batch.batch.plan import Plan, files_root, make_plan, selected
from dify_batch.batch.preflight import app_form
from dify_batch.batch.selection import Selection
from dify_batch.batch.surface import Target, open_target
from dify_batch.engine.budget import Budget
from dify_batch.engine.course import RULES_VERSION
from dify_batch.engine.limit import FixedLimit, Limit
from dify_batch.engine.slots import is_own
from dify_batch.errors import DifyBatchError, Exit, StorageError, UsageError
from dify_batch.ids import DONE, IN_INPUT, INVALID, RETRY, SELECTED, IdIndex
from dify_batch.input.check import CheckReport, check
from dify_batch.input.choice import choose, read_ids
from dify_batch.input.form import BoundForm
from dify_batch.input.handed import as_file
from dify_batch.input.identity import check_known_ids
from dify_batch.input.records import ADDED
from dify_batch.input.rows import RowSource
from dify_batch.ledger.answered import Answered
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.identity import Identity
from dify_batch.ledger.lock import OutputLock
from dify_batch.ledger.place import require_ours, require_output
from dify_batch.ledger.spent import spent
from dify_batch.ledger.state import Phase, State, claimed_runs, read_state
from dify_batch.ledger.store import Held, Ledger, set_aside
from dify_batch.ledger.supersede import supersede
from dify_batch.outcomes import SettledRow
from dify_batch.seams import REAL, Clock, Seams
from dify_batch.settings import Settings
from dify_batch.summary import Notice, Stats, Summary
from dify_batch.text import count, listed

if TYPE_CHECKING:
    from dify_batch.dify.transport import AnyTransport
    from dify_batch.engine.runner import Engine, Options

log: logging.Logger = logging.getLogger("dify_batch")


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How a batch ended. `error` is None where every selected row has a result or is paused.

    `plan` is there for a dry run, which has sent nothing. `next_steps`: sentences that say what to type next.
    """

    summary: Summary
    error: DifyBatchError | None = None
    plan: Plan | None = None
    next_steps: tuple[str, ...] = ()

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
) -> BatchReport:
    """Runs a batch, or with `settings.dry_run` says what it would do.

    `rows`: in place of a file: dictionaries of input → value, each with its `id`; `settings.input` is "-" then.
    `on_row`: called in the event loop for each row as it settles, perhaps before its result is safe on the disk. What
    it raises is logged, and stops nothing.
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
    control = control or Control()
    stats = stats or Stats(clock=seams.clock)
    disk = disk or Disk()
    paths = require_output(settings.output, settings.input, overwrite=settings.overwrite)
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
        target = await stack.enter_async_context(open_target(settings, transport, seams))
        batch = _Batch(target, control, stats, source, paths, seams, disk, collect=collect, on_row=on_row)
        return await batch.run()


class _Batch:
    """The steps of one batch, in order."""

    def __init__(
        self,
        target: Target,
        control: Control,
        stats: Stats,
        source: RowSource,
        paths: Paths,
        seams: Seams,
        disk: Disk,
        *,
        collect: bool,
        on_row: Callable[[SettledRow], None] | None,
    ) -> None:
        self._target = target
        self._settings = target.settings
        self._collect = collect
        self._on_row = None if on_row is None else _careful(on_row)
        self._seams = seams
        self._disk = disk
        self._control = control
        self._stats = stats
        self._source = source
        self._paths = paths
        self._client = target.client
        self._index = IdIndex()
        self._info: Mapping[str, Any] = {}
        self._identity = Identity()
        self._comparison = Comparison(self._index, Answered())
        self._again: frozenset[str] = frozenset()
        self._asked = 0
        self._fits = room(_most(target.settings))

    async def run(self) -> BatchReport:
        settings, stats = self._settings, self._stats
        ids = None if settings.ids is None else read_ids(settings.ids)
        state = await self._read()
        form, self._info = await app_form(self._client, settings, stats, self._control, self._seams.clock)
        bound = form.bind(
            self._source.header,
            id_column=self._source.id_column,
            files_column=settings.files_column,
            base_dir=self._source.base_dir,
            typed=self._source.typed,
            files_root=files_root(settings),
            user=settings.user,
            constants=settings.constants,
            renames=settings.renames,
        )
        selection = Selection(settings, self._source, bound, self._index, stats)
        selection.check_user_template()
        selection.sends = not self._collect
        report = await self._look(bound, state)
        selection.chosen, unlisted = choose(self._index, ids=ids, sample=settings.sample, name=self._source.name)
        self._warn(*report.warnings, *self._warnings_of(state))
        if unlisted is not None:
            self._warn(Notice("ids_not_in_input", unlisted))
        if (fewer := lowered(settings.concurrency, self._fits)) is not None:
            self._warn(Notice("open_files", fewer))
        await self._choose_again(state, selection.chosen)
        selection.wanted = selection.ids_to_retry(state) | self._again if settings.retry else None
        to_run = 0 if self._collect else selected(self._index, settings, selection.wanted, selection.chosen)
        self._count_left_out(report)
        stats.rows = report.rows + stats.left_out
        stats.to_run = to_run
        stats.done_before = sum(1 for row_id in self._index.ids(IN_INPUT) if self._index.has(row_id, DONE))
        stats.state = ""
        self._warn(*self._target.before_sending(to_run, self._seams.clock.wall()))
        if settings.dry_run:
            first = [item for item, _ in zip(selection.new_rows(), range(3), strict=False)]
            plan = make_plan(self._index, settings, to_run=to_run, first=first, warnings=tuple(stats.notices))
            return BatchReport(summarise(stats, self._index, state), plan=plan)
        if self._control.signal_error is not None:
            return BatchReport(summarise(stats, self._index, state), self._control.signal_error)
        return await self._work(selection, state, to_run)

    async def _read(self) -> State:
        """What the files of the output say; on a thread, so that signals and display live. An output of another server
        is refused before anything, the key not either, is sent to this one."""
        self._stats.state = f"reading {self._paths.results}"
        if self._settings.overwrite:
            return State(self._index)
        state = await self._seams.threads.run(lambda: read_state(self._paths, self._index))
        require_ours(self._paths, state.strange)
        self._identify(state)
        return state

    def _identify(self, state: State) -> list[Notice]:
        self._identity, found = identify(
            self._settings,
            self._info,
            state,
            self._seams.chance,
            base_url=self._target.base_url,
            owner=self._target.owner,
        )
        return found

    async def _look(self, bound: BoundForm, state: State) -> CheckReport:
        """Whether the rows may be sent: whose results are there, and the check of the whole input."""
        settings = self._settings
        self._warn(*self._identify(state))
        if not settings.allow_other_app and settings.user is None:
            await self._control.unless_halted(require_whole_journal(self._client, state, self._identity))
        self._stats.state = f"checking {self._source.name}"
        self._comparison = Comparison(self._index, state.answered)
        report = await self._seams.threads.run(
            lambda: check(self._source, bound, self._index, other_ids=settings.other_ids, look=self._comparison.look)
        )
        report.raise_if_any(skip_invalid=settings.skip_invalid)
        part = set(ADDED) <= set(self._source.header)  # what export --failed wrote holds only the failed ones
        if not settings.other_ids and not part:
            check_known_ids(self._index, state.rows, name=self._source.name, output=str(self._paths.results))
        return report

    def _count_left_out(self, report: CheckReport) -> None:
        """--skip-invalid: bad rows whose id is blank or another row's. They cannot stand in `.retry`, and are told and
        counted as failed each time."""
        self._stats.left_out = left_out = max(0, report.invalid - self._index.count(INVALID))
        if left_out:
            self._stats.failures["no_id_of_its_own", "the id is missing or another row's"] += left_out
            for problem in report.first:
                if problem.id is None or problem.kind == "duplicate_id":
                    log.warning("left out: %s", problem, extra={"row": problem.id} if problem.id else None)
            log.warning("%d rows of %s have no id of their own and are left out", left_out, self._source.name)

    async def _choose_again(self, state: State, chosen: Container[str] | None) -> None:
        """Which done rows run again: those that a person put into `.retry`, and with --rerun-changed those whose inputs
        have changed. They count as done no more; their old lines are kept once the batch begins."""
        settings, index = self._settings, self._index
        changed = await self._seams.threads.run(lambda: self._comparison.changed(self._paths.results))
        rerun = [i for i in changed if chosen is None or i in chosen] if settings.rerun_changed else []
        rerun = rerun[: settings.limit]
        asked = [i for i in state.asked if index.has(i, IN_INPUT) and not index.has(i, INVALID)]
        self._asked = 0 if settings.retry else len(asked)
        self._again = frozenset(rerun) | frozenset(asked if settings.retry else ())
        self._warn(*notices(index, state, changed, rerun=settings.rerun_changed, source=self._source.name))
        if self._asked:
            ids = count(self._asked, "row that has a result stands", "rows that have a result stand")
            text = f"{ids} in {self._paths.retry}: {listed(asked)}; --retry runs what is in it again"
            self._warn(Notice("done_in_retry", text))
        for row_id in self._again:
            index.remove(row_id, DONE)

    def _warn(self, *found: Notice) -> None:
        for notice in found:
            self._stats.notices.append(notice)
            log.warning("%s", notice.message)

    def _warnings_of(self, state: State) -> list[Notice]:
        found = [Notice("bad_result_line", line) for line in state.bad_lines]
        if state.missing_results:
            text = (
                f"{self._paths.results} lacks {state.missing_results} results that the journal calls done; they are "
                f"fetched from the server again (to run a row again, put its id into {self._paths.retry.name} once "
                "it has its result, and add --retry)"
            )
            found.append(Notice("missing_results", text))
        unknown = [row_id for row_id in state.retry if not self._index.has(row_id, IN_INPUT)]
        if unknown:
            ids = count(len(unknown), "id is", "ids are")
            text = f"{self._paths.retry}: {ids} not in {self._source.name}: {listed(unknown)}"
            found.append(Notice("unknown_in_retry", text))
        return found

    # ---------------------------------------------------------------- the work

    async def _work(self, selection: Selection, state: State, to_run: int) -> BatchReport:
        from dify_batch.engine.runner import Engine

        settings, stats = self._settings, self._stats
        engine: Engine | None = None

        unwritten: list[StorageError] = []  # told whatever else stopped the batch: a signal came first, it may be

        def on_storage_error(error: StorageError) -> None:
            unwritten.append(error)
            if engine is not None:
                engine.stopping.fail(error)
                engine.stopping.abandon()

        if settings.overwrite:
            for name in set_aside(self._paths, self._disk, self._seams.clock):
                log.warning("kept the old file as %s", name)
        threads = self._seams.threads
        if self._again:
            superseded = await threads.run(lambda: supersede(self._paths, self._again, self._disk, self._seams.clock))
            state.drop(superseded)
        delays = await threads.run(lambda: self._read_claims(selection, state))
        works = await threads.run(lambda: selection.open_rows(state))
        number_of = {work.id: work.number for work in works}
        held = sorted(
            (number_of[row_id], row_id, row.line)
            for row_id, row in state.rows.items()
            if row.phase is Phase.HELD and row.line is not None
        )
        works = [work for work in works if state.rows[work.id].phase is not Phase.HELD]
        ledger = Ledger(
            self._paths,
            state,
            base_url=self._target.base_url,
            on_error=on_storage_error,
            bom=settings.bom,
            disk=self._disk,
            seams=self._seams,
            on_row=self._on_row,
        )
        try:
            batch = new_batch_name(self._identity, self._seams)
            ledger.begin(
                batch,
                input=settings.input,
                input_path=_real(settings.input),
                mode=settings.mode,
                policy=settings.retry_policy,
                rules=RULES_VERSION,
                again=settings.again(),
                **self._identity.facts(),
            )
            engine = Engine(
                dataclasses.replace(_options(settings), **self._target.options),
                self._client,
                ledger,
                stats,
                self._seams,
                batch=batch,
                limit=_limit(settings, self._fits, self._seams.clock),
                new_limit=_limits(settings, self._fits, self._seams.clock),
                budget=await threads.run(lambda: _budget(settings, self._paths)),
                rows=selection.new_rows(ledger),
                recovered=works,
            )
            for number, row_id, line in held:
                engine.books.held_before(number, row_id, Held.of_journal(line))
                stats.done_before += number > 0
            if settings.max_failures is not None:
                engine.stopping.limit_failures(settings.max_failures.limit(to_run))
            engine.health.expect_delays(delays)
            for row_id, row in state.rows.items():
                if row.run_id is not None:
                    engine.claims.resume(row.run_id, row_id)
            for runs in selection.claims.values():
                for run_id in runs:
                    engine.claims.resume_settled(run_id)
            log.info("batch %s: %d rows to run, %d runs of before to collect", batch, to_run, len(works))
            self._control.attach(engine)
            timer = self._runtime_timer(engine)
            try:
                await engine.run()
            finally:
                if timer is not None:
                    timer.cancel()
                self._control.detach()
            log.info("%d runs in flight was the limit at the end", engine.health.limit.current)
            summary = summarise(stats, self._index, ledger.state)
            self._warn(*ledger.notices())
            summary = dataclasses.replace(summary, warnings=tuple(stats.notices))
            error = closing_error(engine.stopping.error, summary, settings, left_out=stats.left_out, asked=self._asked)
            await ledger.flush()
            ledger.end(summary.counts() | {"left_out": stats.left_out}, error.code if error is not None else "finished")
        except StorageError as storage:
            if engine is None:
                raise
            engine.stopping.fail(storage)
            unwritten.append(storage)
        finally:
            with contextlib.suppress(StorageError):  # it is in `unwritten` already
                await ledger.close()
        if unwritten:
            error = unwritten[0]
            summary = await threads.run(self._as_on_disk)
        return BatchReport(
            summary, error, next_steps=next_steps(summary, settings, error, left_out=stats.left_out, asked=self._asked)
        )

    def _read_claims(self, selection: Selection, state: State) -> list[float]:
        """What look-ups have to know of the journal: which runs rows have, and how long runs took to start."""
        users = {row.user for row in state.rows.values() if row.phase is Phase.SENT or row.kind == "unknown"}
        own_user = self._settings.user is None
        if not users and own_user:
            return []
        past = claimed_runs(self._paths, lambda user: user in users or not (own_user or is_own(user)))
        selection.claims = {user: frozenset(runs) for user, runs in past.runs.items()}
        selection.outlived = past.outlived
        return past.delays

    def _as_on_disk(self) -> Summary:
        """The summary after a file could not be written: what counts is what the files have."""
        index = IdIndex()
        for row_id in self._index.ids(IN_INPUT):
            index.add(row_id, IN_INPUT)
        state = read_state(self._paths, index)
        for row_id in index.ids(RETRY):
            if self._index.has(row_id, SELECTED):
                index.add(row_id, SELECTED)
        return summarise(self._stats, index, state, on_disk=True)

    def _runtime_timer(self, engine: Engine) -> asyncio.TimerHandle | None:
        limit = self._settings.max_runtime
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


def _most(settings: Settings) -> int:
    """How many runs may be wanted in flight."""
    if settings.concurrency != "auto":
        return settings.concurrency
    from dify_batch.engine.auto import MOST

    return MOST


def _limit(settings: Settings, fits: int, clock: Clock) -> Limit:
    if settings.concurrency == "auto":
        from dify_batch.engine.auto import AutoLimit

        return AutoLimit(most=fits, clock=clock.monotonic)
    return FixedLimit(min(fits, settings.concurrency), clock=clock.monotonic)


def _limits(settings: Settings, fits: int, clock: Clock) -> Callable[[int], Limit] | None:
    """Makes the limit of a new search, from where the last one stood; None where none is searched for."""
    if settings.concurrency != "auto":
        return None
    from dify_batch.engine.auto import AutoLimit

    return lambda start: AutoLimit(most=fits, start=start, clock=clock.monotonic)


def _budget(settings: Settings, paths: Paths) -> Budget | None:
    """The budget of the whole output, with what all its runs have used so far."""
    if settings.max_tokens is None and settings.max_cost is None:
        return None
    return Budget(settings.max_tokens, settings.max_cost, spent(paths))


def _options(settings: Settings) -> Options:
    """What the engine is told of the settings."""
    from dify_batch.engine.runner import Options

    return Options(
        policy=settings.retry_policy,
        max_retries=settings.max_retries,
        initial_retry_delay=settings.initial_retry_delay,
        max_retry_delay=settings.max_retry_delay,
        concurrency=settings.concurrency,
        rate=settings.rate,
        wait=settings.wait,
        mode=settings.mode,
        timeout=settings.timeout,
        settle=settings.settle,
        stuck_after=settings.stuck_after,
        max_outage=settings.max_outage,
        user=settings.user,
        keep_order=settings.keep_order,
        look_with=f"dify-batch status {settings.output}",
    )
