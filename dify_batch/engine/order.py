"""`--keep-order`: results leave in the order of the input.

A result waits until every earlier row is settled. Waiting results lie in the journal, too, so a crash loses none.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from dify_batch.ledger.held import Held


class Order:
    """Rows are announced (`open`), then either hold a result (`hold`) or end without one (`skip`)."""

    def __init__(self) -> None:
        self._open: list[int] = []
        self._settled: set[int] = set()
        self._held: list[tuple[int, str, Held]] = []
        self._next_unread = 1

    def __len__(self) -> int:
        """How many results wait."""
        return len(self._held)

    def open(self, number: int) -> None:
        """A row is under way; `number` is its place in the input."""
        heapq.heappush(self._open, number)

    def read_up_to(self, number: int) -> None:
        """All rows up to and with this place have been read, so no earlier one can still come."""
        self._next_unread = max(self._next_unread, number + 1)

    def hold(self, number: int, row_id: str, held: Held) -> None:
        heapq.heappush(self._held, (number, row_id, held))
        self._settled.add(number)

    def skip(self, number: int) -> None:
        """The row has no result this time, or has it later."""
        self._settled.add(number)

    def due(self) -> Iterator[tuple[str, Held]]:
        """The results whose turn has come, in order; they wait no longer."""
        while self._open and self._open[0] in self._settled:
            self._settled.discard(heapq.heappop(self._open))
        bound = min(self._next_unread, self._open[0]) if self._open else self._next_unread
        while self._held and self._held[0][0] <= bound:
            _, row_id, held = heapq.heappop(self._held)
            yield row_id, held
