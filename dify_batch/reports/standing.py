"""What `dify-batch status` tells: the facts, without their words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed rows with the same code and, but for ids and numbers, the same message.

    `kind` is "failed", "rejected", "stopped", "unknown" or "invalid". `message` is that of all its rows, or what
    they have in common with … in the place of ids and numbers. `examples`: up to EXAMPLES row ids. `nodes`: where their
    runs failed, as far as streams told it, the most frequent first.
    """

    kind: str
    code: str
    message: str
    count: int
    examples: tuple[str, ...]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PausedRow:
    """A row whose run waits for a person. `forms` as in `.paused`; `expired`: none of its forms can be answered."""

    id: str
    workflow_run_id: str | None
    forms: tuple[dict[str, Any], ...]
    expires_at: str | None
    expired: bool


@dataclass(frozen=True, slots=True)
class InFlight:
    """A row whose end is not known. Without a run id its request was sent and not answered. `since`: ISO 8601, UTC;
    `probably_dead_since`: what executes its run was seen to be away, and it has said running for too long."""

    id: str
    workflow_run_id: str | None
    since: str
    probably_dead_since: str | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """The process named in `.lock`. `alive` is None where it cannot be told: it is on another machine."""

    pid: int
    host: str
    alive: bool | None


@dataclass(frozen=True, slots=True)
class LastBatch:
    """The last invocation: times in ISO 8601, UTC; `reason` is "finished" or an error's code, None if it did not end.

    `untouched`: rows of its input that had not been sent when it ended; `left_out`: those that had no id of their own.
    `again`: the flags that decide what happens to the rows, as words of a command.
    """

    started_at: str
    input: str
    ended_at: str | None = None
    reason: str | None = None
    rows: int | None = None
    untouched: int | None = None
    demo: bool = False
    left_out: int = 0
    again: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an output, by number from 1: how many there are to be; those under way; those without a file yet.
    `paused_in`: the first part that has a row which waits for a person."""

    of: int
    running: tuple[int, ...]
    not_begun: tuple[int, ...]
    paused_in: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the rows of one output are, or of all its `parts`.

    done = success + partial_success, and no row is counted in two places.

    `total_tokens`, `total_price` (currency → exact amount): of all runs, failed ones included. `queue_time`,
    `run_time`: mean seconds that the runs of the results waited for their start and worked, of those that tell.
    `invalid`: rows whose answers miss --expect.
    `held`: results that lie in the journal until their turn comes (--keep-order). `retry_waiting`: ids in `.retry`
    of which the journal knows no failure, as a person wrote them there.
    `to_retry`: rows that `--retry` would run. `retry_unknown`: those ids of `.retry` that the journal has never
    heard of, so that they may not be in the input at all. `other_failures`: rows in groups beyond
    the TOP_GROUPS largest.
    """

    output: str
    done: int
    success: int
    partial_success: int
    failed: int
    invalid: int
    unknown: int
    retry_waiting: int
    to_retry: int
    retry_unknown: tuple[str, ...] = ()
    paused: tuple[PausedRow, ...] = ()
    in_flight: tuple[InFlight, ...] = ()
    held: int = 0
    total_tokens: int = 0
    total_price: Mapping[str, str] = field(default_factory=dict)
    queue_time: float | None = None
    run_time: float | None = None
    failures: tuple[FailureGroup, ...] = ()
    other_failures: int = 0
    batch: LastBatch | None = None
    holder: Holder | None = None
    warnings: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()
    parts: Parts | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found = asdict(self)
        if self.parts is None:
            del found["parts"]
        return found
