"""What can happen to a row: one small value for each kind of fact.

The course (`course.py`) is told facts and nothing else. Those that must outlive the process are what the journal holds:
`to_record` gives a fact's record, `from_record` reads it back, so any journal can be told again to the course.
Times: `wall` seconds since 1970 by this machine's clock, `server` by the server's, as far as it has told its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dify_batch.outcomes import Failed, Lost, Outcome, Paused, RunRef, Succeeded, Throttled

Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Begun:
    """The row is taken up by this invocation."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The intent is durable and the POST goes now."""

    user: str
    mode: str
    wall: float
    server: float | None = None


@dataclass(frozen=True, slots=True)
class NotSent:
    """It was about to be sent, and was not."""

    reason: str


@dataclass(frozen=True, slots=True)
class Started:
    """The server has named the run of the POST. `found`: a look-up told it, not the answer. `delay`: seconds from POST
    to start by the clock that does not jump; None: not known."""

    ref: RunRef
    wall: float
    found: bool = False
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What the POST came to.

    `excused`: the fault was the server's, as others met it too or it was away; that uses up no retry of the row.
    """

    outcome: Outcome
    excused: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What following a known run, or a look at its detail, came to. `stuck`: it has said running for too long.
    `overdue`: it has been waited for as long as --timeout allows."""

    outcome: Outcome
    stuck: bool = False
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """The server does not know the run any more."""

    ref: RunRef


@dataclass(frozen=True, slots=True)
class Absent:
    """Looked up and proved by the rule of `absence.py`: the POST made no run, and none will come of it."""

    reason: str
    excused: bool = False


@dataclass(frozen=True, slots=True)
class Unproven:
    """Looked up: no run of it is to be seen, and one may still come."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The log cannot be had, or does not tell whose run is whose."""

    reason: str


@dataclass(frozen=True, slots=True)
class ProbablyDead:
    """What executes the run was seen to be away, and the run says running for far too long (design, section 9)."""


@dataclass(frozen=True, slots=True)
class NoMoreRows:
    """The batch sends no more rows: a signal, a limit, an error. `leaving`: nor does it wait for anything."""

    leaving: bool = False


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What an earlier invocation concluded, as the journal tells it."""

    kind: str
    code: str
    message: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The row has its result, as the journal tells it."""

    run_id: str | None = None


Fact: TypeAlias = (
    Begun
    | Sent
    | NotSent
    | Started
    | Answered
    | Seen
    | Gone
    | Absent
    | Unproven
    | Unavailable
    | ProbablyDead
    | NoMoreRows
    | GivenUp
    | Done
)


def to_record(fact: Fact) -> Record | None:
    """The journal's record of a fact, without id and time; None where the journal need not know it."""
    match fact:
        case Sent(user=user, mode=mode, server=server):
            return {"event": "sent", "user": user, "mode": mode} | ({} if server is None else {"server": server})
        case NotSent(reason=reason):
            return {"event": "unsent", "reason": reason}
        case Started(ref=ref, found=found, delay=delay):
            record: Record = {"event": "started", "run": ref.run_id, "task": ref.task_id}
            record |= {} if ref.conversation_id is None else {"conversation": ref.conversation_id}
            return record | ({"found": True} if found else {}) | ({} if delay is None else {"delay": round(delay, 3)})
        case Answered(outcome=Throttled(message=message)):
            return {"event": "refused", "reason": message}
        case Answered(outcome=Lost(reason=reason)):
            return {"event": "lost", "reason": reason}
        case Absent(reason=reason):
            return {"event": "absent", "reason": reason}
        case ProbablyDead():
            return {"event": "probably_dead"}
        case Answered(outcome=Paused(ref=ref)) | Seen(outcome=Paused(ref=ref)):
            return {"event": "paused", "run": ref.run_id, "task": ref.task_id}
        case GivenUp(kind=kind, code=code, message=message, run_id=run_id):
            record = {"event": "failed", "kind": kind, "code": code, "message": message}
            return record | ({"run": run_id} if run_id else {})
        case Done(run_id=run_id):
            return {"event": "done", "run": run_id}
        case _:
            return None


def from_record(record: Mapping[str, Any], wall: float) -> Fact | None:
    """The fact that a record tells; None for an event that tells the course nothing, or of a newer version.

    `wall`: the record's own time. Raises KeyError, TypeError or ValueError where the record has the wrong shape.
    """
    match record["event"]:
        case "sent":
            server = record.get("server")
            server = float(server) if isinstance(server, int | float) else None
            return Sent(str(record.get("user", "")), str(record.get("mode", "streaming")), wall, server)
        case "unsent":
            return NotSent(str(record.get("reason", "")))
        case "started":
            delay = record.get("delay")
            delay = float(delay) if isinstance(delay, int | float) else None
            return Started(_ref(record), wall, found=record.get("found") is True, delay=delay)
        case "refused":
            return Answered(Throttled(str(record.get("reason", ""))))
        case "lost":
            return Answered(Lost(str(record.get("reason", ""))))
        case "absent":
            return Absent(str(record.get("reason", "")))
        case "probably_dead":
            return ProbablyDead()
        case "paused":
            return Seen(Paused(_ref(record)))
        case "failed":
            run = record.get("run")
            kind, code, message = (str(record.get(key, "")) for key in ("kind", "code", "message"))
            return GivenUp(kind, code, message, run if isinstance(run, str) else None)
        case "done" | "held":
            run = record.get("run")
            return Done(run if isinstance(run, str) else None)
        case _:
            return None


def _ref(record: Mapping[str, Any]) -> RunRef:
    run, task, talk = record["run"], record.get("task"), record.get("conversation")
    if not isinstance(run, str):
        raise TypeError(f"a run id is text, not {type(run).__name__}")
    return RunRef(run, task if isinstance(task, str) else None, talk if isinstance(talk, str) else None)


def run_of(outcome: Outcome) -> RunRef | None:
    """The run that an outcome names."""
    if isinstance(outcome, Succeeded | Failed):
        return outcome.result.ref if outcome.result.ref.run_id else None
    return getattr(outcome, "ref", None)
