"""Reads the files of one or several outputs into what a report shows. Reads only.

What every row adds to the figures is kept as numbers; inputs and outputs are kept compressed, and only of as many rows
as a page can hold: all that have no result, and an even sample of the others.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from dify_batch.ledger import formats
from dify_batch.ledger.spent import seconds_of, spent
from dify_batch.ledger.state import Phase, RowState, State, lines_of, read_state
from dify_batch.outcomes import OUTPUTS_INVALID
from dify_batch.reports.html.figures import Points, charts
from dify_batch.reports.html.pack import Packer, sample
from dify_batch.reports.standing import FailureGroup
from dify_batch.reports.status import (
    group_failures,
    last_batch_of,
    require_batch,
    require_results,
    warnings_of,
    writer_of,
)
from dify_batch.strictjson import json_object
from dify_batch.usage import Times, Total, Use, exact, price_text

MAX_ROWS = 100_000  # rows that a browser opens at once and looks through without delay
MAX_BYTES = 200 << 20  # of their lines in the results: what a browser unpacks beside them
TOP = 10  # slowest and dearest rows

SUCCESS, PARTIAL, FAILED, INVALID, UNKNOWN, PAUSED, RUNNING, WAITING = STATES = (
    "success",
    "partial success",
    "failed",
    "invalid",
    "unknown",
    "paused",
    "running",
    "waiting",
)
"""Where a row stands. "waiting": sent before, certainly without a run, or put into `.retry` by hand."""


@dataclass(frozen=True, slots=True)
class Top:
    """A row that stands out. `source`: the number of its output."""

    id: str
    source: int
    seconds: float | None
    tokens: int | None
    price: str
    run: str


@dataclass(slots=True)
class Columns:
    """The rows of the page, column by column: what is sorted and filtered without unpacking anything."""

    id: list[str] = field(default_factory=list)
    source: list[int] = field(default_factory=list)
    state: list[int] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    at: list[int | None] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)
    tokens: list[int | None] = field(default_factory=list)
    price: list[float | None] = field(default_factory=list)
    currency: list[str] = field(default_factory=list)
    retries: list[int] = field(default_factory=list)

    def add(
        self,
        source: int,
        row_id: str,
        state: str,
        code: str,
        at: float | None,
        seconds: float | None,
        use: Use,
        retries: int,
    ) -> None:
        self.id.append(row_id)
        self.source.append(source)
        self.state.append(STATES.index(state))
        self.code.append(code)
        self.at.append(None if at is None else int(at))
        self.seconds.append(None if seconds is None else round(seconds, 3))
        self.tokens.append(use.tokens)
        self.price.append(None if use.price is None else float(use.price))
        self.currency.append(use.currency or "")
        self.retries.append(retries)

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Collected:
    """All that a report shows. `blocks`: see `pack`; `total_rows`: how many there are, of which `columns` holds
    those of the page. `untouched`: rows that had not been sent when each output's last invocation ended."""

    sources: list[str]
    counts: dict[str, int]
    untouched: int
    total_rows: int
    columns: Columns
    names: list[str]
    blocks: list[str]
    block_rows: list[int]
    charts: list[dict[str, Any]]
    groups: list[FailureGroup]
    slowest: list[Top]
    dearest: list[Top]
    used: Total
    times: Times
    first_at: float | None
    last_at: float | None
    going_on: bool
    warnings: list[str]

    @property
    def sampled(self) -> bool:
        return len(self.columns.id) < self.total_rows


def collect(outputs: Sequence[Path], *, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> Collected:
    """Reads the outputs.

    Raises:
        UsageError: one of them is no batch.
        StorageError: a file cannot be read.
    """
    states = []
    for output in outputs:
        paths = formats.Paths.of(output)
        require_batch(paths)
        state = read_state(paths)
        require_results(paths, state)
        states.append((paths, state))
    return _Reader(states, max_rows, max_bytes).read()


class _Reader:
    def __init__(self, states: Sequence[tuple[formats.Paths, State]], max_rows: int, max_bytes: int) -> None:
        self._states = states
        self._columns = Columns()
        self._packer = Packer()
        self._blocks: list[str] = []
        self._block_rows: list[int] = []
        self._packed = 0
        self._points = Points()
        self._used = Total()
        self._times = Times()
        self._seen = 0
        self._counts = dict.fromkeys(STATES, 0)
        self._slow: list[tuple[float, int, Top]] = []
        self._dear: list[tuple[Decimal, int, Top]] = []
        done = sum(state.done for _, state in states)
        size = sum(state.results_size for _, state in states)
        waiting = sum(len(state.rows) for _, state in states)
        room = max(0, max_rows - waiting)
        self._room = min(room, max(1, done * max_bytes // size) if size > max_bytes else room)
        self._taken = sample(done, self._room)

    def read(self) -> Collected:
        failed: list[tuple[str, RowState]] = []
        warnings: list[str] = []
        untouched, going_on = 0, False
        for number, (paths, state) in enumerate(self._states):
            self._used.join(spent(paths, but_results=True))
            self._results(number, paths, state)
            failed += self._others(number, state)
            holder, last = writer_of(paths.lock), last_batch_of(paths.journal, state.last_batch)
            running = holder is not None and holder.alive is not False
            warnings += warnings_of(paths, state, running=running)
            untouched += (last.untouched or 0) if last is not None else 0
            going_on = going_on or (running and holder is not None and holder.alive is True)
        self._close_block(self._packer.flush())
        known = [at for at in self._points.at if not math.isnan(at)]
        return Collected(
            sources=[str(paths.results) for paths, _ in self._states],
            counts=self._counts,
            untouched=untouched,
            total_rows=sum(self._counts.values()),
            columns=self._columns,
            names=list(self._packer.names),
            blocks=self._blocks,
            block_rows=self._block_rows,
            charts=charts(self._points),
            groups=group_failures(failed),
            slowest=[top for _, _, top in sorted(self._slow, key=lambda item: item[:2], reverse=True)],
            dearest=[top for _, _, top in sorted(self._dear, key=lambda item: item[:2], reverse=True)],
            used=self._used,
            times=self._times,
            first_at=min(known, default=None),
            last_at=max(known, default=None),
            going_on=going_on,
            warnings=warnings,
        )

    def _results(self, source: int, paths: formats.Paths, state: State) -> None:
        seen: set[str] = set()
        for record in results_of(paths.results):
            row_id = record["id"]
            if row_id in seen:
                continue
            seen.add(row_id)
            state.rows.pop(row_id, None)  # it got its result since the journal was read
            state.retry.pop(row_id, None)
            use = Use.of(record)
            self._used.add(use)
            self._seen += 1
            at, seconds = moment(record.get("executed_at")), seconds_of(record.get("elapsed_time"))
            waited = seconds_of(record.get("queue_time"))
            self._times.add(seconds, waited)
            self._points.add(at, True, seconds, None if "copy_of" in record else use.tokens, waited)
            name = PARTIAL if record.get("status") == "partial-success" else SUCCESS
            run = record.get("workflow_run_id")
            run = run if isinstance(run, str) else ""
            self._stands_out(source, row_id, seconds, use, run)
            self._counts[name] += 1
            if next(self._taken, True):
                about = {"id": row_id, "run": run, "price": price_text(use.several or {})} | copied(record)
                retries = record.get("retry_count")
                self._columns.add(
                    source, row_id, name, "", at, seconds, use, retries if isinstance(retries, int) else 0
                )
                self._pack(about, object_of(record, "inputs"), object_of(record, "outputs"))

    def _others(self, source: int, state: State) -> Iterator[tuple[str, RowState]]:
        """Rows without a result; gives the failed ones back."""
        for row_id, row in state.rows.items():
            if row.phase is Phase.FAILED:
                yield row_id, row
            name = state_name(row)
            began = max(row.sent_at, row.started_at) or None
            if row.phase is Phase.FAILED:
                self._points.add(began, False, None, None)
            self._counts[name] += 1
            self._columns.add(source, row_id, name, row.code, began, None, Use(), max(0, row.posts - 1))
            about = {"id": row_id, "run": row.run_id or "", "error": f"{row.code}: {row.message}" if row.code else ""}
            about |= {"node": str(row.node)} if row.node is not None else {}
            self._pack(about, None, None)
        for row_id in state.retry:
            if row_id not in state.rows:
                self._counts[WAITING] += 1
                self._columns.add(source, row_id, WAITING, "", None, None, Use(), 0)
                self._pack({"id": row_id}, None, None)

    def _pack(
        self, about: Mapping[str, str], inputs: Mapping[str, Any] | None, outputs: Mapping[str, Any] | None
    ) -> None:
        self._close_block(self._packer.add(about, inputs, outputs))

    def _close_block(self, block: str | None) -> None:
        if block is not None:
            self._blocks.append(block)
            self._block_rows.append(len(self._columns.id) - self._packed)
            self._packed = len(self._columns.id)

    def _stands_out(self, source: int, row_id: str, seconds: float | None, use: Use, run: str) -> None:
        # A heap of the TOP largest; its second item decides among equals, the first one met wins.
        price = use.price
        slow = seconds is not None and (len(self._slow) < TOP or seconds > self._slow[0][0])
        dear = price is not None and price > 0 and (len(self._dear) < TOP or price > self._dear[0][0])
        if not slow and not dear:
            return
        text = f"{exact(price)} {use.currency or ''}".rstrip() if price is not None else ""
        top = Top(row_id, source, seconds, use.tokens, text, run)
        if slow and seconds is not None:
            _push(self._slow, (seconds, -self._seen, top))
        if dear and price is not None:
            _push(self._dear, (price, -self._seen, top))


def _push(heap: list[Any], item: Any) -> None:
    heapq.heappush(heap, item)
    if len(heap) > TOP:
        heapq.heappop(heap)


def results_of(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a results file: JSON objects with an id; other lines are passed over."""
    for line, _ in lines_of(path):
        record = json_object(line)
        if record is not None and isinstance(record.get("id"), str):
            yield record


def failed_state(kind: str, code: str) -> str:
    """Where a row in `.retry` stands."""
    return UNKNOWN if kind == "unknown" else INVALID if code == OUTPUTS_INVALID else FAILED


def state_name(row: RowState) -> str:
    """Where a row without a result stands."""
    if row.phase is Phase.FAILED:
        return failed_state(row.kind, row.code)
    if row.phase is Phase.PAUSED:
        return PAUSED
    return WAITING if row.phase is Phase.FREE else RUNNING


def moment(value: object) -> float | None:
    try:
        return formats.from_utc(value) if isinstance(value, str) else None
    except ValueError:
        return None


def copied(record: Mapping[str, Any]) -> dict[str, str]:
    """Whose run gave the result (--dedupe), as a field of the page."""
    first = record.get("copy_of")
    return {"copy of": first} if isinstance(first, str) else {}


def object_of(record: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The inputs or outputs; what is no object is shown under its own name."""
    found = record.get(name)
    return found if isinstance(found, dict) or found is None else {name: found}
