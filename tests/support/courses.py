"""Builders for the course of a row: one line makes a row at a stage, and all facts that can come there."""

from __future__ import annotations

from dify_batch.engine.course import Rules, advance
from dify_batch.engine.facts import (
    Absent,
    Answered,
    Begun,
    Fact,
    Gone,
    NoMoreRows,
    NotSent,
    ProbablyDead,
    Seen,
    Sent,
    Started,
    Unavailable,
    Unproven,
)
from dify_batch.engine.row import Ask, Row, Stage
from dify_batch.engine.steps import Step
from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Paused,
    Rejected,
    Running,
    RunRef,
    RunResult,
    Succeeded,
    Throttled,
    Unreachable,
)

REF = RunRef("run", "task")
SENT = Sent("dify-batch-ab-1", "streaming", 1_700_000_000.0)


def result(status: str = "succeeded", error: str | None = None) -> RunResult:
    return RunResult(REF, status, {"answer": "x"}, error=error)


SUCCEEDED = Succeeded(result())
FAILED = Failed(result("failed", "node broke"))
STOPPED = Failed(result("stopped", "Aborted"))
MAYBE_STOPPED = Failed(result("stopped"), confirmed=False)

OUTCOMES: dict[str, Outcome] = {
    "succeeded": SUCCEEDED,
    "partial": Succeeded(result("partial-succeeded")),
    "paused": Paused(REF),
    "failed": FAILED,
    "stopped": STOPPED,
    "stopped on the wire": MAYBE_STOPPED,
    "rejected": Rejected("invalid_param", "query is required"),
    "throttled": Throttled("Too many requests."),
    "unreachable": Unreachable("refused"),
    "upload failed": Unreachable("HTTP 500", charged=True),
    "running": Running(REF, "cut"),
    "lost": Lost("cut"),
    "fatal": Fatal("auth", "unauthorized", "no"),
}
SIGHTS: dict[str, Seen] = {
    name: Seen(OUTCOMES[name])
    for name in ("succeeded", "paused", "failed", "stopped", "stopped on the wire", "running", "unreachable", "fatal")
} | {
    "stuck": Seen(Running(REF, "says running"), stuck=True),
    "overdue": Seen(Running(REF, "says running"), overdue=True),
    "no answer, stuck": Seen(Unreachable("HTTP 500"), stuck=True),
}
VERDICTS: dict[str, Fact] = {
    "found": Started(REF, 1_700_000_001.0, found=True),
    "absent": Absent("cut"),
    "absent, excused": Absent("cut", excused=True),
    "unproven": Unproven("cut; it may be queued"),
    "unavailable": Unavailable("cut; the log is closed"),
}


def facts_at(row: Row) -> dict[str, Fact]:
    """All facts that can come to a row where it stands, by a name."""
    ending: dict[str, Fact] = {"no more rows": NoMoreRows(), "leaving": NoMoreRows(leaving=True)}
    match row.stage:
        case Stage.NEW | Stage.WAITING:
            return {"sent": SENT} | ending if row.may_send else ending
        case Stage.SENT:
            answers: dict[str, Fact] = {name: Answered(outcome) for name, outcome in OUTCOMES.items()}
            begins: dict[str, Fact] = {} if row.ref is not None else {"started": Started(REF, 1_700_000_001.0)}
            if row.ref is not None:  # after workflow_started the answers that say "no run" cannot come
                for name in ("rejected", "throttled", "unreachable", "upload failed", "lost"):
                    del answers[name]
            return answers | begins | {"leaving": NoMoreRows(leaving=True)}
        case Stage.KNOWN:
            sights: dict[str, Fact] = {f"seen {name}": fact for name, fact in SIGHTS.items()}
            others: dict[str, Fact] = {"gone": Gone(REF), "probably dead": ProbablyDead()}
            return sights | others | {"leaving": NoMoreRows(leaving=True)}
        case Stage.LOST:
            return VERDICTS | {"leaving": NoMoreRows(leaving=True)}
        case _:
            return {}


def sent(**more: object) -> Row:
    return Row(stage=Stage.SENT, sent=SENT, **more)  # type: ignore[arg-type]


def known(**more: object) -> Row:
    return Row(stage=Stage.KNOWN, sent=SENT, ref=REF, **more)  # type: ignore[arg-type]


def lost(**more: object) -> Row:
    return Row(stage=Stage.LOST, sent=SENT, **more)  # type: ignore[arg-type]


def step(rules: Rules, row: Row, fact: Fact) -> Step:
    """The one step that a fact leads to."""
    _, steps = advance(rules, row, fact)
    assert len(steps) == 1, steps
    return steps[0]


__all__ = ["OUTCOMES", "REF", "SENT", "Ask", "Begun", "NotSent", "facts_at", "known", "lost", "sent", "step"]
