"""Where a row stands in its course: an immutable value, and what must hold of it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from dify_batch.engine.facts import Sent
from dify_batch.engine.steps import GiveUp
from dify_batch.outcomes import RunRef

EXCUSES = 5
"""A row that only ever fails together with others could go on for ever; after so many times it is charged as well."""


class Stage(Enum):
    NEW = "new"
    SENT = "sent"
    KNOWN = "known"
    LOST = "lost"
    WAITING = "waiting"
    SETTLED = "settled"
    LEFT = "left"


class Ask(Enum):
    """What --retry asks for a row whose fate was unknown."""

    NOTHING = "nothing"
    CERTAIN = "certain"  # --retry: send it if it never started, or if its run had been given up as stuck
    ANYWAY = "anyway"  # --retry-unknown: look once, then send it


class Row(NamedTuple):
    """Where a row stands. (A tuple, since a million rows are moved on several times each.)

    `sent`: its last POST; `ref`, `begun`: the run of that POST and when it was first known (wall). `retries`: used up;
    `repetition`: how often in a row it was repeated; `excuses`: how often that was not charged though it was lost.
    `failure`: how its last run failed, while it waits to go again. `may_send`: false where only what exists may be
    collected. `ask`: see Ask. `given_up`: its run was given up as stuck by an earlier invocation. `before`: its POST is
    of an earlier invocation. `pending`: it was paused before. `recovered`: its run was looked up or followed. `dead`:
    its run is probably dead.
    """

    stage: Stage = Stage.NEW
    sent: Sent | None = None
    ref: RunRef | None = None
    begun: float = 0.0
    retries: int = 0
    repetition: int = 0
    excuses: int = 0
    failure: GiveUp | None = None
    may_send: bool = True
    ask: Ask = Ask.NOTHING
    given_up: bool = False
    before: bool = False
    pending: bool = False
    recovered: bool = False
    dead: bool = False


class Impossible(ValueError):
    """A fact that cannot come at this stage: a bug of the engine. The row stays as it was."""


def check(row: Row) -> None:
    """States what must hold of every row; the tests and the simulated world call it after each step."""
    if row.stage is Stage.KNOWN:
        assert row.ref is not None, "a known run has a name"
    if row.stage in (Stage.SENT, Stage.LOST):
        assert row.sent is not None, "what was sent is remembered"
        assert row.ref is None or row.stage is Stage.SENT, "a lost row has no run"
    if row.stage in (Stage.NEW, Stage.WAITING):
        assert row.ref is None, "a row that is to be sent has no run that might still give its result"
    if row.failure is not None:
        assert row.stage in (Stage.WAITING, Stage.LEFT, Stage.SETTLED), "a failure is kept until the row goes again"
    assert row.excuses <= EXCUSES, "excuses are counted"
