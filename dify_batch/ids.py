"""What is known of each id, in as little memory as Python allows.

One dict from id to a small int of bit flags: the ints below 256 are shared by the interpreter, so an id costs its
text and one dict slot (about 100 bytes for a short id).
"""

from __future__ import annotations

from collections.abc import Iterator

IN_INPUT = 1
"""The input file has a row of this id."""
DONE = 2
"""The results hold it."""
RETRY = 4
"""It is in `.retry`."""
OPEN = 8
"""A run of it is known, or may exist."""
PAUSED = 16
"""It is in `.paused`."""
INVALID = 32
"""Its row does not pass the checks."""
SELECTED = 64
"""This invocation works on it."""
SEEN = 128
"""The reading pass under way has met it (see `check.valid_rows`); of no meaning between passes."""

_ALL = 255


class IdIndex:
    """Bit flags by id. An id that was never added has no flags (0) and is not contained."""

    __slots__ = ("_flags",)

    def __init__(self) -> None:
        self._flags: dict[str, int] = {}

    def flags(self, id_: str) -> int:
        """All flags of an id, 0 if it is unknown."""
        return self._flags.get(id_, 0)

    def add(self, id_: str, flag: int) -> None:
        """Set one or more flags of an id, which is added if it is unknown."""
        self._flags[id_] = self._flags.get(id_, 0) | flag

    def remove(self, id_: str, flag: int) -> None:
        """Clear one or more flags of an id; the id stays contained. An unknown id stays unknown."""
        old = self._flags.get(id_)
        if old is not None:
            self._flags[id_] = old & ~flag & _ALL

    def has(self, id_: str, flag: int) -> bool:
        """Whether an id has any of the given flags."""
        return bool(self._flags.get(id_, 0) & flag)

    def count(self, flag: int) -> int:
        """How many ids have any of the given flags."""
        return sum(1 for flags in self._flags.values() if flags & flag)

    def ids(self, flag: int) -> Iterator[str]:
        """The ids that have any of the given flags, in the order in which they were first added.

        Flags of known ids may change meanwhile; no id may be added.
        """
        return (id_ for id_, flags in self._flags.items() if flags & flag)

    def clear(self, flag: int) -> None:
        """Clear flags of all ids."""
        keep = ~flag & _ALL
        table = self._flags
        for id_, flags in table.items():
            if flags & flag:
                table[id_] = flags & keep  # an existing key: the dict does not change size

    def first(self, id_: str, flag: int) -> bool:
        """Set a flag and say whether it was clear before: one look-up for the reading passes."""
        table = self._flags
        old = table.get(id_, 0)
        if old & flag:
            return False
        table[id_] = old | flag
        return True

    def __len__(self) -> int:
        return len(self._flags)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._flags
