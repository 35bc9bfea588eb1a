"""Who may send how many rows now: the whole batch's concurrency, rate, budget and outage, over all workers.

No I/O and no tasks: reports go in, grants come out. A place is taken by each row that holds one, by each permit that is
out and neither used nor run out, and by what a worker that died has left, until another has taken that up.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from dify_batch.engine.budget import Budget, Verdict
from dify_batch.engine.limit import Limit
from dify_batch.engine.pace import Starts
from dify_batch.scale.messages import Grant, Report
from dify_batch.scale.permits import HANDFUL, LIFETIME
from dify_batch.seams import Clock
from dify_batch.usage import Use

MARGIN = 1.0
"""Seconds by which a permit of a worker that is not heard of counts for longer than it holds."""
HORIZON = 0.25
"""Seconds: permits of a --rate are given so long before their moment, so that a row's intent is on the disk by then."""


@dataclass(slots=True)
class Account:
    """One worker. `heard`: when it was heard of last, by the coordinator's clock; `told`: its newest report."""

    heard: float
    granted: int = 0
    told: Report | None = None

    def outstanding(self, now: float) -> int:
        """Permits that may still let a row go."""
        if self.told is None or now - self.heard > LIFETIME + MARGIN:
            return 0
        return self.granted - self.told.used - self.told.dropped

    @property
    def busy(self) -> int:
        return 0 if self.told is None else self.told.busy


class Sharing:
    """Args:
    rate, wait: as in the settings; with `one_at_a_time` the wait is from the end of one to the start of the next.
    """

    def __init__(
        self,
        limit: Limit,
        clock: Clock,
        *,
        rate: float | None = None,
        wait: float = 0.0,
        one_at_a_time: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.limit = limit
        self.budget = budget
        self._clock = clock
        self._starts = Starts(clock, rate=rate, wait=0.0 if one_at_a_time else wait)
        self._pause = wait if one_at_a_time else 0.0
        self._accounts: dict[int, Account] = {}
        self._taken: dict[int, int] = {}
        self._slot: float | None = None
        self._not_before = float("-inf")
        self._failed_before = 0
        self.open: bool = True
        """False: nothing is granted any more."""
        self.reached: bool = False
        """One more row could pass the budget, and nothing is in flight."""

    # ---------------------------------------------------------------- what is told

    def joined(self, worker: int) -> None:
        self._accounts[worker] = Account(self._clock.monotonic())

    def left(self, worker: int, part: int | None) -> None:
        """A worker has died. What it had in flight of a part, or may have had, counts until that is taken up."""
        account = self._accounts.pop(worker, None)
        if account is not None and account.told is not None:
            self._failed_before += account.told.failed
            if part is not None:
                self.take(part, account.busy + max(0, account.granted - account.told.used - account.told.dropped))

    def take(self, part: int, rows: int) -> None:
        """Rows of a part may be executing, and no worker has it."""
        self._taken[part] = max(self._taken.get(part, 0), rows)

    def free(self, part: int) -> None:
        """What was left of a part has been taken up, or looked at."""
        self._taken.pop(part, None)

    def told(self, worker: int, report: Report) -> None:
        account = self._accounts[worker]
        now = self._clock.monotonic()
        ended = report.ended - (account.told.ended if account.told is not None else 0)
        account.heard, account.told = now, report
        if report.at:
            self.free(report.at)
        if ended:
            self._not_before = now + self._pause
        busy = self.busy
        for delay in report.started:
            self.limit.started(delay, busy)
        for seconds in report.finished:
            self.limit.finished(seconds, busy)
        for seconds in report.looked:
            self.limit.looked(seconds, busy)
        for _ in range(report.throttled):
            self.limit.throttled(busy)
        if not report.finished:
            for _ in range(ended):
                self.limit.finished(0.0, busy)
        if self.budget is not None:
            for use in report.uses:
                self.budget.told(_use(use))

    # ---------------------------------------------------------------- what is asked

    @property
    def busy(self) -> int:
        """Rows that hold a place, as far as the workers have said."""
        return sum(account.busy for account in self._accounts.values())

    @property
    def failed(self) -> int:
        return self._failed_before + sum(one.told.failed for one in self._accounts.values() if one.told is not None)

    @property
    def outage(self) -> str:
        """Why the server is waited for."""
        return next((one.told.outage for one in self._accounts.values() if one.told and one.told.outage), "")

    def silent(self, seconds: float) -> list[int]:
        """Workers that have not been heard of for so long."""
        now = self._clock.monotonic()
        return [worker for worker, account in self._accounts.items() if now - account.heard > seconds]

    def due(self) -> tuple[dict[int, Grant], float | None]:
        """The grants of now by worker, and after how many seconds to ask again; None: when something is told."""
        if not self.open:
            return {}, None
        now = self._clock.monotonic()
        out = {worker: account.outstanding(now) for worker, account in self._accounts.items()}
        taken = self.busy + sum(out.values()) + sum(self._taken.values())
        free = self.limit.current - taken
        lost = sum(account.told.lost for account in self._accounts.values() if account.told is not None)
        heap = [
            (account.busy + out[worker], worker, most)
            for worker, account in self._accounts.items()
            if (most := self._most(account, out[worker], now)) > 0
        ]
        heapq.heapify(heap)
        given: dict[int, list[float]] = {}
        again = None
        while free > 0 and heap:
            if self.budget is not None and (verdict := self.budget.decide(taken + lost)) is not Verdict.BEGIN:
                self.reached = verdict is Verdict.REACHED
                break
            delay = self._next(now)
            if delay > HORIZON:
                again = delay - HORIZON
                break
            self._slot = None
            has, worker, most = heapq.heappop(heap)
            given.setdefault(worker, []).append(max(0.0, delay))
            if most > 1:
                heapq.heappush(heap, (has + 1, worker, most - 1))
            free, taken = free - 1, taken + 1
        grants = {}
        for worker, after in given.items():
            account = self._accounts[worker]
            account.granted += len(after)
            beat = account.told.beat if account.told is not None else 0.0
            spaced = any(after)
            grants[worker] = Grant(
                beat=beat, count=0 if spaced else len(after), after=tuple(round(a, 4) for a in after) if spaced else ()
            )
        return grants, again

    def _most(self, account: Account, out: int, now: float) -> int:
        """How many permits a worker may get."""
        told = account.told
        if told is None or now - account.heard > LIFETIME / 2:  # it would hardly have them in time
            return 0
        if self.outage:  # one row of the whole batch finds out whether it is over
            first = next(one for one in self._accounts.values() if one.told is not None and one.told.outage)
            return min(told.want, 1 - out) if account is first else 0
        return min(told.want, HANDFUL - out)

    def _next(self, now: float) -> float:
        """Seconds until the next start is allowed. The same until `_slot` is taken."""
        if self._slot is None:
            self._slot = now + max(0.0, self._starts.claim()) if self._starts.spaced else now
        return max(self._slot, self._not_before) - now


def _use(told: tuple[int | None, Mapping[str, str] | None]) -> Use:
    tokens, prices = told
    return Use(tokens, several=None if prices is None else {name: Decimal(price) for name, price in prices.items()})
