"""The books: what each row came to, told to the ledger and counted for whoever watches."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dify_batch.engine.order import Order
from dify_batch.engine.policy import GiveUp
from dify_batch.engine.work import Item
from dify_batch.ids import SELECTED
from dify_batch.input.files import described
from dify_batch.ledger.store import Held
from dify_batch.outcomes import Outcome, Paused, Succeeded

if TYPE_CHECKING:
    from dify_batch.engine.runner import Engine

log = logging.getLogger("dify_batch")


# So many different texts of failures are counted apart.
_TEXTS = 500


class Books:
    """Concludes rows. Each method is called once at the end of a row's way through this invocation."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._order = Order() if engine.settings.keep_order else None

    @property
    def held(self) -> int:
        """Results that wait for an earlier row."""
        return len(self._order) if self._order is not None else 0

    def begun(self, item: Item) -> None:
        """A row was taken from the input."""
        if self._order is not None:
            self._order.open(item.number)
            self._order.read_up_to(item.number)

    def begun_before(self, item: Item) -> None:
        """A row of an earlier invocation is under way again; later rows wait for it."""
        if self._order is not None and item.number:
            self._order.open(item.number)

    def held_before(self, number: int, row_id: str, held: Held) -> None:
        """A result that an earlier invocation left in the journal: written now, or when its turn comes."""
        if self._order is not None and number:
            self._order.open(number)
            self._order.hold(number, row_id, held)
        else:
            self._engine.ledger.release(row_id, held)

    def read_all(self) -> None:
        """No further row comes."""
        if self._order is not None:
            self._order.read_up_to(1 << 62)
            self._write_due()

    def kept(self, item: Item, outcome: Outcome) -> None:
        """The row has its result, or waits for a person."""
        engine, stats = self._engine, self._engine.stats
        if isinstance(outcome, Paused):
            engine.ledger.paused(item.id, outcome)
            stats.paused += item.counts
            log.info("paused: it waits for a person; see %s", engine.ledger.paths.paused, extra={"row": item.id})
            self._settled(item)
            return
        assert isinstance(outcome, Succeeded)
        result = outcome.result
        stats.success += item.counts and not outcome.partial
        stats.partial_success += item.counts and outcome.partial
        stats.recovered += item.recovered
        stats.total_tokens += result.total_tokens or 0
        log.info(
            "%s: run %s, %.1f s", result.status, result.ref.run_id, result.elapsed_time or 0, extra={"row": item.id}
        )
        values = item.values
        if item.sent is None and item.inputs is not None and item.inputs.has_local:
            values = described(values)  # uploaded by an earlier invocation
        if self._order is not None:
            held = engine.ledger.held(item.id, values, result)
            self._order.hold(item.number, item.id, held)
            stats.finished += 1
            self._write_due()
        else:
            engine.ledger.succeeded(item.id, values, result)
            stats.finished += 1

    def given_up(self, item: Item, decision: GiveUp) -> None:
        """To `.retry`."""
        engine, stats = self._engine, self._engine.stats
        kind, code, message = decision.kind, decision.code, decision.message
        if code == "run_stopped" and engine.stopping.stopped_runs:
            kind, code = "stopped", "stopped_by_user"
        engine.ledger.failed(item.id, kind=kind, code=code, message=message, run_id=decision.run_id)
        engine.ledger.index.add(item.id, SELECTED)
        if kind == "unknown":
            stats.unknown += item.counts
        else:
            stats.failed += item.counts
        kind_of = (code, message[:200])
        # Texts that differ from row to row are counted together once there are many of them.
        stats.failures[kind_of if kind_of in stats.failures or len(stats.failures) < _TEXTS else (code, "…")] += 1
        stats.recent_failures.append((item.id, code, message))
        log.warning("%s: %s", code, message, extra={"row": item.id})
        self._settled(item)
        engine.stopping.count_failure()

    def lost_sight(self, item: Item, code: str, message: str) -> None:
        """A run whose end cannot be learnt."""
        run_id = item.ref.run_id if item.ref else None
        self.given_up(item, GiveUp("unknown", code, message, run_id))

    def still_paused(self, item: Item) -> None:
        """A form that has not been answered yet: nothing has changed."""
        self._engine.stats.paused += item.counts
        self._settled(item)

    def dropped(self, item: Item) -> None:
        """The batch takes no more rows: one that waits to be sent stays as it is in the journal, and one that waits to
        be repeated has failed."""
        if item.failure is not None:
            self.given_up(item, item.failure)
        else:
            self._settled(item, finished=False)

    def left_open(self, item: Item) -> None:
        """The batch ends before it is known whether a run exists: the next invocation looks it up."""
        self._settled(item, finished=False)

    def watched(self, item: Item) -> None:
        """The run outlived --timeout."""
        self._engine.stats.running += item.counts
        self._settled(item, finished=False)

    def unwatched(self, item: Item) -> None:
        self._engine.stats.running -= item.counts

    def _settled(self, item: Item, *, finished: bool = True) -> None:
        self._engine.stats.finished += finished
        if self._order is not None:
            self._order.skip(item.number)
            self._write_due()

    def _write_due(self) -> None:
        assert self._order is not None
        for row_id, held in self._order.due():
            self._engine.ledger.release(row_id, held)
        self._engine.pool.wake()
