"""What an invocation is told that a coordinator has placed here: one part of a batch, of which it sees the whole."""

from __future__ import annotations

from dataclasses import dataclass

from dify_batch.engine.permits import Permits
from dify_batch.input.opening import Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """`permits`: let its rows go. `most`: runs in flight that may come to be in this process. `limit`: rows that it
    sends at most, None for all. `again`: the words of the command that was typed, for the journal. `checked`: which
    state of the input has been checked whole already, None for none.
    """

    permits: Permits
    most: int
    again: tuple[str, ...]
    limit: int | None = None
    checked: Stamp | None = None
