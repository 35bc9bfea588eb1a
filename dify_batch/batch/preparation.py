"""All that comes before the first row is sent: the files of the output, the app's form, the check of the whole input,
and which rows this invocation works on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from dify_batch.batch.appkind import with_message
from dify_batch.batch.belonging import Comparison, identify, notices
from dify_batch.batch.doubles import Doubles, Shared, share
from dify_batch.batch.elsewhere import require_whole_journal
from dify_batch.batch.enginesettings import most_in_flight
from dify_batch.batch.frame import Frame
from dify_batch.batch.openfiles import lowered, room
from dify_batch.batch.plan import files_root, selected
from dify_batch.batch.preflight import app_form, app_kind
from dify_batch.batch.selection import Selection
from dify_batch.ids import DONE, IN_INPUT, INVALID, IdIndex
from dify_batch.input.bound import BoundForm
from dify_batch.input.check import CheckReport, check
from dify_batch.input.choice import choose, only, read_ids
from dify_batch.input.files import Inputs
from dify_batch.input.form import Form
from dify_batch.input.identity import check_known_ids
from dify_batch.input.records import ADDED_ALWAYS
from dify_batch.input.rows import RowSource
from dify_batch.ledger.answered import Answered
from dify_batch.ledger.identity import Identity
from dify_batch.ledger.place import require_ours
from dify_batch.ledger.state import Phase, State, read_state
from dify_batch.settings import Settings
from dify_batch.summary import Notice
from dify_batch.text import count, listed

log: logging.Logger = logging.getLogger("dify_batch")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the preparation came to.

    `to_run`: rows to send. `asked`: done rows that stand in `.retry` without --retry. `again`: done rows that
    run again. `fits`: runs in flight that this process has open files for.
    """

    selection: Selection
    state: State
    index: IdIndex
    identity: Identity
    to_run: int
    asked: int
    again: frozenset[str]
    fits: int


async def ask_form(frame: Frame) -> tuple[Form, Mapping[str, Any]]:
    """The app's form, with the message of an app that is asked with one, and what is told of the app. From then on the
    frame knows its kind."""
    settings, clock = frame.settings, frame.seams.clock
    form, info = await app_form(frame.client, settings, frame.stats, frame.control, clock)
    if settings.app is not None:
        return form, info
    kind = await app_kind(frame.client, settings, info, frame.stats, frame.control, clock)
    frame.target = frame.target.of_kind(kind, form)
    return with_message(settings, kind, form), info


def bind(form: Form, source: RowSource, settings: Settings) -> BoundForm:
    """The form, bound to the columns of the input."""
    return form.bind(
        source.header,
        id_column=source.id_column,
        files_column=settings.files_column,
        base_dir=source.base_dir,
        typed=source.typed,
        files_root=files_root(settings.files_root),
        user=settings.user,
        constants=settings.constants,
        renames=settings.renames,
    )


class Preparation:
    """The steps, in order. `collect`: nothing is to be sent, only what is under way is followed."""

    def __init__(self, frame: Frame, *, collect: bool) -> None:
        self._frame = frame
        self._settings, self._stats = frame.settings, frame.stats
        self._source, self._paths, self._seams = frame.source, frame.paths, frame.seams
        self._collect = collect
        self._index = IdIndex()
        self._info: Mapping[str, Any] = {}
        self._identity = Identity()
        self._comparison = Comparison(self._index, Answered())
        self._again: frozenset[str] = frozenset()
        self._asked = 0
        self._changed: frozenset[str] = frozenset()
        self._doubles: Doubles | None = None
        self._fits = room(most_in_flight(frame.share))

    async def run(self) -> Prepared:
        """Raises UsageError, InvalidInput, StorageError, and what the first questions to the server raise; nothing was
        sent then."""
        settings, stats = self._settings, self._stats
        ids = None if settings.ids is None else read_ids(settings.ids)
        state = await self._read()
        form, self._info = await ask_form(self._frame)
        bound = bind(form, self._source, settings)
        selection = Selection(
            self._source,
            bound,
            self._index,
            stats,
            user=settings.user,
            retries=settings.retry,
            retry_unknown=settings.retry_unknown,
        )
        selection.check_user_template()
        selection.sends = not self._collect
        report = await self._look(bound, state)
        chosen, unlisted = choose(self._index, ids=ids, sample=settings.sample, name=self._source.name)
        self._count_left_out(report)
        if settings.shard is not None:
            chosen = only(self._index, settings.shard, chosen)
        selection.chosen = settings.shard if chosen is None else chosen
        selection.limit = self._frame.share.limit
        self._frame.warn(*report.warnings, *self._warnings_of(state))
        if settings.dedupe and bound.takes("id"):
            text = "--dedupe: the app takes the id as an input, so no two rows ask the same, and each of them runs"
            self._frame.warn(Notice("nothing_equal", text))
        if unlisted is not None:
            self._frame.warn(Notice("ids_not_in_input", unlisted))
        if (fewer := lowered(self._frame.share.concurrency, self._fits)) is not None:
            self._frame.warn(Notice("open_files", fewer))
        await self._choose_again(state, selection.chosen)
        selection.wanted = selection.ids_to_retry(state) | self._again if settings.retry else None
        if self._doubles is not None and not self._collect:
            selection.shared = self._shared(self._doubles, selection, state)
        copies = len(selection.shared.copies)
        to_run = 0 if self._collect else selected(self._index, None, selection.wanted, chosen) - copies
        to_run = to_run if selection.limit is None else min(to_run, selection.limit)
        # The table need not be read once more; rows that do not pass are noted on the way.
        selection.any_new = to_run > 0 or self._index.count(INVALID) > 0
        stats.rows = self._index.count(IN_INPUT) + stats.left_out
        stats.to_run = to_run + (copies if selection.limit is None else 0)
        stats.done_before = sum(1 for row_id in self._index.ids(IN_INPUT) if self._index.has(row_id, DONE))
        stats.state = ""
        self._frame.warn(*self._frame.target.before_sending(to_run, self._seams.clock.wall()))
        return Prepared(selection, state, self._index, self._identity, to_run, self._asked, self._again, self._fits)

    def _shared(self, doubles: Doubles, selection: Selection, state: State) -> Shared:
        """--dedupe: which rows share the run of another."""
        rows = state.rows
        known = (Phase.SENT, Phase.STARTED, Phase.PAUSED)
        return share(
            doubles.groups(),
            self._index,
            selected=selection.selects,
            stale=self._changed | self._again,
            open_before=lambda row_id: row_id in rows and rows[row_id].phase in known,
            alone=lambda row_id: row_id in state.asked or (row_id in rows and rows[row_id].kind == "unknown"),
        )

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
            self._info,
            state,
            self._seams.chance,
            base_url=self._frame.target.base_url,
            owner=self._frame.target.owner,
            workflow_id=self._settings.workflow_id,
            demo=self._settings.demo,
            allowed=self._settings.allow_other_app,
        )
        return found

    async def _look(self, bound: BoundForm, state: State) -> CheckReport:
        """Whether the rows may be sent: whose results are there, and the check of the whole input."""
        settings = self._settings
        self._frame.warn(*self._identify(state))
        if not settings.allow_other_app and settings.user is None:
            await self._frame.control.unless_halted(
                require_whole_journal(self._frame.client, state, self._identity, settings.shard)
            )
        self._stats.state = f"checking {self._source.name}"
        self._comparison = Comparison(self._index, state.answered)
        look = self._comparison.look
        if settings.dedupe:
            doubles = self._doubles = Doubles(takes_id=bound.takes("id"))

            def look(row_id: str, inputs: Inputs, compare: Callable[[str, Inputs], None] = look) -> None:
                compare(row_id, inputs)
                doubles.look(row_id, inputs)

        report = await self._seams.threads.run(
            lambda: check(
                self._source,
                bound,
                self._index,
                other_ids=settings.other_ids,
                look=look,
                part=self._unchecked(),
            )
        )
        report.raise_if_any(skip_invalid=settings.skip_invalid)
        if not settings.other_ids and not self._part:
            check_known_ids(self._index, state.rows, name=self._source.name, output=str(self._paths.results))
        return report

    @property
    def _part(self) -> bool:
        """Whether the input is what `export --failed` wrote, which holds only the failed rows."""
        return set(self._source.header) >= ADDED_ALWAYS

    def _unchecked(self) -> Container[str] | None:
        """The rows that are still to be checked, None for all: only those of one part where a coordinator has checked
        the whole input, and it is the same."""
        placed, settings = self._frame.placed, self._settings
        if placed is None or placed.checked is None or placed.checked != self._source.stamp:
            return None
        return settings.shard if settings.ids is None and settings.sample is None else None

    def _count_left_out(self, report: CheckReport) -> None:
        """--skip-invalid: bad rows whose id is blank or another row's. They cannot stand in `.retry`, and are told and
        counted as failed each time; of a batch in parts by the first one, as they belong to none."""
        if self._settings.shard is not None and self._settings.shard.number != 1:
            return
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
        self._changed = frozenset(changed)
        rerun = [i for i in changed if chosen is None or i in chosen] if settings.rerun_changed else []
        rerun = rerun[: self._frame.share.limit]
        asked = [i for i in state.asked if index.has(i, IN_INPUT) and not index.has(i, INVALID)]
        self._asked = 0 if settings.retry else len(asked)
        self._again = frozenset(rerun) | frozenset(asked if settings.retry else ())
        self._frame.warn(
            *notices(index, state, changed, rerun=settings.rerun_changed, part=self._part, source=self._source.name)
        )
        if self._asked:
            ids = count(self._asked, "row that has a result stands", "rows that have a result stand")
            text = f"{ids} in {self._paths.retry}: {listed(asked)}; --retry runs what is in it again"
            self._frame.warn(Notice("done_in_retry", text))
        for row_id in self._again:
            index.remove(row_id, DONE)

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
