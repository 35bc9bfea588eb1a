"""The course of a row: everything that is decided about it, as one pure function.

    advance(rules, row, fact) -> (row, steps)

A row stands at one stage (`row.py`). A fact (`facts.py`) moves it on, and gives the steps (`steps.py`) that the rest of
the engine carries out.
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
from typing import Literal, TypeAlias

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
from dify_batch.engine.row import EXCUSES, Ask, Impossible, Row, Stage
from dify_batch.engine.steps import STUCK, Follow, GiveUp, Keep, Leave, LookUp, Send, Step, StopBatch, Watch
from dify_batch.outcomes import (
    OUTPUTS_INVALID,
    Failed,
    Fatal,
    Invalid,
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


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user set. `max_retries`: POSTs of a row after the first."""

    policy: PolicyName = "safe"
    max_retries: int = 3


Advance: TypeAlias = tuple[Row, tuple[Step, ...]]


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


def _conclude(row: Row, step: Step) -> Advance:
    return row._replace(stage=Stage.SETTLED, failure=None), (step,)


def _leave(row: Row, *more: Step) -> Advance:
    return row._replace(stage=Stage.LEFT), (Leave(), *more)


def _first_step(row: Row) -> tuple[Step, ...]:
    match row.stage:
        case Stage.NEW:
            return (Send(),)
        case Stage.KNOWN:
            return (Watch(),) if row.dead else (Follow("known from before"),)
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
    kind = "invalid" if isinstance(outcome, Invalid) else "failed"
    failure = GiveUp(kind, outcome.code, outcome.message, result.ref.run_id, result.failed_node)
    if row.ask is not Ask.NOTHING and row.may_send:  # --retry runs what has failed, whenever that is learnt
        return _again(row._replace(failure=failure), f"its run has failed ({outcome.message}), and --retry asks for it")
    repeats = outcome.code in ("run_failed", OUTPUTS_INVALID)
    if rules.policy == "all" and repeats and row.retries < rules.max_retries and row.may_send:
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
            if fact.stuck or (row.given_up and row.ask is not Ask.NOTHING):
                return _stuck(row, outcome.instead if isinstance(outcome, Running) else "")
            if fact.overdue:
                return row, (Watch(),)
            return row, (Follow(outcome.reason if isinstance(outcome, Running) else outcome.message),)
        case _ if fact.stuck:  # nothing is to be learnt of it any more
            return _stuck(row)
        case _:
            return row, (Watch(),) if fact.overdue else (Follow("the server did not tell"),)


def _stuck(row: Row, instead: str = "") -> Advance:
    """`instead`: what it may be, where the server cannot tell a run that goes on from one that has ended well: such a
    row may run twice."""
    assert row.ref is not None
    if row.may_send and row.ask is not Ask.NOTHING and (row.ask is Ask.ANYWAY or not instead):
        reason = f"run {row.ref.run_id} is given up as stuck, and --retry asks for it"
        return _again(row, reason, risky=bool(instead))
    why = instead or "its worker is probably dead"
    message = f"run {row.ref.run_id} has said running, or nothing, for too long; {why}"
    return _conclude(row, GiveUp("unknown", STUCK, message, row.ref.run_id))


def _gone(row: Row) -> Advance:
    assert row.ref is not None
    message = f"run {row.ref.run_id} is unknown to the server"
    if row.may_send and row.given_up and row.ask is not Ask.NOTHING:
        return _again(row, f"{message}, and --retry asks for it")
    if row.may_send and row.ask is Ask.ANYWAY:  # it has begun, and may have ended well
        return _again(row, f"{message}; --retry-unknown asks for it, so it may run twice", risky=True)
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
