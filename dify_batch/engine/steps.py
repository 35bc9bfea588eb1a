"""What the course of a row asks for next; the conductor carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from dify_batch.outcomes import FailedNode, Fatal, Paused, Succeeded

STUCK = "run_stuck"
"""The code of a row whose run is given up as it has said running, or nothing, for too long."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send it (again). `repetition`: how often in a row, which sets the wait (0: at once); `retry_after`: seconds that
    the server asked for. `reason` says why it goes again; `charged`: one of its retries is used up by it;
    `risky`: a run of it may exist, and the user asked for it all the same."""

    repetition: int = 0
    retry_after: float | None = None
    reason: str = ""
    charged: bool = False
    risky: bool = False


@dataclass(frozen=True, slots=True)
class Follow:
    """Stay with its run, in a place of the pool, until it ends."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """Look at its run now and then; it needs no place."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask the server's log what became of the POST."""

    reason: str


@dataclass(frozen=True, slots=True)
class Keep:
    """It has its result, or waits for a person."""

    outcome: Succeeded | Paused
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """To `.retry`. `kind`: "failed", "rejected", "stopped", "unknown", "invalid". `node`: where its run failed."""

    kind: str
    code: str
    message: str
    run_id: str | None = None
    node: FailedNode | None = None


@dataclass(frozen=True, slots=True)
class StopBatch:
    """No row can succeed."""

    fatal: Fatal


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing more is done for it in this invocation; it stays as the journal has it."""


Step: TypeAlias = Send | Follow | Watch | LookUp | Keep | GiveUp | StopBatch | Leave
