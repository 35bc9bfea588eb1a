"""Stand-ins for what the parts of the engine use, each as small as its test needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from dify_batch.dify.answers import Detail, LogEntry, LogPage, upload_outcome
from dify_batch.engine.health import Health
from dify_batch.engine.limit import FixedLimit
from dify_batch.engine.outage import Outage
from dify_batch.engine.work import Work
from dify_batch.errors import DifyBatchError
from dify_batch.input.files import Inputs
from dify_batch.outcomes import Outcome, Running, RunRef, Unreachable
from tests.support.clock import TestClock


def work(row_id: str = "a", **more: Any) -> Work:
    """A new row with one input."""
    return Work(row_id, 1, Inputs({"query": f"question {row_id}"}), **more)


async def no_pause(_: float) -> None:
    """A pause that lets others go on and takes no time."""
    await asyncio.sleep(0)


async def well() -> str | None:
    return None


def health(clock: TestClock, *, settle: float = 10.0, most: int = 5) -> Health:
    outage = Outage(well, lambda _: 0.0, 60.0, lambda: None, clock)
    return Health(outage, FixedLimit(most, clock=clock.monotonic), clock, settle=settle, longest_pause=60.0)


class FakeSurface:
    """Answers what it was told to; counts what it was asked."""

    clock_offset = 0.0
    server_time_known = True

    def __init__(self) -> None:
        self.outcomes: list[Outcome | Callable[[Callable[[RunRef], None]], Outcome]] = []
        self.details: dict[str, Detail] = {}
        self.entries: list[LogEntry] = []
        self.log_error: Exception | None = None
        self.log_requests = 0
        self.tells_totals, self.ignores_status = True, False
        self.uploads: list[str | DifyBatchError] = []
        self.posts: list[Mapping[str, Any]] = []
        self.asked_details: list[str] = []
        self.stopped: list[str] = []

    async def run(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        mode: Literal["streaming", "blocking"],
        files: Sequence[Mapping[str, Any]] | None = None,
        timeout: float,
        on_started: Callable[[RunRef], None] | None = None,
        trace_id: str | None = None,
    ) -> Outcome:
        post = {"inputs": inputs, "user": user, "mode": mode, "files": files, "timeout": timeout, "trace": trace_id}
        self.posts.append(post)
        outcome = self.outcomes.pop(0)
        if callable(outcome):
            assert on_started is not None
            return outcome(on_started)
        return outcome

    async def follow(self, ref: RunRef, *, user: str, timeout: float) -> Outcome:
        return Running(ref, "no events")

    async def run_detail(self, ref: RunRef, *, user: str | None = None) -> Detail:
        self.asked_details.append(ref.run_id)
        return self.details.get(ref.run_id, Detail(Unreachable("HTTP 500")))

    async def logs(
        self,
        *,
        user: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        page: int = 1,
        limit: int = 100,
        status: str | None = None,
    ) -> LogPage:
        self.log_requests += 1
        if self.log_error is not None:
            raise self.log_error
        found = [entry for entry in self.entries if user is None or entry.user == user]
        if before is not None:
            found = [entry for entry in found if (entry.created_at or 0) <= before.timestamp()]
        if after is not None:
            found = [entry for entry in found if (entry.created_at or 0) >= after.timestamp()]
        if status is not None and not self.ignores_status:
            found = [entry for entry in found if entry.status == status]
        total = len(found) if self.tells_totals else None
        return LogPage(tuple(found[(page - 1) * limit : page * limit]), len(found) > page * limit, total)

    async def stop(self, task_id: str, *, user: str) -> None:
        self.stopped.append(task_id)

    async def send_file(self, path: str | Path, *, user: str, mime: str) -> str | Outcome:
        answer = self.uploads.pop(0)
        return answer if isinstance(answer, str) else upload_outcome(answer, str(path))

    async def probe(self) -> str | None:
        return None
