"""The runs of a batch that has gone (killed, or its machine): stopped on the server, and how each ended recorded.

Dify says success to every stop, and what the wire then says is not final: run detail decides (dify-wire 16h, 30d).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_fixed

from dify_batch import backoff
from dify_batch.batch.opened import Opened
from dify_batch.dify.client import DifyClient
from dify_batch.errors import DifyBatchError
from dify_batch.ledger.rowstate import Phase, RowState
from dify_batch.ledger.state import State
from dify_batch.outcomes import Failed, Fatal, Paused, Running, RunRef, Succeeded, Unreachable
from dify_batch.usage import Use

ENDS_WITHIN = 15.0
"""Seconds from the stop to the end in run detail: 0.1 to 0.3 s were seen, more where a node does not give way [16]."""
LOOK_EVERY = 0.25
AT_ONCE = 8
"""Runs stopped at a time: a server of default size answers 10 requests at once."""

End = Literal["stopped", "failed", "succeeded", "paused", "runs on", "no task id", "gone", "not reached"]
WORDS: dict[End, str] = {
    "stopped": "stopped",
    "failed": "had failed",
    "succeeded": "had ended with a result: the same command collects it",
    "paused": "waits for a person, and was left alone",
    "runs on": "still runs: it did not stop in time",
    "no task id": "runs in blocking mode, or waits in the queue: nobody can stop it",
    "gone": "the server does not know the run any more",
    "not reached": "the server was not reached",
}
SETTLED = frozenset({"stopped", "failed", "succeeded", "paused"})


def open_runs(state: State) -> list[tuple[str, RowState]]:
    """Rows whose run is known and not known to have ended."""
    return [(row_id, row) for row_id, row in state.rows.items() if row.phase is Phase.STARTED and row.run_id]


def unknown_runs(state: State) -> int:
    """Rows whose answer was lost before the run's id was known: there is nothing to stop them by."""
    return sum(row.phase is Phase.SENT for row in state.rows.values())


@dataclass(frozen=True, slots=True)
class Stopped:
    """How each run ended: id → End. `unknown`: rows whose run is not known."""

    ends: dict[str, End]
    unknown: int

    @property
    def all_ended(self) -> bool:
        return not self.unknown and all(end in SETTLED for end in self.ends.values())

    def as_dict(self) -> dict[str, Any]:
        """{"stopped": 2, …, "unknown": 0, "rows": {id: end}}"""
        counts: dict[str, Any] = dict.fromkeys(WORDS, 0)
        for end in self.ends.values():
            counts[end] += 1
        return {**counts, "unknown": self.unknown, "rows": dict(self.ends)}

    def text(self) -> str:
        counts = [f"{number} {WORDS[end]}" for end in WORDS if (number := list(self.ends.values()).count(end))]
        if self.unknown:
            counts.append(f"{self.unknown} may run under ids that are not known: the same command looks them up")
        return "; ".join(counts) or "nothing runs"


async def stop_runs(opened: Opened, client: DifyClient, on_end: Callable[[str, End], None]) -> Stopped:
    """Stops the open runs, and records those that were stopped or had failed: they are in `.retry` then.

    Raises StorageError: a file cannot be written.
    """
    places = asyncio.Semaphore(AT_ONCE)
    ends: dict[str, End] = {}

    async def one(row_id: str, row: RowState) -> None:
        async with places:
            ends[row_id] = await _stop(opened, client, row_id, row)
            on_end(row_id, ends[row_id])

    rows = open_runs(opened.state)
    await asyncio.gather(*(one(row_id, row) for row_id, row in rows))
    await opened.flush()
    return Stopped({row_id: ends[row_id] for row_id, _ in rows}, unknown_runs(opened.state))


async def _stop(opened: Opened, client: DifyClient, row_id: str, row: RowState) -> End:
    ref = row.ref
    assert ref is not None
    end = await _look(opened, client, row_id, ref, row.user, by_us=False)
    if end != "runs on":
        return end
    if ref.task_id is None or row.mode == "blocking":
        return "no task id"
    try:
        await client.stop(ref.task_id, user=row.user)
    except DifyBatchError:
        return "not reached"
    looking = AsyncRetrying(
        retry=retry_if_result(lambda end: end == "runs on"),
        stop=stop_after_attempt(int(ENDS_WITHIN / LOOK_EVERY)),
        wait=wait_fixed(LOOK_EVERY),
        sleep=backoff.pause,
        retry_error_callback=backoff.last,
    )
    settled: End = await looking(_look, opened, client, row_id, ref, row.user, by_us=True)
    return settled


async def _look(opened: Opened, client: DifyClient, row_id: str, ref: RunRef, user: str, *, by_us: bool) -> End:
    """What run detail says; an end without a result is recorded."""
    match (await client.run_detail(ref, user=user)).outcome:
        case None:
            return "gone"
        case Failed(result=result) as failed:
            stopped = by_us and failed.code == "run_stopped"
            opened.ledger.spent(row_id, ref.run_id, Use.of_run(result))
            opened.ledger.failed(
                row_id,
                kind="stopped" if stopped else "failed",
                code="stopped_by_user" if stopped else failed.code,
                message=failed.message,
                run_id=ref.run_id,
            )
            return "stopped" if stopped else "failed"
        case Succeeded():
            return "succeeded"
        case Paused():
            return "paused"
        case Running():
            return "runs on"
        case Unreachable() | Fatal() | _:
            return "not reached"
