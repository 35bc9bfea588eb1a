"""One batch from beginning to end: checks, plan, engine, summary. `run_batch` is what the command line calls, too."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dify_batch.check import CheckReport, check, valid_rows
from dify_batch.client import DifyClient
from dify_batch.errors import DifyBatchError, Exit, InvalidInput, StorageError, UsageError
from dify_batch.form import BoundForm
from dify_batch.formats import Paths
from dify_batch.ids import DONE, IN_INPUT, INVALID, OPEN, RETRY, SELECTED, IdIndex
from dify_batch.ledger import Held, Ledger, set_aside
from dify_batch.limit import FixedLimit, Limit
from dify_batch.lock import OutputLock
from dify_batch.outcome_of_batch import closing_error, next_steps, summarise
from dify_batch.plan import Plan, make_plan, selected
from dify_batch.preflight import app_form
from dify_batch.records import Problem
from dify_batch.rows import RowSource
from dify_batch.settings import Secret, Settings
from dify_batch.state import Phase, State, claimed_runs, read_state
from dify_batch.summary import Stats, Summary
from dify_batch.work import Item, columns_of

if TYPE_CHECKING:
    import httpx

    from dify_batch.engine import Engine

log = logging.getLogger("dify_batch")


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


class Control:
    """The reins of a batch under way; to be used from the thread of its event loop."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.halt = asyncio.Event()
        self.signal_error: DifyBatchError | None = None

    def drain(self, signal_name: str = "SIGINT") -> None:
        """Take no more rows, finish what runs."""
        if self.signal_error is None:
            code = "terminated" if signal_name == "SIGTERM" else "interrupted"
            self.signal_error = DifyBatchError(
                f"stopped by {signal_name}", code=code, hint="run the same command again: it goes on where it stopped"
            )
        self.halt.set()
        if self._engine is not None:
            self._engine.stopping.drain(self.signal_error)

    def stop(self) -> None:
        """Stop the runs on the server, and wait until it says how each ended."""
        if self.signal_error is None:
            self.drain()
        if self._engine is not None and self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._engine.stopping.stop_runs())

    def abandon(self) -> None:
        """End now, with what is journalled."""
        self.drain()
        if self._engine is not None:
            self._engine.stopping.abandon()

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        if self.signal_error is not None:
            engine.stopping.drain(self.signal_error)

    async def detach(self) -> None:
        self._engine = None
        if self._stopping is not None:
            self._stopping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._stopping


async def run_batch(
    settings: Settings,
    *,
    control: Control | None = None,
    stats: Stats | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> BatchReport:
    """Runs a batch, or with `settings.dry_run` says what it would do.

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
    stats = stats or Stats()
    folder = settings.output.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"{settings.output}: there is no folder {folder}", hint=f"make it first: mkdir -p '{folder}'")
    if settings.output.is_dir():
        raise UsageError(
            f"{settings.output} is a folder", hint=f"give a file, such as -o {settings.output}/results.jsonl"
        )
    async with contextlib.AsyncExitStack() as stack:
        source = stack.enter_context(
            RowSource.open(
                settings.input,
                encoding=settings.encoding,
                delimiter=settings.delimiter,
                id_column=settings.id_column,
            )
        )
        paths = Paths.of(settings.output)
        if not settings.dry_run:
            lock = OutputLock(paths.lock)
            lock.acquire()
            stack.callback(lock.release)
        if settings.demo:
            settings = stack.enter_context(_demo(settings))
        client = await stack.enter_async_context(
            DifyClient(
                settings.base_url,
                settings.api_key.reveal(),
                workflow_id=settings.workflow_id,
                transport=transport,
            )
        )
        batch = _Batch(settings, control, stats, source, paths, client)
        return await batch.run()


@contextlib.contextmanager
def _demo(settings: Settings) -> Iterator[Settings]:
    """The built-in simulated Dify, and the settings that lead to it."""
    from dataclasses import replace

    from dify_batch.simulator import Config, Simulator

    with Simulator(Config()) as simulator:
        yield replace(settings, base_url=simulator.base_url, api_key=Secret(simulator.api_key), workflow_id=None)


class _Batch:
    """The steps of one batch, in order."""

    def __init__(
        self,
        settings: Settings,
        control: Control,
        stats: Stats,
        source: RowSource,
        paths: Paths,
        client: DifyClient,
    ) -> None:
        self._settings = settings
        self._control = control
        self._stats = stats
        self._source = source
        self._paths = paths
        self._client = client
        self._index = IdIndex()
        self._wanted: frozenset[str] | None = None

    async def run(self) -> BatchReport:
        settings, stats = self._settings, self._stats
        form = await app_form(self._client, settings, stats, self._control.halt)
        bound = form.bind(
            self._source.header,
            id_column=self._source.id_column,
            files_column=settings.files_column,
            base_dir=self._source.base_dir,
            typed=self._source.typed,
        )
        self._check_user_template()
        state, report = await self._look(bound)
        warnings = (*report.warnings, *self._warnings_of(state))
        for warning in warnings:
            log.warning("%s", warning)
        self._wanted = self._ids_to_retry(state) if settings.retry else None
        to_run = selected(self._index, settings, self._wanted)
        stats.rows = report.rows
        stats.to_run = to_run
        stats.done_before = sum(1 for row_id in self._index.ids(IN_INPUT) if self._index.has(row_id, DONE))
        stats.state = ""
        if settings.dry_run:
            first = [item for item, _ in zip(self._new_rows(bound, None), range(3), strict=False)]
            plan = make_plan(self._index, settings, to_run=to_run, first=first, warnings=warnings)
            return BatchReport(stats.summary(), plan=plan)
        if self._control.signal_error is not None:
            return BatchReport(stats.summary(), self._control.signal_error)
        return await self._work(bound, state, to_run)

    async def _look(self, bound: BoundForm) -> tuple[State, CheckReport]:
        """Reads the files of the output and checks the whole input; on a thread, so that signals and display live."""
        settings = self._settings
        self._stats.state = f"reading {self._paths.results}"
        if settings.overwrite:
            state = State(self._index)
        else:
            state = await asyncio.to_thread(read_state, self._paths, self._index)
        self._stats.state = f"checking {self._source.name}"
        report = await asyncio.to_thread(check, self._source, bound, self._index)
        report.raise_if_any(skip_invalid=settings.skip_invalid)
        return state, report

    def _check_user_template(self) -> None:
        if self._settings.user is None or self._source.typed:
            return
        for column in columns_of(self._settings.user):
            if column not in self._source.header:
                raise UsageError(
                    f'--user: there is no column "{column}" in {self._source.name}',
                    hint="its columns: " + ", ".join(self._source.header),
                )

    def _warnings_of(self, state: State) -> list[str]:
        warnings = list(state.bad_lines)
        if state.missing_results:
            warnings.append(
                f"{self._paths.results} lacks {state.missing_results} results that the journal calls done; "
                "they are fetched from the server again"
            )
        unknown = [row_id for row_id in state.retry if not self._index.has(row_id, IN_INPUT)]
        if unknown:
            shown = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
            warnings.append(f"{self._paths.retry}: {len(unknown)} ids are not in {self._source.name}: {shown}")
        return warnings

    def _ids_to_retry(self, state: State) -> frozenset[str]:
        """The ids of `.retry` as a person left it, and those that a killed process could not write into it."""
        ids = {row_id for row_id in state.retry if self._index.has(row_id, RETRY)}
        ids |= {row_id for row_id, row in state.rows.items() if row.phase is Phase.FAILED and not row.flushed}
        return frozenset(ids)

    # ---------------------------------------------------------------- rows

    def _new_rows(self, bound: BoundForm, ledger: Ledger | None) -> Iterator[Item]:
        """The rows to send, in the order of the input."""
        index, wanted = self._index, self._wanted
        left = self._settings.limit if self._settings.limit is not None else math.inf
        barred = DONE | OPEN | SELECTED | (0 if wanted is not None else RETRY)
        if left <= 0:
            return
        for entry in valid_rows(self._source, bound, index):
            if isinstance(entry, Problem):
                if ledger is not None:
                    self._note_invalid(entry, ledger)
                continue
            row, inputs = entry
            if index.has(row.id, barred) or (wanted is not None and row.id not in wanted):
                continue
            index.add(row.id, SELECTED)
            item = Item(row.id, row.number, inputs, cells=row.values)
            if wanted is not None and ledger is not None:
                known = ledger.state.rows.get(row.id)
                if known is not None and known.kind == "unknown" and known.user:
                    item.remember(known)
                    item.asked_again = item.from_before = True
                    item.known_runs = self._claims.get(known.user, frozenset())
            yield item
            left -= 1
            if left <= 0:
                return
        if ledger is not None and self._source.changed():
            raise InvalidInput(
                f"{self._source.name} was changed while the batch ran, so it is not what was checked",
                hint="run the same command again: done rows are skipped",
            )

    def _note_invalid(self, problem: Problem, ledger: Ledger) -> None:
        """--skip-invalid: the ids of bad rows go into `.retry`, with the reason in the journal."""
        row_id = problem.id
        if row_id is None or not self._index.has(row_id, INVALID):
            return
        if self._index.has(row_id, DONE | OPEN | SELECTED):
            return
        if self._wanted is None and self._index.has(row_id, RETRY):
            return
        self._index.add(row_id, SELECTED)
        ledger.failed(row_id, kind="invalid", code=problem.kind, message=str(problem))
        self._stats.failed += 1
        self._stats.failures[problem.kind, problem.message[:200]] += 1
        log.warning("left out: %s", problem, extra={"row": row_id})

    def _open_items(self, bound: BoundForm, state: State) -> list[Item]:
        """Runs of earlier invocations: to be collected before anything new is sent."""
        if not any(row.phase is not Phase.FAILED and row.phase is not Phase.FREE for row in state.rows.values()):
            return []
        found: dict[str, Item] = {}
        open_here = {row_id for row_id in self._index.ids(OPEN) if self._index.has(row_id, IN_INPUT)}
        if open_here:
            for entry in valid_rows(self._source, bound, self._index):
                if not isinstance(entry, Problem) and entry[0].id in open_here:
                    row, inputs = entry
                    found[row.id] = Item(row.id, row.number, inputs, cells=row.values)
                    if len(found) == len(open_here):
                        break
        items = []
        for row_id, known in state.rows.items():
            if known.phase in (Phase.FAILED, Phase.FREE):
                continue
            item = found.get(row_id) or Item(row_id, may_send=False)
            item.may_send = item.may_send and not self._settings.retry
            item.remember(known)
            item.from_before = True
            item.paused_before = known.phase is Phase.PAUSED
            item.reason = f"sent at {time.strftime('%H:%M:%S', time.localtime(known.sent_at))} by an earlier invocation"
            items.append(item)
            self._index.add(row_id, SELECTED)
        return items

    # ---------------------------------------------------------------- the work

    async def _work(self, bound: BoundForm, state: State, to_run: int) -> BatchReport:
        from dify_batch.engine import Engine

        settings, stats = self._settings, self._stats
        engine: Engine | None = None

        def on_storage_error(error: StorageError) -> None:
            if engine is not None:
                engine.stopping.fail(error)
                engine.stopping.abandon()

        if settings.overwrite:
            for name in set_aside(self._paths):
                log.warning("kept the old file as %s", name)
        users = frozenset(row.user for row in state.rows.values() if row.user)
        looked_up = any(row.phase is Phase.SENT or row.kind == "unknown" for row in state.rows.values())
        claims = await asyncio.to_thread(claimed_runs, self._paths, users) if looked_up else {}
        self._claims = {user: frozenset(runs) for user, runs in claims.items()}
        items = await asyncio.to_thread(self._open_items, bound, state)
        number_of = {item.id: item.number for item in items}
        held = sorted(
            (number_of[row_id], row_id, row.line)
            for row_id, row in state.rows.items()
            if row.phase is Phase.HELD and row.line is not None
        )
        items = [item for item in items if state.rows[item.id].phase is not Phase.HELD]
        ledger = Ledger(
            self._paths,
            state,
            base_url=settings.base_url,
            on_error=on_storage_error,
            bom=settings.bom,
        )
        try:
            batch = _new_batch_id()
            ledger.begin(
                batch,
                input=settings.input,
                mode=settings.mode,
                policy=settings.retry_policy,
                **({"demo": True} if settings.demo else {}),
            )
            engine = Engine(
                settings,
                self._client,
                ledger,
                stats,
                batch=batch,
                limit=_limit(settings),
                rows=self._new_rows(bound, ledger),
                recovered=[item for item in items if item.ref is not None],
            )
            for item in items:
                engine.books.begun_before(item)
            for number, row_id, line in held:
                engine.books.held_before(number, row_id, Held.of_journal(line))
                stats.done_before += number > 0
            if settings.max_failures is not None:
                engine.stopping.limit_failures(settings.max_failures.limit(to_run))
            for item in items:
                if item.ref is None:
                    item.known_runs = self._claims.get(item.user, frozenset())
                    engine.followup.look_up(item)
            self._control.attach(engine)
            timer = self._runtime_timer(engine)
            try:
                await engine.run()
            finally:
                if timer is not None:
                    timer.cancel()
                await self._control.detach()
            summary = summarise(stats, self._index, ledger.state)
            error = closing_error(engine.stopping.error, summary, settings)
            ledger.end(summary.as_dict(), error.code if error is not None else "finished")
        finally:
            try:
                await ledger.close()
            except StorageError as storage:
                if engine is None:
                    raise
                engine.stopping.fail(storage)
        if isinstance(engine.stopping.error, StorageError):
            error = engine.stopping.error
        return BatchReport(summary, error, next_steps=next_steps(summary, settings, error))

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


def _new_batch_id() -> str:
    """Short, and unique among all batches of an app: it is part of the `user` that runs are found by."""
    return f"{int(time.time()):x}{secrets.token_hex(3)}"


def _limit(settings: Settings) -> Limit:
    if settings.concurrency == "auto":
        from dify_batch.auto import AutoLimit

        return AutoLimit()
    return FixedLimit(settings.concurrency)
