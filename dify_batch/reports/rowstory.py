"""`dify-batch status RESULTS --id X`: one row's story, from the journal alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dify_batch.engine.course import Rules
from dify_batch.engine.facts import Fact, from_record
from dify_batch.engine.resume import replay
from dify_batch.engine.row import Stage
from dify_batch.errors import UsageError
from dify_batch.ids import DONE, RETRY
from dify_batch.ledger import formats
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.rowstate import event_time
from dify_batch.ledger.shards import output_with
from dify_batch.ledger.state import lines_of, read_state
from dify_batch.outcomes import FailedNode
from dify_batch.reports.status import require_batch
from dify_batch.text import nearest, one_line, printable

_STANDS = {
    Stage.NEW: "nothing was sent",
    Stage.SENT: "a request is under way, or what became of it is open; the next invocation looks it up",
    Stage.KNOWN: "its run is known and its end is not; the next invocation collects it",
    Stage.LOST: "certainly without a run: the next invocation sends it",
    Stage.WAITING: "it has no run, and the next invocation sends it",
    Stage.SETTLED: "it has come to its end",
    Stage.LEFT: "it was left as it is",
}


@dataclass(frozen=True, slots=True)
class RowStory:
    """`events`: the journal's records of the row, oldest first; `stands`: what follows from them."""

    id: str
    events: tuple[Mapping[str, Any], ...]
    stands: str

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "events": [dict(event) for event in self.events], "stands": self.stands}

    def text(self) -> str:
        lines = [f"row {printable(self.id)}:"]
        lines += [f"  {event.get('at', '')}  {_words(event)}" for event in self.events]
        return "\n".join([*lines, f"it stands so: {self.stands}"])


def row_story(output: Path, row_id: str) -> RowStory:
    """The story of one row of an output.

    Raises:
        UsageError: there is no such batch, or it does not know the row.
        StorageError: a file cannot be read.
    """
    paths = formats.Paths.of(output_with(output, row_id))
    require_batch(paths)
    events = []
    for line, _ in lines_of(paths.journal):
        record = journal_record(line)
        if record is not None and record.get("id") == row_id:
            events.append(record)
    state = read_state(paths)
    if not events and not state.index.has(row_id, DONE | RETRY):
        near = nearest(row_id, [one for one, _ in zip(state.index.ids(255), range(5000), strict=False)])
        raise UsageError(
            f"{output} knows no row {row_id!r}", hint=f"did you mean {near}?" if near else "ids are as in the table"
        )
    if state.index.has(row_id, DONE):
        stands = "its result is in the results"
    elif state.index.has(row_id, RETRY):
        stands = f"it waits in {paths.retry.name}; --retry runs it again"
    else:
        row = replay(Rules(), [fact for event in events if (fact := _fact(event)) is not None])
        stands = _STANDS[Stage.KNOWN if row.stage is Stage.SENT and row.ref is not None else row.stage]
    return RowStory(row_id, tuple(events), stands)


def _fact(event: Mapping[str, Any]) -> Fact | None:
    try:
        return from_record(event, event_time(event))
    except (KeyError, TypeError, ValueError):
        return None


def _words(event: Mapping[str, Any]) -> str:
    """One record in a line, without what its line has already said."""
    rest = {name: value for name, value in event.items() if name not in ("event", "id", "at", "line", "forms")}
    if (node := FailedNode.of(rest.get("node"))) is not None:
        rest["node"] = f"{node}: {node.error}" if node.error else str(node)
    told = ", ".join(f"{name} {one_line(str(value))}" for name, value in rest.items() if value is not None)
    return printable(f"{event['event']}: {told}" if told else str(event["event"]))
