"""--dedupe: rows whose inputs are those of another row share its run.

The first of them runs. When it has ended, the others get its outputs, or fail with it; where nothing is known of its
end, nothing is known of theirs, and they stay as they were for the next invocation.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dify_batch.engine.order import Order
from dify_batch.engine.work import Work
from dify_batch.ids import SELECTED
from dify_batch.ledger.store import Ledger
from dify_batch.outcomes import RunResult, Succeeded
from dify_batch.summary import Stats

log: logging.Logger = logging.getLogger("dify_batch")

FIRST_FAILED = "first_failed"
"""The code of a row that has failed as the row did whose run it shares."""


class Copies:
    """Args:
    of: {id of the first: ids of its copies}. `numbers`: the place of each in the input, with --keep-order.
    on_failure: called for each copy that has come to `.retry`.
    """

    def __init__(
        self,
        ledger: Ledger,
        stats: Stats,
        order: Order | None,
        *,
        of: Mapping[str, Sequence[str]],
        numbers: Mapping[str, int],
        on_failure: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._stats = stats
        self._order = order
        self._of = {first: list(copies) for first, copies in of.items()}
        self._numbers = numbers
        self._on_failure = on_failure
        self._failed: dict[str, tuple[str, str]] = {}  # those of a first that may go again: how it has failed
        self.held: int = 0
        """Results of copies that wait for an earlier row."""
        self.orphans: set[str] = set()
        """Copies of a row whose run turned out to be the answer to other inputs: they have to run by themselves."""

    def open(self) -> None:
        """With --keep-order later rows wait for the copies."""
        if self._order is not None:
            for copies in self._of.values():
                for row_id in copies:
                    self._order.open(self._numbers[row_id])

    def result(self, work: Work, values: Mapping[str, Any], outcome: Succeeded) -> None:
        """The first has its result."""
        copies = self._of.pop(work.id, None)
        if copies is None:
            return
        failed = self._failed.pop(work.id, None)
        if work.sent_inputs is not None:  # of an earlier invocation, whose table was another
            self.orphans.update(copies)
            for row_id in copies:
                self._skip(row_id)
            return
        for row_id in copies:
            if failed is not None:
                self._uncount(failed)
            self.give(row_id, values, outcome.result, first=work.id, finished=failed is None)

    def give(
        self, row_id: str, values: Mapping[str, Any], result: RunResult, *, first: str, finished: bool = True
    ) -> None:
        """Writes the result of a copy, or has it wait for its turn. `finished`: it was not counted so before."""
        stats = self._stats
        partial = Succeeded(result).partial
        stats.success += not partial
        stats.partial_success += partial
        stats.copied += 1
        stats.finished += finished
        # The first has used and taken all that there was.
        result = dataclasses.replace(
            result, elapsed_time=None, total_tokens=0, total_steps=None, total_price=None, currency=None, prices=None
        )
        held = self._ledger.copied(row_id, {**values, "id": row_id}, result, first=first, waits=self._order is not None)
        if held is not None and self._order is not None:
            self.held += 1
            self._order.hold(self._numbers[row_id], row_id, held)

    def failed(self, work: Work, code: str, *, again: bool) -> None:
        """The first has failed. `again`: it may go once more in this invocation."""
        copies = self._of.get(work.id) if again else self._of.pop(work.id, None)
        if copies is None:
            return
        if work.id in self._failed:  # and so have they
            del self._failed[work.id]
            return
        message = f"row {work.id}, whose inputs are the same, has no result: {code}"
        stats = self._stats
        for row_id in copies:
            self._ledger.failed(row_id, kind="failed", code=FIRST_FAILED, message=message)
            self._ledger.index.add(row_id, SELECTED)
            stats.failed += 1
            stats.finished += 1
            stats.failures[FIRST_FAILED, message] += 1
            self._skip(row_id)
            self._on_failure()
        log.warning("%s: %d rows fail with row %s", FIRST_FAILED, len(copies), work.id)
        if again:
            self._failed[work.id] = (FIRST_FAILED, message)

    def left(self, work: Work) -> None:
        """Nothing more is done for the first in this invocation."""
        for row_id in self._of.pop(work.id, ()):
            self._skip(row_id)

    def close(self) -> None:
        """No further row goes: what waits for one that has not gone does not hold up others."""
        for copies in self._of.values():
            for row_id in copies:
                self._skip(row_id)
        self._of.clear()

    def _uncount(self, kind_of: tuple[str, str]) -> None:
        self._stats.failed -= 1
        self._stats.failures[kind_of] -= 1
        if not self._stats.failures[kind_of]:
            del self._stats.failures[kind_of]

    def _skip(self, row_id: str) -> None:
        if self._order is not None:
            self._order.skip(self._numbers[row_id])
