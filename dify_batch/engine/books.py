"""The books: what each row came to, told to the ledger and counted for whoever watches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from dify_batch.engine.copies import Copies
from dify_batch.engine.facts import (
    Absent,
    Answered,
    Fact,
    NotSent,
    ProbablyDead,
    Seen,
    Sent,
    Started,
    Unavailable,
    Unproven,
)
from dify_batch.engine.order import Order
from dify_batch.engine.steps import GiveUp, Keep
from dify_batch.engine.work import Work
from dify_batch.ids import SELECTED
from dify_batch.input.files import described
from dify_batch.ledger.held import Held
from dify_batch.ledger.state import Phase
from dify_batch.ledger.store import Ledger
from dify_batch.outcomes import (
    CUT_OFF,
    OUTPUTS_INVALID,
    Failed,
    Fatal,
    Invalid,
    Lost,
    Outcome,
    Paused,
    Succeeded,
    Throttled,
    Unreachable,
)
from dify_batch.summary import Stats
from dify_batch.usage import Use

log: logging.Logger = logging.getLogger("dify_batch")

# So many different texts of failures are counted apart, by so much of each text.
_TEXTS, _TEXT_COUNTED = 500, 200


class Books:
    """Concludes rows: each row's end in this invocation is told here, once.

    Args:
        order: with --keep-order, the results that wait for an earlier row.
        stopped_by_user: whether runs have been stopped on the server because the user said so.
        on_failure: called for each row that has come to `.retry`. `on_change`: for each row whose turn has
            come. `on_use`: with what each run used. `on_end`: for each run that has ended.
        remember: which rows have failed, for `repeatable`.
        copies, numbers: see Copies.
    """

    def __init__(
        self,
        ledger: Ledger,
        stats: Stats,
        order: Order | None,
        *,
        stopped_by_user: Callable[[], bool],
        on_failure: Callable[[], None],
        on_use: Callable[[Use], None],
        on_end: Callable[[Outcome], None],
        on_change: Callable[[], None],
        remember: bool = False,
        copies: Mapping[str, Sequence[str]] | None = None,
        numbers: Mapping[str, int] | None = None,
    ) -> None:
        self._ledger = ledger
        self._stats = stats
        self._order = order
        self._stopped_by_user = stopped_by_user
        self._on_failure = on_failure
        self._on_use = on_use
        self._on_end = on_end
        self._on_change = on_change
        self._remember = remember
        self._failed: dict[str, tuple[str, str]] = {}
        self.copies: Copies = Copies(
            ledger, stats, order, of=copies or {}, numbers=numbers or {}, on_failure=on_failure
        )

    @property
    def repeatable(self) -> frozenset[str]:
        """With `remember`: the rows whose run has failed in this invocation, or whose answer is not as expected."""
        return frozenset(self._failed)

    @property
    def held(self) -> int:
        """Results that wait for an earlier row, but for copies, which come all at once."""
        return len(self._order) - self.copies.held if self._order is not None else 0

    # ---------------------------------------------------------------- a row begins

    def begun(self, work: Work) -> None:
        """A row was taken from the input."""
        if work.repeated:
            self._begun_again(work)
        if self._order is not None:
            self._order.open(work.number)
            self._order.read_up_to(work.number)

    def _begun_again(self, work: Work) -> None:
        """A row that has failed goes once more, so it is not counted as failed meanwhile."""
        stats, kind_of = self._stats, self._failed[work.id]
        stats.finished -= 1
        self._count_failed(work, kind_of[0], -1)
        stats.failures[kind_of] -= 1
        if not stats.failures[kind_of]:
            del stats.failures[kind_of]

    def _count_failed(self, work: Work, code: str, number: int) -> None:
        if code == OUTPUTS_INVALID:
            self._stats.invalid += number * work.counts
        else:
            self._stats.failed += number * work.counts

    def begun_before(self, work: Work) -> None:
        """A row of an earlier invocation is under way again; later rows wait for it."""
        if self._order is not None and work.number:
            self._order.open(work.number)

    def held_before(self, number: int, row_id: str, held: Held) -> None:
        """A result that an earlier invocation left in the journal: written now, or when its turn comes."""
        if self._order is not None and number:
            self._order.open(number)
            self.copies.held += held.first is not None
            self._order.hold(number, row_id, held)
        else:
            self._ledger.release(row_id, held)

    def read_all(self) -> None:
        """No further row comes."""
        if self._order is not None:
            self._order.read_up_to(1 << 62)
            self._write_due()

    def close(self) -> None:
        """No further row goes in this invocation."""
        self.copies.close()
        if self._order is not None:
            self._write_due()

    # ---------------------------------------------------------------- what happens to it

    def record(self, work: Work, fact: Fact) -> None:
        """Writes into the journal what a fact says of a run existing or not."""
        ledger = self._ledger
        self._count(work, fact)
        match fact:
            case Started(ref=ref, found=found, delay=delay):
                ledger.started(work.id, ref, found=found, delay=delay)
            case (
                Answered(outcome=Failed(result=result, confirmed=True))
                | Seen(outcome=Failed(result=result, confirmed=True))
            ):
                ledger.spent(work.id, result.ref.run_id, Use.of_run(result))
                if result.status == CUT_OFF or isinstance(fact.outcome, Invalid):
                    ledger.kept(work.id, result.outputs)
            case NotSent(reason=reason) | Answered(outcome=Unreachable(message=reason)) if work.intent:
                ledger.unsent(work.id, reason)
            case Answered(outcome=Throttled(message=message) | Fatal(message=message)) if work.intent:
                ledger.refused(work.id, message)
            case Answered(outcome=Lost(reason=reason)):
                ledger.lost(work.id, reason)
            case Absent(reason=reason):
                ledger.absent(work.id, reason)
            case ProbablyDead():
                ledger.probably_dead(work.id)
            case _:
                pass

    def _count(self, work: Work, fact: Fact) -> None:
        """What a fact adds to the figures of runs and look-ups. Not a `match`: it takes twice as long, for each row."""
        stats = self._stats
        if isinstance(fact, Answered | Seen):
            outcome = fact.outcome
            if isinstance(outcome, Succeeded) or (isinstance(outcome, Failed) and outcome.confirmed):
                self._on_use(stats.ended(outcome.result))
                self._on_end(outcome)
        elif isinstance(fact, Sent):
            stats.mode = fact.mode
        elif isinstance(fact, Started):
            stats.lookups += fact.found
            if fact.delay is not None:
                stats.start_seconds.observe(fact.delay)
        elif isinstance(fact, Absent | Unproven | Unavailable):
            stats.lookups += 1

    # ---------------------------------------------------------------- a row ends

    def kept(self, work: Work, step: Keep) -> None:
        """The row has its result, or waits for a person."""
        outcome = step.outcome
        if isinstance(outcome, Paused):
            self._paused(work, outcome)
        else:
            self._succeeded(work, outcome, recovered=step.recovered)

    def _paused(self, work: Work, outcome: Paused) -> None:
        self._stats.paused += work.counts
        if not work.row.pending or self._ledger.news(work.id, outcome):
            self._ledger.paused(work.id, outcome)
            log.info("paused: it waits for a person; see %s", self._ledger.paths.paused, extra={"row": work.id})
        self.copies.left(work)
        self._settled(work)

    def _succeeded(self, work: Work, outcome: Succeeded, *, recovered: bool) -> None:
        stats, result = self._stats, outcome.result
        stats.success += work.counts and not outcome.partial
        stats.partial_success += work.counts and outcome.partial
        stats.recovered += recovered
        stats.total_tokens += result.total_tokens or 0
        log.info(
            "%s: run %s, %.1f s", result.status, result.ref.run_id, result.elapsed_time or 0, extra={"row": work.id}
        )
        values = work.values
        if work.uploaded is None and work.inputs is not None and work.inputs.has_local and work.sent_inputs is None:
            values = described(values)  # uploaded by an earlier invocation
        stats.finished += 1
        if self._order is not None:
            self._order.hold(work.number, work.id, self._ledger.held(work.id, values, result))
            self.copies.result(work, values, outcome)
            self._write_due()
        else:
            self._ledger.succeeded(work.id, values, result)
            self.copies.result(work, values, outcome)

    def given_up(self, work: Work, step: GiveUp) -> None:
        """To `.retry`."""
        stats, code, message = self._stats, step.code, step.message
        kind = step.kind
        if code in ("run_stopped", CUT_OFF) and self._stopped_by_user():  # a chat's only sign of a stop is the latter
            kind, code = "stopped", "stopped_by_user"
        self._ledger.failed(work.id, kind=kind, code=code, message=message, run_id=step.run_id, node=step.node)
        self._ledger.index.add(work.id, SELECTED)
        if kind == "unknown":
            stats.unknown += work.counts
            self._on_use(Use())  # a run of it may exist, and be paid for
        else:
            self._count_failed(work, code, 1)
        kind_of = (code, message[:_TEXT_COUNTED])
        # Texts that differ from row to row are counted together once there are many of them.
        if kind_of not in stats.failures and len(stats.failures) >= _TEXTS:
            kind_of = (code, "…")
        stats.failures[kind_of] += 1
        again = self._remember and kind in ("failed", "invalid")
        if again:
            self._failed[work.id] = kind_of
        stats.recent_failures.append((work.id, code, message))
        where = f" (node {step.node})" if step.node is not None else ""
        log.warning("%s: %s%s", code, message, where, extra={"row": work.id})
        self.copies.failed(work, code, again=again and not work.repeated)
        self._settled(work)
        if not work.repeated:  # it was counted then
            self._on_failure()

    def left(self, work: Work) -> None:
        """Nothing more is done for it in this invocation; it stays as the journal has it."""
        if work.repeated and self._ledger.row(work.id).phase is Phase.FAILED:  # and nothing came of going again
            kind_of = self._failed[work.id]
            self._count_failed(work, kind_of[0], 1)
            self._stats.failures[kind_of] += 1
        self.copies.left(work)
        self._settled(work, finished=work.repeated)

    def dead(self, number: int) -> None:
        """So many runs are probably dead by now."""
        self._stats.dead = number

    def goes_on(self, work: Work, yes: bool) -> None:
        """Its run has outlived --timeout, or is probably dead; or (`yes` is false) that is over."""
        self._stats.running += work.counts if yes else -work.counts
        if yes and self._order is not None:
            self._order.skip(work.number)
            self._write_due()

    def _settled(self, work: Work, *, finished: bool = True) -> None:
        self._stats.finished += finished
        if self._order is not None:
            self._order.skip(work.number)
            self._write_due()

    def _write_due(self) -> None:
        assert self._order is not None
        for row_id, held in self._order.due():
            self.copies.held -= held.first is not None
            self._ledger.release(row_id, held)
        self._on_change()
