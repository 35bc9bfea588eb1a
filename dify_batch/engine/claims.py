"""Whose run is whose: a run belongs to at most one row of an output, whoever names it (stream, answer, look-up)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

# Above this part of full, probing a hash table gets slow.
_FULL = 0.6
_FIRST_SIZE = 1 << 10


class RunIds:
    """A set of run ids in 8 to 27 bytes each, which a million rows can afford: the 64-bit hashes alone are kept.

    Two ids that hash alike would be taken for one; among a million that happens once in 37 million outputs, and costs a
    look-up.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._table = array("Q", bytes(8 * _FIRST_SIZE))
        self._count = 0
        for run_id in ids:
            self.add(run_id)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, run_id: str) -> bool:
        return self._table[self._place(_hashed(run_id))] != 0

    def add(self, run_id: str) -> bool:
        """Adds one; False if it was there."""
        value = _hashed(run_id)
        place = self._place(value)
        if self._table[place]:
            return False
        self._table[place] = value
        self._count += 1
        if self._count > len(self._table) * _FULL:
            self._grow()
        return True

    def _place(self, value: int) -> int:
        table, mask = self._table, len(self._table) - 1
        place = value & mask
        while table[place] not in (0, value):
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        old = self._table
        self._table = array("Q", bytes(8 * 2 * len(old)))
        for value in old:
            if value:
                self._table[self._place(value)] = value


def _hashed(run_id: str) -> int:
    return (hash(run_id) & 0xFFFF_FFFF_FFFF_FFFF) or 1


class Claims:
    """The runs that rows of this output have."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._ids = RunIds(ids)
        self._owner: dict[str, str] = {}

    def claim(self, run_id: str, row_id: str) -> bool:
        """Whether the run is this row's: it was nobody's, or its own before."""
        owner = self._owner.get(run_id)
        if owner is not None:
            return owner == row_id
        if not self._ids.add(run_id):
            return False
        self._owner[run_id] = row_id
        return True

    def claim_all(self, names: Iterable[str], row_id: str) -> bool:
        """As `claim`, for all names of one run: all of them or none."""
        names = tuple(names)
        return not any(self.taken(name, row_id) for name in names) and all(self.claim(name, row_id) for name in names)

    def resume(self, run_id: str, row_id: str) -> None:
        """A row of an earlier invocation has this run."""
        self._ids.add(run_id)
        self._owner[run_id] = row_id

    def resume_settled(self, run_id: str) -> None:
        """A row of an earlier invocation had this run, and is done with it."""
        self._ids.add(run_id)

    def settled(self, run_id: str) -> None:
        """The row is done with it; it stays claimed, by whom need not be remembered."""
        self._owner.pop(run_id, None)

    def taken(self, run_id: str, row_id: str) -> bool:
        """Whether another row has it."""
        return self._owner.get(run_id, row_id) != row_id or (run_id not in self._owner and run_id in self._ids)

    def over(self, run_id: str) -> bool:
        """Whether a row of this output has had it and is done with it, whatever the server says of it: with Dify's
        database down at its end, run detail and log say running for ever [26l]."""
        return run_id in self._ids and run_id not in self._owner

    def known(self, run_id: str) -> bool:
        """Whether some row of this output has it."""
        return run_id in self._ids
