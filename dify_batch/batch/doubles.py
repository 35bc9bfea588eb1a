"""--dedupe: which rows have the inputs of another, and which of them run. Pure, but for the hashing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dify_batch.ids import DONE, INVALID, OPEN, IdIndex
from dify_batch.input.files import Inputs, described
from dify_batch.ledger.formats import json_line

_BYTES = 16  # of a hash: that two of a billion rows share one by chance does not happen


class Doubles:
    """Told each row as the input is checked. `takes_id`: the app's form asks for the id, so that no two rows ask the
    same."""

    def __init__(self, *, takes_id: bool) -> None:
        self._takes_id = takes_id
        self._first: dict[bytes, str] = {}
        self._groups: dict[str, list[str]] = {}

    def look(self, row_id: str, inputs: Inputs) -> None:
        """For each row that passes the check."""
        if self._takes_id:
            return
        values = described(inputs.values) if inputs.has_local else inputs.values
        asked = {"inputs": {name: value for name, value in sorted(values.items()) if name != "id"}}
        if inputs.files is not None:
            asked["files"] = {"": described(inputs.files) if inputs.has_local else inputs.files}
        key = hashlib.blake2b(json_line(asked, compact=True), digest_size=_BYTES).digest()
        first = self._first.setdefault(key, row_id)
        if first is not row_id:
            self._groups.setdefault(first, [first]).append(row_id)

    def groups(self) -> Iterator[list[str]]:
        """The ids of rows that ask the same, in the order of the input, each such group of two or more once."""
        self._first.clear()
        return iter(self._groups.values())


@dataclass(frozen=True, slots=True)
class Shared:
    """Who runs for whom. `waiting`: {id of a row that runs, or is under way: its copies}. `done`: {id of a row that has
    its result: its copies}."""

    waiting: Mapping[str, list[str]] = field(default_factory=dict)
    done: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def copies(self) -> list[str]:
        return [row_id for copies in (*self.waiting.values(), *self.done.values()) for row_id in copies]


def share(
    groups: Iterable[list[str]],
    index: IdIndex,
    *,
    selected: Callable[[str], bool],
    stale: frozenset[str],
    open_before: Callable[[str], bool],
    alone: Callable[[str], bool],
) -> Shared:
    """Chooses in each group who runs: a row that has its result already, else one that is under way, else the first
    that is to be sent.

    Args:
        selected: whether a row is to be sent in this invocation.
        stale: done rows whose results are not, or not any more, answers to their inputs.
        open_before: whether a row's run of an earlier invocation will tell its end to this one.
        alone: rows that have to go by themselves: what became of an earlier request of theirs is open, or a person
            asked for them by name.
    """
    waiting: dict[str, list[str]] = {}
    done: dict[str, list[str]] = {}
    for group in groups:
        wanted = [row_id for row_id in group if not index.has(row_id, INVALID) and selected(row_id)]
        copies = [row_id for row_id in wanted if not alone(row_id)]
        if not copies:
            continue
        has_result = next((row_id for row_id in group if index.has(row_id, DONE) and row_id not in stale), None)
        if has_result is not None:
            done[has_result] = copies
            continue
        first = next((row_id for row_id in group if index.has(row_id, OPEN) and open_before(row_id)), wanted[0])
        if others := [row_id for row_id in copies if row_id != first]:
            waiting[first] = others
    return Shared(waiting, done)
