"""The `user` of each request: what a lost run is found by.

By default one for each slot in flight, unique to the invocation, and a new one after each lost request: so the run that
a look-up finds under it and no row claims can only be the lost one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dify_batch.input.user import UserTemplate

# A look-up reads one page of the log, the newest 100 runs of a user. A slot's runs follow one another, so a run on that
# page which is none of the slot's last 200 can only be the lost one (twice the page, as runs of one second are listed
# in any order). Those of a chatflow have two names each.
_RUNS_KEPT = 400

PREFIX = "dify-batch-"
"""What the `user` of each request begins with, unless --user says otherwise."""


@dataclass(slots=True)
class Slot:
    user: str
    runs: deque[str] = field(default_factory=lambda: deque(maxlen=_RUNS_KEPT))


class Slots:
    """Slots of one invocation. `batch`: its name; `template`: --user."""

    def __init__(self, batch: str, template: str | None) -> None:
        self._batch = batch
        self._template = None if template is None else UserTemplate(template)
        self._free: list[Slot] = []
        self._made = 0

    @property
    def shared(self) -> bool:
        """Whether several rows may have the same user (--user), so that only the inputs tell their runs apart."""
        return self._template is not None

    def take(self) -> Slot:
        return self._free.pop() if self._free else self._new()

    def give(self, slot: Slot, *, lost: bool) -> None:
        """Gives a slot back; after a lost request its user is not used again."""
        self._free.append(self._new() if lost else slot)

    def user(self, slot: Slot, cells: Mapping[str, Any]) -> str:
        return slot.user if self._template is None else self._template.fill(cells)

    def _new(self) -> Slot:
        self._made += 1
        return Slot(f"{PREFIX}{self._batch}-{self._made}")


# What invocations of version 0.1 wrote, whose journals do not say whether they were given --user.
_OWN = re.compile(re.escape(PREFIX) + r"[0-9a-f]+(?:s\d+of\d+)?-\d+")


def looks_own(user: str) -> bool:
    """Whether a user is probably one of a slot, where only its name tells."""
    return _OWN.fullmatch(user) is not None
