"""The course of a row: everything that is decided about it, as one pure function.

    advance(rules, row, fact) -> (row, steps)

A row stands at one stage. A fact (`facts.py`) moves it on, and gives the steps that the rest of the engine carries out.
Nothing here reads a clock, draws lots or does I/O, so the promise of the project can be read in this file:

- **Nothing runs twice.** A row is sent (`Send`) only when it has no run, or its run is known to have failed, or what
  became of it cannot be known and the user asked for it all the same (policy `all`, --retry of a run that was given up
  as stuck, --retry-unknown). A lost answer leads to a look-up (`LookUp`); only the proof of `absence.py` (`Absent`)
  leads from there to another POST, and that one comes last.
- **Nothing is lost.** Every fact leads to a stage, and every stage but SETTLED and LEFT waits for a next fact. At the
  end of a batch a row is settled (its result is kept, it waits for a person, it is in `.retry`) or left as the journal
  has it, for the next invocation.
- **Everything ends.** A row repeats itself only as far as its retries go; what is repeated without charge (a server
  that throttles or is away) is bounded by the outage that all rows share, and excuses are counted.

    stage     means                                   waits for
    NEW       nothing was sent                        Begun, Sent, NotSent
    SENT      a POST is under way, or its fate open   Started, Answered
    KNOWN     a run is known and its end is not       Seen, Gone, ProbablyDead
    LOST      a POST whose run nobody has named       Started (found), Absent, Unproven, Unavailable
    WAITING   it is to be sent again                  Sent, NotSent
    SETTLED   it has come to its end                  nothing
    LEFT      this invocation does no more for it     nothing

What follows an outcome of a POST (policy `safe`) stands in `_answered`, row by row as in the design's table; what
follows a look-up, in `_looked_up`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

from dify_batch.engine.facts import (
    Absent,
    Answered,
    Begun,
    Done,
    Fact,
    GivenUp,
    Gone,
    NoMoreRows,
    NotSent,
    ProbablyDead,
    Seen,
    Sent,
    Started,
    Unavailable,
    Unproven,
    run_of,
)
from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Paused,
    Rejected,
    Running,
    RunRef,
    Succeeded,
    Throttled,
    Unreachable,
)

PolicyName: TypeAlias = Literal["strict", "safe", "all"]

RULES_VERSION = 2
"""Stands in the journal's record of each invocation. 1: absence was proved by time alone. 2: by `absence.py`."""

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


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user set. `max_retries`: POSTs of a row after the first."""

    policy: PolicyName = "safe"
    max_retries: int = 3


# ---------------------------------------------------------------------------------------------------------- steps


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
    """To `.retry`. `kind`: "failed", "rejected", "stopped", "unknown", "invalid"."""

    kind: str
    code: str
    message: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class StopBatch:
    """No row can succeed."""

    fatal: Fatal


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing more is done for it in this invocation; it stays as the journal has it."""


Step: TypeAlias = Send | Follow | Watch | LookUp | Keep | GiveUp | StopBatch | Leave


# ---------------------------------------------------------------------------------------------------------- a row


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


Advance: TypeAlias = tuple[Row, tuple[Step, ...]]


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


def advance(rules: Rules, row: Row, fact: Fact) -> Advance:
    """What a fact makes of a row, and what is to be done next. Raises Impossible."""
    match fact:
        case Answered() if row.stage is Stage.SENT:
            return _answered(rules, row, fact.outcome, fact.excused)
        case Sent() if row.stage in (Stage.NEW, Stage.WAITING):
            if not row.may_send:
                raise Impossible("a row was sent that must not be")
            fresh = Row(Stage.SENT, fact, None, 0.0, row.retries, row.repetition, row.excuses)
            return fresh, ()
        case Started() if row.stage is Stage.SENT and not fact.found:
            return row._replace(ref=fact.ref, begun=fact.wall), ()
        case Started() if row.stage is Stage.LOST:
            known = row._replace(stage=Stage.KNOWN, ref=fact.ref, begun=fact.wall, recovered=True)
            return known, (Follow("found on the server"),)
        case Seen() if row.stage is Stage.KNOWN:
            return _seen(rules, row, fact)
        case Gone() if row.stage is Stage.KNOWN:
            return _gone(row)
        case ProbablyDead() if row.stage is Stage.KNOWN:
            return row._replace(dead=True), (Watch(),)
        case Absent() | Unproven() | Unavailable() if row.stage is Stage.LOST:
            return _looked_up(rules, row, fact)
        case Begun():
            return row, _first_step(row)
        case NotSent() if row.stage in (Stage.NEW, Stage.WAITING, Stage.SENT):
            return _not_sent(row)
        case NoMoreRows():
            return _no_more(row, leaving=fact.leaving)
        case GivenUp():
            return _conclude(row._replace(failure=None), GiveUp(fact.kind, fact.code, fact.message, fact.run_id))[0], ()
        case Done():
            return row._replace(stage=Stage.SETTLED, failure=None), ()
        case _:
            raise Impossible(f"{type(fact).__name__} at stage {row.stage.value}")


def replay(rules: Rules, facts: list[Fact]) -> Row:
    """The row that an earlier invocation's facts lead to. Each POST begins anew whatever came before it, and a fact
    that an older version wrote in another order is no reason to fail."""
    row = Row()
    for fact in facts:
        if isinstance(fact, Sent):
            row = row._replace(stage=Stage.NEW, ref=None, failure=None)
        elif isinstance(fact, Started | Seen | Absent) and row.sent is not None:
            found = isinstance(fact, Started) and fact.found
            row = row._replace(stage=Stage.LOST if found or isinstance(fact, Absent) else Stage.SENT, ref=None)
            if isinstance(fact, Seen):
                row = row._replace(stage=Stage.KNOWN, ref=run_of(fact.outcome))
        try:
            row, _ = advance(rules, row, fact)
        except Impossible:
            continue
    return row


def _conclude(row: Row, step: Step) -> Advance:
    return row._replace(stage=Stage.SETTLED, failure=None), (step,)


def _leave(row: Row, *more: Step) -> Advance:
    return row._replace(stage=Stage.LEFT), (Leave(), *more)


def _first_step(row: Row) -> tuple[Step, ...]:
    match row.stage:
        case Stage.NEW:
            return (Send(),)
        case Stage.KNOWN:
            return (Follow("known from before"),)
        case Stage.LOST | Stage.SENT:
            return (LookUp("sent by an earlier invocation"),)
        case _:
            raise Impossible(f"a row at stage {row.stage.value} is not begun")


# ------------------------------------------------------------------------------------------ the answer to a POST


def _answered(rules: Rules, row: Row, outcome: Outcome, excused: bool) -> Advance:
    match outcome:
        case Succeeded() | Paused():
            settled = row._replace(stage=Stage.SETTLED, failure=None, ref=run_of(outcome))
            return settled, (Keep(outcome, row.recovered),)
        case Failed(confirmed=False):
            return _known(row, outcome.result.ref, "the answer says stopped, which is not final")
        case Failed():
            return _failed(rules, row, outcome)
        case Rejected(code=code, message=message):
            return _conclude(row._replace(ref=None), GiveUp("rejected", code, message))
        case Throttled(message=message, retry_after=retry_after):
            return _again(row, message, retry_after=retry_after)
        case Unreachable(message=message, charged=True):
            if row.retries < rules.max_retries:
                return _again(row, message, charged=True)
            return _conclude(row._replace(ref=None), GiveUp("failed", "upload_failed", message))
        case Unreachable(message=message, foreign=True) if not excused:
            if row.excuses < EXCUSES:
                return _again(row._replace(excuses=row.excuses + 1), message)
            if row.retries < rules.max_retries:
                return _again(row, message, charged=True)
            return _conclude(row._replace(ref=None), GiveUp("rejected", "gateway_refused", message))
        case Unreachable(message=message):
            return _again(row, message)
        case Running(ref=ref, reason=reason):
            return _known(row, ref, reason)
        case Lost(reason=reason):
            excuses = min(EXCUSES, row.excuses + excused)
            return row._replace(stage=Stage.LOST, ref=None, excuses=excuses), (LookUp(reason),)
        case Fatal():
            if row.ref is not None:  # the key was refused while its run was followed: the run goes on
                return _leave(row, StopBatch(outcome))
            return _no_more(row, leaving=True, more=(StopBatch(outcome),))


def _known(row: Row, ref: RunRef, reason: str) -> Advance:
    begun = row.begun or (row.sent.wall if row.sent is not None else 0.0)
    return row._replace(stage=Stage.KNOWN, ref=ref, begun=begun, recovered=True), (Follow(reason),)


def _failed(rules: Rules, row: Row, outcome: Failed) -> Advance:
    result = outcome.result
    failure = GiveUp("failed", outcome.code, outcome.message, result.ref.run_id)
    if row.ask is not Ask.NOTHING and row.may_send:  # --retry runs what has failed, whenever that is learnt
        return _again(row._replace(failure=failure), f"its run has failed ({outcome.message}), and --retry asks for it")
    if rules.policy == "all" and outcome.code == "run_failed" and row.retries < rules.max_retries and row.may_send:
        waiting = row._replace(failure=failure)
        return _again(waiting, f"the run failed ({outcome.message}) and the policy is all", charged=True)
    return _conclude(row, failure)


def _again(
    row: Row, reason: str, *, retry_after: float | None = None, charged: bool = False, risky: bool = False
) -> Advance:
    """To be sent again. Called only where no run exists, or the one that exists has failed, or the user asked so."""
    repetition = row.repetition + 1
    waiting = row._replace(
        stage=Stage.WAITING,
        ref=None,
        retries=row.retries + charged,
        repetition=repetition,
        ask=Ask.NOTHING,
        given_up=False,
        dead=False,
    )
    return waiting, (Send(repetition, retry_after, reason, charged, risky),)


def _not_sent(row: Row) -> Advance:
    """The batch stopped between the intent and the POST, or before."""
    return _no_more(row._replace(stage=Stage.WAITING, ref=None), leaving=False)


def _no_more(row: Row, *, leaving: bool, more: tuple[Step, ...] = ()) -> Advance:
    """No row is sent any more. One that waits to go again after its run failed has failed; any other that waits is as
    it was. What is open is waited for, unless the batch leaves."""
    if row.stage in (Stage.SETTLED, Stage.LEFT):
        return row, more
    if row.stage is Stage.WAITING and row.failure is not None:
        settled, steps = _conclude(row, row.failure)
        return settled, (*steps, *more)
    if leaving or row.stage in (Stage.NEW, Stage.WAITING):
        return _leave(row, *more)
    return row, more


# ------------------------------------------------------------------------------------------------- a known run


def _seen(rules: Rules, row: Row, fact: Seen) -> Advance:
    outcome = fact.outcome
    match outcome:
        case Paused() if row.pending:
            return _conclude(row, Keep(outcome))
        case Succeeded() | Paused():
            return _conclude(row, Keep(outcome, recovered=True))
        case Failed(confirmed=True):
            return _failed(rules, row, outcome)
        case Fatal():
            return _leave(row, StopBatch(outcome))
        case Running() | Failed():
            if row.given_up and row.ask is not Ask.NOTHING:
                return _again(row, "its run had been given up, and --retry asks for it")
            if fact.stuck:
                return _stuck(row)
            if fact.overdue:
                return row, (Watch(),)
            return row, (Follow(outcome.reason if isinstance(outcome, Running) else outcome.message),)
        case _ if fact.stuck:  # nothing is to be learnt of it any more
            return _stuck(row)
        case _:
            return row, (Watch(),) if fact.overdue else (Follow("the server did not tell"),)


def _stuck(row: Row) -> Advance:
    assert row.ref is not None
    if row.ask is not Ask.NOTHING and row.may_send:
        return _again(row, f"run {row.ref.run_id} is given up as stuck, and --retry asks for it")
    message = f"run {row.ref.run_id} has said running, or nothing, for too long; its worker is probably dead"
    return _conclude(row, GiveUp("unknown", "run_stuck", message, row.ref.run_id))


def _gone(row: Row) -> Advance:
    assert row.ref is not None
    if row.ask is not Ask.NOTHING and row.may_send:
        return _again(row, f"run {row.ref.run_id} is unknown to the server, and --retry asks for it")
    message = f"run {row.ref.run_id} is unknown to the server"
    return _conclude(row, GiveUp("unknown", "run_not_found", message, row.ref.run_id))


# --------------------------------------------------------------------------------------------------- a lost POST


def _looked_up(rules: Rules, row: Row, fact: Absent | Unproven | Unavailable) -> Advance:
    if not row.may_send:
        return _leave(row) if isinstance(fact, Absent) else _left_unknown(row, fact)
    match fact:
        case Absent(reason=reason, excused=excused):
            why = f"{reason}; the server's log does not show it"
            if row.ask is not Ask.NOTHING:
                return _again(row, f"{why}, and --retry asks for it")
            if rules.policy == "strict":
                return _conclude(row, GiveUp("unknown", "lost", f"{why}, and the policy is strict"))
            if excused and row.excuses < EXCUSES:
                return _again(row._replace(excuses=row.excuses + 1), why)
            if row.retries < rules.max_retries:
                return _again(row, why, charged=True)
            times = "1 retry" if row.retries == 1 else f"{row.retries} retries"
            return _conclude(row, GiveUp("failed", "lost", f"{reason}; not in the server's log, after {times}"))
        case Unproven(reason=reason) | Unavailable(reason=reason):
            if row.ask is Ask.ANYWAY:
                return _again(row, f"{reason}; --retry-unknown asks for it, so it may run twice", risky=True)
            if row.ask is Ask.NOTHING and rules.policy == "all" and row.retries < rules.max_retries:
                return _again(row, f"{reason}; the policy is all, so it may run twice", charged=True, risky=True)
            return _left_unknown(row, fact)


def _left_unknown(row: Row, fact: Unproven | Unavailable) -> Advance:
    if isinstance(fact, Unproven):
        return _conclude(row, GiveUp("unknown", "maybe_queued", fact.reason))
    return _conclude(row, GiveUp("unknown", "outcome_unknown", fact.reason))
