"""What a server keeps of apps that talk: conversations as a list of runs, a message as the detail of one. Pure.

A message says `normal` while it is made, when it is whole, when it was stopped and when it is lost; only its answer
tells: an empty one may be under way, lost, or truly empty [32ag]. It is stored once, at the end; of an agent each
thought is stored when it ends. Tokens and price are not stored. The numbers in brackets name recorded exchanges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dify_batch.dify.answers import Detail, LogEntry, LogPage
from dify_batch.dify.kinds.kind import Kind
from dify_batch.dify.kinds.reading import Names
from dify_batch.dify.kinds.words import failed
from dify_batch.dify.results import form_of, items, seconds, text, whole
from dify_batch.outcomes import Outcome, Paused, Running, RunRef, RunResult, Succeeded

_UNTOLD = "no answer is stored so far"
_INSTEAD = "an answer that is stored empty was lost with the server's process, or with its stream, or is truly empty"


def conversation_page(
    answer: Mapping[str, Any], user: str | None, after: datetime | None, before: datetime | None
) -> tuple[LogPage, str | None]:
    """A page of a user's conversations, newest first, as runs; and the last id, which the next page follows.

    A conversation is the run's name: each row is one of its own, and no message needs to be asked for to find it.
    """
    rows = [row for row in items(answer.get("data")) if isinstance(row, dict) and row.get("id")]
    entries = []
    for row in rows:
        moment = seconds(row.get("created_at"))
        if moment is not None and after is not None and moment < int(after.timestamp()):
            continue
        if moment is not None and before is not None and moment > before.timestamp():
            continue
        entries.append(LogEntry(text(row["id"]), "", moment, None, user, None))
    oldest = seconds(rows[-1].get("created_at")) if rows else None
    passed = after is not None and oldest is not None and oldest < int(after.timestamp())
    last = text(rows[-1]["id"]) if rows else None
    return LogPage(tuple(entries), bool(answer.get("has_more")) and not passed), last


def message_detail(kind: Kind, answer: Mapping[str, Any], ref: RunRef, column: str) -> Detail:
    """The detail of a row's only message, out of a page of its conversation. `column`: the key of the message among the
    row's inputs."""
    row = next((row for row in items(answer.get("data")) if isinstance(row, dict)), None)
    if row is None:
        return Detail(Running(ref, "its conversation has no message yet"))
    inputs = row.get("inputs")
    given = {**(inputs if isinstance(inputs, dict) else {}), column: row.get("query")}
    return Detail(
        _outcome(kind, row, ref),
        inputs=json.dumps(given, ensure_ascii=False),
        created_at=seconds(row.get("created_at")),
        status=text(row.get("status")) or None,
    )


def _outcome(kind: Kind, row: Mapping[str, Any], ref: RunRef) -> Outcome:
    if row.get("status") == "error":
        return failed(ref, text(row.get("error")) or "the message has the status error, without a text")
    waiting = _waiting(row, ref)
    if waiting is not None:
        return waiting
    said = row.get("answer")
    answer = said if isinstance(said, str) else ""
    if not answer and not kind.flows:
        answer = _by_thoughts(row)
    if not answer:
        return Running(ref, _UNTOLD, instead=_INSTEAD)
    return Succeeded(RunResult(ref, "succeeded", Names.of(row).outputs(answer)))


def _by_thoughts(row: Mapping[str, Any]) -> str:
    """An agent's answer when its stream broke: that is never stored, its thoughts are. It has ended when the last one
    has a text and calls no tool [34e, 34f, 34j]."""
    thoughts = [thought for thought in items(row.get("agent_thoughts")) if isinstance(thought, dict)]
    thoughts.sort(key=lambda thought: whole(thought.get("position")) or 0)
    if not thoughts or thoughts[-1].get("tool") or not thoughts[-1].get("thought"):
        return ""
    return "".join(said for thought in thoughts if isinstance(said := thought.get("thought"), str))


def _waiting(row: Mapping[str, Any], ref: RunRef) -> Paused | None:
    """A chatflow that waits for a person [31p1]; with a blocking answer nothing else tells it [31p3]."""
    for extra in items(row.get("extra_contents")):
        if not isinstance(extra, dict) or extra.get("type") != "human_input" or extra.get("submitted"):
            continue
        told = extra.get("form_definition")
        run = text(extra.get("workflow_run_id"))
        named = RunRef(run, ref.task_id, ref.conversation_id or ref.run_id) if run else ref
        return Paused(named, (form_of(told),) if isinstance(told, dict) else ())
    return Paused(ref) if row.get("status") == "paused" else None


def with_message(detail: Detail, column: str) -> Detail:
    """Run detail of a chatflow, whose message stands among Dify's own inputs, as a row has it."""
    try:
        inputs = json.loads(detail.inputs or "")
    except ValueError:
        return detail
    if not isinstance(inputs, dict) or "sys.query" not in inputs:
        return detail
    given = json.dumps({**inputs, column: inputs["sys.query"]}, ensure_ascii=False)
    return Detail(detail.outcome, given, detail.created_at, detail.status)
