"""A row that this invocation works on: what it is, and where it stands."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dify_batch.engine.facts import Fact
from dify_batch.engine.row import Row
from dify_batch.input.files import Inputs
from dify_batch.outcomes import RunRef

# Facts of a row that are kept for the story which stands in an internal error.
_STORY = 50


@dataclass(slots=True, eq=False)
class Work:
    """One row under way. `row` alone says where it stands; only `Conductor.tell` replaces it.

    `number`: its place in the input, from 1 (0: not in it any more, so it is collected and counts for nothing).
    `inputs`: what the check made of it (None: not in the input); `uploaded`: the same with the ids of uploaded files;
    `sent_inputs`: what an earlier invocation sent, where that differs from the input of today.
    `posted_at`: monotonic seconds of its last POST in this process; 0.0: none. `lost_at`: of the moment when its answer
    was lost. `known_at`: of the moment since when its
    run is known to go on.
    `suspect_since`: monotonic; since what executes its run was seen to be away. `overdue`: it is past --timeout.
    `intent`: whether the journal holds an open intent of it. `known_runs`: runs of its user that are other rows'.
    `repeated`: it failed in this invocation, and --retry-pass has it go once more.
    `shared`: other rows may have been sent under its user, too.
    `outlived`: since its POST, of an earlier invocation, another run of its mode has started.
    """

    id: str
    number: int = 0
    inputs: Inputs | None = None
    cells: Mapping[str, Any] = field(default_factory=dict)
    row: Row = field(default_factory=Row)
    uploaded: Inputs | None = None
    sent_inputs: Mapping[str, Any] | None = None
    intent: bool = False
    posted_at: float = 0.0
    lost_at: float = 0.0
    known_at: float = 0.0
    known_runs: frozenset[str] = frozenset()
    shared: bool = False
    outlived: bool = False
    repeated: bool = False
    suspect_since: float | None = None
    overdue: bool = False
    story: deque[Fact] = field(default_factory=lambda: deque(maxlen=_STORY))

    @property
    def counts(self) -> bool:
        """Whether it is counted: a row that is not in the input any more is collected, but no row of this batch."""
        return self.number > 0

    @property
    def ref(self) -> RunRef | None:
        return self.row.ref

    @property
    def user(self) -> str:
        return self.row.sent.user if self.row.sent is not None else ""

    @property
    def mode(self) -> str:
        return self.row.sent.mode if self.row.sent is not None else "streaming"

    @property
    def values(self) -> Mapping[str, Any]:
        """The run's inputs, as sent if that is known."""
        if self.sent_inputs is not None:
            return self.sent_inputs
        inputs = self.uploaded if self.uploaded is not None else self.inputs
        return inputs.values if inputs is not None else {}
