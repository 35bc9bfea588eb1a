"""A row on its way through the batch, and the slots that give it a `user`."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dify_batch.engine.policy import GiveUp
from dify_batch.input.files import Inputs
from dify_batch.ledger.state import RowState
from dify_batch.outcomes import RunRef

# A look-up reads one page of the log, the newest 100 runs of a user. A slot's runs follow one another, so a run on that
# page which is none of the slot's last 200 can only be the lost one (twice the page, as runs of one second are listed
# in any order).
_RUNS_KEPT = 200


@dataclass(slots=True)
class Item:
    """One row that this invocation works on.

    `number`: place in the input, from 1 (0: not in it any more). `sent`: the inputs with the uploads of the last
    attempt. `sent_at`, `started_at`: seconds since 1970. `posted_at`, `lost_at`: monotonic seconds. `waited`: how long
    an answer that never came was waited for; `queued`: the server may have taken the request. `lost_with`: the rows
    lost since the server last dealt with one. `may_send`: false where only what exists may be collected. `recovered`:
    its run was looked up. `failure`: how its last run failed, while it waits to be repeated. `seen_running`: the
    server itself has said so. `from_before`: of an earlier invocation.
    """

    id: str
    number: int = 0
    inputs: Inputs | None = None
    sent: Inputs | None = None
    cells: Mapping[str, Any] = field(default_factory=dict)
    may_send: bool = True
    retries: int = 0
    repetition: int = 0
    ref: RunRef | None = None
    user: str = ""
    mode: str = "streaming"
    sent_at: float = 0.0
    started_at: float = 0.0
    lost_at: float = 0.0
    reason: str = ""
    posted_at: float = 0.0
    waited: float = 0.0
    queued: bool = False
    excuses: int = 0
    failure: GiveUp | None = None
    seen_running: bool = False
    lost_with: set[str] = field(default_factory=set)
    known_runs: frozenset[str] = frozenset()
    recovered: bool = False
    from_before: bool = False
    paused_before: bool = False
    asked_again: bool = False
    """--retry of a row whose outcome was unknown: what exists is looked at, then it is sent."""

    def remember(self, row: RowState) -> None:
        """Takes over what the journal knows of the row's last POST."""
        self.ref, self.user, self.mode = row.ref, row.user, row.mode
        self.sent_at = row.sent_at
        self.started_at = row.started_at or row.sent_at
        # Not when it was lost: what waits in the server's queue has to show up while somebody looks.
        self.lost_at = time.monotonic()

    @property
    def counts(self) -> bool:
        """Whether it is counted: a row that is not in the input any more is collected, but no row of this batch."""
        return self.number > 0

    @property
    def values(self) -> dict[str, Any]:
        """The run's inputs, as sent if that is known."""
        inputs = self.sent if self.sent is not None else self.inputs
        return inputs.values if inputs is not None else {}


@dataclass(slots=True)
class Slot:
    user: str
    runs: deque[str] = field(default_factory=lambda: deque(maxlen=_RUNS_KEPT))


_OWN = re.compile(r"dify-batch-[0-9a-f]+-\d+")


class Slots:
    """The `user` of each request.

    By default one for each slot in flight, unique to the invocation, and a new one after each lost request: so the
    run that a look-up finds under it and no row claims can only be the lost one.
    """

    def __init__(self, batch: str, template: str | None) -> None:
        self._batch = batch
        self._template = template
        self._free: list[Slot] = []
        self._made = 0

    def take(self) -> Slot:
        return self._free.pop() if self._free else self._new()

    def give(self, slot: Slot, *, lost: bool) -> None:
        """Gives a slot back; after a lost request its user is not used again."""
        self._free.append(self._new() if lost else slot)

    def user(self, slot: Slot, cells: Mapping[str, Any]) -> str:
        return slot.user if self._template is None else fill(self._template, cells)

    @staticmethod
    def is_own(user: str) -> bool:
        """Whether a user is one of these, and so of one request at a time. With any other (--user) several rows may
        share it, and only the inputs tell their runs apart."""
        return _OWN.fullmatch(user) is not None

    def _new(self) -> Slot:
        self._made += 1
        return Slot(f"dify-batch-{self._batch}-{self._made}")


_COLUMN = re.compile(r"\{([^{}]+)\}")


def columns_of(template: str) -> list[str]:
    """The columns that a `--user` template names: "crm-{customer}" → ["customer"]."""
    return _COLUMN.findall(template)


def fill(template: str, cells: Mapping[str, Any]) -> str:
    """A `--user` template with the cells of one row."""
    return _COLUMN.sub(lambda match: str(cells.get(match[1], "")), template)
