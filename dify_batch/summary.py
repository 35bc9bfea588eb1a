"""The figures of a batch: live ones for whoever watches, and the summary at its end."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from dify_batch.estimate import Estimate
from dify_batch.outcomes import RunResult
from dify_batch.seams import REAL, Clock
from dify_batch.usage import Total, Use, exact_prices


@dataclass(frozen=True, slots=True)
class Notice:
    """What does not stop a batch, and a person should know: `code` for machines, `message` for people."""

    code: str
    message: str

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class PausedRun:
    """A row whose run waits for a person."""

    id: str
    workflow_run_id: str | None

    def as_dict(self) -> dict[str, str | None]:
        return {"id": self.id, "workflow_run_id": self.workflow_run_id}


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the rows. Each row is counted in exactly one of the states, so they add up to `rows`.

    `invalid`: rows whose answers miss --expect.
    `copied`: results that are those of other rows with the same inputs (--dedupe).
    `recovered`: results taken from runs that were looked up. `posts`: POSTs that left for the server.
    `total_price`: currency → exact amount, of the runs that told one. `elapsed_time`: seconds. `paused_rows`: the
    first PAUSED_SHOWN of those that wait for a person.
    `queue_time`, `run_time`: mean seconds that a run waited for its start, and worked, of those that tell.
    `rest`: after a pilot (--sample, --limit), what the rows that are left would take, as `estimate.py` tells it.
    `mode`, `mode_why`: the response mode in use at the end, and why it was that one.
    """

    rows: int = 0
    done_before: int = 0
    success: int = 0
    partial_success: int = 0
    failed: int = 0
    invalid: int = 0
    unknown: int = 0
    paused: int = 0
    running: int = 0
    retry_waiting: int = 0
    untouched: int = 0
    recovered: int = 0
    copied: int = 0
    posts: int = 0
    total_tokens: int = 0
    total_price: Mapping[str, str] = field(default_factory=dict)
    elapsed_time: float = 0.0
    queue_time: float | None = None
    run_time: float | None = None
    mode: str = ""
    mode_why: str = ""
    rest: Estimate | None = None
    warnings: tuple[Notice, ...] = ()
    paused_rows: tuple[PausedRun, ...] = ()

    STATES: ClassVar[tuple[str, ...]] = (
        "done_before",
        "success",
        "partial_success",
        "failed",
        "invalid",
        "unknown",
        "paused",
        "running",
        "retry_waiting",
        "untouched",
    )

    def as_dict(self) -> dict[str, Any]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("warnings", "paused_rows"):
            found[name] = [item.as_dict() for item in found[name]]
        found["rest"] = None if self.rest is None else self.rest.as_dict()
        return found

    def counts(self) -> dict[str, Any]:
        """The numbers alone, for the journal: what it warned of is said there already."""
        return {name: value for name, value in self.as_dict().items() if not isinstance(value, list) and name != "rest"}


PAUSED_SHOWN = 1000
"""More have to be read out of `.paused`."""


@dataclass(slots=True)
class Buckets:
    """A histogram: `counts` of the values up to each of `bounds`, and of those above; `total` is their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def mean(self) -> float | None:
        number = sum(self.counts)
        return round(self.total / number, 3) if number else None


# Seconds: a run takes from a fifth of a second to an hour; one starts at once, or waits in Dify's queue.
_RUN_BOUNDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_START_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(slots=True)
class Stats:
    """Live figures; the engine writes them, a display reads them when it likes. One thread only.

    `dead`: runs that are probably dead, which are counted as running, too. `looking`: rows whose answer was lost and
    that are looked up.
    `left_out`: bad rows without an id of their own, counted as failed. `used`: what the runs of this invocation used,
    failed ones included. `lookups`: questions to the server's log. `run_seconds`, `start_seconds`: how long runs took,
    and how long from POST to start. `mode`: the response mode of the newest request, where it changes. `budget_waits`:
    a row waits until the budget has room for it.
    """

    rows: int = 0
    done_before: int = 0
    success: int = 0
    partial_success: int = 0
    failed: int = 0
    invalid: int = 0
    unknown: int = 0
    paused: int = 0
    running: int = 0
    dead: int = 0
    looking: int = 0
    left_out: int = 0
    recovered: int = 0
    copied: int = 0
    posts: int = 0
    lookups: int = 0
    total_tokens: int = 0
    run_seconds: Buckets = field(default_factory=lambda: Buckets(_RUN_BOUNDS))
    start_seconds: Buckets = field(default_factory=lambda: Buckets(_START_BOUNDS))
    used: Total = field(default_factory=Total)
    to_run: int = 0
    finished: int = 0
    in_flight: int = 0
    limit: int = 0
    state: str = ""
    mode: str = ""
    mode_why: str = ""
    budget_waits: bool = False
    clock: Clock = REAL.clock
    started_at: float = field(init=False)
    notices: list[Notice] = field(default_factory=list)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    recent_failures: deque[tuple[str, str, str]] = field(default_factory=lambda: deque(maxlen=20))

    def __post_init__(self) -> None:
        self.started_at = self.clock.monotonic()

    def ended(self, result: RunResult) -> Use:
        """A run has ended, well or not: what it used, which is given back, and how long it took."""
        use = Use.of_run(result)
        self.used.add(use)
        if result.elapsed_time is not None:
            self.run_seconds.observe(result.elapsed_time)
        return use

    def summary(self) -> Summary:
        """The summary as things stand; what is in no other state is untouched."""
        counted = (
            self.done_before
            + self.success
            + self.partial_success
            + self.failed
            + self.invalid
            + self.unknown
            + self.paused
            + self.running
            + self.left_out
        )
        return Summary(
            rows=self.rows,
            done_before=self.done_before,
            success=self.success,
            partial_success=self.partial_success,
            failed=self.failed + self.left_out,
            invalid=self.invalid,
            unknown=self.unknown,
            paused=self.paused,
            running=self.running,
            untouched=max(0, self.rows - counted),
            recovered=self.recovered,
            copied=self.copied,
            posts=self.posts,
            total_tokens=self.total_tokens,
            total_price=exact_prices(self.used.prices),
            mode=self.mode,
            mode_why=self.mode_why if self.mode else "",
            warnings=tuple(self.notices),
            elapsed_time=round(self.clock.monotonic() - self.started_at, 3),
            queue_time=self.start_seconds.mean,
            run_time=self.run_seconds.mean,
        )
