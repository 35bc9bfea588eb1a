"""Which rows this invocation works on: new ones, those of `.retry`, and runs that earlier invocations left open."""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Iterator, Mapping

from dify_batch.batch.doubles import Shared
from dify_batch.engine.resume import asked_for, may_share, resumed
from dify_batch.engine.row import Ask
from dify_batch.engine.work import Work
from dify_batch.errors import UsageError
from dify_batch.ids import DONE, IN_INPUT, INVALID, OPEN, RETRY, SELECTED, IdIndex
from dify_batch.input.bound import BoundForm
from dify_batch.input.check import valid_rows
from dify_batch.input.records import Problem
from dify_batch.input.rows import RowSource
from dify_batch.input.user import UserTemplate
from dify_batch.ledger.state import Phase, RowState, State
from dify_batch.ledger.store import Ledger
from dify_batch.summary import Stats

log: logging.Logger = logging.getLogger("dify_batch")


class Selection:
    """The rows of one checked input.

    `user`: the template of --user; `retries`, `retry_unknown`: --retry and --retry-unknown were given.
    `wanted`: the ids that --retry replays; None without --retry. `chosen`: those of --ids, --sample and --shard, None
    for all. `limit`: how many are sent at most. `claims`: {user: run ids that rows have}.
    """

    def __init__(
        self,
        source: RowSource,
        bound: BoundForm,
        index: IdIndex,
        stats: Stats,
        *,
        user: str | None = None,
        retries: bool = False,
        retry_unknown: bool = False,
    ) -> None:
        self._retries = retries
        self._user = user
        self._retry_unknown = retry_unknown
        self._source = source
        self._bound = bound
        self._index = index
        self._stats = stats
        self.wanted: frozenset[str] | None = None
        self.chosen: Container[str] | None = None
        self.limit: int | None = None
        self.claims: Mapping[str, frozenset[str]] = {}
        self.sends = True  # False: only what is under way is collected
        self.any_new = True  # False: no row is left that an earlier invocation has not begun
        self.outlived: frozenset[str] = frozenset()
        self.shared: Shared = Shared()

    def check_user_template(self) -> None:
        """Raises UsageError where --user names a column that is not there."""
        if self._user is None or self._source.typed:
            return
        for column in UserTemplate(self._user).columns:
            if column not in self._source.header:
                raise UsageError(
                    f'--user: there is no column "{column}" in {self._source.name}',
                    hint="its columns: " + ", ".join(self._source.header),
                )

    def ids_to_retry(self, state: State) -> frozenset[str]:
        """The ids of `.retry` as a person left it, and those that a killed process could not write into it."""
        ids = {row_id for row_id in state.retry if self._index.has(row_id, RETRY)}
        ids |= {row_id for row_id, row in state.rows.items() if row.phase is Phase.FAILED and not row.flushed}
        return frozenset(ids)

    def new_rows(self, ledger: Ledger | None = None) -> Iterator[Work]:
        """The rows to send, in the order of the input. Without a ledger nothing is noted (a dry run).

        Raises InputChanged if the file is not any more what was checked.
        """
        index, wanted = self._index, self.wanted
        left = self.limit if self.limit is not None else math.inf
        barred = DONE | OPEN | SELECTED | (0 if wanted is not None else RETRY)
        if left <= 0 or not self.sends or not self.any_new:
            return
        copies = frozenset(self.shared.copies)
        for entry in valid_rows(self._source, self._bound, index, self.chosen, barred=barred):
            if isinstance(entry, Problem):
                if ledger is not None:
                    self._note_invalid(entry, ledger)
                continue
            row, inputs = entry
            if index.has(row.id, barred) or (wanted is not None and row.id not in wanted) or row.id in copies:
                continue
            index.add(row.id, SELECTED)
            work = Work(row.id, row.number, inputs, cells=row.values)
            if wanted is not None and ledger is not None:
                known = ledger.state.rows.get(row.id)
                ask = asked_for(known, anyway=self._retry_unknown) if known is not None else Ask.NOTHING
                if known is not None and ask is not Ask.NOTHING:
                    work.row = resumed(known, may_send=True, ask=ask)
                    self._remember(work, known)
            yield work
            left -= 1
            if left <= 0:
                return

    def _remember(self, work: Work, known: RowState) -> None:
        """What look-ups have to know of a row that an earlier invocation sent."""
        work.known_runs = self.claims.get(known.user, frozenset())
        work.outlived, work.shared = work.id in self.outlived, may_share(known)

    def repeated(self, ids: frozenset[str], have_failed: bool) -> Iterator[Work]:
        """Rows of this invocation to go beside the new ones: those that have failed, once more; and those whose run was
        to be another's. Raises InputChanged."""
        for entry in valid_rows(self._source, self._bound, self._index, ids):
            if not isinstance(entry, Problem) and entry[0].id in ids:
                row, inputs = entry
                yield Work(row.id, row.number, inputs, cells=row.values, repeated=have_failed)

    def selects(self, row_id: str) -> bool:
        """Whether a valid row is to be sent in this invocation, --limit aside."""
        if self.wanted is not None:
            if row_id not in self.wanted:
                return False
            barred = DONE | OPEN
        else:
            barred = DONE | OPEN | RETRY
        chosen = self.chosen
        return not self._index.has(row_id, barred) and (chosen is None or row_id in chosen)

    def numbers(self) -> dict[str, int]:
        """The places in the input of the rows that share another's run, by a pass of its own."""
        copies = frozenset(self.shared.copies)
        found = valid_rows(self._source, self._bound, self._index, copies) if copies else ()
        return {entry[0].id: entry[0].number for entry in found if not isinstance(entry, Problem)}

    def _note_invalid(self, problem: Problem, ledger: Ledger) -> None:
        """--skip-invalid: the ids of bad rows go into `.retry`, with the reason in the journal."""
        row_id = problem.id
        if row_id is None or not self._index.has(row_id, INVALID):
            return
        if self._index.has(row_id, DONE | OPEN | SELECTED):
            return
        if self.wanted is None and self._index.has(row_id, RETRY):
            return
        self._index.add(row_id, SELECTED)
        ledger.failed(row_id, kind="invalid", code=problem.kind, message=str(problem))
        self._stats.failed += 1
        self._stats.failures[problem.kind, problem.message[:200]] += 1
        log.warning("left out: %s", problem, extra={"row": row_id})

    def open_rows(self, state: State) -> list[Work]:
        """Runs of earlier invocations: to be collected before anything new is sent."""
        if not any(row.phase is not Phase.FAILED and row.phase is not Phase.FREE for row in state.rows.values()):
            return []
        found: dict[str, Work] = {}
        open_here = {row_id for row_id in self._index.ids(OPEN) if self._index.has(row_id, IN_INPUT)}
        if open_here:
            for entry in valid_rows(self._source, self._bound, self._index, open_here):
                if not isinstance(entry, Problem):
                    row, inputs = entry
                    found[row.id] = Work(row.id, row.number, inputs, cells=row.values)
                    if len(found) == len(open_here):
                        break
        works = []
        for row_id, known in state.rows.items():
            if known.phase in (Phase.FAILED, Phase.FREE):
                continue
            work = found.get(row_id) or Work(row_id)
            work.row = resumed(known, may_send=work.inputs is not None and self.sends and not self._retries)
            self._remember(work, known)
            works.append(work)
            self._index.add(row_id, SELECTED)
        return works
