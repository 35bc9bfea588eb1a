"""What the journal says of one row: its records folded, one after the other. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dify_batch.ledger import formats
from dify_batch.outcomes import FailedNode, RunRef


class Phase(Enum):
    """Where a row stands that is not done."""

    FREE = "free"  # was sent before, and certainly has no run: like an untouched row, but its POSTs count
    SENT = "sent"  # an intent without an answer: looked up before anything else
    STARTED = "started"  # a run is known, its end is not
    PAUSED = "paused"  # a run waits for a person
    HELD = "held"  # its result lies in the journal until its turn comes (--keep-order)
    FAILED = "failed"  # ended without a result: in `.retry`


@dataclass(slots=True)
class RowState:
    """What the journal knows of one row. Times are seconds since 1970; `server_at`: when it was sent, by the
    server's own clock. `posts` counts the POSTs that left. `trace`: the X-Trace-Id of the last. `node`: where its run
    failed. `queue_time`: seconds from the last POST to the start of its run. `shared`: whether `user` is that of
    --user, which other rows may have too; None: the journal does not say."""

    phase: Phase = Phase.FREE
    posts: int = 0
    user: str = ""
    shared: bool | None = None
    mode: str = "streaming"
    trace: str = ""
    sent_at: float = 0.0
    server_at: float | None = None
    run_id: str | None = None
    task_id: str | None = None
    conversation_id: str | None = None
    started_at: float = 0.0
    dead_since: float = 0.0  # since when its run is taken for dead; 0.0: it is not
    queue_time: float | None = None
    kind: str = ""
    code: str = ""
    message: str = ""
    node: FailedNode | None = None
    forms: tuple[dict[str, Any], ...] = ()
    line: dict[str, Any] | None = None
    flushed: bool = False  # the failure has reached `.retry`; if it is not there any more, a person took it out
    cut: bool = False  # the journal calls it done, and the results do not have it

    @property
    def ref(self) -> RunRef | None:
        return RunRef(self.run_id, self.task_id, self.conversation_id) if self.run_id else None

    @property
    def dead(self) -> bool:
        """Whether its run goes on as far as is known, and is probably dead."""
        return self.phase is Phase.STARTED and self.dead_since > 0

    def apply(self, record: Mapping[str, Any]) -> None:
        """Folds one journal record into the state. Unknown events change nothing: a newer version may write them."""
        match record["event"]:
            case "sent":
                self.phase = Phase.SENT
                self.posts += 1
                self.user = str(record.get("user", ""))
                self.mode = str(record.get("mode", "streaming"))
                self.trace = str(record.get("trace", ""))
                self.sent_at = event_time(record)
                server = record.get("server")
                self.dead_since = 0.0
                self.server_at = float(server) if isinstance(server, int | float) else None
                self.run_id = self.task_id = self.conversation_id = self.queue_time = None
                self.cut = False
            case "started":
                self.run_id = str(record["run"])
                self.phase = Phase.STARTED
                self.task_id = record.get("task")
                self.conversation_id = record.get("conversation")
                self.started_at = event_time(record)
                self.queue_time = record.get("delay")
                self.kind = self.code = self.message = ""
                self.node = None
            case "probably_dead":
                self.dead_since = event_time(record)
            case "unsent":
                self._rest()
                self.posts = max(0, self.posts - 1)
            case "refused" | "absent":
                self._rest()
            case "paused":
                self.run_id = str(record["run"])
                self.phase = Phase.PAUSED
                self.cut = False
                self.task_id = record.get("task")
                self.forms = tuple(record.get("forms") or ())
                self.started_at = self.started_at or event_time(record)
            case "failed":
                self.phase = Phase.FAILED
                self.kind = str(record.get("kind", "failed"))
                self.code = str(record.get("code", ""))
                self.message = str(record.get("message", ""))
                self.node = FailedNode.of(record.get("node"))
                self.run_id = record.get("run") or self.run_id
                self.flushed = self.cut = False
            case "held":
                self.phase = Phase.HELD
                self.line = record.get("line")
            case "done" if "copy_of" in record:
                self.phase = Phase.FREE  # it ran nothing that could be fetched again
            case "done":
                # Only met where the result line is missing: someone cut the results. The run is known, so it can be
                # fetched again.
                self.run_id = record.get("run") or self.run_id
                self.phase = Phase.STARTED if self.run_id else Phase.FREE
                self.started_at = self.started_at or event_time(record)
                self.cut = True

    def _rest(self) -> None:
        """Without a run: a row that is replayed is the failed row that it was, and belongs into `.retry` again."""
        self.phase = Phase.FAILED if self.kind else Phase.FREE
        self.flushed = False


def event_time(record: Mapping[str, Any]) -> float:
    try:
        return formats.from_utc(str(record.get("at", "")))
    except ValueError:
        return 0.0
