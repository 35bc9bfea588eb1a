"""What the files of one or several outputs say by now, brought up to date by what they have gained.

Rows come in the order in which they got a result or failed. A row that is told anew, as one that failed and has its
result now, comes again, and the one before is `gone`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

from dify_batch.ledger import formats
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.rowstate import Phase, RowState
from dify_batch.ledger.spent import seconds_of
from dify_batch.outcomes import FailedNode
from dify_batch.reports.html.collect import (
    MAX_ROWS,
    PARTIAL,
    PAUSED,
    RUNNING,
    STATES,
    SUCCESS,
    TOP,
    WAITING,
    Collected,
    Columns,
    Top,
    copied,
    failed_state,
    moment,
    object_of,
)
from dify_batch.reports.html.figures import Points, charts
from dify_batch.reports.html.pack import Packer
from dify_batch.reports.live.tail import Replaced, Tail
from dify_batch.reports.status import group_failures
from dify_batch.strictjson import json_object
from dify_batch.usage import Times, Total, Use, exact, price_text

_REST = ("unsent", "refused", "absent")
_AFTER: Mapping[str, str] = {
    **dict.fromkeys(("sent", "started", "held", "lost"), RUNNING),
    **dict.fromkeys(_REST, WAITING),
    "paused": PAUSED,
}
"""Event of the journal → where the row stands after it. "failed" is told apart by its kind."""

_FULL = "The table below holds the first {:,} rows, and all that failed; the figures are of all."


@dataclass(slots=True)
class _Output:
    paths: formats.Paths
    results: Tail
    journal: Tail
    untouched: int = 0
    going_on: bool = False


@dataclass(slots=True)
class _Known:
    """Where a row stands, and which row of the page is it; -1 for none. `failure`: the record of its last failure, as
    a row that is replayed and not taken is the failed row that it was."""

    state: str
    place: int = -1
    failure: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Rows:
    """What a page that has the first `first` rows has not got yet."""

    first: int
    columns: dict[str, Any]
    blocks: list[str]
    block_rows: list[int]
    gone: list[int]
    names: list[str]


@dataclass(slots=True)
class _Memory:
    """All that was read. Made anew where a file was replaced."""

    columns: Columns = field(default_factory=Columns)
    packer: Packer = field(default_factory=Packer)
    blocks: list[str] = field(default_factory=list)
    block_ends: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    points: Points = field(default_factory=Points)
    used: Total = field(default_factory=Total)
    times: Times = field(default_factory=Times)
    known: dict[tuple[int, str], _Known] = field(default_factory=dict)
    failed: dict[tuple[int, str], RowState] = field(default_factory=dict)
    slow: list[tuple[float, int, Top]] = field(default_factory=list)
    dear: list[tuple[Decimal, int, Top]] = field(default_factory=list)
    results: int = 0
    left_out: int = 0


class Follow:
    """Reads on at each `poll`. `epoch` grows where a file was replaced, so that all has to be shown anew."""

    def __init__(self, outputs: Sequence[formats.Paths], *, max_rows: int = MAX_ROWS) -> None:
        self._paths = outputs
        self._max_rows = max_rows
        self.epoch: int = 0
        self._begin()

    def _begin(self) -> None:
        self.epoch += 1
        self._memory = _Memory()
        self._outputs = [_Output(paths, Tail(paths.results), Tail(paths.journal)) for paths in self._paths]

    def poll(self) -> bool:
        """Reads what is new; whether there was anything. Raises OSError."""
        try:
            return self._read()
        except Replaced:
            self._begin()
            self._read()
            return True

    def _read(self) -> bool:
        new = False
        for source, output in enumerate(self._outputs):
            for line in output.journal.lines():  # before the results: what is sent first stands there first
                new = True
                self._event(source, output, line)
            for line in output.results.lines():
                new = True
                self._result(source, line)
        memory = self._memory
        self._block(memory.packer.flush())
        return new

    # ---------------------------------------------------------------- lines

    def _event(self, source: int, output: _Output, line: bytes) -> None:
        record = journal_record(line)
        if record is None:
            return
        event, row_id = record["event"], record.get("id")
        if event == "batch":
            output.going_on = True
        elif event == "end":
            output.going_on = False
            output.untouched = int(record.get("summary", {}).get("untouched", 0))
        elif event == "spent":
            self._memory.used.add(Use.of(record))
        elif isinstance(row_id, str):
            known = self._memory.known.get((source, row_id))
            if known is not None and known.state in (SUCCESS, PARTIAL):
                return  # the results know better
            if event == "failed":
                self._failed(source, row_id, record)
            elif event in _REST and known is not None and known.failure is not None:
                self._failed(source, row_id, known.failure)
            elif event in _AFTER:
                self._stands(source, row_id, _AFTER[event])
                if event == "started":
                    self._memory.known[source, row_id].failure = None
                if event == "paused":
                    run = record.get("run") or ""
                    self._shown(source, row_id, PAUSED, "", _at(record), None, Use(), 0, {"id": row_id, "run": run})

    def _failed(self, source: int, row_id: str, record: Mapping[str, Any]) -> None:
        memory = self._memory
        kind, code, message = (record.get(name, "") for name in ("kind", "code", "message"))
        state = failed_state(kind, code)
        self._stands(source, row_id, state)
        memory.known[source, row_id].failure = record
        node = FailedNode.of(record.get("node"))
        memory.failed[source, row_id] = RowState(Phase.FAILED, kind=kind, code=code, message=message, node=node)
        at = _at(record)
        memory.points.add(at, False, None, None)
        about = {"id": row_id, "run": record.get("run") or "", "error": f"{code}: {message}"}
        about |= {"node": str(node)} if node is not None else {}
        self._shown(source, row_id, state, code, at, None, Use(), 0, about)

    def _result(self, source: int, line: bytes) -> None:
        record = json_object(line)
        row_id = record.get("id") if record is not None else None
        if record is None or not isinstance(row_id, str):
            return
        memory = self._memory
        known = memory.known.get((source, row_id))
        if known is not None and known.state in (SUCCESS, PARTIAL):
            return
        memory.results += 1
        use, at, seconds = Use.of(record), moment(record.get("executed_at")), seconds_of(record.get("elapsed_time"))
        memory.used.add(use)
        waited = seconds_of(record.get("queue_time"))
        memory.times.add(seconds, waited)
        memory.points.add(at, True, seconds, None if "copy_of" in record else use.tokens, waited)
        state = PARTIAL if record.get("status") == "partial-success" else SUCCESS
        self._stands(source, row_id, state)
        run = record.get("workflow_run_id")
        run = run if isinstance(run, str) else ""
        self._stands_out(source, row_id, seconds, use, run)
        if len(memory.columns.id) < self._max_rows:
            retries = record.get("retry_count")
            retries = retries if isinstance(retries, int) else 0
            parts = (object_of(record, "inputs"), object_of(record, "outputs"))
            about = {"id": row_id, "run": run, "price": price_text(use.several or {})} | copied(record)
            self._shown(source, row_id, state, "", at, seconds, use, retries, about, *parts)
        else:
            memory.left_out += 1

    def _stands(self, source: int, row_id: str, state: str) -> None:
        memory = self._memory
        known = memory.known.setdefault((source, row_id), _Known(state))
        known.state = state
        memory.failed.pop((source, row_id), None)
        if known.place >= 0:
            memory.gone.append(known.place)
            known.place = -1

    def _shown(
        self,
        source: int,
        row_id: str,
        state: str,
        code: str,
        at: float | None,
        seconds: float | None,
        use: Use,
        retries: int,
        about: Mapping[str, str],
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        memory = self._memory
        memory.known[source, row_id].place = len(memory.columns.id)
        memory.columns.add(source, row_id, state, code, at, seconds, use, retries)
        self._block(memory.packer.add(about, inputs, outputs))

    def _block(self, block: str | None) -> None:
        if block is not None:
            self._memory.blocks.append(block)
            self._memory.block_ends.append(len(self._memory.columns.id))

    def _stands_out(self, source: int, row_id: str, seconds: float | None, use: Use, run: str) -> None:
        memory, price = self._memory, use.price
        text = f"{exact(price)} {use.currency or ''}".rstrip() if price is not None else ""
        top = Top(row_id, source, seconds, use.tokens, text, run)
        if seconds is not None:
            _push(memory.slow, (seconds, -memory.results, top))
        if price:
            _push(memory.dear, (price, -memory.results, top))

    # ---------------------------------------------------------------- what a page gets

    def rows(self, first: int) -> Rows:
        """The rows from number `first` on, which is a number that a page was given before, or 0."""
        memory = self._memory
        begin = next((number for number, end in enumerate(memory.block_ends) if end > first), len(memory.blocks))
        start = memory.block_ends[begin - 1] if begin else 0
        ends = [start, *memory.block_ends[begin:]]
        columns = memory.columns.as_dict()
        return Rows(
            first=start,
            columns={name: values[start:] for name, values in columns.items()},
            blocks=memory.blocks[begin:],
            block_rows=[end - before for before, end in pairwise(ends)],
            gone=memory.gone,
            names=list(memory.packer.names),
        )

    def collected(self) -> Collected:
        """The figures, in the shape that the page's upper part is made of. Its rows are those that `rows` gives."""
        memory = self._memory
        counts = dict.fromkeys(STATES, 0)
        for known in memory.known.values():
            counts[known.state] += 1
        times = [at for at in memory.points.at if not math.isnan(at)]
        going_on = any(output.going_on for output in self._outputs)
        return Collected(
            sources=[str(paths.results) for paths in self._paths],
            counts=counts,
            untouched=0 if going_on else sum(output.untouched for output in self._outputs),
            total_rows=sum(counts.values()),
            columns=memory.columns,
            names=list(memory.packer.names),
            blocks=[],
            block_rows=[],
            charts=charts(memory.points),
            groups=group_failures((row_id, row) for (_, row_id), row in memory.failed.items()),
            slowest=_largest(memory.slow),
            dearest=_largest(memory.dear),
            used=memory.used,
            times=memory.times,
            first_at=min(times, default=None),
            last_at=max(times, default=None),
            going_on=going_on,
            warnings=[_FULL.format(self._max_rows)] if memory.left_out else [],
        )


def _largest(heap: list[Any]) -> list[Top]:
    return [item[2] for item in sorted(heap, key=lambda item: item[:2], reverse=True)]


def _push(heap: list[Any], item: Any) -> None:
    heapq.heappush(heap, item)
    if len(heap) > TOP:
        heapq.heappop(heap)


def _at(record: Mapping[str, Any]) -> float | None:
    return moment(record.get("at"))
